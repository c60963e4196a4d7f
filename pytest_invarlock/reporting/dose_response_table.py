"""A sweep as a table: of markdown for its file, and of aligned text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.reporting.dose_response import Curve, DoseResponse, DoseRun, Scalar

# How many columns from the left are words; the rest are numbers, set to the right.
_WORDS = 3
NOT_MEASURED = "not measured"
_FOUR_DECIMALS = ("ratio", "ratio_lower", "ratio_upper")
_TITLES = {
    "ratio": "ratio",
    "ratio_lower": "lower",
    "ratio_upper": "upper",
    "limit": "limit",
    "drop_pp": "drop pp",
    "drop_lower_pp": "lower",
    "drop_upper_pp": "upper",
    "limit_pp": "limit",
    "n_documents": "documents",
    "kl_mean_nats": "KL nats",
    "flips": "flips",
}


def headings(response: DoseResponse) -> tuple[str, ...]:
    """The titles of the columns; the last are the leading numbers of the other checks."""
    return (
        response.parameter,
        "verdict",
        "fired",
        *(_TITLES[key] for key in _keys(response)),
        *(f"{check} {key}" for check, key in response.leading()),
    )


def rows(response: DoseResponse, curve: Curve) -> list[tuple[str, ...]]:
    """A row for every draw of every dose of a model, measured or not, in the order of doses."""
    entries = []
    for dose in curve.doses:
        several = len(dose.runs) + len(dose.missing) > 1
        runs: dict[int, DoseRun | None] = dict.fromkeys(dose.missing)
        runs |= {run.draw: run for run in dose.runs}
        for draw in sorted(runs):
            name = f"{shown(dose.value)} run {draw}" if several else shown(dose.value)
            entries.append((name, *_cells(response, runs[draw])))
    return entries


def markdown(response: DoseResponse) -> str:
    """The whole sweep, a table a model, and what is missing of it."""
    lines = [f"## Dose-response of {response.scenario}, {response.parameter}"]
    for curve in response.curves:
        titles = headings(response)
        rule = "|" + "---|" * _WORDS + "---:|" * (len(titles) - _WORDS)
        lines += ["", f"### {curve.model}", "", _markdown_row(titles), rule]
        lines += [_markdown_row(row) for row in rows(response, curve)]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(response)), ""])


def terminal_lines(response: DoseResponse) -> list[str]:
    """The same for a terminal, without the blank lines."""
    lines = []
    for curve in response.curves:
        lines.append(f"dose-response of {response.scenario}, {response.parameter}: {curve.model}")
        lines += ["  " + line for line in _aligned([headings(response), *rows(response, curve)])]
    return [*lines, *notes(response)]


def notes(response: DoseResponse) -> list[str]:
    """What the table does not say of itself: doses without a record."""
    return [
        f"{NOT_MEASURED}: {model} {scenario} run {draw}"
        for model, scenario, draw in response.missing()
    ]


def shown(value: Scalar) -> str:
    """A dose as one writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _keys(response: DoseResponse) -> tuple[str, ...]:
    return (*response.quantity, "n_documents", "kl_mean_nats", "flips")


def _cells(response: DoseResponse, run: DoseRun | None) -> tuple[str, ...]:
    if run is None:
        return (NOT_MEASURED, *["-"] * (len(headings(response)) - 2))
    return (
        run.word,
        ", ".join(run.decision.fired) or "-",
        *(_figure(run.amount(key), key) for key in _keys(response)),
        *(_figure(run.amount(key, check), key) for check, key in response.leading()),
    )


def _figure(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    if key in _FOUR_DECIMALS and value < 1000:
        return f"{value:.4f}"
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.3g}"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < _WORDS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
