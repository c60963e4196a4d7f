"""The losses of one arm summed by document, of which several checks ask the same."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_invarlock.stats.clusters import document_sums

if TYPE_CHECKING:
    from pytest_invarlock.records import ArmLosses
    from pytest_invarlock.stats.clusters import DocumentSums


@lru_cache(maxsize=2)
def loss_sums(arm: ArmLosses) -> DocumentSums:
    """The `document_sums` of ``arm``; raises DataError where no difference can be taken of it."""
    return document_sums(arm.baseline_nll, arm.subject_nll, arm.tokens, arm.documents)
