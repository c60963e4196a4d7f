"""The verdict's rules over whole suites: each holds, and each has a run that it fails."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_invarlock.certificate.verdict_text import verdict_file_text
from pytest_invarlock.decision import CheckDecision, Decision, Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.verdict import RunVerdict, decide_run

from .checks.made import policy

CHECKS = ("invariants", "primary_metric", "drift", "spectral", "guard_overhead")
METRIC = ("primary_metric",)
CLEAN = Expectation("clean", Strictness.MUST_PASS)
CUT = Expectation("stress", Strictness.MUST_FAIL, METRIC)
FAULT = Expectation("error", Strictness.MUST_DETECT, ("invariants",))
LOOK = Expectation("stress", Strictness.INFORMATIONAL)
PROBE = Expectation("error", Strictness.INFORMATIONAL)
HALF = {"stress": 0.5, "error": 0.5}


def shown(
    scenario: str,
    expected: Expectation,
    *fired: str,
    draw: int = 0,
    model: str = "m",
    outcome: Outcome | None = None,
) -> Decision:
    """What `decide` says of a run in which just these checks failed."""
    hit = all(c in fired for c in expected.detectors_all) and (
        not expected.detectors_any or any(c in fired for c in expected.detectors_any)
    )
    met = {
        Strictness.MUST_PASS: not fired,
        Strictness.INFORMATIONAL: outcome is not Outcome.ERROR,
    }.get(expected.strictness, hit and bool(fired))
    checks = tuple(
        CheckDecision(name, Outcome.FAIL if name in fired else Outcome.PASS, "r", f"{name} told")
        for name in CHECKS
    )
    return Decision(
        model, scenario, draw, expected.category,
        expected.strictness.value, checks, fired,
        outcome or (Outcome.FAIL if fired else Outcome.PASS), met, "because",
        "ppl_causal", "document",
    )  # fmt: skip


def judged(
    decisions: list[Decision],
    suite: dict[str, Expectation],
    fractions: dict[str, float] | None = None,
    *,
    models: tuple[str, ...] = ("m",),
    draws: int = 1,
) -> RunVerdict:
    rules = policy(
        checks=CHECKS,
        modes={"invariants": "gate", "spectral": "gate", "guard_overhead": "gate"},
        expectations={(model, name): e for model in models for name, e in suite.items()},
        minimum_signal_fraction=fractions or {},
    )
    planned = [PlannedScenario(model, name, draws) for model in models for name in suite]
    return decide_run(planned, decisions, dict.fromkeys(rules.expectations, rules))


def broken(verdict: RunVerdict) -> list[str]:
    return [rule.name for rule in verdict.requirements if not rule.passed]


def names(verdict: RunVerdict) -> list[str]:
    return [rule.name for rule in verdict.requirements]


SUITE = {"clean": CLEAN, "cut": CUT, "fault": FAULT, "look": LOOK}
GREEN = [
    shown("clean", CLEAN),
    shown("cut", CUT, "primary_metric"),
    shown("fault", FAULT, "invariants"),
    shown("look", LOOK),
]


def test_all_green_passes() -> None:
    verdict = judged(GREEN, SUITE)
    assert verdict.verdict == "PASS"
    assert names(verdict) == [
        "evidence_present", "scenario_coverage", "clean_all_pass", "stress_required_fail",
        "stress_expected_detectors", "error_injection_detected", "informational_measured",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        (shown("clean", CLEAN, "primary_metric"), ["clean_all_pass"]),
        (shown("cut", CUT), ["stress_required_fail", "stress_expected_detectors"]),
        (shown("cut", CUT, "spectral"), ["stress_expected_detectors"]),
        (shown("fault", FAULT), ["error_injection_detected"]),
        (shown("fault", FAULT, "spectral"), ["error_injection_detected"]),
        (shown("look", LOOK, outcome=Outcome.ERROR), ["informational_measured"]),
        (shown("look", LOOK, "spectral"), []),
        (shown("cut", CUT, "drift"), ["stress_required_fail", "stress_expected_detectors"]),
        (
            shown("cut", CUT, "guard_overhead", outcome=Outcome.ERROR),
            ["stress_required_fail", "stress_expected_detectors"],
        ),
    ],
)
def test_one_scenario_breaks_its_requirements_alone(changed: Decision, rules: list[str]) -> None:
    decisions = [changed if d.scenario == changed.scenario else d for d in GREEN]
    verdict = judged(decisions, SUITE)
    assert broken(verdict) == rules
    assert verdict.verdict == ("FAIL" if rules else "PASS")


def test_no_reports_fail() -> None:
    verdict = judged([], SUITE)
    assert (verdict.verdict, broken(verdict)[:2]) == (
        "FAIL", ["evidence_present", "scenario_coverage"],
    )  # fmt: skip
    assert judged([], {}).verdict == "FAIL"


def test_a_missing_scenario_fails_also_an_informational_one() -> None:
    verdict = judged(GREEN[:3], SUITE)
    assert (verdict.verdict, broken(verdict)) == ("FAIL", ["scenario_coverage"])


def test_a_scenario_that_no_policy_speaks_of_fails() -> None:
    planned = [PlannedScenario("m", "clean", 1)]
    verdict = decide_run(planned, [shown("clean", CLEAN)], {})
    assert (verdict.verdict, broken(verdict)) == ("FAIL", ["scenario_coverage"])
    assert "no policy" in verdict.requirements[1].failures[0]["reason"]


def test_a_must_fail_without_declared_detectors_has_one_requirement() -> None:
    bare = Expectation("stress", Strictness.MUST_FAIL)
    held = judged([shown("cut", bare, "spectral")], {"cut": bare})
    assert (held.verdict, names(held)[2:]) == ("PASS", ["stress_required_fail"])
    assert broken(judged([shown("cut", bare)], {"cut": bare})) == ["stress_required_fail"]


def test_all_of_the_detectors_must_fire() -> None:
    both = Expectation("stress", Strictness.MUST_FAIL, (), ("primary_metric", "spectral"))
    one = judged([shown("cut", both, "spectral")], {"cut": both})
    assert broken(one) == ["stress_expected_detectors"]
    two = judged([shown("cut", both, "spectral", "primary_metric")], {"cut": both})
    assert two.verdict == "PASS"


def test_a_declared_detector_counts_whatever_it_is_about() -> None:
    drifting = Expectation("stress", Strictness.MUST_FAIL, ("drift",))
    assert judged([shown("cut", drifting, "drift")], {"cut": drifting}).verdict == "PASS"


def looks(*hits: bool, runs: int = 2) -> tuple[list[Decision], dict[str, Expectation]]:
    """Informational stress scenarios, each run of which fires or not."""
    suite = {f"look{i}": LOOK for i in range(len(hits))}
    decisions = [
        shown(name, LOOK, *(("spectral",) if hit else ()), draw=draw)
        for (name, _), hit in zip(suite.items(), hits, strict=True)
        for draw in range(runs)
    ]
    return decisions, suite


@pytest.mark.parametrize(
    ("hits", "fraction", "passes"),
    [((True, False), 0.5, True), ((False, False), 0.5, False), ((True, False), 0.51, False),
     ((False, False), 0.0, True), ((True, True), 1.0, True), ((True, False, False), 1 / 3, True)],
)  # fmt: skip
def test_the_share_of_signals_gates_and_equality_passes(
    hits: tuple[bool, ...], fraction: float, passes: bool
) -> None:
    decisions, suite = looks(*hits)
    verdict = judged(decisions, suite, {"stress": fraction}, draws=2)
    assert (verdict.verdict == "PASS") is passes
    rule = next(rule for rule in verdict.requirements if rule.name.endswith("fraction"))
    assert rule.name == "informational_stress_min_signal_fraction"
    assert rule.passed is passes
    assert len(rule.failures) == (0 if passes else hits.count(False))


def test_without_a_demanded_share_informational_scenarios_gate_nothing() -> None:
    decisions, suite = looks(False, False)
    verdict = judged(decisions, suite, {"error": 1.0}, draws=2)
    assert verdict.verdict == "PASS"
    assert "informational stress: 0 of 2 show a confirmed signal (0), none demanded" in (
        verdict_file_text(verdict)
    )
    assert not any("fraction" in name for name in names(verdict))


def test_of_two_policies_the_stricter_share_counts() -> None:
    decisions, suite = looks(True, False)
    planned = [PlannedScenario("m", name, 2) for name in suite]
    policies = {
        ("m", name): policy(
            checks=CHECKS,
            expectations={("m", name): LOOK},
            minimum_signal_fraction={"stress": share},
        )
        for name, share in zip(suite, (0.5, 0.6), strict=True)
    }
    for order in (policies, dict(reversed(policies.items()))):
        verdict = decide_run(planned, decisions, order)
        assert broken(verdict) == ["informational_stress_min_signal_fraction"]


def test_each_category_has_its_own_share() -> None:
    decisions, suite = looks(True)
    decisions += [shown("probe", PROBE, draw=draw) for draw in (0, 1)]
    verdict = judged(decisions, suite | {"probe": PROBE}, HALF, draws=2)
    assert broken(verdict) == ["informational_error_min_signal_fraction"]


@pytest.mark.parametrize(
    "fired",
    [
        [("spectral",)],
        [("spectral",), ()],
        [("spectral",), ("invariants",)],
        [("drift",), ("drift",)],
        [("spectral", "guard_overhead"), ("spectral", "guard_overhead")],
    ],
)
def test_a_signal_that_no_other_run_confirms_does_not_count(fired: list[Any]) -> None:
    decisions = [shown("look", LOOK, *checks, draw=draw) for draw, checks in enumerate(fired)]
    verdict = judged(decisions, {"look": LOOK}, HALF, draws=len(fired))
    assert broken(verdict) == ["informational_stress_min_signal_fraction"]


def test_an_unconfirmed_hit_is_printed_as_such() -> None:
    text = verdict_file_text(judged([shown("look", LOOK, "spectral")], {"look": LOOK}, HALF))
    assert "unconfirmed: m look: spectral in 1 of 1 runs" in text


def test_one_draw_twice_confirms_nothing() -> None:
    twice = [shown("look", LOOK, "spectral")] * 2
    assert broken(judged(twice, {"look": LOOK}, HALF)) == [
        "scenario_coverage", "informational_stress_min_signal_fraction",
    ]  # fmt: skip


GUARDED = Expectation(
    "error", Strictness.MUST_DETECT, ("spectral", "primary_metric"),
    primary_guard="spectral", primary_guard_required=True,
)  # fmt: skip
TWO = ("a", "b")


def guarded(*fired: tuple[str, ...]) -> RunVerdict:
    decisions = [
        shown("blow", GUARDED, *checks, model=model)
        for model, checks in zip(TWO, fired, strict=True)
    ]
    return judged(decisions, {"blow": GUARDED}, models=TWO)


def test_a_required_guard_needs_to_fire_on_one_model() -> None:
    verdict = guarded(("spectral",), ("primary_metric",))
    assert verdict.verdict == "PASS"
    assert names(verdict)[3:] == [
        "scenario_primary_guard_signal", "scenario_expected_detectors",
        "guard_primary_demonstrated",
    ]  # fmt: skip


def test_a_required_guard_that_is_silent_everywhere_fails() -> None:
    verdict = guarded(("primary_metric",), ("primary_metric",))
    assert verdict.verdict == "FAIL"
    assert broken(verdict) == ["scenario_primary_guard_signal", "guard_primary_demonstrated"]
    assert verdict.broken is not None
    assert [f["model"] for f in verdict.broken.failures] == ["a", "b"]
    assert verdict.broken.failures[0]["reason"] == "run 0: spectral PASS: spectral told"


def test_declared_detectors_must_hit_on_every_model() -> None:
    verdict = guarded(("spectral",), ())
    assert broken(verdict) == ["error_injection_detected", "scenario_expected_detectors"]


def test_a_guard_must_fire_in_every_run_of_a_model() -> None:
    runs = [shown("blow", GUARDED, "spectral"), shown("blow", GUARDED, "primary_metric", draw=1)]
    verdict = judged(runs, {"blow": GUARDED}, draws=2)
    assert broken(verdict) == ["scenario_primary_guard_signal", "guard_primary_demonstrated"]


def test_one_hit_demonstrates_a_guard_and_not_its_other_scenarios() -> None:
    suite = {"blow": GUARDED, "puff": GUARDED}
    runs = [shown("blow", GUARDED, "spectral"), shown("puff", GUARDED, "primary_metric")]
    assert broken(judged(runs, suite)) == ["scenario_primary_guard_signal"]


def test_a_guard_that_is_not_asked_cannot_be_demonstrated() -> None:
    rmt = Expectation("error", Strictness.MUST_DETECT, METRIC, (), "rmt", True)
    verdict = judged([shown("blow", rmt, "primary_metric")], {"blow": rmt})
    assert verdict.broken is not None
    assert verdict.broken.failures[0]["reason"] == "run 0: rmt is not asked"


@pytest.mark.parametrize(
    ("second", "flaky"),
    [
        (shown("look", LOOK, "spectral", draw=1), False),
        (shown("look", LOOK, "invariants", draw=1), True),
        (shown("look", LOOK, draw=1), True),
        (shown("look", LOOK, "spectral", draw=1, outcome=Outcome.ERROR), True),
    ],
)
def test_runs_that_disagree_are_listed_and_gate_nothing(second: Decision, flaky: bool) -> None:
    verdict = judged([shown("look", LOOK, "spectral"), second], {"look": LOOK}, draws=2)
    (entry,) = verdict.document()["flaky"] or [None]
    assert (entry is not None) is flaky
    assert ("flaky: m look: run 0 FAIL (spectral); run 1" in verdict_file_text(verdict)) is flaky
    if flaky:
        told = {"draw": 1, "outcome": second.outcome.value, "fired": list(second.fired)}
        assert entry["runs"][1] == told
    assert "informational_stress_min_signal_fraction" not in names(verdict)


def test_a_failing_first_run_is_not_hidden_by_a_passing_last_one() -> None:
    runs = [shown("clean", CLEAN, "primary_metric"), shown("clean", CLEAN, draw=1)]
    verdict = judged(runs, {"clean": CLEAN}, draws=2)
    assert broken(verdict) == ["clean_all_pass"]
    assert len(verdict.flaky) == 1
