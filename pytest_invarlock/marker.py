"""The ``invarlock`` marker: its arguments, and the comparison they describe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.items import CheckItem
from pytest_invarlock.plan import EditSpec, MeasurementPlan, Pair, Scenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.edit_names import edit_problem
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.sweep import refuse_sweeps
from pytest_invarlock.stash import ACTIVATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.decision_policy import DecisionPolicy
    from pytest_invarlock.policy.settings import Settings

SETTING_KEYWORDS = (
    "tier",
    "profile",
    "dataset",
    "preset",
    "adapter",
    "kind",
    "device",
    "dtype",
    "threads",
    "determinism",
)
COUNT_KEYWORDS = {"preview_n": "preview-windows", "final_n": "final-windows",
                  "seq_len": "seq-len", "stride": "stride"}  # fmt: skip
KEYWORDS = ("baseline", "subject", "edit", *SETTING_KEYWORDS, *COUNT_KEYWORDS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one marker asks to compare, on how many draws of windows."""

    pair: Pair
    scenario: Scenario
    plan: MeasurementPlan
    policy: DecisionPolicy
    draws: int = 1


def is_marker_test(item: pytest.Item) -> bool:
    """Whether a test has our marker and asks for the measured comparison."""
    marked = item.get_closest_marker("invarlock") is not None
    return marked and "invarlock" in getattr(item, "fixturenames", ())


def check_markers(items: Sequence[pytest.Item]) -> None:
    """Raise a usage error, naming file and line, for a marker with unknown or missing arguments."""
    for item in items:
        marker = item.get_closest_marker("invarlock")
        if marker is None or isinstance(item, CheckItem):
            continue
        try:
            check_arguments(marker)
            if is_marker_test(item):
                _refuse_sweeps(item.config.stash[ACTIVATION].settings)
        except ConfigError as error:
            path, line, _ = item.reportinfo()
            raise pytest.UsageError(f"{path}:{(line or 0) + 1}: {error} [{error.code}]") from error


def check_arguments(marker: pytest.Mark) -> None:
    """Raise ConfigError unless the marker names a baseline, a change, and only known keywords."""
    if marker.args:
        raise ConfigError("the marker takes keywords only", remedy="write baseline=…, subject=…")
    for keyword in marker.kwargs:
        if keyword not in KEYWORDS:
            raise ConfigError(
                f"the marker has no keyword {keyword!r}",
                remedy=nearest(keyword, sorted(KEYWORDS), "keyword"),
                code="UNKNOWN_KEY",
            )
    if "baseline" not in marker.kwargs:
        raise ConfigError("the marker names no baseline", remedy="give baseline=MODEL")
    if ("subject" in marker.kwargs) == ("edit" in marker.kwargs):
        raise ConfigError(
            "the marker needs either subject or edit", remedy="give subject=MODEL or edit={...}"
        )
    edit = _edit(marker.kwargs.get("edit"))
    if edit is not None:
        problem = edit_problem(edit)
        if problem is not None:
            raise ConfigError(f"the marker's edit: {problem[0]}", remedy=problem[1])


def comparison_of(item: pytest.Item, settings: Settings) -> Comparison:
    """The comparison of the marker nearest to a test; settings made elsewhere win."""
    from pytest_invarlock.policy.calibrated_preset import chosen_calibrated, policies_of_pairs
    from pytest_invarlock.policy.demanded_plan import demanded_plan
    from pytest_invarlock.policy.plan_settings import build_policy
    from pytest_invarlock.policy.settings import Setting
    from pytest_invarlock.policy.suite import display_name

    marker = item.get_closest_marker("invarlock")
    if marker is None:
        raise ConfigError(
            f"{item.nodeid}: uses an invarlock fixture without the marker",
            remedy="add @pytest.mark.invarlock(baseline=…, subject=…)",
        )
    check_arguments(marker)
    _refuse_sweeps(settings)
    kwargs = marker.kwargs
    made = dict(settings.made)
    for keyword, value in kwargs.items():
        name = COUNT_KEYWORDS.get(keyword, keyword)
        if name not in made and keyword in (*SETTING_KEYWORDS, *COUNT_KEYWORDS):
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            made[name] = Setting((text,), f"marker {keyword}")
    effective = replace(settings, made=made)
    root = item.config.rootpath
    pair = Pair(display_name(str(kwargs["baseline"])), str(kwargs["baseline"]))
    scenario = Scenario(
        scenario_name(item.nodeid),
        edit=_edit(kwargs.get("edit")),
        subject=str(kwargs["subject"]) if "subject" in kwargs else None,
        kind=effective.text("kind"),
    )
    expectations = {(pair.name, scenario.name): Expectation("compare", Strictness.MUST_PASS)}
    policy = build_policy({}, effective, expectations)
    presets = chosen_calibrated({}, effective, root, (pair,))
    policy = policies_of_pairs(policy, presets).get(pair.name, policy)
    plan = demanded_plan({}, effective, root, policy)
    return Comparison(pair, scenario, plan, policy, effective.number("repeats") or 1)


def _refuse_sweeps(settings: Settings) -> None:
    what = "a marker's comparison is no scenario of a suite: it has no dose"
    refuse_sweeps(settings, what, "drop it, or leave the marker tests out")


def scenario_name(node_id: str) -> str:
    """A scenario's name from a test's node id: the function's name and a digest of the whole id.

    Parameters stay out: they may be paths, and records and packs hold none.
    """
    function = node_id.rpartition("::")[2].partition("[")[0]
    return f"{function[:80]}-{hashlib.sha256(node_id.encode()).hexdigest()[:8]}"


def _edit(value: Any) -> EditSpec | None:
    if value is None:
        return None
    if isinstance(value, str):
        return EditSpec(value)
    if not isinstance(value, dict) or "name" not in value or set(value) - {"name", "plan"}:
        raise ConfigError(
            f"the marker's edit {value!r} is not an edit", remedy='give {"name": …, "plan": {…}}'
        )
    return EditSpec(str(value["name"]), dict(value.get("plan") or {}))
