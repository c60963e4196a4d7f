"""The edge of feature-standardised outputs: their largest singular value against a random one's.

Each feature is centred and divided by its own spread, so that scales and offsets of features say
nothing; what is left is how strongly the features move together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DEAD_SHARE = 1e-8
"""A feature whose variance is below this share of the features' mean variance is dead."""


@dataclass(frozen=True, slots=True)
class WindowEdge:
    """One window's outputs of one projection.

    Attributes:
        edge: largest singular value of the (tokens, live features) standardised outputs, over
            √tokens + √features; None where it cannot be computed.
        n_features: the features, dead ones included.
        n_dead: features that do not vary over the window.
        n_outliers: singular values above the factor times √tokens + √features.
        finite: whether every output is.
    """

    edge: float | None
    n_features: int
    n_dead: int
    n_outliers: int
    finite: bool


def window_edge(outputs: torch.Tensor, outlier_factor: float) -> WindowEdge:
    """The edge of ``outputs``, (tokens, features) of one window without its padding.

    Dead features are counted apart and left out: divided by its own spread, one would be nothing
    but amplified rounding.
    """
    n_tokens, n_features = outputs.shape
    if not bool(torch.isfinite(outputs).all()):
        return WindowEdge(None, n_features, 0, 0, finite=False)
    values = outputs.double()
    mean = values.mean(0)
    centred = values - mean
    variance = centred.square().mean(0)
    # Rounding in the outputs' own type makes a constant feature vary by this much.
    rounding = (torch.finfo(outputs.dtype).eps * mean).square()
    floor = torch.maximum(rounding, DEAD_SHARE * variance.mean())
    live = variance > floor
    n_live = int(live.sum())
    n_dead = n_features - n_live
    if n_live == 0 or n_tokens < 2:
        return WindowEdge(None, n_features, n_dead, 0, finite=True)
    standard = centred[:, live] / variance[live].sqrt()
    gram = standard @ standard.T if n_tokens <= n_live else standard.T @ standard
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    bound = math.sqrt(n_tokens) + math.sqrt(n_live)
    n_outliers = int((singular > outlier_factor * bound).sum())
    return WindowEdge(float(singular[-1]) / bound, n_features, n_dead, n_outliers, finite=True)
