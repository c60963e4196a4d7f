"""What fired over a run, as text: shares of informational signals, flaky scenarios, error rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.run_requirements import SignalFraction
    from pytest_invarlock.scenario_runs import Flaky
    from pytest_invarlock.signal_summary import GuardRow, Share, SignalSummary

GUARD_HEADINGS = ("check", "fired on clean", "fired on damaged")


def signal_lines(signals: SignalSummary) -> list[str]:
    """A line a category of informational scenarios, and one a hit that no other run confirms."""
    return [line for one in signals.fractions for line in _fraction_lines(one)]


def _fraction_lines(one: SignalFraction) -> list[str]:
    demanded = "none demanded" if one.minimum is None else f"at least {one.minimum:g} demanded"
    lines = [
        f"informational {one.category}: {one.confirmed} of {len(one.scenarios)} show a confirmed "
        f"signal ({one.fraction:.3g}), {demanded}"
    ]
    for scenario in one.scenarios:
        if not scenario.confirmed and scenario.unconfirmed:
            told = ", ".join(f"{check} in {n}" for check, n in scenario.unconfirmed.items())
            lines.append(
                f"unconfirmed: {scenario.model} {scenario.scenario}: {told} of "
                f"{scenario.draws} runs"
            )
    return lines


def flaky_lines(flaky: Sequence[Flaky]) -> list[str]:
    """A line a scenario whose runs disagree: each run's outcome and what fired in it."""
    return [
        f"flaky: {one.model} {one.scenario}: "
        + "; ".join(
            f"run {d.draw} {d.outcome.value} ({', '.join(d.fired) or 'nothing fired'})"
            for d in one.runs
        )
        for one in flaky
    ]


def guard_cells(signals: SignalSummary) -> list[tuple[str, str, str]]:
    """The confusion table without its headings; no row where nothing is clean or damaged."""
    if not any(_members(row.clean) + _members(row.damaged) for row in signals.guards):
        return []
    return [_cells(row) for row in signals.guards]


def guard_lines(signals: SignalSummary) -> list[str]:
    """The confusion table in columns."""
    cells = guard_cells(signals)
    if not cells:
        return []
    table = [GUARD_HEADINGS, *cells]
    widths = [max(len(row[i]) for row in table) for i in range(2)]
    return [f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in table]


def _members(share: Share) -> int:
    return share.judged + share.not_judged


def _cells(row: GuardRow) -> tuple[str, str, str]:
    name = row.check if row.gates else f"{row.check} (monitors)"
    return name, _told(row.clean), _told(row.damaged)


def _told(share: Share) -> str:
    """``5 of 8 [.306, .863], 1 not judged``: the share with Wilson's 95 % interval."""
    left_out = f", {share.not_judged} not judged" if share.not_judged else ""
    if not share.judged:
        return f"none{left_out}"
    low, high = (f"{end:.3f}" for end in share.interval)
    return f"{share.fired} of {share.judged} [{low}, {high}]{left_out}"
