"""From the losses of each example's choices to which examples a model gets right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_invarlock.errors import DataError
from pytest_invarlock.stats.clusters import FloatArray, IntArray

BoolArray = NDArray[np.bool_]


def predicted_right(nll: FloatArray, examples: IntArray, labels: IntArray) -> BoolArray:
    """Say of each example whether the choice with the least loss is the right one.

    Of choices that tie exactly the first in order is the prediction.

    Args:
        nll: float64 (n_choices,), nats, summed over the choice's tokens or averaged over them.
        examples: int64 (n_choices,), example ordinal of each choice.
        labels: int64 (n_choices,), 1 for the right choice and 0 elsewhere.

    Returns:
        bool (n_examples,), in ascending order of example ordinal.

    Raises:
        DataError: ``UNPAIRED_CHOICES`` for other shapes, ``NON_FINITE`` for a loss that is not,
            ``LABELS`` unless each example has exactly one right choice, ``ONE_CHOICE`` where an
            example leaves nothing to choose.
    """
    _check_choices(nll, examples, labels)
    # Ascending example, then loss; lexsort is stable, so the first of equal losses stays first.
    order = np.lexsort((nll, examples))
    first = np.flatnonzero(np.diff(examples[order], prepend=examples[order][:1] - 1))
    return np.asarray(labels[order][first] == 1)


def example_documents(examples: IntArray, documents: IntArray) -> IntArray:
    """Give the document ordinal of each example, in ascending order of example ordinal.

    Args:
        examples: int64 (n_choices,).
        documents: int64 (n_choices,).

    Returns:
        int64 (n_examples,).

    Raises:
        DataError: ``SPLIT_EXAMPLE`` where choices of one example stand in several documents.
    """
    _, first, group = np.unique(examples, return_index=True, return_inverse=True)
    found = documents[first]
    if not (found[group] == documents).all():
        raise DataError(
            "choices of one example stand in several documents",
            remedy="give every choice of an example the example's document",
            code="SPLIT_EXAMPLE",
        )
    return np.asarray(found)


def _check_choices(nll: FloatArray, examples: IntArray, labels: IntArray) -> None:
    shapes = [array.shape for array in (nll, examples, labels)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        raise DataError(
            f"losses, examples and labels have shapes {shapes}",
            remedy="pass one loss, example ordinal and label for each choice",
            code="UNPAIRED_CHOICES",
        )
    if not np.isfinite(nll).all():
        raise DataError(
            f"{int((~np.isfinite(nll)).sum())} choice(s) have no finite loss",
            remedy="report the choice as non-finite before predicting",
            code="NON_FINITE",
        )
    _, group, sizes = np.unique(examples, return_inverse=True, return_counts=True)
    right = np.bincount(group, weights=labels == 1)
    if not (right == 1).all() or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{int((right != 1).sum())} of {len(sizes)} examples have not exactly one right choice",
            remedy="mark one choice of each example with 1 and the others with 0",
            code="LABELS",
        )
    if (sizes < 2).any():
        raise DataError(
            "an example has a single choice",
            remedy="give every example at least two choices",
            code="ONE_CHOICE",
        )
