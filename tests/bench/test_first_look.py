"""Two checkpoints by their files: the evidence of the loaded models, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_invarlock.adapters import HF_Auto_Adapter
from pytest_invarlock.bench.first_look import FirstLook, first_look
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.core.engine import measure
from pytest_invarlock.errors import ModelLoadError
from pytest_invarlock.plan import (
    DataSource,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)

Tensors = dict[str, torch.Tensor]
HALF = torch.float16


@pytest.fixture
def plan(texts: Path) -> MeasurementPlan:
    return MeasurementPlan(
        source=DataSource("local_jsonl", (str(texts),)), windows=WindowSelection(48, 48, 4, 4, guard_windows=2),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip


def copied(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def halved(tensors: Tensors) -> None:
    tensors.update({name: tensor.to(HALF) for name, tensor in tensors.items()})


def damaged(tensors: Tensors) -> None:
    name = next(name for name in tensors if name.endswith(("v_proj.weight", "c_attn.weight")))
    tensors[name].mul_(1.5)
    norm = next(name for name in tensors if "norm.weight" in name or "ln_1.weight" in name)
    tensors[norm].mul_(0.5)


def looked(plan: MeasurementPlan, baseline: Path, subject: Path) -> FirstLook | None:
    return first_look(HF_Auto_Adapter(), plan, str(baseline), str(subject))


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_record_is_the_same_with_and_without_it(
    kind: str, stored: str, plan: MeasurementPlan, checkpoints: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    baseline = checkpoints[kind]
    if stored == "float16":
        baseline = copied(baseline, tmp_path / "baseline", halved)
    subject = copied(baseline, tmp_path / "subject", damaged)
    pair, scenario = Pair("tiny", str(baseline)), Scenario("twice", subject=str(subject))
    bench = Bench(pair, plan)
    taken = measure(pair, scenario, plan, bench=bench)
    assert bench.counters.first_looks == 1
    look = bench.first_look(str(subject))
    assert look is not None
    assert taken.facts.guards["spectral"] is look.spectral
    assert look.spectral["changes"]
    monkeypatch.setattr("pytest_invarlock.bench.resident.first_look", lambda *_: None)
    assert measure(pair, scenario, plan).facts.document() == taken.facts.document()


def test_models_are_compared_loaded_where_their_files_may_say_otherwise(
    plan: MeasurementPlan, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    baseline = checkpoints["llama"]
    subject = copied(baseline, tmp_path / "subject", damaged)
    assert looked(plan, baseline, subject) is not None
    assert looked(replace(plan, dtype="auto"), baseline, subject) is not None
    # A cast that rounds; no guard that asks; tensors that are missing.
    assert looked(replace(plan, dtype="float16"), baseline, subject) is None
    assert looked(replace(plan, guards=("invariants",)), baseline, subject) is None
    lost = copied(baseline, tmp_path / "lost", lambda tensors: tensors.popitem())
    assert looked(plan, baseline, lost) is None
    mixed = copied(
        baseline, tmp_path / "mixed",
        lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(HALF)}),
    )  # fmt: skip
    assert looked(replace(plan, dtype="auto"), baseline, mixed) is None
    config = json.loads((subject / "config.json").read_text())
    (subject / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "x"}})
    )
    assert looked(plan, baseline, subject) is None


def test_a_reference_to_nothing_is_told(
    plan: MeasurementPlan, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="nowhere"):
        looked(plan, checkpoints["llama"], tmp_path / "nowhere")
