"""Subject: what is measured beside the baseline, however it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invarlock_guards.measure.invariants import ModelStructure

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
