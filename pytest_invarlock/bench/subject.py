"""Subject: what is measured beside the baseline, however it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.invariants import ModelStructure, read_structure

from pytest_invarlock.bench.tensor_digest import edited_digests, tensor_digests

if TYPE_CHECKING:
    import torch
    from invarlock_guards.contract import GuardEvidence

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.journal import EditJournal


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subject:
    """The edited resident model, a damaged view of its checkpoint, or another checkpoint.

    ``edit`` is the record's block on what was done, None for another checkpoint; ``in_place`` says
    that the resident model itself carries it. ``load_failure`` is why the subject has no model
    that could compute a loss; then ``loaded.model`` holds names and shapes only. ``weights_before``
    are the baseline's parameters where the resident model no longer holds them. ``spectral`` is
    what files showed of its weights beside the baseline's, None where loaded models are compared.
    ``plain`` are its parameters where the model itself holds them packed; ``deployment`` is the
    evidence of how it was packed, stored and loaded again.
    """

    loaded: LoadedModel
    digests: Mapping[str, str]
    structure: ModelStructure
    edit: Mapping[str, Any] | None
    in_place: bool = False
    load_failure: str | None = None
    weights_before: Mapping[str, torch.Tensor] | None = None
    spectral: GuardEvidence | None = None
    plain: Mapping[str, torch.Tensor] | None = None
    deployment: Mapping[str, Any] | None = None


def loaded_subject(loaded: LoadedModel, spectral: GuardEvidence | None = None) -> Subject:
    """Another checkpoint as a subject, with what its files showed."""
    digests = tensor_digests(loaded.model)
    return Subject(loaded, digests, _structure(loaded), edit=None, spectral=spectral)


def edited_subject(
    loaded: LoadedModel, coverage: Mapping[str, Any], journal: EditJournal
) -> Subject:
    """The resident model with an edit in place.

    Args:
        loaded: the resident, edited.
        coverage: the record's ``edit`` block.
        journal: of what the edit wrote.
    """
    digests = edited_digests(loaded.model, journal.touched, journal.digests)
    before = {name: journal.before(p) for name, p in loaded.model.named_parameters()}
    return Subject(
        loaded,
        digests,
        _structure(loaded),
        edit=coverage,
        in_place=True,
        weights_before=before,
    )


def _structure(loaded: LoadedModel) -> ModelStructure:
    return read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread)
