"""Subject: what is measured beside the baseline, however it came to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.invariants import ModelStructure, read_structure

from pytest_invarlock.bench.tensor_digest import edited_digests, tensor_digests

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subject:
    """The edited resident model, a damaged view of its checkpoint, or another checkpoint.

    ``edit`` is the record's block on what was done, None for another checkpoint; ``in_place`` says
    that the resident model itself carries it. ``load_failure`` is why the subject has no model
    that could compute a loss; then ``loaded.model`` holds names and shapes only.
    """

    loaded: LoadedModel
    digests: Mapping[str, str]
    structure: ModelStructure
    edit: Mapping[str, Any] | None
    in_place: bool = False
    load_failure: str | None = None


def loaded_subject(loaded: LoadedModel) -> Subject:
    """Another checkpoint as a subject."""
    return Subject(loaded, tensor_digests(loaded.model), _structure(loaded), edit=None)


def edited_subject(
    loaded: LoadedModel,
    coverage: Mapping[str, Any],
    touched: Iterable[str],
    known: Mapping[str, str],
) -> Subject:
    """The resident model with an edit in place.

    Args:
        loaded: the resident, edited.
        coverage: the record's ``edit`` block.
        touched: names of the tensors that the edit wrote.
        known: the digest of each tensor before the edit.
    """
    digests = edited_digests(loaded.model, touched, known)
    return Subject(loaded, digests, _structure(loaded), edit=coverage, in_place=True)


def _structure(loaded: LoadedModel) -> ModelStructure:
    return read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread)
