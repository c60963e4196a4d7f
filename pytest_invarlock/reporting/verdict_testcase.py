"""The ``verdict`` testcase: a run's verdict in pytest's own terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_invarlock.run_summary import RunSummary
    from pytest_invarlock.verdict import RunVerdict

MAX_FAILURES_SHOWN = 10


def verdict_reports(summary: RunSummary) -> list[pytest.TestReport]:
    """Reports of setup, call and teardown; the call fails with the first broken requirement."""
    if summary.verdict is None or summary.verdict_node is None:
        raise ValueError("only a whole run has a verdict")
    head, _, title = summary.verdict_node.rpartition("::")
    text = verdict_text(summary.verdict)
    softened = summary.verdict.verdict == "INCONCLUSIVE" and all(
        policy.on_inconclusive == "xfail" for policy in summary.policies.values()
    )
    outcome: Literal["passed", "failed", "skipped"] = "passed"
    if summary.verdict.verdict != "PASS":
        outcome = "skipped" if softened else "failed"
    reports = []
    for when in ("setup", "call", "teardown"):
        called = when == "call"
        report = pytest.TestReport(
            nodeid=summary.verdict_node,
            location=(head, None, title),
            keywords={"invarlock": 1},
            outcome=outcome if called else "passed",
            longrepr=text if called and outcome != "passed" else None,
            when=when,
            user_properties=[("invarlock.verdict", summary.verdict.verdict)],
        )
        if called and softened:
            report.wasxfail = text
        reports.append(report)
    return reports


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
