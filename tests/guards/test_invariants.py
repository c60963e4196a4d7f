"""The invariants guard: every difference of structure is found, and absent evidence never passes."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from invarlock_guards import InvariantsGuard
from invarlock_guards.judge.invariants import judge_invariants
from invarlock_guards.measure.invariants import (
    count_non_finite,
    measure_invariants,
    read_structure,
)
from transformers import LlamaConfig

from pytest_invarlock.evidence.strict_json import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from invarlock_guards.contract import GuardResult


class Net(torch.nn.Module):
    """Two layers, a buffer of integers, and optionally tied weights."""

    def __init__(self, *, tied: bool = False, width: int = 4, extra: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = torch.nn.Linear(width, 4, bias=False)
            self.second = torch.nn.Linear(width, 4, bias=False)
        if tied:
            self.second.weight = self.first.weight
        else:
            self.second.weight.data.copy_(self.first.weight.data)
        if extra:
            self.extra = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("steps", torch.arange(3))


class Configured(Net):
    def __init__(self, **change: Any) -> None:
        super().__init__()
        self.config = LlamaConfig(**change)


def judged(
    baseline: torch.nn.Module,
    subject: torch.nn.Module,
    kind: str = "any",
    tokenizers: tuple[str | None, str | None] = (None, None),
) -> GuardResult:
    evidence = measure_invariants(
        read_structure(baseline, tokenizers[0]), read_structure(subject, tokenizers[1])
    )
    assert canonical(evidence)
    return judge_invariants(evidence, kind=kind)


def changed(change: Callable[[Any], object]) -> Net:
    net = Net()
    with torch.no_grad():
        change(net)
    return net


def half_of(net: Net) -> None:
    net.first.weight.data = net.first.weight.data.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("subject", "kind", "module"),
    [
        (changed(lambda net: delattr(net, "second")), "missing_tensor", "second.weight"),
        (Net(extra=True), "unexpected_tensor", "extra"),
        (Net(width=5), "shape_change", "first.weight"),
        (changed(half_of), "dtype_change", "first.weight"),
        (changed(lambda net: net.first.weight[1, 2].fill_(math.nan)), "non_finite", "first.weight"),
        (changed(lambda net: net.second.weight[0].fill_(-math.inf)), "non_finite", "second.weight"),
        (Net(tied=True), "tie_added", "first.weight = second.weight"),
        (changed(lambda net: setattr(net, "steps", net.steps.int())), "dtype_change", "steps"),
    ],
)
def test_every_difference_of_structure_fails_naming_the_tensor(
    subject: Net, kind: str, module: str
) -> None:
    result = judged(Net(), subject)
    assert result.passed is False
    assert result.action == "abort"
    assert (kind, module) in {(v.kind, v.module) for v in result.violations}
    assert result.reason == result.violations[0].kind
    assert module in result.text


def test_a_broken_tie_fails() -> None:
    result = judged(Net(tied=True), Net())
    assert [v.kind for v in result.violations] == ["tie_broken"]


def test_another_tokenizer_fails() -> None:
    result = judged(Net(), Net(), tokenizers=("sha256:a", "sha256:b"))
    assert [v.kind for v in result.violations] == ["tokenizer_change"]
    assert judged(Net(), Net(), tokenizers=("sha256:a", None)).passed is False
    assert judged(Net(), Net(), tokenizers=("sha256:a", "sha256:a")).passed is True


@pytest.mark.parametrize(
    "change", [{"rms_norm_eps": 0.1}, {"hidden_act": "gelu"}, {"num_key_value_heads": 1}]
)
def test_a_config_key_that_changes_the_function_fails(change: dict[str, Any]) -> None:
    result = judged(Configured(), Configured(**change))
    assert next(iter(change)) in {v.module for v in result.violations}
    assert {v.kind for v in result.violations} == {"config_change"}


@pytest.mark.parametrize("evidence", [{}, {"n_tensors": 0}])
def test_without_a_compared_tensor_nothing_is_judged(evidence: Any) -> None:
    result = judge_invariants(evidence, kind="any")
    assert result.passed is None
    assert result.reason == "nothing_measured"


def test_identical_models_pass() -> None:
    result = judged(Net(), Net())
    assert (result.passed, result.action, result.violations) == (True, "continue", ())
    assert result.metrics["n_tensors"] == 3
    assert result.metrics["n_parameters"] == 16 + 16 + 3
    assert judged(Net(tied=True), Net(tied=True)).metrics["n_parameters"] == 16 + 3


def test_other_weights_of_the_same_structure_pass() -> None:
    assert judged(Net(), changed(lambda net: net.first.weight.mul_(3))).passed is True


@pytest.mark.parametrize(
    ("kind", "passed"),
    [("any", True), ("cast", True), ("quantize8", False), ("prune", False), ("finetune", False)],
)
def test_a_cast_of_all_tensors_is_expected_only_where_the_kind_allows_it(
    kind: str, passed: bool
) -> None:
    result = judged(Net(), Net().to(torch.bfloat16), kind)
    assert result.passed is passed
    assert len(result.expected_changes) == (2 if passed else 0)
    assert len(result.violations) == (0 if passed else 2)


@pytest.mark.parametrize("kind", ["any", "cast", "quantize8"])
def test_a_cast_of_one_tensor_of_many_fails_under_every_kind(kind: str) -> None:
    assert judged(Net(), changed(half_of), kind).passed is False


def test_casts_to_several_dtypes_fail() -> None:
    def mixed(net: Net) -> None:
        half_of(net)
        net.second.weight.data = net.second.weight.data.half()

    assert judged(Net(), changed(mixed)).passed is False


@pytest.mark.parametrize(
    "change",
    [
        {"_name_or_path": "elsewhere"}, {"use_cache": False}, {"eos_token_id": 9},
        {"architectures": ["Other"]},
    ],
)  # fmt: skip
def test_config_keys_that_do_not_change_the_function_are_no_violations(
    change: dict[str, Any],
) -> None:
    assert judged(Configured(), Configured(**change)).passed is True


def test_the_order_of_config_keys_is_no_violation() -> None:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    turned = dict(reversed(rope.items()))
    result = judged(Configured(rope_parameters=rope), Configured(rope_parameters=turned))
    assert result.violations == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_non_finite_elements_are_counted(dtype: torch.dtype) -> None:
    tensor = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1.0], dtype=dtype)
    assert count_non_finite(tensor) == 3
    assert count_non_finite(torch.arange(3)) == 0


def test_elements_of_eight_bits_are_counted() -> None:
    tensor = torch.tensor([0.0, math.nan, 1.0]).to(torch.float8_e4m3fn)
    assert count_non_finite(tensor) == 1


def test_a_damaged_baseline_is_told_apart() -> None:
    damaged = changed(lambda net: net.first.weight[0, 0].fill_(math.nan))
    structure = read_structure(damaged, None)
    evidence = measure_invariants(structure, structure)
    assert evidence["baseline_non_finite"] == ["first.weight"]
    assert evidence["non_finite"] == [{"name": "first.weight", "baseline": "1", "subject": "1"}]


def test_empty_tensors_are_not_tied() -> None:
    net = Net()
    net.empty_one = torch.nn.Parameter(torch.empty(0))
    net.empty_two = torch.nn.Parameter(torch.empty(0))
    assert read_structure(net, None).ties == frozenset()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_language_models_compare_with_themselves(kind: str, tiny_model: Any) -> None:
    result = judged(tiny_model(kind), tiny_model(kind))
    assert result.passed is True
    tied = read_structure(tiny_model(kind), None).ties
    assert tied == (
        frozenset({("lm_head.weight", "transformer.wte.weight")}) if kind == "gpt2" else frozenset()
    )


def test_a_guard_that_was_not_prepared_judges_nothing() -> None:
    result = InvariantsGuard().validate(Net(), None, None)
    assert (result.passed, result.reason) == (None, "not_prepared")


def test_the_guard_prepares_then_validates() -> None:
    guard = InvariantsGuard()
    assert guard.prepare(Net(), None, None, {}) == {"ready": True}
    assert guard.validate(Net(), None, None).passed is True
    assert guard.validate(Net(extra=True), None, None).passed is False


def test_the_judge_and_the_contract_work_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import invarlock_guards\n"
        "from invarlock_guards.judge.invariants import judge_invariants\n"
        "print(invarlock_guards.GuardResult.__name__, judge_invariants({}, kind='any').reason)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "GuardResult nothing_measured", ran.stderr
