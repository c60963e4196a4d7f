"""A baseline with an edit or a structural fault as a checkpoint on disk: whole, or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from pytest_invarlock.errors import EditError
from pytest_invarlock.evidence.atomic import sync_directory
from pytest_invarlock.faults.checkpoint_view import CheckpointView, view_of
from pytest_invarlock.faults.structural import VIEW_FAULTS, apply_view_fault
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    import torch

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.plan import EditSpec


def save_checkpoint(bench: Bench, spec: EditSpec, directory: Path) -> None:
    """Write the baseline with ``spec``, and its tokenizer, as the new checkpoint ``directory``.

    It is written beside and renamed, and nothing is left of it where that breaks off. An edit is
    saved as transformers saves the edited model; a structural fault as the names, tensors and
    configuration of its view, which need not load.

    Raises:
        EditError: ``directory`` exists (CHECKPOINT_EXISTS), it cannot be written
            (CHECKPOINT_NOT_WRITTEN), the fault is not one of files (EDIT_NOT_SAVABLE), or the edit
            cannot be applied or undone.
    """
    __tracebackhide__ = True
    target = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow a link there
    _refuse_existing(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _typed_errors(target, temporary):
            temporary.mkdir(parents=True)
        if spec.name in VIEW_FAULTS:
            _write_damaged(bench, spec, target, temporary)
        else:
            _write_edited(bench, spec, target, temporary)
        _refuse_existing(target)
        with _typed_errors(target, temporary):
            _sync(temporary)
            temporary.replace(target)
            sync_directory(target.parent)
    finally:
        # Gone after the rename; what cannot be removed must not hide the error that broke it off.
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_existing(target: Path) -> None:
    __tracebackhide__ = True
    if os.path.lexists(target):
        raise EditError(
            f"{_shown(target)}: exists already, and saving would mix or replace what is there",
            remedy="name a new directory, or remove this one first",
            code="CHECKPOINT_EXISTS",
        )


def _write_edited(bench: Bench, spec: EditSpec, target: Path, folder: Path) -> None:
    __tracebackhide__ = True
    # Saving hands the model to other code: it is proved before the next measurement.
    bench.lend()
    with bench.edited(spec) as subject, _typed_errors(target, folder):
        subject.loaded.model.save_pretrained(folder)
        subject.loaded.tokenizer.save_pretrained(folder)


def _write_damaged(bench: Bench, spec: EditSpec, target: Path, folder: Path) -> None:
    __tracebackhide__ = True
    loaded = bench.unedited()
    view = apply_view_fault(spec, view_of(loaded.model, loaded.tokenizer_fingerprint))
    if view.tokenizer_fingerprint != loaded.tokenizer_fingerprint:
        raise EditError(
            f"{spec.name} names a tokenizer of which there are no files to save",
            remedy="save noop, and put another model's tokenizer files beside its weights",
            code="EDIT_NOT_SAVABLE",
        )
    with _typed_errors(target, folder):
        _write_view(view, loaded.model, folder)
        loaded.tokenizer.save_pretrained(folder)


def _write_view(view: CheckpointView, like: Any, folder: Path) -> None:
    type(like.config).from_dict(dict(view.config)).save_pretrained(folder)
    if like.can_generate():
        like.generation_config.save_pretrained(folder)
    save_file(_stored(view.tensors), folder / "model.safetensors", metadata={"format": "pt"})


def _stored(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of ``tensors``; of tied names the first only, as checkpoints hold them."""
    places = set()
    kept = {}
    for name, tensor in tensors.items():
        # Empty tensors have no storage to share.
        place = (tensor.data_ptr() if tensor.numel() else name, tensor.shape, tensor.stride())
        if place not in places:
            places.add(place)
            kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return kept


def _sync(folder: Path) -> None:
    """Flush every file below ``folder``, and the names of them, to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_directory(path)
    sync_directory(folder)


@contextmanager
def _typed_errors(target: Path, temporary: Path) -> Iterator[None]:
    """What writing raises, as an EditError that names no absolute path."""
    __tracebackhide__ = True
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = _reason(error).replace(str(temporary), target.name)
        # Without its cause: that one's text and frames hold absolute paths.
        raise EditError(
            f"{_shown(target)}: the checkpoint could not be written: "
            + without_absolute_paths(reason),
            remedy="see that its folder can be written to and has room, or name another",
            code="CHECKPOINT_NOT_WRITTEN",
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _shown(target: Path) -> str:
    """``target`` for a text that may leave the machine: below the current folder, or its name."""
    here = Path.cwd()
    return target.relative_to(here).as_posix() if target.is_relative_to(here) else target.name
