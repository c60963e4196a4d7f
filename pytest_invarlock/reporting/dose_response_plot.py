"""A sweep as a plot: the primary metric against the dose, and a panel for each other check.

The same sweep gives the same bytes; matplotlib is imported on first use, and no display is needed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.decision import Outcome
from pytest_invarlock.reporting.dose_response import check_of
from pytest_invarlock.reporting.dose_response_table import NOT_MEASURED, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pytest_invarlock.reporting.dose_response import Dose, DoseResponse, DoseRun

# Shapes tell the outcomes apart in print and to any eye.
SHAPES: Mapping[Outcome, str] = {
    Outcome.PASS: "o",
    Outcome.WARN: "s",
    Outcome.INCONCLUSIVE: "D",
    Outcome.FAIL: "X",
    Outcome.ERROR: "v",
    Outcome.SKIPPED: "_",
}
# Okabe and Ito's colours, which the colour-blind tell apart, and a line style each.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_AXIS_TITLES = {"ratio": "perplexity ratio", "drop_pp": "drop in accuracy (pp)"}
# Beyond this many times the least, equal steps on paper are equal factors.
_LOGARITHMIC_FROM = 10.0
_TOP = 0.93
# With more doses than this their names are slanted.
_LEVEL_TICKS = 6
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "invarlock-sweep",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
}


@dataclass(frozen=True, slots=True)
class _Series:
    """One draw of one model: a place on the axis for every dose, measured (a run) or not."""

    model: str
    colour: str
    line: Literal["-", "--", "-.", ":"]
    below: bool
    points: tuple[tuple[float, DoseRun | None], ...]


def svg(response: DoseResponse) -> bytes:
    """The plot as SVG, without date or version in it."""
    return _rendered(response, "svg", {"Date": None, "Creator": None, "Title": _title(response)})


def png(response: DoseResponse) -> bytes:
    """The plot as PNG, for looking at."""
    return _rendered(response, "png", {"Software": None})


def _rendered(response: DoseResponse, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        buffer = io.BytesIO()
        _figure(response).savefig(buffer, format=kind, metadata=dict(metadata), dpi=120)
    return buffer.getvalue()


def _title(response: DoseResponse) -> str:
    return f"Dose-response of {response.scenario}, {response.parameter}"


def _figure(response: DoseResponse) -> Figure:
    from matplotlib.figure import Figure

    leading = response.leading()
    heights = [3.0, *(1.2 for _ in leading)]
    figure = Figure(figsize=(7.5, 1.3 * sum(heights) + 1.2), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    axes: list[Axes] = list(grid[:, 0])
    series = _series(response)
    _main_panel(axes[0], response, series)
    for panel, (check, key) in zip(axes[1:], leading, strict=True):
        _check_panel(panel, series, check, key)
    _dose_axis(axes[-1], response)
    figure.suptitle(_plain(_title(response)))
    figure.legend(
        handles=_legend(response), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return figure


def _places(response: DoseResponse) -> dict[Any, float]:
    """Where on the axis each scenario of a dose stands: at its amount, or at its turn."""
    places: dict[Any, float] = {}
    for turn, dose in enumerate(response.curves[0].doses):
        places[dose.scenario] = float(dose.value) if response.numeric else float(turn)
    return places


def _series(response: DoseResponse) -> list[_Series]:
    places = _places(response)
    found = []
    for index, curve in enumerate(response.curves):
        draws = sorted({r.draw for d in curve.doses for r in d.runs} | {
            draw for d in curve.doses for draw in d.missing
        })  # fmt: skip
        for draw in draws:
            points = [
                (places[dose.scenario], next((r for r in dose.runs if r.draw == draw), None))
                for dose in curve.doses
            ]
            found.append(
                _Series(
                    curve.model,
                    _COLOURS[index % len(_COLOURS)],
                    _LINES[index % len(_LINES)],
                    index % 2 == 1,
                    tuple(sorted(points, key=lambda point: point[0])),
                )
            )
    return found


def _main_panel(panel: Axes, response: DoseResponse, series: Sequence[_Series]) -> None:
    point, lower, upper, limit = response.quantity
    for one in series:
        _line(panel, one, [None if run is None else run.amount(point) for _, run in one.points])
        for place, run in one.points:
            value = None if run is None else run.amount(point)
            if run is None:
                continue
            if value is None:
                _edge_marker(panel, place, run, one)
                continue
            ends = [x for key in (lower, upper) if (x := run.amount(key)) is not None]
            panel.plot([place] * len(ends), ends, color=one.colour, linewidth=2.5, alpha=0.45)
            _marker(panel, place, value, run.decision.outcome, one.colour)
    limits = {x for run in response.runs if (x := run.amount(limit)) is not None}
    for value in sorted(limits):
        panel.axhline(value, color="0.25", linestyle=(0, (6, 2)), linewidth=1)
    for index, curve in enumerate(response.curves):
        for dose in curve.doses:
            _words(panel, response, dose, _places(response)[dose.scenario], below=index % 2 == 1)
    known = [x for curve in response.curves for d in curve.doses for x in _ends(response, d)]
    panel.set_ylabel(_AXIS_TITLES[point])
    if not known:
        panel.set_yticks([])
    elif _wide([*known, *limits]):
        panel.set_yscale("log")
    # Room for the words beyond the highest and lowest points.
    panel.margins(x=0.08, y=0.25)


def _ends(response: DoseResponse, dose: Dose) -> list[float]:
    """The points and bounds of every run of a dose."""
    keys = response.quantity[:3]
    return [x for run in dose.runs for key in keys if (x := run.amount(key)) is not None]


def _words(panel: Axes, response: DoseResponse, dose: Dose, place: float, *, below: bool) -> None:
    """What a dose came to, beyond its intervals; at the panel's edge where it has no number."""
    ends = _ends(response, dose)
    found = [
        run.word if run.code or run.amount(response.quantity[0]) is not None
        else f"{run.word}, no number"
        for run in dose.runs
    ]  # fmt: skip
    words = dict.fromkeys([*found, *([NOT_MEASURED] if dose.missing else [])])
    at = (min(ends) if below else max(ends)) if ends else (1 - _TOP if below else _TOP)
    upwards = below != bool(ends)
    # Upright, so that neighbours do not run into each other.
    panel.annotate(
        " / ".join(words), (place, at), xytext=(0, 6 if upwards else -6),
        xycoords="data" if ends else panel.get_xaxis_transform(), textcoords="offset points",
        rotation=90, ha="center", va="bottom" if upwards else "top", fontsize=7,
    )  # fmt: skip


def _check_panel(panel: Axes, series: Sequence[_Series], check: str, key: str) -> None:
    values = []
    for one in series:
        amounts = [None if run is None else run.amount(key, check) for _, run in one.points]
        _line(panel, one, amounts)
        for (place, run), value in zip(one.points, amounts, strict=True):
            judged = None if run is None else check_of(run, check)
            if judged is not None and value is not None:
                values.append(value)
                _marker(panel, place, value, judged.outcome, one.colour)
    if _wide(values):
        panel.set_yscale("log")
    panel.margins(y=0.2)
    panel.set_ylabel(f"{check}\n{key}", fontsize=7)


def _line(panel: Axes, one: _Series, values: Sequence[float | None]) -> None:
    known = [
        (place, value)
        for (place, _), value in zip(one.points, values, strict=True)
        if value is not None
    ]
    panel.plot(
        [place for place, _ in known],
        [value for _, value in known],
        color=one.colour,
        linestyle=one.line,
        linewidth=1,
    )


def _marker(panel: Axes, place: float, value: float, outcome: Outcome, colour: str) -> None:
    panel.plot(
        [place], [value], marker=SHAPES[outcome], markersize=7, color=colour,
        markeredgecolor="white", markeredgewidth=0.7, linestyle="none",
    )  # fmt: skip


def _edge_marker(panel: Axes, place: float, run: DoseRun, one: _Series) -> None:
    """A run without a ratio stands at the panel's edge."""
    panel.plot(
        [place], [1 - _TOP if one.below else _TOP], marker=SHAPES[run.decision.outcome],
        markersize=7, color=one.colour, linestyle="none", transform=panel.get_xaxis_transform(),
    )  # fmt: skip


def _dose_axis(panel: Axes, response: DoseResponse) -> None:
    from matplotlib.ticker import NullLocator

    places = list(_places(response).values())
    if response.numeric and _wide(places):
        panel.set_xscale("log")
    # A dose that was not measured has its place all the same.
    panel.update_datalim([(place, 0.0) for place in places], updatey=False)
    panel.set_xticks(places, [_plain(shown(value)) for value in response.values])
    if len(places) > _LEVEL_TICKS:
        for label in panel.get_xticklabels():
            label.set(rotation=45, horizontalalignment="right")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel(response.parameter)


def _legend(response: DoseResponse) -> list[Any]:
    from matplotlib.lines import Line2D

    shown_checks = [check for check, _ in response.leading()]
    seen = {
        c.outcome for run in response.runs for c in run.decision.checks if c.check in shown_checks
    }
    seen |= {run.decision.outcome for run in response.runs}
    handles = [
        Line2D(
            [], [], color=_COLOURS[i % len(_COLOURS)], linestyle=_LINES[i % len(_LINES)],
            label=_plain(curve.model),
        )
        for i, curve in enumerate(response.curves)
    ]  # fmt: skip
    if any(run.amount(response.quantity[3]) is not None for run in response.runs):
        handles.append(Line2D([], [], color="0.25", linestyle=(0, (6, 2)), label="limit"))
    handles += [
        Line2D([], [], color="0.3", marker=shape, linestyle="none", label=outcome.value)
        for outcome, shape in SHAPES.items()
        if outcome in seen
    ]
    return handles


def _plain(text: str) -> str:
    """``text`` with no formulas for matplotlib to see."""
    return text.replace("$", r"\$")


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > _LOGARITHMIC_FROM * min(values)
