"""A run as text: a table with a row a decision, and what broke the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_invarlock.certificate.verdict_text import verdict_text

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.records import Record
    from pytest_invarlock.run_summary import RunSummary

HEADINGS = ("", "scenario", "verdict", "ratio", "bound", "limit", "fired", "time")


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a decision, and whether it met its expectation."""

    met: bool
    cells: tuple[str, ...]


def rows(summary: RunSummary) -> list[Row]:
    """A row a decision, in the order of the plan."""
    order = {(p.model, p.scenario): i for i, p in enumerate(summary.planned)}
    entries = sorted(
        zip(summary.records, summary.decisions, strict=True),
        key=lambda entry: (order.get((entry[1].model, entry[1].scenario), 0), entry[1].draw),
    )
    return [_row(record, decision) for record, decision in entries]


def _row(record: Record, decision: Decision) -> Row:
    numbers = next((c.numbers for c in decision.checks if c.check == "primary_metric"), {})
    name = f"{decision.model} {decision.scenario}"
    if decision.draw:
        name += f" run {decision.draw}"
    seconds = record.observations.get("seconds_subject")
    return Row(
        decision.expectation_met,
        (
            "ok" if decision.expectation_met else "XX",
            name,
            f"{decision.outcome.value} ({decision.strictness.replace('_', ' ')})",
            _ratio(numbers.get("ratio")),
            _ratio(numbers.get("ratio_upper")),
            _ratio(numbers.get("limit")),
            ", ".join(decision.fired) or "-",
            f"{seconds:.1f} s" if isinstance(seconds, float) else "-",
        ),
    )


def _ratio(value: float | str | None) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.4f}" if value < 1000 else f"{value:.2e}"


def aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Cells padded to columns; numbers (from the fourth column to the sixth) on the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown(summary: RunSummary) -> str:
    """``summary.md``: the verdict, the table, and the broken requirements."""
    word = summary.verdict.verdict if summary.verdict is not None else summary.status
    head = [f"## invarlock {summary.name}: {word}", ""]
    titles = ("met", *HEADINGS[1:])
    table = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    table += ["| " + " | ".join(row.cells) + " |" for row in rows(summary)]
    broken = verdict_text(summary.verdict).splitlines() if summary.verdict is not None else []
    return "\n".join([*head, *table, "", *(f"- {line.strip()}" for line in broken), ""])
