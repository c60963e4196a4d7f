"""measure: the one way to a record, on small random models saved as real checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from jsonschema.validators import Draft202012Validator

from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.core import engine
from pytest_invarlock.core.engine import error_record, measure
from pytest_invarlock.errors import DataError, EditError, MeasurementError, error_code
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.resources import schema
from tests.preloaded_python import preloaded_python

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.records import Record

KINDS = ["llama", "gpt2"]
NOOP = Scenario("noop", edit=EditSpec("noop"))
PRUNE = Scenario("prune", edit=EditSpec("magnitude_prune", {"sparsity": 0.5}), kind="prune")
NAN = Scenario("nan", edit=EditSpec("nan_injection"))
SCENARIOS = (NOOP, PRUNE, NAN)


@pytest.fixture
def plan(texts: Path) -> MeasurementPlan:
    return MeasurementPlan(
        source=DataSource("local_jsonl", (str(texts),)),
        windows=WindowSelection(48, 48, preview_windows=10, final_windows=12, guard_windows=2),
        device="cpu", dtype="float32", threads=1, batch_tokens=512,
    )  # fmt: skip


@pytest.fixture(params=KINDS)
def bench(
    request: pytest.FixtureRequest, checkpoints: dict[str, Path], plan: MeasurementPlan
) -> Bench:
    return Bench(Pair(request.param, str(checkpoints[request.param])), plan)


@pytest.fixture
def tied(checkpoints: dict[str, Path], plan: MeasurementPlan) -> Bench:
    """Of one architecture: the engine's own accounts have nothing to do with the model's."""
    return Bench(Pair("gpt2", str(checkpoints["gpt2"])), plan)


def measured(bench: Bench, scenario: Scenario, **change: Any) -> Record:
    return measure(bench.pair, scenario, bench.plan, bench=bench, **change)


def assert_fits_schema(record: Record) -> None:
    document = json.loads(canonical(record.document()))
    assert list(Draft202012Validator(schema("record")).iter_errors(document)) == []


def test_an_edit_that_changes_nothing_ends_in_its_error_and_leaves_the_bench_whole(
    tied: Bench,
) -> None:
    scenario = Scenario("same", edit=EditSpec("magnitude_prune", {"sparsity": 1e-9}))
    with pytest.raises(EditError) as caught:
        measured(tied, scenario)
    assert error_code(caught.value) == "EDIT_CHANGED_NOTHING"
    assert tied.unchanged()


def out_of_memory(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first passes over a subject find no memory."""
    whole, left = Bench.measure_subject, [times]

    def short(bench: Bench, *arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError
        return whole(bench, *arguments)

    monkeypatch.setattr(Bench, "measure_subject", short)


def test_running_out_of_memory_twice_ends_in_one_typed_error(
    tied: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(monkeypatch, 2)
    with pytest.raises(MeasurementError) as caught:
        measured(tied, PRUNE)
    assert caught.value.code == "OUT_OF_MEMORY"
    assert "--invarlock-batch=128" in caught.value.remedy
    assert tied.unchanged()


def test_running_out_of_memory_once_measures_both_models_in_smaller_batches(
    tied: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory(monkeypatch, 1)
    facts = measured(tied, NOOP).facts
    assert facts.plan["batch_tokens"] == 256
    assert tied.counters.baseline_passes == 2
    final = facts.arms["final"]
    assert final.subject_nll.tobytes() == final.baseline_nll.tobytes()
    assert tied.unchanged()
    # What one scenario met is nothing to the next.
    assert measured(tied, NOOP).facts.plan["batch_tokens"] == 512


def test_the_retry_holds_nothing_of_the_try(
    checkpoints: dict[str, Path], plan: MeasurementPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair("m", str(checkpoints["gpt2"]))
    bench, alive, whole = Bench(pair, plan), [], Bench.measure_subject
    seen: list[Any] = []

    def short(bench: Bench, subject: Any, draw: int) -> Any:
        seen.append(weakref.ref(subject.loaded.model))
        alive.append(sum(there() is not None for there in seen))
        if len(seen) == 1:
            raise torch.OutOfMemoryError
        return whole(bench, subject, draw)

    monkeypatch.setattr(Bench, "measure_subject", short)
    measure(pair, Scenario("copy", subject=str(checkpoints["gpt2"])), plan, bench=bench)
    assert alive == [1, 1]


@pytest.mark.parametrize("change", ["context", "reading"])
def test_a_subject_that_cannot_read_the_windows_is_not_measured(
    change: str, bench: Bench, tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    model = tiny_model("bert") if change == "reading" else tiny_model("gpt2", n_positions=32)
    subject = tmp_path / "subject"
    model.save_pretrained(subject)
    tokenizer.save_pretrained(subject)
    facts = measured(bench, Scenario("other", subject=str(subject))).facts
    assert facts.arms == {}
    assert facts.data["match_fraction"] == 0
    assert ("masked" if change == "reading" else "takes 32") in facts.data["notes"][-1]
    assert "not_evaluated" in facts.divergence


def test_too_little_text_ends_in_its_error(
    checkpoints: dict[str, Path], plan: MeasurementPlan
) -> None:
    greedy = replace(plan, windows=replace(plan.windows, final_windows=10_000))
    with pytest.raises(DataError):
        measure(Pair("m", str(checkpoints["llama"])), NOOP, greedy)


def test_noop_gives_the_same_tensors_and_the_same_bits_of_loss(bench: Bench) -> None:
    facts = measured(bench, NOOP).facts
    assert facts.subject["tensors_digest"] == facts.baseline["tensors_digest"]
    for arm, n in (("preview", 10), ("final", 12)):
        losses = facts.arms[arm]  # type: ignore[index]
        assert len(losses.tokens) == n
        assert losses.subject_nll.tobytes() == losses.baseline_nll.tobytes()
        assert (losses.tokens >= 32).all()
    assert facts.edit is not None
    assert facts.edit["n_tensors_touched"] == 0


def test_an_edit_is_told_whole_and_paired(bench: Bench) -> None:
    record = measured(bench, PRUNE)
    facts = record.facts
    assert_fits_schema(record)
    assert (facts.scenario, facts.kind, facts.error) == ("prune", "prune", None)
    assert facts.subject["tensors_digest"] != facts.baseline["tensors_digest"]
    assert facts.subject["checkpoint_digest"] is None
    assert facts.baseline["checkpoint_digest"].startswith("sha256:")
    final = facts.arms["final"]
    assert np.abs(final.subject_nll - final.baseline_nll).min() > 0
    assert facts.data["n_documents"] == {"preview": 10, "final": 12}
    assert facts.data["n_documents_planned"] == facts.data["n_documents"]
    assert (facts.data["match_fraction"], facts.data["overlap_fraction"]) == (1.0, 0.0)
    assert final.kl_nats is not None
    assert (final.kl_nats > 0).all()
    assert facts.divergence["method"] == "cached_states"
    assert facts.divergence["final"]["kl_nats_mean"] == pytest.approx(
        final.kl_nats.sum() / final.tokens.sum(), rel=1e-9
    )
    assert facts.divergence["final"]["n_tokens"] == final.tokens.sum()
    assert facts.noise_floor["same_batch_nats_per_token"] == 0
    assert facts.plan["subject"] == {"name": "magnitude_prune", "parameters": {"sparsity": 0.5}}
    assert facts.guards["invariants"]["n_tensors"] > 0


def test_a_fault_shows_in_guard_and_losses(bench: Bench) -> None:
    record = measured(bench, NAN)
    assert len(record.facts.guards["invariants"]["non_finite"]) == 1
    assert not np.isfinite(record.facts.arms["final"].subject_nll).any()
    assert np.isfinite(record.facts.arms["final"].baseline_nll).all()
    assert_fits_schema(record)


def test_what_changes_bits_is_recorded(tied: Bench) -> None:
    record = measured(tied, NOOP)
    plan, determinism = record.facts.plan, record.observations["determinism"]
    assert (plan["threads"], plan["dtype"], plan["batch_tokens"]) == (1, "float32", 512)
    assert (plan["metric"], plan["windows"]["convention"]) == ("ppl_causal", "document")
    assert record.facts.baseline["attention"] == "sdpa"
    assert record.facts.subject["adapter"] == "hf_causal"
    assert (determinism["threads"], determinism["seed"], determinism["mode"]) == (
        1, 0, "throughput",
    )  # fmt: skip
    assert record.observations["versions"]["torch"] == torch.__version__


STRICT = """
import sys
from dataclasses import replace
from pytest_invarlock.core.engine import measure
from pytest_invarlock.plan import (
    DataSource, EditSpec, MeasurementPlan, Pair, Scenario, WindowSelection
)

plan = MeasurementPlan(
    source=DataSource("local_jsonl", (sys.argv[2],)),
    windows=WindowSelection(48, 48, preview_windows=10, final_windows=12),
    device="cpu", dtype="float32", determinism="strict", batch_tokens=512,
)
scenario = Scenario("prune", edit=EditSpec("magnitude_prune", {"sparsity": 0.5}), kind="prune")
record = measure(Pair("m", sys.argv[1]), scenario, plan)
print(record.facts.digest, record.facts.plan["threads"],
      record.observations["determinism"]["deterministic_algorithms"])
"""


def test_strict_gives_the_same_bits_in_a_fresh_process_as_in_a_used_one(
    checkpoints: dict[str, Path],
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(checkpoints["llama"]), str(texts)]
    fresh = subprocess.run(
        [preloaded_python(), "-c", STRICT, *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    capsys.readouterr()
    exec(STRICT, {})
    found = {fresh, capsys.readouterr().out}
    assert len(found) == 1
    digest, threads, deterministic = found.pop().split()
    assert digest.startswith("sha256:")
    assert (threads, deterministic) == ("1", "True")


def test_many_scenarios_cost_one_load_and_one_baseline_pass(tied: Bench) -> None:
    records = [measured(tied, scenario) for scenario in SCENARIOS]
    assert tied.counters.baseline_loads == 1
    assert tied.counters.baseline_passes == 1
    assert tied.counters.subject_passes == 3
    assert tied.counters.subject_loads == 0
    assert records[-1].observations["counters"]["baseline_passes"] == 1
    baselines = {record.facts.arms["final"].baseline_nll.tobytes() for record in records}
    assert len(baselines) == 1


def test_the_resident_model_is_bit_for_bit_the_same_afterwards(bench: Bench) -> None:
    before = tensor_digests(bench.baseline.model)
    for scenario in SCENARIOS:
        measured(bench, scenario)
    assert tensor_digests(bench.baseline.model) == before
    assert bench.unchanged()


def test_order_and_company_leave_no_trace_in_the_facts(
    checkpoints: dict[str, Path], plan: MeasurementPlan
) -> None:
    pair = Pair("m", str(checkpoints["gpt2"]))
    alone = {s.name: measure(pair, s, plan).facts.digest for s in SCENARIOS}
    together = Bench(pair, plan)
    again = {
        s.name: measure(pair, s, plan, bench=together).facts.digest for s in reversed(SCENARIOS)
    }
    assert again == alone


def test_every_draw_has_its_own_windows_and_baseline_pass(tied: Bench) -> None:
    first, second = (
        measure(tied.pair, PRUNE, tied.plan.for_draw(draw), bench=tied).facts for draw in (0, 1)
    )
    assert (first.draw, second.draw) == (0, 1)
    assert first.data["digest"] != second.data["digest"]
    assert first.plan_digest != second.plan_digest
    assert tied.counters.baseline_passes == 2
    assert tied.counters.baseline_loads == 1


def test_workers_share_the_baseline_pass_through_the_cache(
    checkpoints: dict[str, Path], plan: MeasurementPlan, tmp_path: Path
) -> None:
    pair = Pair("m", str(checkpoints["llama"]))
    benches = [Bench(pair, plan, cache=tmp_path) for _ in range(2)]
    digests = {measured(bench, PRUNE).facts.digest for bench in benches}
    assert [bench.counters.baseline_passes for bench in benches] == [1, 0]
    assert len(digests) == 1


def test_another_checkpoint_is_measured_as_a_subject(
    bench: Bench, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = tmp_path / "subject"
    shutil.copytree(checkpoints[bench.pair.name], subject)
    facts = measured(bench, Scenario("copy", subject=str(subject))).facts
    assert facts.subject["tensors_digest"] == facts.baseline["tensors_digest"]
    assert facts.subject["checkpoint_digest"] == facts.baseline["checkpoint_digest"]
    final = facts.arms["final"]
    assert final.subject_nll.tobytes() == final.baseline_nll.tobytes()
    assert facts.edit is None
    assert facts.plan["subject"] == {"checkpoint": facts.subject["checkpoint_digest"]}
    assert bench.counters.subject_loads == 1


def test_a_subject_with_another_tokenizer_has_no_paired_losses(
    checkpoints: dict[str, Path], plan: MeasurementPlan, tmp_path: Path
) -> None:
    subject = tmp_path / "subject"
    shutil.copytree(checkpoints["llama"], subject)
    path = subject / "tokenizer.json"
    pipeline = json.loads(path.read_text(encoding="utf-8"))
    pipeline["model"]["merges"].pop()
    path.write_text(json.dumps(pipeline), encoding="utf-8")
    pair = Pair("m", str(checkpoints["llama"]))
    other = Scenario("other", subject=str(subject))
    strict = Bench(pair, replace(plan, strict_pairing=True))
    with pytest.raises(DataError, match=r"preview\[[\d, -]+\]") as caught:
        measure(pair, other, strict.plan, bench=strict)
    assert caught.value.code == "PAIRING_MISMATCH"
    assert strict.counters.subject_passes == 0
    record = measure(pair, other, plan)
    assert record.facts.arms == {}
    assert record.facts.data["match_fraction"] < 1
    assert "not_evaluated" in record.facts.divergence
    assert len(record.facts.guards["invariants"]["tokenizer_changes"]) == 1
    assert_fits_schema(record)


def test_a_tokenizer_that_differs_in_nothing_that_is_measured_is_paired(
    checkpoints: dict[str, Path], plan: MeasurementPlan, tmp_path: Path
) -> None:
    subject = tmp_path / "subject"
    shutil.copytree(checkpoints["llama"], subject)
    path = subject / "tokenizer.json"
    pipeline = json.loads(path.read_text(encoding="utf-8"))
    pipeline["model"]["ignore_merges"] = not pipeline["model"]["ignore_merges"]
    path.write_text(json.dumps(pipeline), encoding="utf-8")
    record = measure(
        Pair("m", str(checkpoints["llama"])), Scenario("same", subject=str(subject)), plan
    )
    assert record.facts.data["match_fraction"] == 1.0
    assert len(record.facts.arms["final"].tokens) == 12
    assert any("100%" in note for note in record.facts.data["notes"])


def test_seq_len_is_capped_at_the_models_context(
    checkpoints: dict[str, Path], plan: MeasurementPlan
) -> None:
    wide = replace(plan, windows=replace(plan.windows, seq_len=4096, stride=4096))
    facts = measure(Pair("m", str(checkpoints["gpt2"])), NOOP, wide).facts
    assert facts.data["seq_len"] == 128
    assert "capped" in facts.data["notes"][0]


def test_a_record_holds_no_path_and_no_text(tied: Bench, texts: Path) -> None:
    record = measured(tied, PRUNE, salt=b"salt")
    written = canonical(record.document()).decode()
    assert str(texts.parent) not in written
    assert "texts.jsonl" not in written
    assert "checkpoints" not in written
    word = json.loads(texts.read_text(encoding="utf-8").splitlines()[0])["text"].split()[0]
    assert f'"{word}' not in written
    assert len(record.observations["window_hmacs"]["final"]) == 12
    assert measured(tied, PRUNE).observations["window_hmacs"] is None


def test_an_error_record_holds_its_code_and_fits_the_schema(plan: MeasurementPlan) -> None:
    record = error_record(Pair("m", "nowhere"), PRUNE, plan.for_draw(2), "MODEL_NOT_FOUND")
    assert record.facts.error == "MODEL_NOT_FOUND"
    assert (record.facts.draw, record.facts.arms, record.facts.guards) == (2, {}, {})
    assert_fits_schema(record)


def test_codes_of_errors() -> None:
    assert error_code(EditError("x", remedy="y", code="Z")) == "Z"
    assert error_code(ValueError("secret path")) == "CRASH"
    assert engine.peak_memory_bytes() > 1_000_000
