"""Both guards on the shipped models: quiet on honest changes, alarmed at damage, naming its place."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from typing import Any

import pytest
import torch
from invarlock_guards import RMTGuard, VarianceGuard
from invarlock_guards.families import weight_matrices
from invarlock_guards.judge.proposals import eligible, proposed_scales
from invarlock_guards.judge.rmt import RMTPolicy, judge_rmt
from invarlock_guards.judge.variance import judge_gain, judge_variance
from invarlock_guards.judge.variance_policy import VariancePolicy
from invarlock_guards.measure.branches import matrices_by_branch
from invarlock_guards.measure.forced_branches import (
    BranchRecord,
    compare_branches,
    record_branches,
)
from invarlock_guards.measure.rmt import measure_rmt
from invarlock_guards.measure.variance import measure_variance
from invarlock_guards.measure.variance_proposals import (
    measure_proposals,
    next_token_losses,
)

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import EditSpec

MODELS = ("llama", "gpt2")
# Whether a change has structure is measured on weights.
RMT = RMTPolicy(edge_of_change_required=False)
VARIANCE = VariancePolicy()


class Shipped:
    """A shipped model, its record on some windows, and other windows."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        with as_file(files("pytest_invarlock.builtin") / name) as folder:
            self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model.eval().requires_grad_(False)
        text = files("pytest_invarlock.builtin").joinpath("text/heldout.jsonl.gz").read_bytes()
        rows = []
        for line in gzip.decompress(text).splitlines():
            ids = tokenizer(json.loads(line)["text"], truncation=True, max_length=96)["input_ids"]
            if len(ids) == 96:
                rows.append(ids)
            if len(rows) == 20:
                break
        self.windows = [{"input_ids": torch.tensor(rows[:4])[:, :64], "use_cache": False}]
        self.held_out = [{"input_ids": torch.tensor(rows[4:]), "use_cache": False}]
        self.digests = tensor_digests(self.model)
        self.record: BranchRecord = record_branches(self.model, self.windows)
        self.branch_of = matrices_by_branch(self.record.plan)
        self.norms = {
            norm: branch.name for branch in self.record.plan.branches for norm in branch.norms
        }

    def compared(self, change: Callable[[EditJournal], object]) -> Any:
        """The comparison with the model changed in place, which is undone."""
        journal = EditJournal(self.model, self.digests)
        try:
            change(journal)
            return compare_branches(self.model, self.windows, self.record)
        finally:
            journal.undo()


@pytest.fixture(scope="module")
def gpt2() -> Shipped:
    return Shipped("gpt2")


@pytest.fixture(scope="module", params=MODELS)
def shipped(request: pytest.FixtureRequest) -> Iterator[Shipped]:
    made = request.getfixturevalue("gpt2") if request.param == "gpt2" else Shipped(request.param)
    yield made
    assert tensor_digests(made.model) == made.digests


def edit(name: str, **parameters: Any) -> Callable[[EditJournal], object]:
    return lambda journal: apply_edit(EditSpec(name, parameters), journal)


def then_rounded(first: Callable[[EditJournal], object]) -> Callable[[EditJournal], object]:
    def both(journal: EditJournal) -> None:
        first(journal)
        edit("quant_rtn", bitwidth=4, scope="all")(journal)

    return both


BENIGN = {
    "float16": ("cast", edit("dtype_round_trip", dtype="float16")),
    "rtn 8": ("quantize8", edit("quant_rtn", bitwidth=8, scope="all")),
    "fp8 e5m2": ("quantize8", edit("fp8_quant", format="e5m2", scope="all")),
    "rtn 4": ("quantize4", edit("quant_rtn", bitwidth=4, scope="all")),
    "prune .1": ("prune", edit("magnitude_prune", sparsity=0.1, scope="all")),
    "prune .3": ("prune", edit("magnitude_prune", sparsity=0.3, scope="all")),
    **{
        name: ("reparametrized", edit(name))
        for name in ("permute_mlp_neurons", "rotate_value_output_heads", "fold_norm_gain")
    },
    "rotated, rtn 4": ("any", then_rounded(edit("rotate_value_output_heads"))),
    "folded, rtn 4": ("any", then_rounded(edit("fold_norm_gain"))),
}


@pytest.mark.parametrize("name", BENIGN)
def test_an_honest_change_passes_under_its_kind_and_under_any(name: str, shipped: Shipped) -> None:
    kind, change = BENIGN[name]
    evidence = shipped.compared(change)
    assert any(row["e"] > 0 for row in evidence["branches"])
    for each in (kind, "any"):
        rmt = judge_rmt(measure_rmt(evidence), kind=each, policy=RMT)
        assert rmt.passed is True, rmt.text
        variance = judge_variance(measure_variance(evidence), kind=each, policy=VARIANCE)
        assert variance.passed is True, variance.text


def test_a_model_that_computes_in_bfloat16_is_a_cast(shipped: Shipped) -> None:
    subject = copy.deepcopy(shipped.model).to(torch.bfloat16)
    evidence = compare_branches(subject, shipped.windows, shipped.record)
    assert judge_rmt(measure_rmt(evidence), kind="cast", policy=RMT).passed is True
    assert judge_variance(measure_variance(evidence), kind="cast", policy=VARIANCE).passed is True


def low_rank(rows: torch.Tensor) -> torch.Tensor:
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    return (u[:, :4] * s[:4]) @ v[:4]


def drawn(rows: torch.Tensor, seed: int = 5) -> torch.Tensor:
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    return noise * rows.norm() / noise.norm()


def without_rows(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.clone()
    rows[:32] = 0
    return rows


# Class: the change of a matrix's rows (output, input), the guards of which one must alarm.
DAMAGE = {
    "scale 1.5": (lambda rows: rows * 1.5, ("variance",)),
    "scale .5": (lambda rows: rows * 0.5, ("variance",)),
    "rank 4": (low_rank, ("rmt",)),
    "permuted": (lambda rows: rows.roll(7, 0), ("rmt",)),
    "negated": (torch.neg, ("rmt",)),
    "redrawn": (drawn, ("rmt", "variance")),
    "zeroed rows": (without_rows, ("rmt",)),
    "zeroed": (torch.zeros_like, ("rmt", "variance")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_any_matrix_alarms_and_names_its_branch(name: str, shipped: Shipped) -> None:
    op, expected = DAMAGE[name]
    matrices = list(weight_matrices(shipped.model))
    # Every role, each in one of the blocks.
    sites = {m.role: m for n, m in enumerate(matrices) if m.block == n % 4 or m.block == 0}
    assert len(sites) >= 4
    for matrix in sites.values():
        rows = matrix.weight.detach()
        rows = rows if matrix.input_axis == -1 else rows.T
        damaged = op(rows)
        value = damaged if matrix.input_axis == -1 else damaged.T

        evidence = shipped.compared(lambda j, m=matrix, v=value: j.write(m.name, v))
        results = {
            "rmt": judge_rmt(measure_rmt(evidence), kind="any", policy=RMT),
            "variance": judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE),
        }
        for guard in expected:
            assert results[guard].passed is False, (matrix.name, guard)
        branch = shipped.branch_of[matrix.name]
        for result in results.values():
            for violation in result.violations:
                assert violation.module == branch or violation.module.startswith(f"{branch}.")


def test_noise_of_the_weights_own_size_alarms(shipped: Shipped) -> None:
    found = []
    for matrix in weight_matrices(shipped.model):
        weight = matrix.weight.detach()
        evidence = shipped.compared(lambda j, m=matrix, w=weight: j.write(m.name, w + drawn(w)))
        rmt = judge_rmt(measure_rmt(evidence), kind="any", policy=RMT)
        variance = judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE)
        found.append(False in (rmt.passed, variance.passed))
        strict = judge_rmt(measure_rmt(evidence), kind="quantize4", policy=RMT)
        assert strict.passed is False, matrix.name
    assert sum(found) / len(found) >= 0.85


def test_a_zeroed_head_alarms(shipped: Shipped) -> None:
    n_heads = shipped.model.config.num_attention_heads
    found = []
    for matrix in weight_matrices(shipped.model):
        if matrix.role != "o":
            continue
        width = matrix.weight.shape[matrix.input_axis] // n_heads
        for head in range(n_heads):
            value = matrix.weight.detach().clone()
            value.narrow(matrix.input_axis, head * width, width).zero_()
            evidence = shipped.compared(lambda j, m=matrix, v=value: j.write(m.name, v))
            rmt = judge_rmt(measure_rmt(evidence), kind="quantize8", policy=RMT)
            open_kind = [
                judge_rmt(measure_rmt(evidence), kind="any", policy=RMT),
                judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE),
            ]
            assert rmt.passed is False
            found.append(any(result.passed is False for result in open_kind))
    assert len(found) == 16
    assert sum(found) / len(found) >= 0.8


def test_a_norm_gain_is_seen_by_variance_alone(shipped: Shipped) -> None:
    found = {}
    for norm, branch in shipped.norms.items():
        weight = shipped.model.get_submodule(norm).weight.detach()
        name = f"{norm}.weight"
        evidence = shipped.compared(lambda j, n=name, w=weight: j.write(n, w * 1.1))
        variance = judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE)
        assert variance.passed is False, norm
        assert {violation.module for violation in variance.violations} == {branch}
        assert judge_rmt(measure_rmt(evidence), kind="any", policy=RMT).passed is True
        found[norm] = variance.reason
    last = "model.norm" if "model.norm" in found else "transformer.ln_f"
    assert found.pop(last) == "norm_variance"
    assert set(found.values()) == {"branch_variance"}


def test_dropped_biases_alarm(gpt2: Shipped) -> None:
    evidence = gpt2.compared(edit("drop_bias"))
    result = judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE)
    assert result.passed is False
    one = gpt2.compared(edit("drop_bias", layer=0, scope="attn"))
    strict = judge_variance(measure_variance(one), kind="quantize8", policy=VARIANCE)
    assert strict.violations[0].module == "transformer.h.0.attn"


@pytest.mark.parametrize("fault", ["nan_injection", "inf_injection"])
def test_numbers_that_are_not_finite_never_pass(fault: str, shipped: Shipped) -> None:
    evidence = shipped.compared(edit(fault, layer=1))
    for result in (
        judge_rmt(measure_rmt(evidence), kind="any", policy=RMT),
        judge_variance(measure_variance(evidence), kind="any", policy=VARIANCE),
    ):
        assert result.passed is False
        assert result.reason == "non_finite_activation"
        assert result.violations[0].module in ("model.layers.1.self_attn", "transformer.h.1.attn")
    assert canonical(evidence)


def test_the_guards_in_a_notebook(shipped: Shipped) -> None:
    guards = [RMTGuard(), VarianceGuard(held_out=shipped.held_out)]
    model = copy.deepcopy(shipped.model)
    for guard in guards:
        assert guard.validate(model, None, None).reason == "not_prepared"
        assert guard.prepare(model, None, shipped.windows, {}) == {
            "ready": True, "reason": None, "n_branches": 9,
        }  # fmt: skip
        assert guard.validate(model, None, None).passed is True
    down = next(m for m in weight_matrices(model) if m.role == "down" and m.block == 2)
    down.weight.mul_(1.5)
    damaged = tensor_digests(model)
    rmt, variance = (guard.validate(model, None, {}) for guard in guards)
    assert (rmt.passed, variance.passed) == (False, False)
    branch = shipped.branch_of[down.name]
    assert rmt.violations[0].module == variance.violations[0].module == branch
    assert variance.metrics["proposals"] == "measured"
    assert variance.metrics["repairable"] is True
    assert tensor_digests(model) == damaged


def test_a_guard_reads_its_policy_and_its_context(shipped: Shipped) -> None:
    guard = RMTGuard(kind="quantize8")
    guard.prepare(shipped.model, None, shipped.windows, {"error": 0.5, "margin": 1.2})
    missing = guard.validate(shipped.model, None, None)
    assert (missing.passed, missing.reason) == (None, "edge_of_change_missing")
    fine = guard.validate(shipped.model, None, {"edge_of_change": {"a": 1.2}})
    assert fine.passed is True
    assert guard.validate(shipped.model, None, {"edge_of_change": {"a": 2.0}}).passed is False
    with pytest.raises(ValueError, match="eror"):
        guard.prepare(shipped.model, None, shipped.windows, {"eror": 0.5})
    with pytest.raises(ValueError, match="lowrank"):
        VarianceGuard(kind="lowrank")


@pytest.mark.parametrize("guard", [RMTGuard, VarianceGuard])
def test_a_guard_without_windows_is_not_ready_and_does_not_pass(
    guard: Callable[[], Any], shipped: Shipped
) -> None:
    made = guard()
    ready = made.prepare(shipped.model, None, [], {})
    assert (ready["ready"], ready["reason"]) == (False, "there are no calibration windows")
    result = made.validate(shipped.model, None, None)
    assert (result.passed, result.reason) == (None, "not_evaluated")
    assert made.prepare(shipped.model, None, None, {})["ready"] is False


def scaled(shipped: Shipped, factor: float, role: str = "down") -> tuple[Any, str]:
    subject = copy.deepcopy(shipped.model)
    matrix = next(m for m in weight_matrices(subject) if m.role == role and m.block == 1)
    matrix.weight.mul_(factor)
    return subject, matrix.name.removesuffix(".weight")


def test_a_proposal_undoes_what_a_scale_did(shipped: Shipped) -> None:
    subject, module = scaled(shipped, 1.5)
    before = tensor_digests(subject)
    evidence = compare_branches(subject, shipped.windows, shipped.record)
    # With room to step, the whole of a scale of the weights is taken back.
    free = VariancePolicy(clamp=(0.3, 3.0), max_scale_step=2.0, scope="ffn")
    found = measure_proposals(subject, evidence, shipped.held_out, free)
    (scale,) = found["scales"].values()
    assert list(found["scales"]) == [module]
    assert scale < 0.8
    gain = judge_gain(found["ab"], free)
    assert gain.repairable is True
    assert gain.n_documents == 16
    stepped = measure_proposals(subject, evidence, shipped.held_out, VARIANCE)
    assert stepped["scales"] == {module: 0.97}
    assert 0 < judge_gain(stepped["ab"], VARIANCE).mean < gain.mean
    assert tensor_digests(subject) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.modules())


def test_a_lost_rank_is_not_repaired_by_a_scale(shipped: Shipped) -> None:
    subject = copy.deepcopy(shipped.model)
    matrix = next(m for m in weight_matrices(subject) if m.role == "down" and m.block == 1)
    matrix.weight.copy_(drawn(matrix.weight.detach()))
    evidence = compare_branches(subject, shipped.windows, shipped.record)
    free = VariancePolicy(clamp=(0.3, 3.0), max_scale_step=2.0)
    scales = proposed_scales(eligible(evidence, free), free)
    found = measure_proposals(subject, evidence, shipped.held_out, free)
    assert found["scales"] == scales
    whole = next_token_losses(shipped.model, shipped.held_out[0])
    broken = next_token_losses(subject, shipped.held_out[0])
    lost = (sum(broken[0]) - sum(whole[0])) / sum(whole[1])
    # Whatever a scale gains here, it brings back little of what was lost.
    assert judge_gain(found["ab"], free).mean < 0.5 * lost


def test_an_edit_of_attention_has_no_target_at_the_feed_forward_tap(shipped: Shipped) -> None:
    subject, _ = scaled(shipped, 1.5, role="o")
    evidence = compare_branches(subject, shipped.windows, shipped.record)
    found = measure_proposals(subject, evidence, shipped.held_out, VARIANCE)
    assert found["n_eligible"] == 0
    assert found["reason"] == "no edited branch has its output at tap down in scope ffn"
    metrics = judge_variance(measure_variance(evidence, found), kind="any", policy=VARIANCE).metrics
    assert metrics["proposals"] == "not_applicable"
    attention = VariancePolicy(tap=("down", "o"), scope="both")
    assert measure_proposals(subject, evidence, shipped.held_out, attention)["n_eligible"] == 1


def rows(*log_rms: float) -> list[dict[str, Any]]:
    return [{"output": f"layers.{n}.down", "log_rms": value} for n, value in enumerate(log_rms)]


def test_the_sizes_of_proposals() -> None:
    policy = VariancePolicy(max_adjusted_modules=0)
    scales = proposed_scales(rows(0.5, -0.025, 0.001), policy)
    assert scales == {"layers.0.down": 0.97, "layers.1.down": pytest.approx(math.exp(0.025))}
    one = VariancePolicy(max_adjusted_modules=1)
    assert list(proposed_scales(rows(0.025, -0.5), one)) == ["layers.1.down"]
    clamped = VariancePolicy(max_scale_step=9, clamp=(0.85, 1.12))
    assert proposed_scales(rows(1.0), clamped) == {"layers.0.down": 0.85}
    # Half a step is admitted where there is none, as often as the backstop says.
    backstop = VariancePolicy(topk_backstop=1, max_adjusted_modules=0)
    assert len(proposed_scales(rows(0.015, 0.014), backstop)) == 1
    assert proposed_scales(rows(0.015, 0.014), VariancePolicy(topk_backstop=0)) == {}
    assert proposed_scales(rows(0.009), backstop) == {}


def test_gains_are_summed_by_document(shipped: Shipped) -> None:
    subject, _ = scaled(shipped, 1.5)
    evidence = compare_branches(subject, shipped.windows, shipped.record)
    names = ["a"] * 10 + ["b"] * 6
    found = measure_proposals(
        subject, evidence, shipped.held_out, VARIANCE, documents=names
    )["ab"]  # fmt: skip
    assert found["tokens"] == [10 * 95, 6 * 95]
    alone = measure_proposals(subject, evidence, shipped.held_out, VARIANCE)["ab"]
    assert found["gains"][0] == pytest.approx(sum(alone["gains"][:10]))
    untried = measure_proposals(subject, evidence, [], VARIANCE)
    assert (untried["ab"], untried["ab_reason"]) == (None, "there are no held-out windows")
    broken = measure_proposals(
        subject, evidence, shipped.held_out, VARIANCE,
        losses=lambda _m, b: ([math.nan] * len(b["input_ids"]), [1.0] * len(b["input_ids"])),
    )  # fmt: skip
    assert (broken["ab"], broken["ab_reason"]) == (None, "a loss was not finite")


def test_losses_leave_padding_out(architecture: Any) -> None:
    model = architecture("llama")
    ids = torch.arange(3, 12).reshape(1, 9)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    padded = next_token_losses(model, {"input_ids": ids, "attention_mask": mask})
    short = next_token_losses(model, {"input_ids": ids[:, :6]})
    assert padded[1] == short[1] == [5.0]
    assert padded[0] == pytest.approx(short[0], rel=1e-5)
