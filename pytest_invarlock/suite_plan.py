"""What a suite sets out to do, as the run directory and the pack state it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.edit_names import kind_of

if TYPE_CHECKING:
    from pytest_invarlock.policy.suite import Suite


def run_name(suite: Suite) -> str:
    """What a run of ``suite`` is called; a sweep is no run of it, and never takes its name."""
    return f"sweep-{suite.name}" if suite.sweeps else suite.name


def suite_plan(suite: Suite) -> dict[str, Any]:
    """What a suite sets out to do: planned set, node ids, policy, scenarios, as JSON values."""
    return {
        "name": run_name(suite),
        "node_prefix": suite.node_prefix,
        "node_ids": suite.node_ids(),
        "planned": [
            PlannedScenario.of_runs(
                pair.name, scenario.name, suite.runs_of(pair, scenario)
            ).document()
            for pair, scenario in suite.planned()
        ],
        "policies": [policy.document() for policy in suite.policies()],
        "scenarios": [
            {
                "scenario": scenario.name,
                "kind": kind_of(scenario),
                "edit": scenario.edit.document() if scenario.edit is not None else None,
                **scenario.description.document(),
                **({"probes": list(scenario.probes)} if scenario.probes else {}),
                **({} if scenario.timeout is None else {"timeout": scenario.timeout}),
                **({} if model is None else {"model": model}),
            }
            for model, scenario in suite.distinct_scenarios()
        ],
        **({"calibrations": [pair.name for pair in suite.pairs]} if suite.calibrates else {}),
        **({"sweeps": [sweep.document() for sweep in suite.sweeps]} if suite.sweeps else {}),
    }
