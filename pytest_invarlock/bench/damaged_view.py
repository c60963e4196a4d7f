"""A structural fault as a subject: read like a checkpoint, measured where it loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pytest_invarlock.bench.subject import Subject
from pytest_invarlock.bench.tensor_digest import tensor_digest
from pytest_invarlock.faults.checkpoint_view import (
    CheckpointView,
    LoadFinding,
    empty_model,
    load_view,
    view_of,
    view_structure,
)
from pytest_invarlock.faults.structural import apply_view_fault, view_coverage

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.plan import EditSpec


def damaged_subject(spec: EditSpec, baseline: LoadedModel, digests: Mapping[str, str]) -> Subject:
    """The checkpoint of ``baseline`` with the structural fault ``spec``.

    Args:
        spec: one of `faults.structural.VIEW_FAULTS`.
        baseline: the resident model, with which the subject may share storage.
        digests: of the baseline's tensors, by name.

    Raises:
        EditError: the fault has nothing to strike, or its parameters are wrong.
    """
    before = view_of(baseline.model, baseline.tokenizer_fingerprint)
    view = apply_view_fault(spec, before)
    model, findings = load_view(view, baseline.model)
    if model is None:
        model = empty_model(view, baseline.model)
    same_tokenizer = view.tokenizer_fingerprint == before.tokenizer_fingerprint
    loaded = replace(
        baseline,
        model=cast("Any", model),
        tokenizer=baseline.tokenizer if same_tokenizer else None,
        tokenizer_fingerprint=view.tokenizer_fingerprint,
        checkpoint_digest=None,
        unread=(),
    )
    return Subject(
        loaded=loaded,
        digests=_digests(before, view, digests),
        structure=view_structure(view),
        edit=view_coverage(spec, before, view),
        load_failure=_failure(findings[0]) if findings else None,
    )


def _digests(
    before: CheckpointView, view: CheckpointView, known: Mapping[str, str]
) -> dict[str, str]:
    """Of each tensor of ``view``; those that are the baseline's own are not hashed again."""
    found: dict[int, str] = {}
    return {
        name: known[name]
        if tensor is before.tensors.get(name)
        else found.setdefault(id(tensor), tensor_digest(tensor))
        for name, tensor in view.tensors.items()
    }


def _failure(finding: LoadFinding) -> str:
    return (
        f"the damaged checkpoint does not load: {finding.kind} {finding.name} "
        f"(expected {finding.expected}, found {finding.found})"
    )
