"""The plan measures the guards that the policy rests on, and states rules of no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.plan import MeasurementPlan
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.demanded_plan import demanded_plan
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import read_text
from pytest_invarlock.policy.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

EVERY = ("invariants", "spectral", "rmt", "variance", "guard_overhead")


def planned(
    folder: Path, *checks: str, expected: Expectation | None = None, probes: tuple[str, ...] = (),
    **guards: Any,
) -> MeasurementPlan:  # fmt: skip
    """The plan under tier balanced with ``checks`` alone, or with all of its own."""
    balanced = read_text("tiers", "balanced.yaml")
    (line,) = (line for line in balanced.splitlines() if line.startswith("checks:"))
    wanted = f"checks: [{', '.join(checks)}]" if checks else line
    (folder / "own.yaml").write_text(
        balanced.replace("name: balanced", "name: own").replace(line, wanted)
    )
    value = {"tier": "own.yaml", "profile": "dev", "dataset": {"provider": "pydoc"}}
    value |= {"guards": guards} if guards else {}
    expectations = {} if expected is None else {("m", "s"): expected}
    policy = build_policy(value, Settings(), expectations, folder)
    assert not checks or policy.checks == checks
    return demanded_plan(value, Settings(), folder, policy, probes)


def test_a_shipped_tier_has_every_guard_measured(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.guards == EVERY
    assert plan.rescaling is not None


@pytest.mark.parametrize(
    ("checks", "guards"),
    [
        (("invariants", "primary_metric"), ("invariants",)),
        (("primary_metric", "invariants", "spectral"), ("invariants", "spectral")),
        (("invariants", "primary_metric", "guard_overhead"), ("invariants", "guard_overhead")),
    ],
)
def test_a_tier_has_the_guards_measured_that_it_demands(
    tmp_path: Path, checks: tuple[str, ...], guards: tuple[str, ...]
) -> None:
    assert planned(tmp_path, *checks).guards == guards


@pytest.mark.parametrize("demand", ["detectors_any", "detectors_all"])
def test_a_detector_is_measured_that_is_no_check(tmp_path: Path, demand: str) -> None:
    expected = Expectation("error", Strictness.MUST_DETECT, **{demand: ("rmt", "primary_metric")})
    plan = planned(tmp_path, "invariants", "primary_metric", expected=expected)
    assert plan.guards == ("invariants", "rmt")


def test_a_probes_guard_is_measured_that_is_no_check(tmp_path: Path) -> None:
    plan = planned(tmp_path, "invariants", "primary_metric", probes=("variance",))
    assert plan.guards == ("invariants", "variance")
    assert plan.rescaling is not None


def test_rules_of_a_guard_that_is_not_measured_change_no_plan(tmp_path: Path) -> None:
    wider: dict[str, Any] = {"rmt": {"margin": 3.0}, "variance": {"deadband": 0.5}}
    without = ("invariants", "primary_metric")
    plain = planned(tmp_path, *without)
    assert planned(tmp_path, *without, **wider) == plain
    assert planned(tmp_path, **wider) != planned(tmp_path)
    assert planned(tmp_path, **wider).outlier_factor != plain.outlier_factor
