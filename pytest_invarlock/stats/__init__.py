"""Interval methods for paired losses: documents are the unit, every formula has its source."""

from pytest_invarlock.stats.clusters import DocumentSums, document_sums
from pytest_invarlock.stats.power import documents_needed, minimum_detectable_ratio
from pytest_invarlock.stats.ratio import Degenerate, RatioBounds, ratio_bounds
from pytest_invarlock.stats.resampling import resampling_counts

__all__ = [
    "Degenerate",
    "DocumentSums",
    "RatioBounds",
    "document_sums",
    "documents_needed",
    "minimum_detectable_ratio",
    "ratio_bounds",
    "resampling_counts",
]
