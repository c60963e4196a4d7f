"""What a backend packs: stored, loaded again, measured; the files are believed, not its word."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.errors import BackendUnavailable, ConfigError, EditError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.settings import Setting, Settings

from ..fake_backend import CODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_invarlock.records import Facts, Record

MODEL = "builtin:llama"
DEMANDED = Expectation("deployable", Strictness.MUST_PASS, deployable=True)


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    plan = MeasurementPlan(
        source=DataSource("pydoc"),
        windows=WindowSelection(64, 64, preview_windows=8, final_windows=8, guard_windows=4),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair(MODEL, MODEL), plan)


@pytest.fixture(autouse=True)
def _fake(install: Callable[..., Path]) -> None:
    install("fake-backend", CODE, group="invarlock.backends", fake="Backend")


def measured(bench: Bench, scheme: str, backend: str = "fake") -> Record:
    spec = EditSpec("deploy", {"backend": backend, "scheme": scheme})
    record = measure(
        bench.pair, Scenario("d", edit=spec, kind="quantize8"), bench.plan, bench=bench
    )
    assert bench.unchanged()
    document = json.loads(canonical(record.document()))
    assert list(Draft202012Validator(schema("record")).iter_errors(document)) == []
    return record


def policy_of(expected: Expectation = DEMANDED, tier: str = "balanced") -> DecisionPolicy:
    settings = Settings({"tier": Setting((tier,), "test"), "profile": Setting(("dev",), "test")})
    floors = {"floors": {"documents": 4, "effective_documents": 2, "tokens": 100}}
    return build_policy(floors, settings, {(MODEL, "d"): expected})


def decided(facts: Facts) -> Decision:
    return decide(facts, policy_of())


@pytest.fixture(scope="module")
def _whole() -> dict[str, Record]:
    return {}


@pytest.fixture
def whole(bench: Bench, _whole: dict[str, Record]) -> Record:
    """The record of what keeps the contract, measured once."""
    if not _whole:
        _whole["good"] = measured(bench, "good")
    return _whole["good"]


def with_deployment(bench: Bench, whole: Record, scheme: str, backend: str = "fake") -> Facts:
    """The facts of ``whole`` with the deployment by another scheme; no loss is measured again."""
    spec = EditSpec("deploy", {"backend": backend, "scheme": scheme})
    with bench.applied(spec) as subject:
        evidence = dict(subject.deployment or {})
        tensors = evidence["reload"]["tensors_after"]
        return replace(
            whole.facts,
            plan={**whole.facts.plan, "subject": spec.document()},
            edit=subject.edit,
            subject={**whole.facts.subject, "tensors_digest": tensors},
            guards={**whole.facts.guards, "deployable": evidence},
        )


def test_a_packed_model_is_measured_and_read_by_every_guard(bench: Bench, whole: Record) -> None:
    facts, folder = whole.facts, Path(tempfile.gettempdir())
    assert not list(folder.glob("invarlock-deploy-*"))
    decision = decided(facts)
    told = {c.check: (c.outcome, c.text) for c in decision.checks}
    assert told["deployable"][0] is Outcome.PASS
    for guard in ("invariants", "spectral", "rmt", "variance", "guard_overhead"):
        assert told[guard][0] is Outcome.PASS, told[guard]
    evidence, numbers = facts.guards["deployable"], decision.check("deployable").numbers
    assert {tuple(one["dtypes"]) for one in evidence["weights"]} == {("F32", "I8")}
    assert len(evidence["weights"]) == 28 == facts.edit["n_tensors_touched"]
    assert facts.edit["n_parameters_touched"] == 688128
    # A byte a weight and a float32 a row of 128 or 320; the embeddings stay float32.
    assert 8.1 < numbers["bits_per_weight"] < 8.3
    # Embeddings, norms, and two copies of rotary frequencies.
    others = 1024 * 128 + 9 * 128 + 2 * 16
    assert evidence["memory"]["baseline_bytes"] == 4 * (688128 + others)
    assert numbers["memory_ratio"] == pytest.approx(0.375, abs=0.01)
    # The files of the baseline are bfloat16.
    assert numbers["storage_ratio"] == pytest.approx(0.75, abs=0.03)
    assert (evidence["reload"]["n_different"], evidence["smoke"]["generated_tokens"]) == (0, 8)
    assert facts.subject["tensors_digest"] == evidence["reload"]["tensors_after"]


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("unpacked", "not_packed"),
        ("hidden", "unexplained_storage"),
        ("other", "reload_differs"),
        ("nan", "reload_differs"),
        ("mute", "smoke_generation"),
    ],
)
def test_each_breach_of_the_contract_fails(
    bench: Bench, whole: Record, scheme: str, reason: str
) -> None:
    decision = decided(with_deployment(bench, whole, scheme))
    check = decision.check("deployable")
    assert (check.outcome, check.reason) == (Outcome.FAIL, reason), check.text
    assert not decision.expectation_met
    if scheme == "nan":
        assert "smoke_non_finite" in {one["kind"] for one in check.violations}


def test_a_backend_that_packs_nothing_or_breaks_off_is_an_error_without_paths(
    bench: Bench,
) -> None:
    with pytest.raises(EditError) as caught:
        measured(bench, "nothing")
    assert caught.value.code == "DEPLOY_NO_TARGET"
    with pytest.raises(EditError, match="packing the model broke off: RuntimeError") as caught:
        measured(bench, "breaks")
    assert (caught.value.code, "secret" in str(caught.value)) == ("DEPLOY_FAILED", False)
    assert bench.unchanged()


def test_a_backend_that_is_not_there_says_so_before_anything_is_packed(bench: Bench) -> None:
    with pytest.raises(BackendUnavailable, match="fake absent: fakelib is not installed"):
        measured(bench, "absent")
    with pytest.raises(ConfigError, match="has no scheme 'goood'"):
        measured(bench, "goood")
    with pytest.raises(ConfigError, match="registered by no installed package"):
        measured(bench, "good", backend="fakee")


def test_torchao_that_is_not_there_or_not_for_a_device_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pytest_invarlock.backends import torchao_weight_only as home

    backend = home.TorchaoBackend()
    monkeypatch.setattr(home, "find_spec", lambda name: None)
    for scheme in backend.schemes:
        assert "torchao is not installed (pip install" in str(backend.unavailable(scheme, "cpu"))
    monkeypatch.setattr(home, "find_spec", lambda name: name)
    monkeypatch.setattr(home, "_packs_int4_on_cpu", lambda: False)
    assert backend.unavailable("int8_weight_only", "mps") is None
    assert "not for mps" in str(backend.unavailable("int4_weight_only", "mps"))
    assert "packs no int4 weights" in str(backend.unavailable("int4_weight_only", "cpu"))


def test_a_guards_absent_evidence_never_passes(whole: Record) -> None:
    guards = {n: e for n, e in whole.facts.guards.items() if n != "deployable"}
    check = decided(replace(whole.facts, guards=guards)).check("deployable")
    assert (check.outcome, check.reason) == (Outcome.ERROR, "not_evaluated")


def test_torchao_packs_stores_and_loads_both_schemes(bench: Bench) -> None:
    pytest.importorskip("torchao")
    whole = measured(bench, "int8_weight_only", backend="torchao")
    decision = decided(whole.facts)
    for check in ("invariants", "spectral", "rmt", "variance", "guard_overhead", "deployable"):
        assert decision.check(check).outcome is Outcome.PASS, decision.check(check)
    assert 8 < decision.check("deployable").numbers["bits_per_weight"] < 8.5
    facts = with_deployment(bench, whole, "int4_weight_only", backend="torchao")
    assert {tuple(one["dtypes"]) for one in facts.guards["deployable"]["weights"]} == {
        ("F32", "U8")
    }
    check = decided(facts).check("deployable")
    # Four bits, and a scale and a zero in float32 for 32 of them.
    assert (check.outcome, check.numbers["bits_per_weight"]) == (Outcome.PASS, 6), check.text
