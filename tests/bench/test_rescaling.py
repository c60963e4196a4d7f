"""Rescalings of a subject: what is proposed, what they gain, and that nothing of them stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from invarlock_guards.families import weight_matrices
from invarlock_guards.judge.variance import judge_gain
from invarlock_guards.judge.variance_policy import ProposalRules, VariancePolicy
from invarlock_guards.measure.forced_branches import BranchRecord, compare_branches, record_branches

from pytest_invarlock.bench import rescaling
from pytest_invarlock.bench.guard_side import guard_batches
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.rescaling import RescalingTrial, measure_rescaling, rescaling_trial
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.subject import Subject, loaded_subject
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.plan import (
    DataSource,
    MeasurementPlan,
    Pair,
    RescalingPlan,
    WindowSelection,
)

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence

MODEL = "builtin:llama"
PLAN = MeasurementPlan(
    source=DataSource("pydoc"),
    windows=WindowSelection(64, 64, preview_windows=8, final_windows=8, guard_windows=8),
    device="cpu", dtype="float32", threads=1, batch_tokens=512,
    rescaling=RescalingPlan(ProposalRules()),
)  # fmt: skip
FREE = ProposalRules(clamp=(0.3, 3.0), max_scale_step=2.0)
Damage = Callable[[torch.Tensor], torch.Tensor]


class Lab:
    """A resident baseline and its record, and copies of it with one matrix of block 1 damaged."""

    def __init__(self) -> None:
        self.bench = Bench(Pair(MODEL, MODEL), PLAN)
        model = self.bench.baseline
        self.batches = guard_batches(model, self.bench.windows(0), PLAN)
        self.record: BranchRecord = record_branches(model.model, self.batches, edge_windows=0)
        self._made: dict[tuple[Damage, str], tuple[Subject, str, GuardEvidence, Any]] = {}

    def damaged(self, damage: Damage, role: str = "down") -> tuple[Subject, str]:
        """A subject, which every test leaves as it was, and the damaged module."""
        return self._of(damage, role)[:2]

    def trial(self, damage: Damage, plan: RescalingPlan, role: str = "down") -> RescalingTrial:
        made = rescaling_trial(self.bench, 0, self._of(damage, role)[3])
        assert made is not None
        return replace(made, plan=plan)

    def measured(
        self, damage: Damage, rules: ProposalRules, role: str = "down", *, remediate: bool = False
    ) -> dict[str, Any]:
        subject, _, compared, _ = self._of(damage, role)
        trial = self.trial(damage, RescalingPlan(rules, remediate=remediate), role)
        return measure_rescaling(compared, subject, trial)

    def _of(self, damage: Damage, role: str) -> tuple[Subject, str, GuardEvidence, Any]:
        if (damage, role) not in self._made:
            model = copy.deepcopy(self.bench.baseline.model)
            matrix = next(m for m in weight_matrices(model) if m.role == role and m.block == 1)
            with torch.no_grad():
                matrix.weight.copy_(damage(matrix.weight.detach()))
            subject = loaded_subject(replace(self.bench.baseline, model=model))
            compared = compare_branches(model, self.batches, self.record)
            arms = self.bench.measure_subject(subject, 0)
            name = matrix.name.removesuffix(".weight")
            self._made[damage, role] = subject, name, compared, arms
        return self._made[damage, role]


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab()


def enlarged(weight: torch.Tensor) -> torch.Tensor:
    return weight * 2.5


def without_its_largest_directions(weight: torch.Tensor) -> torch.Tensor:
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    values[: len(values) // 2] = 0
    return (left * values) @ right


def test_a_scale_is_won_back_and_undone(lab: Lab) -> None:
    subject, module = lab.damaged(enlarged)
    before = tensor_digests(subject.loaded.model)
    found = lab.measured(enlarged, FREE, remediate=True)
    assert found["scales"] == {module: pytest.approx(1 / 2.5, rel=1e-6)}
    gain = judge_gain(found["ab"], VariancePolicy())
    assert (gain.repairable, gain.n_documents) == (True, 8)
    documents = {window.document for window in lab.bench.windows(0).preview}
    assert set(found["ab"]["documents"]) == documents
    made = found["remediation"]
    tensor = made["tensors"][f"{module}.weight"]
    assert list(made["tensors"]) == [f"{module}.weight"]
    assert tensor["before"] == tensor["restored"] != tensor["applied"]
    assert set(made["ab"]["documents"]) == {w.document for w in lab.bench.windows(0).final}
    assert judge_gain(made["ab"], VariancePolicy()).mean > 0
    assert tensor_digests(subject.loaded.model) == before
    assert not any(m._forward_hooks for m in subject.loaded.model.modules())


def test_a_lost_rank_is_not_won_back(lab: Lab) -> None:
    _, module = lab.damaged(without_its_largest_directions)
    found = lab.measured(without_its_largest_directions, ProposalRules())
    assert found["scales"] == {module: 1.03}
    assert judge_gain(found["ab"], VariancePolicy()).repairable is False


def test_an_edit_of_attention_alone_has_no_target_until_it_is_tapped(lab: Lab) -> None:
    _, module = lab.damaged(enlarged, "o")
    found = lab.measured(enlarged, ProposalRules(), "o", remediate=True)
    reason = "no edited branch has its output at tap down in scope ffn"
    assert (found["n_eligible"], found["reason"], found["ab"]) == (0, reason, None)
    assert found["remediation"] == {"tensors": {}, "ab": None, "reason": rescaling.NOTHING}
    tapped = ProposalRules(tap=("o",), scope="attn", clamp=(0.99, 1.12))
    found = lab.measured(enlarged, replace(tapped, deadband=0.01, min_abs_adjust=0), "o")
    assert found["scales"] == {module: 0.99}
    assert found["ab"] is not None


def test_without_a_proposal_nothing_is_passed_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(rescaling, "score")
    found = lab.measured(enlarged, ProposalRules(deadband=9))
    assert (found["n_eligible"], found["scales"]) == (1, {})
    assert found["reason"] == "no branch is off by more than the deadband"


def test_what_the_guards_saw_is_left_out(lab: Lab) -> None:
    subject, _ = lab.damaged(enlarged)
    trial = lab.trial(enlarged, RescalingPlan(ProposalRules()))
    first = lab.bench.windows(0).preview[0].document
    found = replace(trial, seen=frozenset({first})).effect(subject.loaded.model, "preview")
    assert first not in found["ab"]["documents"]
    # The same model on the same batches: no gain, to the last bit.
    assert set(found["ab"]["gains"]) == {0.0}
    every = frozenset(window.document for window in lab.bench.windows(0).preview)
    found = replace(trial, seen=every).effect(subject.loaded.model, "preview")
    assert found == {"ab": None, "ab_reason": rescaling.GUARDS_OWN}


def test_choices_have_no_gain(lab: Lab) -> None:
    subject, _ = lab.damaged(enlarged)
    trial = lab.trial(enlarged, RescalingPlan(ProposalRules(), remediate=True))
    windows = trial.windows
    choices = tuple(replace(window, example=0) for window in windows.final)
    asked = replace(trial, windows=replace(windows, arms={**windows.arms, "final": choices}))
    found = measure_rescaling({}, subject, asked)
    assert (found["n_eligible"], found["reason"]) == (None, rescaling.CHOICES)
    assert found["remediation"]["reason"] == rescaling.CHOICES


def test_what_breaks_off_leaves_the_subject_as_it_was(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, module = lab.damaged(enlarged)
    before = tensor_digests(subject.loaded.model)
    trial = lab.trial(enlarged, RescalingPlan(FREE, remediate=True))

    def broken(*_: object, **__: object) -> None:
        assert tensor_digests(subject.loaded.model) != before
        raise KeyboardInterrupt

    monkeypatch.setattr(rescaling, "score", broken)
    with pytest.raises(KeyboardInterrupt):
        rescaling.remediate(subject, {module: 0.9}, trial)
    assert tensor_digests(subject.loaded.model) == before


@pytest.mark.parametrize(
    ("module", "changes", "said"),
    [
        ("model.norm", {}, "no projection"),
        ("model.layers.9", {}, "no projection"),
        ("model.layers.1.mlp.down_proj", {"edit": {"name": "x"}}, "damaged view"),
    ],
)
def test_weights_that_cannot_carry_a_scale_are_left_alone(
    lab: Lab, module: str, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, _ = lab.damaged(enlarged)
    monkeypatch.delattr(EditJournal, "write")
    trial = RescalingTrial(
        RescalingPlan(FREE), lab.bench.windows(0), {}, 0, frozenset(), lambda *_: None
    )
    made = rescaling.remediate(replace(subject, **changes), {module: 0.9}, trial)
    assert (made["ab"], said in made["reason"]) == (None, True)
