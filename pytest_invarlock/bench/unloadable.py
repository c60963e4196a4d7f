"""A subject's checkpoint that does not load: found by its headers, before any model is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    checkpoint_sides,
    non_finite_counts,
)
from invarlock_guards.measure.checkpoint_difference import tensor_difference
from invarlock_guards.measure.checkpoint_files import CheckpointError, read_checkpoint
from invarlock_guards.measure.checkpoint_layout import layout_of, misfit, stored_names
from invarlock_guards.measure.checkpoint_structure import checkpoint_structure, read_as

from pytest_invarlock.adapters import LoadedModel
from pytest_invarlock.adapters.checkpoint_loading import load_tokenizer
from pytest_invarlock.adapters.checkpoint_shapes import NOT_LAID_OUT, lay_out_checkpoint
from pytest_invarlock.adapters.hf_adapter import ADAPTER_OF, HF_Adapter
from pytest_invarlock.adapters.loaded_model import context_length
from pytest_invarlock.adapters.model_source import checkpoint_digest
from pytest_invarlock.bench.subject import Subject
from pytest_invarlock.bench.tensor_digest import tensor_digest
from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint
from pytest_invarlock.errors import ModelLoadError

if TYPE_CHECKING:
    from invarlock_guards.measure.checkpoint_structure import CheckpointSide

    from pytest_invarlock.adapters.model_source import ModelSource
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.data.window_set import Reading

_LOADERS_OWN = "MODEL_WEIGHTS"
"""The code under which an adapter refuses weights that are not those of their configuration."""


def unloadable_subject(bench: Bench, reference: str) -> Subject | None:
    """The checkpoint ``reference`` as a subject, where its tensors are not its configuration's.

    Headers alone are read of a checkpoint that has what its configuration asks for. Where they
    speak against it, loading is tried, since a loader may know other names; what it refuses is
    told as structure: every tensor that is missing or of another shape is evidence.

    Returns:
        None where the checkpoint loads, and where only loading can tell whether it does.

    Raises:
        ModelLoadError: files are missing or damaged, or loading ends for another reason.
        AdapterError: the adapter does not read such a model.
    """
    adapter = bench.adapter
    if not isinstance(adapter, HF_Adapter):
        return None
    source = adapter.source_of(reference)
    try:
        model, reading = lay_out_checkpoint(source, adapter.reading_of)
        if misfit(layout_of(model), read_checkpoint(source.directory)) is None:
            return None
        sides = _beside_baseline(bench, adapter, source, model)
    except CheckpointError:
        # Loading knows more ways to store a checkpoint, and says what is wrong with this one.
        return None
    except ModelLoadError as error:
        if error.code == NOT_LAID_OUT:
            return None
        raise
    if sides is None:
        return None
    one, side = sides
    why = misfit(side.layout, side.files)
    if why is None or _loads(bench, adapter, reference):
        return None
    bench.log("subject_unloadable", pair=bench.pair.name)
    names = tensor_difference(checkpoint_structure(one), checkpoint_structure(side), side).text
    why = f"{why} ({names})" if names else why
    return _subject(bench, source, side, model, reading, why)


def _beside_baseline(
    bench: Bench, adapter: HF_Adapter, source: ModelSource, model: Any
) -> tuple[CheckpointSide, CheckpointSide] | None:
    """Both under the names that the baseline's files show; None where these are others."""
    baseline = adapter.source_of(bench.pair.baseline)
    like, _ = lay_out_checkpoint(baseline, adapter.reading_of)
    one, side, by_names = checkpoint_sides(
        read_checkpoint(baseline.directory),
        read_checkpoint(source.directory),
        CheckpointDescription(like),
        CheckpointDescription(model, model.config.to_dict()),
    )
    return (one, side) if by_names is None else None


def _loads(bench: Bench, adapter: HF_Adapter, reference: str) -> bool:
    try:
        adapter.load(reference, device=bench.plan.device, dtype=bench.plan.dtype)
    except ModelLoadError as error:
        if error.code != _LOADERS_OWN:
            raise
        return False
    return True


def _subject(
    bench: Bench, source: ModelSource, side: CheckpointSide, model: Any, reading: Reading, why: str
) -> Subject:
    files = side.files
    tokenizer = load_tokenizer(source)
    side = replace(side, tokenizer=tokenizer_fingerprint(tokenizer))
    structure = checkpoint_structure(side, non_finite_counts(files))
    places = stored_names(side.layout, files)
    return Subject(
        loaded=LoadedModel(
            model=model.eval(),
            tokenizer=tokenizer,
            tokenizer_fingerprint=side.tokenizer,
            context=context_length(model),
            checkpoint_digest=checkpoint_digest(source.directory),
            source=source,
            unread=tuple(sorted(structure.unread)),
            reading=reading,
            adapter=ADAPTER_OF[reading],
        ),
        digests={name: tensor_digest(files.tensor(place)) for name, place in places.items()},
        structure=read_as(structure, bench.plan.dtype),
        edit=None,
        load_failure=f"the checkpoint does not load: {why}",
    )
