"""Every edit, fault and control of a resident model as a scenario, on a small tied model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core.engine import error_record, measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.edits.registry import EDITS
from pytest_invarlock.errors import DataError, EditError
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.edit_names import declared_kind, kind_of
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.records import Facts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEEDED: dict[str, dict[str, Any]] = {
    "quant_rtn": {"bitwidth": 8, "group_size": 32},
    "magnitude_prune": {"sparsity": 0.1},
    "lowrank_svd": {"rank": 12},
}
CONTROLS = (
    "noop",
    "rescale_gated_pair",
    "permute_mlp_neurons",
    "rotate_value_output_heads",
    "fold_norm_gain",
)
# Llama has neither experts nor biases.
NO_TARGET = {"kill_expert", "drop_bias"}
FLOORS = {"floors": {"documents": 4, "effective_documents": 2, "tokens": 100}}


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tokenizer: Any, texts: Path
) -> Bench:
    folder = tmp_path_factory.mktemp("tied")
    model = tiny_model("llama", tie_word_embeddings=True)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # a gain of one cannot be folded
            parameter.mul_(torch.linspace(0.7, 1.4, len(parameter)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plan = MeasurementPlan(
        source=DataSource("local_jsonl", (str(texts),)),
        windows=WindowSelection(48, 48, preview_windows=8, final_windows=8, guard_windows=4),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair("tied", str(folder)), plan)


@pytest.fixture(scope="module")
def before(bench: Bench) -> dict[str, str]:
    return dict(tensor_digests(bench.baseline.model))


def scenario_of(name: str, kind: str | None = None, **parameters: Any) -> Scenario:
    return Scenario(name, edit=EditSpec(name, parameters or NEEDED.get(name, {})), kind=kind)


def facts_of(bench: Bench, scenario: Scenario) -> Facts:
    return measure(bench.pair, scenario, bench.plan, bench=bench).facts


@pytest.fixture(scope="module")
def facts_by_name(bench: Bench, before: dict[str, str]) -> Callable[[str], Facts]:
    """The facts of each edit as it is by default, which left the resident model alone."""

    @cache
    def measured(name: str) -> Facts:
        facts = facts_of(bench, scenario_of(name))
        assert_untouched(bench, before)
        return facts

    return measured


def decided(facts: Facts) -> Decision:
    settings = Settings(
        {"tier": Setting(("balanced",), "test"), "profile": Setting(("dev",), "test")}
    )
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_PASS)}
    return decide(facts, build_policy(FLOORS, settings, expected))


def assert_untouched(bench: Bench, before: dict[str, str]) -> None:
    assert tensor_digests(bench.baseline.model) == before
    assert bench.counters.baseline_loads == 1


@pytest.mark.parametrize("name", [name for name in EDITS if name not in NO_TARGET])
def test_it_is_measured_whole_and_undone(
    name: str, bench: Bench, before: dict[str, str], facts_by_name: Callable[[str], Facts]
) -> None:
    facts = facts_by_name(name)
    assert_untouched(bench, before)
    assert (facts.kind, facts.error) == (declared_kind(EditSpec(name, NEEDED.get(name, {}))), None)
    assert facts.edit is not None
    changed = facts.edit["n_parameters_changed"]
    same = facts.subject["tensors_digest"] == facts.baseline["tensors_digest"]
    assert bool(changed) is (name != "noop")
    assert same is (name == "noop")
    for losses in facts.arms.values():
        assert len(losses.tokens) == 8
        assert np.isfinite(losses.baseline_nll).all()
        assert np.isfinite(losses.subject_nll).all() or name in ("nan_injection", "inf_injection")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_computes_the_same_and_passes_as_whatever_kind(
    name: str, facts_by_name: Callable[[str], Facts]
) -> None:
    facts = facts_by_name(name)
    final = facts.arms["final"]
    delta = (final.subject_nll - final.baseline_nll).sum() / final.tokens.sum()
    assert abs(np.exp(delta) - 1) < 1e-3
    for kind in (facts.kind, "any"):
        decision = decided(replace(facts, kind=kind))
        assert decision.expectation_met, decision.text
        # That the weights are others is told, and is no failure; where it was declared, expected.
        spectral = decision.check("spectral")
        word = Outcome.WARN if kind == "any" else Outcome.PASS
        told = (Outcome.PASS, "ok") if name == "noop" else (word, "basis_changed")
        assert (spectral.outcome, spectral.reason) == told
        others = {check.outcome for check in decision.checks if check is not spectral}
        assert others == {Outcome.PASS}, decision.text


def test_an_identical_subject_passes_by_name(bench: Bench) -> None:
    for scenario in (scenario_of("noop"), Scenario("itself", subject=bench.pair.baseline)):
        decision = decided(facts_of(bench, scenario))
        metric = decision.check("primary_metric")
        assert (metric.outcome, metric.reason) == (Outcome.PASS, "bitwise_identical")
        assert decision.outcome is Outcome.PASS


@pytest.mark.parametrize("name", sorted(NO_TARGET))
def test_what_has_no_target_ends_in_its_error(
    name: str, bench: Bench, before: dict[str, str]
) -> None:
    with pytest.raises(EditError) as caught:
        facts_of(bench, scenario_of(name))
    assert caught.value.code == "EDIT_NO_TARGET"
    assert_untouched(bench, before)


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        (scenario_of("magnitude_prune", sparsity=1e-9), "EDIT_CHANGED_NOTHING"),
        (scenario_of("dtype_change", dtype="float32"), "EDIT_CHANGED_NOTHING"),
        (scenario_of("shape_mismatch", rows=0), "EDIT_PARAMETERS"),
    ],
)
def test_an_edit_that_changes_nothing_is_an_error(
    scenario: Scenario, code: str, bench: Bench, before: dict[str, str]
) -> None:
    with pytest.raises(EditError) as caught:
        facts_of(bench, scenario)
    assert caught.value.code == code
    record = error_record(bench.pair, scenario, bench.plan, code)
    assert {check.outcome for check in decided(record.facts).checks} == {Outcome.ERROR}
    assert record.facts.kind == kind_of(scenario)
    assert_untouched(bench, before)


@pytest.mark.parametrize(
    ("name", "update_config"),
    [
        *((name, True) for name in VIEW_FAULTS),
        ("shape_mismatch", False),
        ("missing_tensors", False),
    ],
)
def test_a_structural_fault_leaves_the_resident_model_alone(
    name: str, update_config: bool, bench: Bench, before: dict[str, str]
) -> None:
    ties = {n: t.data_ptr() for n, t in bench.baseline.model.state_dict().items()}
    scenario = scenario_of(name) if update_config else scenario_of(name, update_config=False)
    facts = facts_of(bench, scenario)
    assert bench.unchanged()
    assert_untouched(bench, before)
    assert {n: t.data_ptr() for n, t in bench.baseline.model.state_dict().items()} == ties
    assert bool(facts.arms) is (update_config and name != "tokenizer_mismatch")
    assert facts.subject["checkpoint_digest"] is None
    # The same fault makes the same record.
    assert facts_of(bench, scenario).digest == facts.digest
    if not facts.arms:
        assert decided(facts).check("primary_metric").outcome is Outcome.ERROR
        assert decided(facts).fired == ("invariants",)


def test_what_an_error_inside_leaves_is_untouched_too(bench: Bench, before: dict[str, str]) -> None:
    with pytest.raises(KeyboardInterrupt), bench.applied(EditSpec("missing_tensors")):
        raise KeyboardInterrupt
    assert_untouched(bench, before)


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        (scenario_of("quant_rtn"), "quantize8"),
        (scenario_of("quant_rtn", bitwidth=4), "quantize4"),
        (scenario_of("quant_rtn", bits=8), "quantize8"),
        (scenario_of("quant_rtn", bitwidth=2), "any"),
        (scenario_of("magnitude_prune"), "prune"),
        (scenario_of("magnitude_prune", sparsity=0.5), "any"),
        (scenario_of("quant_rtn", kind="prune"), "prune"),
        (scenario_of("scale_explosion"), "any"),
        (Scenario("other", subject="another"), "any"),
        (Scenario("other", subject="another", kind="finetune"), "finetune"),
    ],
)
def test_a_scenario_that_names_no_kind_is_of_its_edits_kind(scenario: Scenario, kind: str) -> None:
    assert kind_of(scenario) == kind


def test_a_tokenizer_that_is_not_at_hand_ends_strict_pairing(bench: Bench) -> None:
    strict = Bench(bench.pair, replace(bench.plan, strict_pairing=True))
    with pytest.raises(DataError) as caught:
        facts_of(strict, scenario_of("tokenizer_mismatch"))
    assert caught.value.code == "PAIRING_MISMATCH"
