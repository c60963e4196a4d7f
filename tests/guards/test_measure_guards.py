"""Evidence of the invariants, RMT and variance guards on modules of a few numbers, in full."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards import InvariantsGuard, RMTGuard, VarianceGuard
from invarlock_guards.judge.rmt import RMTPolicy
from invarlock_guards.judge.variance_policy import VariancePolicy
from invarlock_guards.measure import invariants, rmt, variance, variance_proposals
from invarlock_guards.measure.invariants import (
    IGNORED_CONFIG_KEYS,
    ModelStructure,
    config_values,
    count_non_finite,
    measure_invariants,
    read_config,
    read_structure,
)
from invarlock_guards.measure.rmt import measure_rmt
from invarlock_guards.measure.variance import measure_variance
from invarlock_guards.measure.variance_proposals import (
    measure_proposals,
    next_token_losses,
    rescaled,
    tried,
)


def test_config_keys_that_change_nothing() -> None:
    assert {
        "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version",
        "return_dict", "output_attentions", "output_hidden_states", "use_cache", "bos_token_id",
        "eos_token_id", "pad_token_id", "quantization_config",
    } == IGNORED_CONFIG_KEYS  # fmt: skip
    values = {"use_cache": True, "b": {"z": 1, "a": None}, "c": 1.5, "d": {2}.__class__}
    assert config_values(values) == {
        "b": '{"a": null, "z": 1}', "c": "1.5", "d": "\"<class 'set'>\""
    }  # fmt: skip
    model = torch.nn.Linear(1, 1)
    assert read_config(model) == {}
    model.config = {"a": 1}  # type: ignore[assignment]
    assert read_config(model) == {}
    model.config = SimpleNamespace(to_dict=lambda: {"a": 1})  # type: ignore[assignment]
    assert read_config(model) == {"a": "1"}


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two = torch.nn.Parameter(torch.tensor([[1.0, math.nan], [math.inf, 2.0]]))
        self.one = self.two
        self.turned = torch.nn.Parameter(self.two.data.T)
        self.small = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
        self.register_buffer("steps", torch.arange(2))
        self.register_buffer("none", torch.zeros(0))
        self.register_buffer("empty", torch.zeros(0))
        self.config = SimpleNamespace(to_dict=lambda: {"use_cache": True, "depth": 2})


def test_the_structure_of_a_module() -> None:
    square = ((2, 2), "float32")
    assert read_structure(Tied(), "tok", ["b", "a"]) == ModelStructure(
        tensors={"two": square, "one": square, "turned": square, "small": ((3,), "float16"),
                 "steps": ((2,), "int64"), "none": ((0,), "float32"), "empty": ((0,), "float32")},
        ties=frozenset({("one", "two")}), config={"depth": "2"}, tokenizer="tok",
        non_finite={"one": 2, "turned": 2}, n_parameters=4 + 4 + 3 + 2,
        unread=frozenset({"a", "b"}),
    )  # fmt: skip


def test_broken_elements_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "BLOCK_ELEMENTS", 3)
    values = torch.ones(2, 4)
    values[0, 0] = values[1, 3] = math.nan
    values[1, 0] = -math.inf
    assert count_non_finite(values) == count_non_finite(values.T) == 3
    assert count_non_finite(values.to(torch.float8_e5m2)) == 3
    assert count_non_finite(torch.ones(3).int()) == 0
    assert type(count_non_finite(values)) is int


def structure(**change: Any) -> ModelStructure:
    plain: dict[str, Any] = {
        "tensors": {"a": ((2, 2), "float32"), "b": ((2,), "int64"), "c": ((1,), "float16")},
        "ties": frozenset({("a", "z")}), "config": {"k": "1", "same": "0"}, "tokenizer": "t",
        "non_finite": {}, "n_parameters": 7, "unread": frozenset({"u"}),
    }  # fmt: skip
    return ModelStructure(**plain | change)


def test_every_difference_of_two_structures() -> None:
    long = "x" * 81
    subject = structure(
        tensors={"d": ((1,), "int8"), "a": ((2, 3), "float32"), "b": ((2,), "int32"),
                 "e": ((1,), "int8")},
        ties=frozenset({("d", "e")}), config={"k": "2", "same": "0", "n": "x" * 80, "long": long,
                                              "path": "a/b", "back": "a\\b"},
        tokenizer=None, non_finite={"d": 3, "a": 1}, n_parameters=9, unread=frozenset({"u", "v"}),
    )  # fmt: skip
    baseline = structure(non_finite={"c": 2, "a": 5})

    def row(name: str, one: str, other: str) -> dict[str, str]:
        return {"name": name, "baseline": one, "subject": other}

    found = measure_invariants(baseline, subject)
    digests = {d["name"]: d["subject"] for d in found["config_changes"]}
    assert all(digests[k].startswith("sha256:") for k in ("long", "path", "back"))
    assert digests["path"] == (
        "sha256:c14cddc033f64b9dea80ea675cf280a015e672516090a5626781153dc68fea11"
    )
    assert found | {"config_changes": None} == {
        "n_tensors": 3, "n_floating_tensors": 2, "n_parameters": 7,
        "missing": [row("c", "present", "missing")],
        "unexpected": [
            row("d", "absent", "present"), row("e", "absent", "present"),
            row("v", "absent", "present and not read by the architecture"),
        ],
        "shape_changes": [row("a", "(2, 2)", "(2, 3)")],
        "dtype_changes": [row("b", "int64", "int32")],
        "non_finite": [row("a", "5", "1"), row("d", "0", "3")],
        "baseline_non_finite": ["a", "c"],
        "ties_broken": [row("a = z", "tied", "untied")],
        "ties_added": [row("d = e", "untied", "tied")],
        "config_changes": None,
        "tokenizer_changes": [row("tokenizer", "t", "None")],
    }  # fmt: skip
    assert [d for d in found["config_changes"] if d["name"] in ("k", "n")] == [
        row("k", "1", "2"), row("n", "absent", "x" * 80)
    ]  # fmt: skip
    assert list(digests) == ["back", "k", "long", "n", "path"]
    same = measure_invariants(baseline, baseline)
    differing = {k for k, v in same.items() if isinstance(v, list) and v}
    assert differing == {"non_finite", "baseline_non_finite"}


@pytest.mark.parametrize("made", [InvariantsGuard, RMTGuard, VarianceGuard])
def test_a_guard_that_saw_no_baseline_says_so(made: Any) -> None:
    answer = made().validate(torch.nn.Linear(1, 1), None, None)
    assert (answer.guard, answer.passed, answer.action) == (made.name, None, "abort")
    assert answer.reason == "not_prepared"
    assert answer.text == "the baseline was never shown to the guard"


def test_the_invariants_guard_judges_by_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, seen = InvariantsGuard(kind="cast"), []
    monkeypatch.setattr(
        invariants, "judge_invariants", lambda e, *, kind: seen.append((e, kind)) or "judged"
    )
    model = torch.nn.Linear(2, 1)
    assert guard.prepare(model, None, None, {}) == {"ready": True}
    assert guard.validate(model.half(), None, None) == "judged"
    assert seen[0][1] == "cast"
    assert [d["subject"] for d in seen[0][0]["dtype_changes"]] == ["float16", "float16"]


def test_evidence_is_the_comparison_and_what_was_measured_beside_it() -> None:
    assert measure_rmt({"a": 1}) == {"a": 1, "edge_of_change": None, "change_size": {}}
    assert measure_rmt({"a": 1}, {"m": None}, {"m": 2.0}) == {
        "a": 1, "edge_of_change": {"m": None}, "change_size": {"m": 2.0}
    }  # fmt: skip
    assert measure_variance({"a": 1}) == {"a": 1, "proposals": None}
    assert measure_variance({"a": 1}, {"p": 2}) == {"a": 1, "proposals": {"p": 2}}


class Calls:
    """Stands for what records, compares and judges; keeps what each was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, judge: str) -> None:
        self.seen: dict[str, Any] = {}
        for name in ("record_branches", "compare_branches", judge, "readiness"):
            monkeypatch.setattr(module, name, self.named(name))

    def named(self, name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self.seen[name] = (given, named)
            return {"from": name}

        return call


def test_what_the_rmt_guard_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, rmt, "judge_rmt")
    guard = RMTGuard(kind="cast", policy=RMTPolicy(margin=2.0, deadband=0.0))
    record = {"from": "record_branches"}
    assert guard.prepare("m", None, ({"x": 1},), {}) == {"from": "readiness"}
    assert calls.seen["record_branches"] == (
        ("m", [{"x": 1}]), {"edge_windows": 8, "outlier_factor": 2.0}
    )  # fmt: skip
    assert calls.seen["readiness"] == ((record,), {})
    given = {"edge_of_change": {"w": 1.0}, "change_size": {"w": 2.0}}
    assert guard.validate("s", None, given) == {"from": "judge_rmt"}
    assert calls.seen["compare_branches"] == (("s", [{"x": 1}], record), {})
    (evidence,), named = calls.seen["judge_rmt"]
    assert evidence == {"from": "compare_branches", **given}
    assert named == {"kind": "cast", "policy": RMTPolicy(margin=2.0, deadband=0.0)}
    guard.validate("s", None, "no mapping")
    assert calls.seen["judge_rmt"][0][0]["edge_of_change"] is None
    guard.prepare("m", None, None, {"error": 0.5})
    assert calls.seen["record_branches"][0] == ("m", [])
    guard.validate("s", None, None)
    assert calls.seen["judge_rmt"][1]["policy"] == RMTPolicy.from_mapping({"error": 0.5})
    with pytest.raises(ValueError, match="nosuch"):
        RMTGuard(kind="nosuch")


def test_what_the_variance_guard_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, variance, "judge_variance")
    monkeypatch.setattr(variance, "measure_proposals", calls.named("measure_proposals"))
    record, policy = {"from": "record_branches"}, VariancePolicy(deadband=0.5)
    guard = VarianceGuard("cast", policy, held_out=["batch"], losses="losses")
    assert guard.prepare("m", None, ({"x": 1},), {}) == {"from": "readiness"}
    assert calls.seen["record_branches"] == (("m", [{"x": 1}]), {"edge_windows": 0})
    assert calls.seen["readiness"] == ((record,), {})
    assert guard.validate("s", None, None) == {"from": "judge_variance"}
    comparison = {"from": "compare_branches"}
    assert calls.seen["compare_branches"] == (("s", [{"x": 1}], record), {})
    assert calls.seen["measure_proposals"] == (
        ("s", comparison, ["batch"], policy), {"losses": "losses"}
    )  # fmt: skip
    assert calls.seen["judge_variance"] == (
        (comparison | {"proposals": {"from": "measure_proposals"}},),
        {"kind": "cast", "policy": policy},
    )
    plain = VarianceGuard()
    plain.prepare("m", None, None, {"deadband": 0.25})
    plain.validate("s", None, None)
    (evidence,), named = calls.seen["judge_variance"]
    assert evidence["proposals"] is None
    assert named == {"kind": "any", "policy": VariancePolicy.from_mapping({"deadband": 0.25})}
    with pytest.raises(ValueError, match="nosuch"):
        VarianceGuard(kind="nosuch")


class Answers(torch.nn.Module):
    """Gives fixed logits through a named part, so that what is rescaled is known."""

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self.part = torch.nn.Identity()
        self.several = several

    def forward(self, logits: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.part((logits, "more") if self.several else logits))


def test_a_rescaled_model_is_itself_again() -> None:
    model, given = Answers(), torch.ones(1, 2)
    with rescaled(model, {"part": 3.0}):
        assert model(given).logits.tolist() == [[3, 3]]
    assert model(given).logits.tolist() == [[1, 1]]
    assert not model.part._forward_hooks
    several = Answers(several=True)
    with rescaled(several, {"part": 3.0}):
        found = several(given).logits
    assert (found[0].tolist(), found[1:]) == ([[3, 3]], ("more",))


def test_losses_of_tokens_that_are_real_and_follow_real_ones() -> None:
    logits = torch.zeros(2, 4, 2)
    logits[..., 1] = math.log(3)
    ids = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    one, zero = math.log(4 / 3), math.log(4)
    batch = {"logits": logits, "input_ids": ids}
    losses, counts = next_token_losses(Answers(), batch)
    assert losses == pytest.approx([2 * one + zero, 3 * zero])
    assert counts == [3.0, 3.0]
    mask = torch.tensor([[0, 1, 1, 0], [1, 2, 1, 1]])
    losses, counts = next_token_losses(Answers(), batch | {"attention_mask": mask})
    assert losses == pytest.approx([one, 3 * zero])
    assert counts == [1.0, 3.0]


def test_gains_by_document() -> None:
    none = {"ab": None, "ab_reason": "there are no held-out windows"}
    assert tried([], [], []) == none
    assert tried(["a", "b", "a"], [1.0, 2.0, -0.5], [3, 4, 5]) == {
        "ab": {"documents": ["a", "b"], "gains": [0.5, 2.0], "tokens": [8.0, 4.0]},
        "ab_reason": None,
    }
    broken = {"ab": None, "ab_reason": "a loss was not finite"}
    assert tried(["a", "b"], [1.0, math.nan], [1, 1]) == broken
    assert tried(["a"], [1.0], [0]) == broken
    with pytest.raises(ValueError, match="zip"):
        tried(["a"], [1.0, 2.0], [1])


def proposals(monkeypatch: pytest.MonkeyPatch, scales: Any, held_out: Any, **more: Any) -> Any:
    monkeypatch.setattr(
        variance_proposals, "propose", lambda c, r: {"scales": scales, "ab": 0, "of": (c, r)}
    )
    model = Answers()
    model.train()
    return measure_proposals(model, "c", held_out, "r", **more)


def test_proposals_are_tried_on_held_out_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, float]] = []

    def losses(model: Any, batch: Any) -> Any:
        value = float(model(batch["x"]).logits[0])
        seen.append((model.training, value))
        return [10.0 * value, 20.0], [2.0, 3.0]

    batch = {"x": torch.ones(2)}
    untried = {"scales": {}, "ab": 0, "of": ("c", "r")}
    assert proposals(monkeypatch, {}, [batch], losses=losses) == untried
    scales = {"part": 0.5}
    assert proposals(monkeypatch, scales, [], losses=losses) == untried | {
        "scales": scales, "ab_reason": "there are no held-out windows"
    }  # fmt: skip
    found = proposals(monkeypatch, scales, [batch, batch], losses=losses)
    assert seen == [(False, 1.0)] * 2 + [(False, 0.5)] * 2
    assert found == {
        "scales": scales, "of": ("c", "r"), "ab_reason": None,
        "ab": {"documents": [0, 1, 2, 3], "gains": [5.0, 0.0, 5.0, 0.0], "tokens": [2, 3, 2, 3]},
    }  # fmt: skip
    named = proposals(monkeypatch, scales, [batch], losses=losses, documents=["d", "d"])
    assert named["ab"] == {"documents": ["d"], "gains": [5.0], "tokens": [5.0]}
    with pytest.raises(ValueError, match=r"^losses gave 2 numbers for 3 windows$"):
        proposals(monkeypatch, scales, [{"x": torch.ones(3)}], losses=losses)
    with pytest.raises(ValueError, match="zip"):
        proposals(monkeypatch, scales, [batch], losses=lambda *_: ([1.0, 2.0], [1.0]))
    text = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "logits": torch.zeros(1, 3, 2)}
    own = proposals(monkeypatch, scales, [text])
    assert own["ab"] == {"documents": [0], "gains": [0.0], "tokens": [2.0]}
