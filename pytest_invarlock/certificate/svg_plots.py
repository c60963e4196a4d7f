"""The plots of a certificate's page: the interval, and the windows' loss differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pytest_invarlock.certificate.svg import element, figure, label, line, tick_texts, ticks

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 360.0
LEFT, RIGHT = 46.0, 350.0
BINS = 30
LARGEST = 1e6
HATCH = "url(#hatch)"


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale from values to places on the page."""

    low: float
    high: float
    start: float = LEFT
    end: float = RIGHT

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def within(self, value: float) -> bool:
        return self.low <= value <= self.high


def _axis(values: Sequence[float], start: float = LEFT, end: float = RIGHT) -> _Axis:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.01
    return _Axis(low - margin, high + margin, start, end)


def _bottom(axis: _Axis, y: float) -> list[Markup]:
    values = ticks(axis.low, axis.high)
    marks = [line(axis.start, y, axis.end, y, "axis")]
    for value, text in zip(values, tick_texts(values), strict=True):
        x = axis.at(value)
        marks += [line(x, y, x, y + 4, "axis"), label(text, x, y + 15)]
    return marks


def hatching() -> Markup:
    """The pattern of hatched places, to stand once in a page that shows any of the plots."""
    stripe = line(0, 0, 0, 6, "stripe")
    pattern = element(
        "pattern", stripe, id="hatch", width=6, height=6,
        patternUnits="userSpaceOnUse", patternTransform="rotate(45)",
    )  # fmt: skip
    return element("svg", element("defs", pattern), width=0, height=0, class_="defs")


def _beside(text: str, x: float, y: float, kind: str = "") -> Markup:
    """A text at ``x`` that stays on the page: centred, or to the side that has room."""
    half = 3.2 * len(text)
    if x - half < 2:
        return label(text, max(x - 2, 2), y, anchor="start", kind=kind)
    if x + half > WIDTH - 2:
        return label(text, min(x + 2, WIDTH - 2), y, anchor="end", kind=kind)
    return label(text, x, y, kind=kind)


def interval_plot(metric: Mapping[str, Any]) -> Markup | None:
    """The metric with both bounds, its limit and "no change".

    None where one is missing, or too large for the others to be told apart beside it.
    """
    accuracy = metric["unit"] == "percentage points"
    point = metric.get("drop_pp" if accuracy else "ratio")
    limit = metric.get("limit_pp" if accuracy else "limit")
    ends = metric["display_ci"]
    if point is None or limit is None or ends is None or None in ends:
        return None
    lower, upper = ends
    if max(map(abs, (point, limit, lower, upper))) > LARGEST:
        return None
    none, unit = (0.0, " pp") if accuracy else (1.0, "")
    axis = _axis([lower, point, upper, limit, none])
    x, beyond = axis.at(point), axis.at(limit)
    name = "drop" if accuracy else "ratio"
    height = 112.0
    diamond = f"M{x:.2f} 47 l7 8 l-7 8 l-7 -8 z"
    return figure(
        WIDTH, height,
        f"{name} {point:.4f}{unit}, bounds {lower:.4f} to {upper:.4f}, limit {limit:g}{unit}",
        element("rect", x=beyond, y=24, width=max(axis.end - beyond, 0), height=58, fill=HATCH),
        line(beyond, 20, beyond, 82, "limit"),
        _beside(f"limit {limit:g}{unit}", beyond, 14, "strong"),
        line(axis.at(none), 30, axis.at(none), 82, "none"),
        line(axis.at(lower), 55, axis.at(upper), 55, "whisker"),
        *(line(axis.at(end), 49, axis.at(end), 61, "whisker") for end in (lower, upper)),
        element("path", d=diamond, class_="point"),
        _beside(f"{name} {point:.4f}{unit}, bound {upper:.4f}", x, 42, "strong"),
        *_bottom(axis, 82),
    )  # fmt: skip


def histogram(
    differences: NDArray[np.float64], mean: float | None, threshold: float | None
) -> Markup:
    """How many windows changed by how much.

    What lies above ``threshold`` is hatched, and the line of the mean is dashed.

    Args:
        differences: (n_windows,), finite, nats per token.
        mean: the tokens' mean difference; None where none was computed.
        threshold: of the tail, nats per token; None where no tail was judged.
    """
    shown = [float(differences.min()), float(differences.max()), 0.0]
    axis = _axis(shown)
    counts, edges = np.histogram(differences, bins=BINS, range=(axis.low, axis.high))
    base, top = 138.0, 26.0
    largest = int(counts.max())
    bars = []
    for count, start, end in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(),
                                 strict=True):  # fmt: skip
        if count:
            height = (base - top) * count / largest
            bars.append(
                element(
                    "rect", x=axis.at(start) + 0.5, y=base - height, height=height,
                    width=max(axis.at(end) - axis.at(start) - 1, 0.5), class_="bar",
                )
            )  # fmt: skip
    marks = [line(axis.at(0.0), top, axis.at(0.0), base, "none")]
    if mean is not None and axis.within(mean):
        marks += [
            line(axis.at(mean), top - 6, axis.at(mean), base, "mean"),
            _beside(f"mean {mean:+.4f}", axis.at(mean), top - 10, "strong"),
        ]
    return figure(
        WIDTH, 172,
        f"histogram of {len(differences)} windows' loss differences, "
        f"{shown[0]:.4f} to {shown[1]:.4f} nats per token",
        *bars, *marks, *_threshold(axis, threshold, top, base),
        label(str(largest), LEFT - 4, top + 4, anchor="end"),
        label("0", LEFT - 4, base, anchor="end"),
        line(LEFT, top, LEFT, base, "axis"),
        *_bottom(axis, base),
        label("loss difference of a window, nats per token", (LEFT + RIGHT) / 2, base + 30),
    )  # fmt: skip


def _threshold(axis: _Axis, threshold: float | None, top: float, base: float) -> list[Markup]:
    if threshold is None or not axis.within(threshold):
        return []
    x = axis.at(threshold)
    return [
        element("rect", x=x, y=top, width=max(axis.end - x, 0), height=base - top, fill=HATCH),
        line(x, top, x, base, "limit"),
        _beside(f"threshold {threshold:.3f}", x, base - 4 - (base - top) / 2, "strong"),
    ]


def ordered_tail(differences: NDArray[np.float64], threshold: float | None, n_above: int) -> Markup:
    """Every window's difference, the worst first; those that were counted as harmed are squares.

    Args:
        differences: (n_windows,), finite, nats per token.
        threshold: of the tail, nats per token; None where no tail was judged.
        n_above: how many windows the decision counts above it.
    """
    ordered = np.sort(differences)[::-1]
    levels = _axis([float(ordered[0]), float(ordered[-1]), 0.0], 140.0, 14.0)
    ranks = _Axis(0.0, float(max(len(ordered) - 1, 1)))
    # A page of ten thousand marks helps nobody: the worst hundred, then every so many.
    step = max(1, math.ceil((len(ordered) - 100) / 200))
    places = [*range(min(100, len(ordered))), *range(100, len(ordered), step)]
    marks = [
        _mark(ranks.at(place), levels.at(float(ordered[place])), place < n_above)
        for place in places
    ]
    values = ticks(levels.low, levels.high, 4)
    rules = [
        part
        for value, text in zip(values, tick_texts(values), strict=True)
        for part in (
            line(LEFT, levels.at(value), RIGHT, levels.at(value), "grid"),
            label(text, LEFT - 4, levels.at(value) + 4, anchor="end"),
        )
    ]
    limit = (
        [
            line(LEFT, levels.at(threshold), RIGHT, levels.at(threshold), "limit"),
            label(f"threshold {threshold:.3f}", RIGHT, levels.at(threshold) - 4, anchor="end",
                  kind="strong"),
        ]
        if threshold is not None and levels.within(threshold)
        else []
    )  # fmt: skip
    return figure(
        WIDTH, 172,
        f"windows by loss difference, from {ordered[0]:.4f} down to {ordered[-1]:.4f}",
        *rules, line(LEFT, levels.at(0.0), RIGHT, levels.at(0.0), "none"), *limit, *marks,
        label("1", LEFT, 155), label(str(len(ordered)), RIGHT, 155, anchor="end"),
        label("windows, the worst first", (LEFT + RIGHT) / 2, 168),
    )  # fmt: skip


def _mark(x: float, y: float, above: bool) -> Markup:
    if above:
        return element("rect", x=x - 3, y=y - 3, width=6, height=6, class_="dot above")
    return element("circle", cx=x, cy=y, r=1.8, class_="dot")
