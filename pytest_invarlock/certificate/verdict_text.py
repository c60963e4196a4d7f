"""A run's verdict as text: ``final_verdict.txt``, and what broke it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.certificate.signal_text import flaky_lines, guard_lines, signal_lines

if TYPE_CHECKING:
    from pytest_invarlock.verdict import RunVerdict

MAX_FAILURES_SHOWN = 10
SMALLEST_P_SHOWN = 1e-6


def verdict_file_text(verdict: RunVerdict) -> str:
    """``final_verdict.txt``: the word, every requirement, what fired, and what broke those."""
    lines: list[str] = [verdict.verdict]
    lines += [
        f"{'holds' if rule.passed else 'BROKEN'}  {rule.name}: {rule.text}"
        for rule in verdict.requirements
    ]
    if verdict.alarms:
        smallest = min(verdict.alarms, key=lambda alarm: alarm.p_value)
        lines.append(
            f"alarms (decide nothing): {len(verdict.alarms)} tests, smallest p "
            f"{_shown_p(smallest.p_value)}, Holm-adjusted {_shown_p(smallest.p_holm)}, "
            f"{smallest.check} of {smallest.model} {smallest.scenario}"
        )
    lines += [*signal_lines(verdict.signals), *flaky_lines(verdict.flaky)]
    lines += guard_lines(verdict.signals)
    broken = verdict_text(verdict)
    return "\n".join([*lines, *([broken] if broken else [])]) + "\n"


def _shown_p(p_value: float) -> str:
    # Digits of a tail as far out as this may differ between builds of a library.
    return f"{p_value:.2g}" if p_value >= SMALLEST_P_SHOWN else f"below {SMALLEST_P_SHOWN:g}"


def verdict_text(verdict: RunVerdict) -> str:
    """The verdict and every broken requirement with what broke it."""
    lines = []
    for rule in verdict.requirements:
        if not rule.passed:
            lines.append(f"{verdict.verdict}: requirement {rule.name}: {rule.text}")
            shown = rule.failures[:MAX_FAILURES_SHOWN]
            lines += [f"  {f['model']} {f['scenario']}: {f['reason']}" for f in shown]
            if len(rule.failures) > len(shown):
                lines.append(f"  and {len(rule.failures) - len(shown)} more")
    return "\n".join(lines)
