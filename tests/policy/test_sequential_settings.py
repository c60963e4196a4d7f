"""Sequential mode as a setting: only where a sequential rule exists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import DataSource, MeasurementPlan, SequentialPlan, WindowSelection
from pytest_invarlock.policy.sequential_settings import with_sequence
from pytest_invarlock.policy.settings import Setting, Settings

from ..checks.made import METRIC, policy

ON = Settings({"sequential": Setting(("true",), "--invarlock-sequential")})
PLAN = MeasurementPlan(DataSource("pydoc"), WindowSelection(64, 64, 128, 128))
BOTH_WAYS = policy(primary_metric=replace(METRIC, direction="equivalence"))


def test_the_plan_takes_limit_and_level_of_the_policy() -> None:
    limits = replace(METRIC, ratio_limit=1.05, alpha=0.04)
    planned = with_sequence(PLAN, policy(primary_metric=limits), ON)
    assert planned.sequential == SequentialPlan(1.05, alpha=0.04)


def test_without_the_setting_every_window_is_measured() -> None:
    assert with_sequence(PLAN, BOTH_WAYS, Settings()) is PLAN


@pytest.mark.parametrize(
    ("plan", "of_policy"),
    [
        (replace(PLAN, metric="accuracy"), policy()),
        (PLAN, BOTH_WAYS),
        (replace(PLAN, windows=replace(PLAN.windows, final_windows=127)), policy()),
    ],
    ids=["accuracy", "equivalence", "too few"],
)
def test_where_there_is_no_rule_it_is_refused(plan: Any, of_policy: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        with_sequence(plan, of_policy, ON)
    assert caught.value.code == "SEQUENTIAL"
