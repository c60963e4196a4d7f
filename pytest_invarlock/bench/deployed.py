"""A baseline packed by a backend, stored, and loaded again: what a deployable scenario measures."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from invarlock_guards.measure.invariants import read_structure
from safetensors import SafetensorError

from pytest_invarlock.backends.registry import usable_backend
from pytest_invarlock.bench.deploy_smoke import difference, logits_of, smoke
from pytest_invarlock.bench.memory import free_memory
from pytest_invarlock.bench.model_watch import proof_window
from pytest_invarlock.bench.packed_storage import (
    checkpoint_bytes,
    loaded_bytes,
    storage_evidence,
)
from pytest_invarlock.bench.subject import Subject
from pytest_invarlock.bench.tensor_digest import combined_digest, tensor_digests
from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.backends.contract import Backend
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.plan import EditSpec, MeasurementPlan

_BACKEND_ERRORS = (
    AttributeError, ImportError, LookupError, OSError, RuntimeError, SafetensorError, TypeError,
    ValueError, AssertionError, NotImplementedError,
)  # fmt: skip
"""What backends raise of a model or of files that they cannot use has no common base."""


@contextmanager
def deployed_subject(
    spec: EditSpec, baseline: LoadedModel, windows: WindowSet, plan: MeasurementPlan
) -> Iterator[Subject]:
    """A copy of ``baseline`` after packing, storing and loading it in a new model object.

    The checkpoint lies in a temporary folder for as long as that takes, and nothing is kept of it.
    What guards read of weights are the numbers that the packed ones stand for.

    Args:
        spec: with parameters ``backend`` and ``scheme``.
        baseline: the resident model, which is not changed.
        windows: one of them is what logits are compared on.
        plan: of the measurement.

    Raises:
        BackendUnavailable: the backend is not installed, or does not run on the device.
        EditError: it packs nothing of this architecture (DEPLOY_NO_TARGET), or packing, storing or
            loading breaks off (DEPLOY_FAILED).
    """
    name, scheme = spec.parameters["backend"], spec.parameters["scheme"]
    backend = usable_backend(name, scheme, str(baseline.device))
    window = proof_window(baseline, windows, plan)
    with _told(name, "packing"):
        packed = copy.deepcopy(baseline.model)
        names = sorted(backend.pack(packed, scheme))
    if not names:
        raise EditError(
            f"{name} {scheme} packs no weight of {type(packed).__name__}",
            remedy="choose another backend, or a model with linear layers",
            code="DEPLOY_NO_TARGET",
        )
    logits, tensors = logits_of(packed, window), _digest(packed)
    counts = {weight: baseline.model.get_parameter(weight).numel() for weight in names}
    with tempfile.TemporaryDirectory(prefix="invarlock-deploy-") as folder:
        place = Path(folder) / "packed"
        with _told(name, "storing"):
            stored = _stored(backend, packed, place)
            unpacked = [key for key in baseline.model.state_dict() if key not in names]
            evidence = storage_evidence(place, stored, counts, unpacked)
        del packed
        free_memory()
        model = _loaded(backend, name, scheme, baseline, place)
    evidence = {
        "backend": name,
        "scheme": scheme,
        "bits": backend.schemes[scheme],
        **evidence,
        "baseline_storage_bytes": _baseline_bytes(baseline),
        "memory": {
            "bytes": loaded_bytes(model),
            "baseline_bytes": loaded_bytes(baseline.model),
        },
        "reload": {
            "tensors_before": tensors,
            "tensors_after": _digest(model),
            **difference(logits, logits_of(model, window)),
        },
        "smoke": smoke(model, baseline, window),
    }
    with _told(name, "reading"):
        plain = _plain(backend, model, baseline, names)
    try:
        yield _subject(spec, baseline, model, plain, names, evidence)
    finally:
        del model, plain
        free_memory()


def _stored(backend: Backend, model: Any, place: Path) -> Mapping[str, Sequence[str]]:
    """The packed checkpoint in ``place``: whole, or not there."""
    partial = place.with_name("partial")
    partial.mkdir()
    stored = backend.save(model, partial)
    model.config.save_pretrained(partial)
    partial.replace(place)
    return stored


def _loaded(backend: Backend, name: str, scheme: str, baseline: LoadedModel, place: Path) -> Any:
    like = next(baseline.model.parameters())
    with _told(name, "loading"):
        model = _shell(baseline.model)
        backend.load(model, scheme, place, like)
        model.tie_weights()
    named = chain(model.named_parameters(), model.named_buffers())
    missing = [key for key, tensor in named if tensor.is_meta]
    if missing:
        raise EditError(
            f"{name} {scheme}: the stored checkpoint lacks {missing[0]}",
            remedy="use a version of the backend that stores whole models",
            code="DEPLOY_FAILED",
        )
    return model.eval().requires_grad_(False)


def _shell(like: Any) -> Any:
    """A new model of the class and configuration of ``like``: no numbers in its parameters."""
    with torch.device("meta"):
        made = type(like)(copy.deepcopy(like.config))
    kept = set(made.state_dict())
    own = dict(like.named_buffers())
    for name in [name for name, _ in made.named_buffers() if name not in kept]:
        owner, _, leaf = name.rpartition(".")
        # What no checkpoint holds, such as rotary frequencies, is computed from the configuration.
        setattr(made.get_submodule(owner), leaf, own[name].detach().clone())
    return made


def _plain(backend: Backend, model: Any, baseline: LoadedModel, names: Sequence[str]) -> Any:
    """A model with the numbers that the packed weights stand for, of the baseline's dtype."""
    like = next(baseline.model.parameters())
    shell = _shell(baseline.model)
    held = model.state_dict(keep_vars=True)
    state = {
        key: backend.plain(model, key).to(like.dtype) if key in names else held[key]
        for key in shell.state_dict()
    }
    shell.load_state_dict(state, strict=True, assign=True)
    shell.tie_weights()
    return shell.eval().requires_grad_(False)


def _subject(
    spec: EditSpec,
    baseline: LoadedModel,
    model: Any,
    plain: Any,
    names: Sequence[str],
    evidence: dict[str, Any],
) -> Subject:
    loaded = replace(baseline, model=model, checkpoint_digest=None, unread=())
    changed = {
        name: int((plain.get_parameter(name) != baseline.model.get_parameter(name)).sum())
        for name in names
    }
    return Subject(
        loaded=loaded,
        digests=tensor_digests(model),
        structure=read_structure(plain, loaded.tokenizer_fingerprint),
        edit={
            **spec.document(),
            "n_tensors_touched": len(names),
            "n_tensors_changed": sum(count > 0 for count in changed.values()),
            "n_parameters_touched": sum(baseline.model.get_parameter(n).numel() for n in names),
            "n_parameters_changed": sum(changed.values()),
        },
        plain=dict(plain.named_parameters()),
        deployment=evidence,
    )


def _baseline_bytes(baseline: LoadedModel) -> int:
    """The bytes of the baseline's weights in its files, else in memory."""
    in_files = 0 if baseline.source is None else checkpoint_bytes(baseline.source.directory)
    return in_files or loaded_bytes(baseline.model)


def _digest(model: torch.nn.Module) -> str:
    return combined_digest(tensor_digests(model))


@contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """What a backend raises, as an EditError that names no path."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _BACKEND_ERRORS as error:
        raise EditError(
            f"{name}: {what} the model broke off: {type(error).__name__}",
            remedy="see whether the backend knows this architecture and device",
            code="DEPLOY_FAILED",
        ) from error
