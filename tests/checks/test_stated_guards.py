"""Evidence of guards against the rest of a made-up record, and too few guard windows: each text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from invarlock_guards.contract import GuardResult, Violation

from pytest_invarlock.checks.guard_consistency import guard_contradiction
from pytest_invarlock.checks.guard_floor import below_guard_floor
from pytest_invarlock.decision import CheckDecision, Outcome
from pytest_invarlock.records import Facts

from .made import facts, policy


def change(name: str, kind: str = "matrix", family: str = "ffn", **more: Any) -> dict[str, Any]:
    found = {"name": name, "type": kind, "family": family, "n_parameters": 10, "reason": None,
             "balanced_edge": 1.5, "relative_change": 0.5}  # fmt: skip
    return found | more


def row(
    matrices: int, parameters: int, changed: int, compared: int | None = None
) -> dict[str, int]:
    return {"matrices": matrices, "parameters": parameters, "changed": changed,
            "compared": parameters if compared is None else compared}  # fmt: skip


def spectral(**more: Any) -> dict[str, Any]:
    plain = {
        "changes": [change("a"), change("b", "vector", "attn"), change("c", "table", "embed")],
        "covered": {"ffn": row(2, 20, 1), "vector": row(0, 30, 1), "embed": row(0, 40, 1)},
    }
    return plain | more


def branches(**more: Any) -> dict[str, Any]:
    plain = {"n_windows": 3, "n_tokens": 9, "n_branches": 2, "parameter_share": 1.0, "left_out": [],
             "branches": [{"e": 1.0}], "outlier_factor": 1.65, "proposals": None}  # fmt: skip
    return plain | more


EDGES = {"edge_of_change": {"a": 1.5}, "change_size": {"a": 0.5}}
EDIT = {"name": "quant_rtn", "parameters": {}, "n_parameters_changed": 30,
        "n_tensors_changed": 3, "n_parameters_touched": 40, "n_tensors_touched": 4}  # fmt: skip


def record(plan: dict[str, Any] | None = None, **guards: Any) -> Facts:
    made = facts(edit=EDIT)
    given = {"spectral": spectral(), "rmt": branches(**EDGES), "variance": branches()} | guards
    windows = {**made.plan["windows"], "guard_windows": 4}
    whole = {**made.plan, "windows": windows, "rescaling": None, "outlier_factor": 1.65}
    data = {**made.data, "n_guard_windows": 3}
    return replace(made, guards=given, plan=whole | (plan or {}), data=data)


def told(name: str, plan: dict[str, Any] | None = None, **guards: Any) -> str | None:
    return guard_contradiction(name, record(plan, **guards))


def test_an_honest_record_contradicts_nothing() -> None:
    assert [told(name) for name in ("spectral", "rmt", "variance", "absent")] == [None] * 4
    for name in ("spectral", "rmt", "variance"):
        assert told(name, **{name: {"not_evaluated": "why"}}) is None


@pytest.mark.parametrize("name", ["spectral", "rmt", "variance", "absent"])
def test_another_plan_or_edit_contradicts_whatever_the_guard(name: str) -> None:
    other = {"subject": {"name": "prune", "parameters": {}}}
    assert told(name, other) == "another edit was applied than planned"
    assert told(name, {"draw": 9}) == "the plan names another draw than what was measured"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"covered": spectral()["covered"] | {"ffn": row(2, 20, 2)}},
         "2 changes of ffn are counted, 1 are listed"),
        ({"covered": spectral()["covered"] | {"attn": row(2, 20, 1)}},
         "1 changes of attn are counted, 0 are listed"),
        ({"covered": spectral()["covered"] | {"ffn": row(0, 20, 1)}},
         "1 matrices of ffn changed, and there are 0"),
        ({"covered": {k: v for k, v in spectral()["covered"].items() if k != "embed"}},
         "changes of embed are listed and not counted"),
        ({"covered": {}}, "changes of embed are listed and not counted"),
        ({"changes": [], "covered": {"ffn": row(2, 20, 0)}},
         "quant_rtn changed 30 parameters, none is listed"),
    ],
)  # fmt: skip
def test_changes_are_those_that_are_counted(more: dict[str, Any], said: str) -> None:
    assert told("spectral", spectral=spectral(**more)) == said


def test_every_matrix_may_have_changed() -> None:
    covered = spectral()["covered"] | {"ffn": row(1, 20, 1)}
    assert told("spectral", spectral=spectral(covered=covered)) is None


@pytest.mark.parametrize(
    ("reason", "compared"),
    [(None, True), ("zero_baseline", True), ("zero_subject", True), ("non_finite_subject", True),
     ("shape", False), ("dtype", False), ("not_converged", False), ("missing_subject", False)],
)  # fmt: skip
@pytest.mark.parametrize(("at", "family"), [(0, "ffn"), (1, "vector"), (2, "embed")])
def test_what_was_not_compared_is_not_counted_as_compared(
    reason: str | None, compared: bool, at: int, family: str
) -> None:
    changes = spectral()["changes"]
    changes[at] |= {"reason": reason}
    found = told("spectral", spectral=spectral(changes=changes))
    said = f"more parameters of {family} are said to be compared than could be"
    assert found == (None if compared else said)
    less = {key: value | {"compared": value["parameters"] - 10}
            for key, value in spectral()["covered"].items()}  # fmt: skip
    assert told("spectral", spectral=spectral(changes=changes, covered=less)) is None


def test_an_edit_that_changes_no_number_need_list_none() -> None:
    none = {"spectral": spectral(changes=[], covered={})}
    for edit in (EDIT | {"name": "cast"}, EDIT | {"name": "noop", "n_parameters_changed": 0,
                                                  "n_tensors_changed": 0}):  # fmt: skip
        made = replace(record(**none), edit=edit)
        if not edit["n_parameters_changed"]:
            made = replace(made, subject=dict(made.baseline))
        found = guard_contradiction("spectral", made)
        assert found is None or edit["name"] == "cast"
    assert guard_contradiction("spectral", replace(record(**none), edit=None)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_windows", 4), ("n_tokens", 8), ("n_branches", 3), ("parameter_share", 0.5),
     ("branches", [])],
)  # fmt: skip
def test_both_guards_of_activations_saw_one_pass(key: str, value: Any) -> None:
    said = f"rmt and variance state different {key.replace('_', ' ')}"
    for name, other in (("rmt", "variance"), ("variance", "rmt")):
        more = EDGES if other == "rmt" else {}
        assert told(name, **{other: branches(**more, **{key: value})}) == said
        alone = {other: {"not_evaluated": "why"}}
        assert told(name, **alone) is None


def test_what_was_left_out_lowers_the_share() -> None:
    for name, more in (("rmt", EDGES), ("variance", {})):
        whole = branches(**more, left_out=["m", "n"])
        assert told(name, **{name: whole}) == "m was left out, and nothing was"
        part = {"left_out": ["m"], "parameter_share": 0.9}
        both = {"rmt": branches(**EDGES, **part), "variance": branches(**part)}
        assert told(name, **both) is None


def test_outliers_are_counted_beyond_the_planned_factor() -> None:
    other = branches(**EDGES, outlier_factor=2.0)
    said = "outliers beyond 2 of an edge, planned were 1.65"
    assert told("rmt", rmt=other) == said
    made = record(rmt=other)
    plan = {key: value for key, value in made.plan.items() if key != "outlier_factor"}
    assert guard_contradiction("rmt", replace(made, plan=plan)) is None


@pytest.mark.parametrize(
    ("drawn", "used", "planned", "metric", "said"),
    [
        (3, 3, 3, "ppl_causal", None),
        (3, 3, 2, "ppl_causal", "3 guard windows are said to be drawn, 2 were planned"),
        (3, 3, None, "ppl_causal", None),
        (3, 2, 4, "ppl_causal", "3 guard windows are said to be drawn, 2 were measured"),
        (3, 4, 4, "ppl_causal", "3 guard windows are said to be drawn, 4 were measured"),
        (3, 6, 4, "accuracy", None),
        (3, 2, 4, "accuracy", "3 guard windows are said to be drawn, 2 were measured"),
        (None, 9, 2, "ppl_causal", None),
        (3, 0, 2, "ppl_causal", None),
    ],
)
def test_guard_windows_are_those_drawn(
    drawn: int | None, used: int, planned: int | None, metric: str, said: str | None
) -> None:
    both = {"rmt": branches(**EDGES, n_windows=used), "variance": branches(n_windows=used)}
    made = record({"metric": metric}, **both)
    windows = {**made.plan["windows"], "guard_windows": planned}
    made = replace(made, plan={**made.plan, "windows": windows},
                   data={**made.data, "n_guard_windows": drawn})  # fmt: skip
    assert guard_contradiction("variance", made) == guard_contradiction("rmt", made) == said
    bare = {key: value for key, value in made.plan.items() if key != "windows"}
    if used >= 3 and drawn == used:
        assert guard_contradiction("rmt", replace(made, plan=bare)) is None


@pytest.mark.parametrize("key", ["edge_of_change", "change_size"])
def test_changes_of_weights_are_those_of_the_spectral_guard(key: str) -> None:
    other = branches(**EDGES | {key: {"a": 9.0}})
    said = f"its {key} is another than that of the weights"
    assert told("rmt", rmt=other) == said
    assert told("rmt", rmt=branches(**EDGES | {key: {}})) == said
    assert told("rmt", rmt=branches(**EDGES | {key: None})) is None
    assert told("rmt", rmt=other, spectral=None) is None
    assert told("rmt", rmt=other, spectral={"not_evaluated": "why"}) is None
    # What it states of its own is nothing to the variance guard.
    assert told("variance", variance=branches(**EDGES | {key: {"a": 9.0}})) is None


def test_the_variance_guards_rescalings_are_looked_at() -> None:
    said = "rescalings stand in the plan or the evidence only"
    assert told("variance", {"rescaling": {"remediate": False}}) == said
    assert told("rmt", {"rescaling": {"remediate": False}}) is None


def result(*kinds: str) -> GuardResult:
    found = tuple(Violation(kind, "m", 1.0, 0.5) for kind in kinds)
    return GuardResult("rmt", not kinds, "abort", "r", "t", violations=found)


def test_too_few_guard_windows_are_neither_a_pass_nor_a_fail() -> None:
    made = record({"windows": {**facts().plan["windows"], "guard_windows": 8}})
    asked = policy(modes={"rmt": "gate", "variance": "monitor"})
    check = CheckDecision("rmt", Outcome.FAIL, "beyond", "told", {"n": 1})
    enough = record()
    assert below_guard_floor(result(), check, enough, asked) is None
    short = below_guard_floor(result("error"), check, made, asked)
    text = "3 of 8 planned guard windows, 4 are needed"
    assert short == replace(
        check, outcome=Outcome.INCONCLUSIVE, reason="below_floor", text=f"INCONCLUSIVE: {text}"
    )
    monitored = policy(modes={"rmt": "monitor"})
    assert below_guard_floor(result("error"), check, made, monitored) == replace(
        check, outcome=Outcome.WARN, reason="below_floor", text=text
    )
    for kind in ("non_finite_activation", "change_contradicts_kind"):
        found = below_guard_floor(result("error", kind), check, made, asked)
        assert found is not None
        assert (found.outcome, found.reason, found.numbers) == (Outcome.FAIL, kind, {"n": 1})
        assert found.text.endswith(f"; all else is not judged: {text}")
        assert [v["kind"] for v in found.violations] == [kind]
