"""The spectral guard on real models: damage is found and named, legitimate changes pass."""

from __future__ import annotations

import doctest
import math
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from invarlock_guards import SpectralGuard
from invarlock_guards.families import weight_matrices
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.measure import spectral
from invarlock_guards.measure.canonical_change import (
    CanonicalChange,
    canonical_changes,
    unit_tensors,
)
from invarlock_guards.measure.canonical_layout import canonical_units
from invarlock_guards.measure.spectral import measure_models, measure_spectral
from invarlock_guards.measure.weight_change import (
    WeightChange,
    WeightPair,
    compare,
    weight_pairs,
)

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digest, tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.edits.magnitude_prune import pruned
from pytest_invarlock.edits.quant_rtn import round_to_nearest
from pytest_invarlock.edits.targets import as_rows, as_stored
from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.plan import EditSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from invarlock_guards.contract import GuardResult

MODELS = ("llama", "gpt2")
Rows = torch.Tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def rank(rows: Rows, k: int) -> Rows:
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    return (u[:, :k] * s[:k]) @ v[:k]


def redrawn(rows: Rows) -> Rows:
    drawn = torch.randn(rows.shape, generator=generator())
    return drawn * (rows.norm() / drawn.norm())


def zero_rows(rows: Rows) -> Rows:
    done = rows.clone()
    done[: len(rows) // 8] = 0
    return done


DAMAGE: dict[str, Callable[[Rows], Rows]] = {
    "scale 1.5": lambda w: w * 1.5,
    "scale 5": lambda w: w * 5,
    "scale .5": lambda w: w * 0.5,
    "scale .01": lambda w: w * 0.01,
    "rank 16": lambda w: rank(w, 16),
    "rank 1": lambda w: rank(w, 1),
    "permuted rows": lambda w: w[torch.randperm(len(w), generator=generator())],
    "negated": lambda w: -w,
    "redrawn": redrawn,
    "zeroed rows": zero_rows,
    "zeroed": torch.zeros_like,
    "noise 1": lambda w: w + redrawn(w),
    "prune .9": lambda w: pruned(w, 0.9),
    "RTN-2": lambda w: round_to_nearest(w, 2, 32),
}


class Baseline:
    """A shipped model, its tensors, and a way to change and restore it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.digests = tensor_digests(model)
        # What has which role is read of the model once: no test here changes that.
        self.pairs = list(weight_pairs(model, self.tensors, self.tensors))
        self.units = canonical_units(model)
        self._canons: dict[tuple[Any, ...], list[CanonicalChange]] = {}
        self._changes: dict[tuple[str, str], list[WeightChange]] = {}

    @contextmanager
    def journal(self) -> Iterator[EditJournal]:
        journal = EditJournal(self.model, self.digests)
        try:
            yield journal
        finally:
            journal.undo()

    def evidence(self) -> Any:
        now = dict(self.model.named_parameters())
        assert now.keys() == self.tensors.keys() == {pair.name for pair in self.pairs}
        assert not isinstance(self.units, str)
        pairs = [replace(pair, subject=now[pair.name].detach()) for pair in self.pairs]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spectral, "compare", self._compared)
            found = measure_spectral(pairs, list(self._canonical(now)))
        assert canonical(found)
        return found

    def _canonical(self, now: dict[str, torch.Tensor]) -> Iterator[CanonicalChange]:
        """`canonical_changes`, once for the same bits of a unit."""
        for index, unit in enumerate(self.units):
            names = sorted(unit_tensors(unit))
            changed = [n for n in names if not torch.equal(now[n], self.tensors[n])]
            key = (index, *(tensor_digest(now[name]) for name in changed), *changed)
            if key not in self._canons:
                self._canons[key] = list(canonical_changes([unit], self.tensors, now))
            yield from self._canons[key]

    def _compared(self, pair: WeightPair) -> list[WeightChange]:
        """`compare`, once for the same bits: most tensors of two damaged subjects are the same."""
        assert pair.baseline is not None
        assert pair.subject is not None
        if torch.equal(pair.baseline, pair.subject):
            return compare(pair)
        key = (pair.name, tensor_digest(pair.subject))
        if key not in self._changes:
            self._changes[key] = compare(pair)
        return self._changes[key]

    def judged(self) -> GuardResult:
        return judge_spectral(self.evidence(), kind="any")


@pytest.fixture(scope="module")
def baselines(shipped: Any) -> Iterator[dict[str, Baseline]]:
    made = {name: Baseline(shipped(name)) for name in MODELS}
    yield made
    for base in made.values():
        assert tensor_digests(base.model) == base.digests
        for name, tensor in base.tensors.items():
            assert tensor_digest(tensor) == base.digests[name]


@pytest.fixture
def baseline(baselines: dict[str, Baseline]) -> Callable[[str], Baseline]:
    return baselines.__getitem__


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("name", MODELS)
def test_gross_damage_of_any_matrix_fails_undeclared_and_is_named(
    name: str, damage: str, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    for matrix in weight_matrices(base.model, "all@layers=1"):
        with base.journal() as journal:
            rows = as_rows(matrix).clone()
            journal.write(matrix.name, as_stored(matrix, DAMAGE[damage](rows)))
            result = base.judged()
        assert result.passed is False, matrix.name
        assert result.violations[0].module == matrix.name
        assert result.violations[0].family == matrix.family
        assert {v.module for v in result.violations} == {matrix.name}


@pytest.mark.parametrize("name", MODELS)
def test_the_roles_of_a_changed_model_are_those_of_the_baseline(
    name: str, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    with base.journal() as journal:
        apply_edit(EditSpec("scale_explosion", {"factor": 2.0, "layer": 1}), journal)
        subject = dict(base.model.named_parameters())
        assert measure_models(base.model, base.tensors, subject) == base.evidence()


@pytest.mark.parametrize("damage", ["scale 1.5", "permuted rows", "redrawn", "rank 16"])
@pytest.mark.parametrize("name", MODELS)
def test_damage_under_a_quantisation_is_named_first(
    name: str, damage: str, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    with base.journal() as journal:
        apply_edit(EditSpec("quant_rtn", {"bitwidth": 4, "group_size": 32}), journal)
        for matrix in weight_matrices(base.model, "all@layers=2"):
            rounded = matrix.weight.detach().clone()
            rows = as_rows(matrix).clone()
            journal.write(matrix.name, as_stored(matrix, DAMAGE[damage](rows)))
            found = base.evidence()
            journal.write(matrix.name, rounded)
            for kind in ("any", "quantize4"):
                result = judge_spectral(found, kind=kind)
                assert result.passed is False
                assert result.violations[0].module == matrix.name


Step = tuple[str, dict[str, Any]]
BENIGN: list[tuple[str, tuple[Step, ...]]] = [
    ("cast", ()),
    ("quantize8", (("quant_rtn", {"bitwidth": 8}),)),
    ("quantize8", (("quant_rtn", {"bitwidth": 8, "group_size": 32}),)),
    ("quantize8", (("fp8_quant", {"format": "e4m3"}),)),
    ("quantize4", (("quant_rtn", {"bitwidth": 4, "group_size": 32}),)),
    ("quantize4", (("quant_rtn", {"bitwidth": 4}),)),
    ("quantize4", (("quant_rtn", {"bitwidth": 4, "group_size": 32, "scope": "ffn"}),)),
    ("prune", (("magnitude_prune", {"sparsity": 0.1}),)),
    ("prune", (("magnitude_prune", {"sparsity": 0.3}),)),
]


@pytest.mark.parametrize(("kind", "steps"), BENIGN, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_declared_changes_pass_as_declared_and_undeclared(
    name: str, kind: str, steps: tuple[Step, ...], baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    with base.journal() as journal:
        for step, parameters in steps:
            apply_edit(EditSpec(step, parameters), journal)
        found = base.evidence()
        for declared in (kind, "any"):
            result = judge_spectral(found, kind=declared)
            assert (result.passed, result.action, result.violations) == (True, "continue", ())
        assert bool(result.metrics["modules_changed"]) is bool(steps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_a_cast_of_every_tensor_passes(
    name: str, dtype: torch.dtype, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    # The shipped weights fit bfloat16 exactly, so they are moved off that grid first.
    before = {n: t * (1 + 2.0**-10) for n, t in base.tensors.items()}
    after = {n: t.to(dtype) for n, t in before.items()}
    found = measure_models(base.model, before, after)
    for kind in ("cast", "any"):
        assert judge_spectral(found, kind=kind).action == "continue"
    assert any(c["relative_change"] > 0 for c in found["changes"])


CONTROLS: tuple[Step, ...] = (
    ("permute_mlp_neurons", {}), ("rotate_value_output_heads", {}), ("fold_norm_gain", {}),
)  # fmt: skip
PAIR: Step = ("rescale_gated_pair", {"factor": 3.0})
RTN8: Step = ("quant_rtn", {"bitwidth": 8, "group_size": 32})
RTN4: Step = ("quant_rtn", {"bitwidth": 4, "group_size": 32})


BASES: list[tuple[str, tuple[Step, ...]]] = [
    *((name, (control,)) for name in MODELS for control in CONTROLS),
    *((name, (*CONTROLS, *rounded)) for name in MODELS for rounded in ((), (RTN8,), (RTN4,))),
    # GPT-2 has no gated pair.
    ("llama", (PAIR,)),
    ("llama", (PAIR, RTN8)),
]


@pytest.mark.parametrize(("name", "steps"), BASES, ids=str)
def test_another_basis_is_a_warning(
    name: str, steps: tuple[Step, ...], baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    with base.journal() as journal:
        for step, parameters in steps:
            apply_edit(EditSpec(step, parameters), journal)
        found = base.evidence()
        result = judge_spectral(found, kind="any")
        assert (result.passed, result.action, result.reason) == (True, "warn", "basis_changed")
        assert result.warnings
        # Not so where something else was declared.
        assert judge_spectral(found, kind="quantize4").passed is False


@pytest.mark.parametrize("name", MODELS)
def test_damage_hidden_under_another_basis_fails(
    name: str, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    with base.journal() as journal:
        for step, parameters in (*CONTROLS, RTN8):
            apply_edit(EditSpec(step, parameters), journal)
        for matrix in weight_matrices(base.model, "all@layers=0"):
            hidden = base.model.get_parameter(matrix.name).clone()
            journal.write(matrix.name, redrawn(hidden))
            result = base.judged()
            journal.write(matrix.name, hidden)
            assert result.passed is False
            # The parts of a product cannot be told apart: the damaged one is among those named.
            assert matrix.name in {v.module for v in result.violations}


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", MODELS)
def test_one_broken_number_anywhere_fails(
    name: str, number: float, baseline: Callable[[str], Baseline]
) -> None:
    base = baseline(name)
    for tensor in base.tensors:
        with base.journal() as journal:
            broken = base.tensors[tensor].clone()
            broken.view(-1)[-1] = number
            journal.write(tensor, broken)
            result = base.judged()
        assert (result.passed, result.violations[0].kind) == (False, "non_finite")
        assert result.violations[0].module == tensor
    name_of_first = next(iter(base.tensors))
    damaged = base.tensors | {name_of_first: base.tensors[name_of_first] * number}
    both = measure_models(base.model, damaged, damaged)
    assert judge_spectral(both, kind="any").reason == "baseline_non_finite"


def test_an_embedding_is_reported_and_fails_where_nothing_may_touch_it(
    baseline: Callable[[str], Baseline],
) -> None:
    base = baseline("llama")
    with base.journal() as journal:
        journal.write("model.embed_tokens.weight", base.tensors["model.embed_tokens.weight"] * 1.1)
        found = base.evidence()
    strict = judge_spectral(found, kind="cast")
    assert strict.violations[0].module == "model.embed_tokens.weight"
    result = judge_spectral(found, kind="any")
    assert result.passed is True
    assert result.metrics["outer_change"] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "qwen2_moe"])
def test_one_damaged_expert_is_named(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    tensors = {n: p.detach() for n, p in model.named_parameters()}
    name = next(n for n in tensors if "experts" in n and tensors[n].ndim == 3)
    damaged = tensors[name].clone()
    damaged[1] *= 2
    found = measure_models(model, tensors, tensors | {name: damaged})
    # gpt_oss and qwen2_moe have no canonical change: a declared kind needs none.
    result = judge_spectral(found, kind="any" if kind == "mixtral" else "quantize4")
    assert (result.passed, result.violations[0].module) == (False, f"{name}[1]")


def test_a_model_without_known_parts_warns(architecture: Any) -> None:
    model = architecture("mamba")
    tensors = {n: p.detach() for n, p in model.named_parameters()}
    name = next(n for n, t in tensors.items() if t.ndim == 2 and "mixer" in n)
    found = measure_models(model, tensors, tensors | {name: tensors[name] * 2})
    assert judge_spectral(found, kind="any").reason == "canon_unavailable"
    assert judge_spectral(found, kind="cast").violations[0].module == name
    assert judge_spectral(found, kind="any", policy=SpectralPolicy(scope="ffn")).passed is None


def test_tensors_that_are_missing_lower_the_coverage(baseline: Callable[[str], Baseline]) -> None:
    base = baseline("llama")
    packed = {
        n: t.to(torch.int8) if t.ndim == 2 and "mlp" in n else t for n, t in base.tensors.items()
    }
    result = judge_spectral(measure_models(base.model, base.tensors, packed), kind="any")
    assert (result.passed, result.reason) == (None, "coverage")
    gone = {n: t for n, t in base.tensors.items() if ".1." not in n}
    assert judge_spectral(measure_models(base.model, base.tensors, gone), kind="any").passed is None


@pytest.mark.parametrize("name", MODELS)
def test_the_guard_reads_and_writes_nothing(name: str, shipped: Any) -> None:
    model = shipped(name)
    before = tensor_digests(model)
    guard = SpectralGuard("cast")
    assert guard.prepare(model, None, None, {}) == {"ready": True}
    assert guard.validate(model, None, None).passed is True
    assert tensor_digests(model) == before


def test_the_guard_keeps_the_baseline_apart_from_a_model_edited_in_place(shipped: Any) -> None:
    base = Baseline(shipped("llama"))
    guard = SpectralGuard()
    guard.prepare(base.model, None, None, {"scope": "ffn"})
    with base.journal() as journal:
        apply_edit(EditSpec("scale_explosion", {"factor": 2.0, "layer": 2}), journal)
        result = guard.validate(base.model, None, None)
    assert (result.passed, result.violations[0].family) == (False, "ffn")
    assert ".2.mlp." in result.violations[0].module
    assert result.metrics["scope"] == "ffn"
    assert guard.validate(base.model, None, None).passed is True


def test_a_guard_that_was_not_prepared_judges_nothing(shipped: Any) -> None:
    result = SpectralGuard().validate(shipped("llama"), None, None)
    assert (result.passed, result.reason) == (None, "not_prepared")
    with pytest.raises(ValueError, match="scop"):
        SpectralGuard().prepare(shipped("llama"), None, None, {"scop": "all"})


def test_the_example_in_the_documentation_runs() -> None:
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(spectral.SpectralGuard, globs={}):
        runner.run(example)
    assert (runner.failures, runner.tries) == (0, 9)
