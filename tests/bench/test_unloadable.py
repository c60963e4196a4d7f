"""A subject's checkpoint that does not load fails by its structure, before anything is scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pytest_invarlock.adapters.hf_adapter import HF_Adapter
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.saved_checkpoint import save_checkpoint
from pytest_invarlock.bench.unloadable import unloadable_subject
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision
from pytest_invarlock.errors import ModelLoadError
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import schema, strict_validator
from pytest_invarlock.policy.settings import Settings


@pytest.fixture(params=["llama", "gpt2"])
def bench(request: Any, checkpoints: dict[str, Path], texts: Path) -> Bench:
    plan = MeasurementPlan(
        source=DataSource("local_jsonl", (str(texts),)), windows=WindowSelection(48, 48, 4, 4, guard_windows=2),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair("tiny", str(checkpoints[request.param])), plan)


def facts_of(bench: Bench, **scenario: Any) -> Any:
    return measure(bench.pair, Scenario("broken", **scenario), bench.plan, bench=bench).facts


def decided(facts: Any) -> Decision:
    expected = {(facts.model, facts.scenario): Expectation("clean", Strictness.MUST_DETECT)}
    return decide(facts, build_policy({"profile": "dev"}, Settings(), expected))


@pytest.mark.parametrize("fault", ["missing_tensors", "shape_mismatch"])
def test_it_fails_by_invariants_as_the_same_fault_in_memory_does(
    fault: str, bench: Bench, tmp_path: Path
) -> None:
    spec = EditSpec(fault, {"update_config": False})
    save_checkpoint(bench, spec, tmp_path / "saved")
    inside = facts_of(bench, edit=spec)
    fresh = Bench(bench.pair, bench.plan)
    outside = facts_of(fresh, subject=str(tmp_path / "saved"))
    assert outside.error is None
    assert outside.guards["invariants"] == inside.guards["invariants"]
    assert outside.subject["tensors_digest"] == inside.subject["tensors_digest"]
    assert outside.arms == {}
    # No window was scored for it.
    assert (fresh.counters.baseline_passes, fresh.counters.subject_passes) == (0, 0)
    decision = decided(outside)
    assert decision.fired == ("invariants",)
    assert decision.expectation_met
    reason = outside.divergence["not_evaluated"]
    assert reason.startswith("the checkpoint does not load: ")
    missing = [entry["name"] for entry in outside.guards["invariants"]["missing"]]
    lost = f"({len(missing)} tensors lost: {missing[0]}, " if missing else "lost"
    assert (lost in reason) is bool(missing)
    assert reason in decision.check("primary_metric").text
    assert outside.guards["spectral"] == {"not_evaluated": reason}
    # Records leave the machine, paths do not.
    assert str(tmp_path) not in canonical(outside.document()).decode()
    facts = schema("record")["properties"]["facts"]
    strict_validator()(facts | {"$defs": schema("record").get("$defs", {})}).validate(
        json.loads(canonical(outside.document()))
    )


def test_a_checkpoint_that_loads_is_none(bench: Bench, tmp_path: Path) -> None:
    save_checkpoint(bench, EditSpec("missing_tensors"), tmp_path / "shallower")
    for reference in (bench.pair.baseline, str(tmp_path / "shallower")):
        assert unloadable_subject(bench, reference) is None
    assert bench.counters.subject_loads == 0


def test_it_is_seen_before_the_baseline_is_loaded(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(bench, EditSpec("missing_tensors", {"update_config": False}), tmp_path / "s")
    loads: list[str] = []
    load = HF_Adapter.load

    def noted(adapter: Any, reference: str, **given: Any) -> Any:
        loads.append(reference)
        return load(adapter, reference, **given)

    monkeypatch.setattr(HF_Adapter, "load", noted)
    facts_of(Bench(bench.pair, bench.plan), subject=str(tmp_path / "s"))
    assert loads == [str(tmp_path / "s"), bench.pair.baseline]


def renamed(source: Path, target: Path, old: str, new: str) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_names_that_only_a_loader_knows_are_no_failure(
    tiny_model: Any, tokenizer: Any, bench: Bench, tmp_path: Path
) -> None:
    # Old checkpoints of BERT call a norm's weight gamma; transformers renames it.
    baseline = tmp_path / "bert"
    tiny_model("bert").save_pretrained(baseline)
    tokenizer.save_pretrained(baseline)
    old = renamed(baseline, tmp_path / "old", "LayerNorm.weight", "LayerNorm.gamma")
    pair = Bench(Pair("bert", str(baseline)), bench.plan)
    assert unloadable_subject(pair, str(old)) is None


def test_a_damaged_file_is_a_typed_error_before_anything_is_scored(
    bench: Bench, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(bench.pair.baseline, tmp_path / "broken"))
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ModelLoadError) as caught:
        facts_of(bench, subject=str(broken))
    assert caught.value.code == "MODEL_TRUNCATED"
    assert bench.counters.baseline_passes == 0


def test_what_only_loading_can_tell_is_left_to_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(bench, EditSpec("missing_tensors", {"update_config": False}), tmp_path / "s")
    adapter = bench.adapter
    bench.adapter = object()  # type: ignore[assignment]
    assert unloadable_subject(bench, str(tmp_path / "s")) is None
    bench.adapter = adapter

    def no_layout(*_: Any, **__: Any) -> Any:
        raise ValueError("no such width")

    monkeypatch.setattr("pytest_invarlock.adapters.checkpoint_shapes.model_shapes", no_layout)
    assert unloadable_subject(bench, str(tmp_path / "s")) is None
