"""The ``verdict`` testcase: a run's verdict in pytest's own terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from pytest_invarlock.certificate.verdict_text import verdict_text

if TYPE_CHECKING:
    from pytest_invarlock.run_summary import RunSummary


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
