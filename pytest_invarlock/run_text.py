"""A run as text: a table with a row a decision, and what broke the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_invarlock.certificate.signal_text import (
    GUARD_HEADINGS,
    flaky_lines,
    guard_cells,
    signal_lines,
)
from pytest_invarlock.certificate.verdict_text import verdict_text
from pytest_invarlock.decision import Outcome
from pytest_invarlock.scenario_runs import flaky_scenarios

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.records import Record
    from pytest_invarlock.run_summary import RunSummary

HEADINGS = ("", "scenario", "verdict", "ratio", "bound", "limit", "fired", "time")


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a decision, and whether it met its expectation, or was skipped."""

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
    numbers = _metric_numbers(decision)
    name = f"{decision.model} {decision.scenario}"
    if decision.draw:
        name += f" run {decision.draw}"
    seconds = record.observations.get("seconds_subject")
    return Row(
        decision.expectation_met or decision.outcome is Outcome.SKIPPED,
        (
            _mark(decision),
            name,
            f"{decision.outcome.value} ({decision.strictness.replace('_', ' ')})",
            *_amounts(numbers),
            ", ".join(decision.fired) or "-",
            f"{seconds:.1f} s" if isinstance(seconds, float) else "-",
        ),
    )


def _mark(decision: Decision) -> str:
    if decision.outcome is Outcome.SKIPPED:
        return "--"
    return "ok" if decision.expectation_met else "XX"


def _metric_numbers(decision: Decision) -> Mapping[str, float | int | str | None]:
    return next((c.numbers for c in decision.checks if c.check == "primary_metric"), {})


def _amounts(numbers: Mapping[str, float | int | str | None]) -> tuple[str, str, str]:
    """Point, bound and limit: ratios, or a drop of accuracy in percentage points."""
    if "drop_pp" in numbers:
        return (
            _points(numbers["drop_pp"]),
            _points(numbers["drop_upper_pp"]),
            _points(numbers["limit_pp"]),
        )
    return (
        _ratio(numbers.get("ratio")),
        _ratio(numbers.get("ratio_upper")),
        _ratio(numbers.get("limit")),
    )


def _points(value: float | str | None) -> str:
    return f"{value:+.2f} pp" if isinstance(value, int | float) else "-"


def _ratio(value: float | str | None) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.4f}" if value < 1000 else f"{value:.2e}"


def details(summary: RunSummary) -> list[str]:
    """A line a decision that has them: documents, what they can detect, divergence, flips."""
    lines = []
    for decision in summary.decisions:
        parts = _detail(_metric_numbers(decision))
        if parts:
            run = f" run {decision.draw}" if decision.draw else ""
            lines.append(f"{decision.model} {decision.scenario}{run}: {', '.join(parts)}")
    return lines


_DETAILS = (
    ("n_examples", "{} examples"),
    ("n_documents", "{} documents"),
    ("effective_documents", "{:.1f} effective"),
    ("icc", "ICC {:.2f}"),
    ("design_effect", "design effect {:.2f}"),
    ("minimum_detectable_ratio", "detects a ratio of {:.4f}"),
    ("kl_mean_nats", "KL {:.3g} nats"),
    ("top1_agreement", "first choices agree on {:.2%}"),
    ("flips_harmful", "{} tokens flipped to wrong"),
    ("flips_beneficial", "{} to right"),
    ("harmful", "{} examples flipped to wrong"),
    ("beneficial", "{} to right"),
    ("mcnemar_p", "McNemar p {:.3g}"),
)


def _detail(numbers: Mapping[str, float | int | str | None]) -> list[str]:
    return [text.format(numbers[key]) for key, text in _DETAILS if numbers.get(key) is not None]


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


def what_fired(summary: RunSummary) -> list[str]:
    """Flaky scenarios and, of a whole run, the shares of informational signals."""
    signals = [] if summary.verdict is None else signal_lines(summary.verdict.signals)
    return [*signals, *flaky_lines(flaky_scenarios(summary.decisions))]


def _guard_table(summary: RunSummary) -> list[str]:
    """How often each check fired on clean and on damaged scenarios, in Markdown."""
    cells = [] if summary.verdict is None else guard_cells(summary.verdict.signals)
    if not cells:
        return []
    table = [GUARD_HEADINGS, ("---",) * len(GUARD_HEADINGS), *cells]
    return ["", *("| " + " | ".join(row) + " |" for row in table)]


def markdown(summary: RunSummary) -> str:
    """``summary.md``: the verdict, the table, what is behind each row, what fired, what broke."""
    word = summary.word if summary.complete or summary.is_sweep else summary.status
    head = [f"## invarlock {summary.name}: {word}", ""]
    if not summary.signed:
        head += ["**UNSIGNED**: no signature covers this run; anyone may have written it.", ""]
    titles = ("met", *HEADINGS[1:])
    table = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    table += ["| " + " | ".join(row.cells) + " |" for row in rows(summary)]
    broken = verdict_text(summary.verdict).splitlines() if summary.verdict is not None else []
    behind = [f"- {line}" for line in (*details(summary), *what_fired(summary))]
    broken = [f"- {line.strip()}" for line in broken]
    return "\n".join(
        [*head, *table, "", *behind, *([""] if behind else []), *broken, *_guard_table(summary), ""]
    )
