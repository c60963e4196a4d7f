"""Outputs of branches on a model of two small blocks: sums, edges, windows, calls and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from invarlock_guards.measure import forced_branches
from invarlock_guards.measure.branch_evidence import Agreement, EdgePairs, branch_evidence
from invarlock_guards.measure.branches import (
    Branch,
    BranchPlan,
    matrices_by_branch,
)
from invarlock_guards.measure.feature_edge import WindowEdge, window_edge
from invarlock_guards.measure.forced_branches import (
    _bits,
    _by_window,
    _evenly,
    _fingerprint,
    _mask,
    _padded_alike,
    _unpadded,
)
from invarlock_guards.measure.recorded_batch import Keeper, RecordedBatch, Replay
from invarlock_guards.measure.sublayers import ProjectionSite
from invarlock_guards.measure.watched_forward import (
    BranchError,
    n_windows,
    one_window,
    quiet,
    watched_forward,
)

NONE = {"e": None, "l": None, "c": None, "log_rms": None}


def edge(value: float | None, dead: int = 0, outliers: int = 0, *, finite: bool = True) -> Any:
    return WindowEdge(value, 10, dead, outliers, finite=finite)


def test_sums_of_outputs_add_up_over_windows() -> None:
    sums = Agreement()
    assert sums.statistics() == NONE
    sums.add(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]]))
    sums.add(torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[0.0], [3.0]]]))
    assert sums == Agreement(25.0, 25.0, 26.0, 12.0, 3)
    assert sums.statistics() == {
        "e": pytest.approx(math.sqrt(26) / 5), "log_rms": 0.0, "l": 0.0, "c": 1 - 12 / 25,
    }  # fmt: skip
    half = Agreement(4.0, 1.0, 1.0, 2.0, 1).statistics()
    assert half == {"e": 0.5, "log_rms": -math.log(2), "l": math.log(2), "c": 0.0}
    assert Agreement(4.0, 4.0, 0.0, 3.0, 1).statistics() == dict.fromkeys(NONE, 0.0)
    # Rounding of a cosine never makes a distance below zero.
    assert Agreement(1.0, 1.0, 1e-9, 1.1, 1).statistics()["c"] == 0.0
    for place in range(4):
        broken = [1.0] * 4
        broken[place] = math.nan
        assert Agreement(*broken, 1).statistics() == NONE
    gone = Agreement(4.0, 0.0, 4.0, 0.0, 1).statistics()
    assert (gone["e"], gone["c"], gone["log_rms"]) == (1.0, 1.0, pytest.approx(math.log(1e-30)))
    born = Agreement(0.0, 4.0, 4.0, 0.0, 1).statistics()
    assert (born["e"], born["c"], born["l"]) == (pytest.approx(1e30), 1.0, pytest.approx(69.08, abs=0.01))  # fmt: skip


def test_equal_outputs_have_the_sums_of_any_others() -> None:
    one = torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(1))
    apart = one.clone()
    apart[0, 0, 0] = torch.nextafter(one[0, 0, 0], torch.tensor(9.0))
    equal, nearly = Agreement(), Agreement()
    equal.add(one, one.clone())
    nearly.add(one, apart)
    assert (equal.difference, equal.n_tokens, nearly.n_tokens) == (0.0, 7, 7)
    assert nearly.difference > 0
    assert equal.baseline == equal.subject == equal.product == nearly.baseline
    # Infinities are equal, and counted all the same; a sign of zero is none.
    broken = Agreement()
    broken.add(torch.full((1, 2, 3), torch.inf), torch.full((1, 2, 3), torch.inf))
    assert (broken.baseline_non_finite, broken.non_finite, broken.n_tokens) == (6, 6, 2)
    zeros = Agreement()
    zeros.add(torch.zeros(1, 2, 3), -torch.zeros(1, 2, 3))
    assert zeros == Agreement(n_tokens=2)


def test_broken_numbers_are_counted_by_side() -> None:
    sums = Agreement()
    sums.add(torch.tensor([[[1.0, math.nan]]]), torch.tensor([[[math.inf, math.nan]]]))
    sums.add(torch.tensor([[[1.0, math.inf]]]), torch.tensor([[[1.0, -math.inf]]]))
    assert (sums.non_finite, sums.baseline_non_finite, sums.n_tokens) == (3, 2, 2)
    assert sums.statistics() == NONE


@pytest.mark.parametrize("at_once", [1, 50, 2**21])
def test_windows_of_one_length_add_up_as_one_by_one(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invarlock_guards.measure.branch_evidence._ELEMENTS_AT_ONCE", at_once)
    torch.manual_seed(0)
    baseline = torch.randn(5, 3, 7)
    subject = baseline.clone()
    subject[3:] += torch.randn(2, 3, 7)
    infinite = baseline.clone()
    infinite[1, 0, 0] = math.inf
    for one, other in ((baseline, subject), (baseline, baseline), (infinite, infinite)):
        sums, each = Agreement(), Agreement()
        sums.add(one, other)
        for pair in zip(one, other, strict=True):
            each.add(*(window.unsqueeze(0) for window in pair))
        y, changed = one.double(), other.double()
        assert repr(sums) == repr(each)
        assert (sums.n_tokens, sums.non_finite) == (15, int(y.isinf().sum()))
        assert sums.baseline_non_finite == sums.non_finite
        if not sums.non_finite:
            assert sums.difference == pytest.approx(float((changed - y).square().sum()), rel=1e-12)
            assert sums.product == pytest.approx(float((changed * y).sum()), rel=1e-12)


def test_edges_of_a_site_are_told_window_by_window() -> None:
    pairs = EdgePairs()
    pairs.add([edge(1.0, 3, 1), edge(2.0, 1, 2)], [edge(math.e, 5, 0), edge(2.0, 0, 7)])
    pairs.add([edge(None, 10)], [edge(1.0, 2)])
    pairs.add([edge(1.0)], [edge(None, 0, finite=True)])
    assert pairs.statistics() == {
        "fedge": 0.5, "n_windows": 2, "n_features": 40, "n_dead_baseline": 14, "n_dead_subject": 7,
        "n_newly_dead": 2, "n_outliers_baseline": 3, "n_outliers_subject": 7, "finite": True,
    }  # fmt: skip
    pairs.add([edge(1.0)], [edge(None, finite=False)])
    assert pairs.statistics()["finite"] is False
    with pytest.raises(ValueError, match="zip"):
        pairs.add([edge(1.0)], [])
    none = EdgePairs().statistics()
    assert (none["fedge"], none["n_windows"], none["finite"]) == (None, 0, True)


def branch(name: str, outputs: tuple[str, ...], sites: tuple[ProjectionSite, ...] = ()) -> Branch:
    return Branch(
        name, "feed_forward", "ffn", 1, "decoder", ("n",), ("n",), outputs, sites, ("w", "v"),
        "attention_mask",
    )  # fmt: skip


def test_the_evidence_of_branches_field_by_field() -> None:
    site = ProjectionSite("up", "up", "attention_mask")
    plan = BranchPlan(
        (branch("one", ("a", "b"), (site,)), branch("two", ("c",)), branch("absent", ("d",))),
        0.75, ("left",), None,
    )  # fmt: skip
    sums = {
        "a": Agreement(4.0, 1.0, 1.0, 2.0, 7, 1, 2), "b": Agreement(1.0, 4.0, 1.0, 2.0, 7, 3, 4),
        "c": Agreement(1.0, math.nan, 1.0, 1.0, 5),
    }  # fmt: skip
    pairs = EdgePairs()
    pairs.add([edge(1.0)], [edge(1.0)])
    found = branch_evidence(
        plan, sums, {"up": pairs, "c": pairs}, n_windows=3, n_edge_windows=2, outlier_factor=1.5
    )
    rows = found.pop("branches")
    sites = found.pop("sites")
    assert found == {
        "reason": None, "n_windows": 3, "n_edge_windows": 2, "n_tokens": 7, "n_branches": 3,
        "n_branches_compared": 2, "parameter_share": 0.75, "left_out": ["left"],
        "outlier_factor": 1.5,
    }  # fmt: skip
    assert rows[0] == {
        "module": "one", "kind": "feed_forward", "family": "ffn", "block": 1, "stack": "decoder",
        "norms": ["n"], "output": "a", "log_rms": -math.log(2), "n_non_finite": 4,
        "n_baseline_non_finite": 6, "e": 1.0, "l": math.log(2), "c": 0.0,
    }  # fmt: skip
    assert [(r["module"], r["e"], r["l"], r["c"], r["log_rms"]) for r in rows[1:]] == [
        ("two", None, None, None, None)
    ]
    assert sites == [
        {"module": "up", "branch": "one", "family": "ffn", "role": "up"} | pairs.statistics(),
        {"module": "c", "branch": "two", "family": "ffn", "role": "output"} | pairs.statistics(),
    ]
    none = branch_evidence(plan, {}, {}, n_windows=3, n_edge_windows=2, outlier_factor=1.5)
    assert (none["n_windows"], none["n_tokens"], none["branches"], none["sites"]) == (0, 0, [], [])
    assert matrices_by_branch(plan) == {"w": "absent", "v": "absent"}


def test_the_edge_of_a_window_by_hand() -> None:
    # Centred and standardised, the two features are equal: σ² = 2 · 4 tokens.
    outputs = torch.tensor([[1.0, 10.0], [-1.0, 6.0], [1.0, 10.0], [-1.0, 6.0]])
    bound = 2 + math.sqrt(2)
    found = window_edge(outputs, math.sqrt(8) / bound - 1e-6)
    assert found == WindowEdge(pytest.approx(math.sqrt(8) / bound), 2, 0, 1, True)
    assert window_edge(outputs, math.sqrt(8) / bound + 1e-6).n_outliers == 0
    wide = torch.cat([outputs, outputs, torch.ones(4, 1)], 1)
    assert window_edge(wide, 0.9) == WindowEdge(pytest.approx(math.sqrt(16) / 4), 5, 1, 1, True)
    assert window_edge(outputs[:1], 1.0) == WindowEdge(None, 2, 2, 0, True)
    assert window_edge(torch.zeros(4, 3), 1.0) == WindowEdge(None, 3, 3, 0, True)
    outputs[0, 0] = math.inf
    assert window_edge(outputs, 1.0) == WindowEdge(None, 2, 0, 0, False)
    # A feature is dead below 1e-8 of the mean variance: here of about 1/2.
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    for size, dead in ((6e-5, 1), (8e-5, 0)):
        assert window_edge(torch.stack([signs, size * signs], 1), 1.0).n_dead == dead


def test_edge_windows_are_evenly_spaced() -> None:
    assert _evenly(10, 4) == {0, 3, 6, 9}
    assert _evenly(5, 1) == {0}
    assert (_evenly(3, 3), _evenly(2, 3), _evenly(4, 0)) == ({0, 1, 2}, {0, 1}, set())
    assert (forced_branches.EDGE_WINDOWS, forced_branches.OUTLIER_FACTOR) == (8, 1.5 * 1.1)


def test_masks_and_windows() -> None:
    mask = torch.tensor([[1, 1, 0], [2, 0, 0]])
    found = _mask({"attention_mask": mask}, "attention_mask")
    assert found is not None
    assert found.tolist() == [[True, True, False], [True, False, False]]
    assert _mask({}, "attention_mask") is None
    assert _mask({"attention_mask": torch.ones(2, 3)}, "attention_mask") is None
    for bad in (torch.ones(2, 1, 3), [[1]]):
        with pytest.raises(BranchError) as refused:
            _mask({"attention_mask": bad}, "attention_mask")
        assert str(refused.value) == (
            "attention_mask must be (windows, length), 0 where a token is padding"
        )
    value = torch.arange(12.0).reshape(2, 3, 2)
    for given in (value, value.reshape(6, 2)):
        assert _by_window(given, 2, None, "m")[1].tolist() == [[6, 7], [8, 9], [10, 11]]
        assert _unpadded(_by_window(given, 2, found, "m")[0], found[0]).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(BranchError) as refused:
        _by_window(value, 5, None, "m")
    assert str(refused.value) == "the output of m is not (windows, tokens, features)"
    with pytest.raises(BranchError) as refused:
        _by_window(value, 2, torch.ones(2, 4).bool(), "m")
    assert str(refused.value) == "the output of m has 3 tokens a window, its mask 4"


def test_windows_padded_alike_are_taken_together() -> None:
    assert _padded_alike(None) == [(slice(None), None)]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 0]]).bool()
    runs = [(run, real.tolist()) for run, real in _padded_alike(mask) if real is not None]
    assert runs == [
        (slice(0, 1), [0, 1, 2]), (slice(1, 3), [0, 1]), (slice(3, 4), [1, 2]), (slice(4, 5), [0, 1]),
    ]  # fmt: skip


def test_digests_tell_keys_types_shapes_and_bits() -> None:
    one = torch.zeros(2, 2)
    others = [
        {"a": one.int()}, {"a": one.reshape(4)}, {"a": one + 1}, {"b": one}, {}, {"a": one, "b": one},
        {"a": torch.tensor([[0.0, 0.0], [0.0, -0.0]])},
    ]  # fmt: skip
    digests = [_fingerprint(batch) for batch in ({"a": one}, *others)]
    assert len(set(digests)) == len(digests)
    assert _fingerprint({"a": one.clone(), "use_cache": False}) == digests[0]
    assert _fingerprint({"a": one, "b": one}) == _fingerprint({"b": one, "a": one})
    assert _bits(torch.arange(4.0).reshape(2, 2).T) == _bits(torch.tensor([[0.0, 2.0], [1.0, 3.0]]))
    assert _bits(one.requires_grad_()) == _bits(one.detach())


def test_a_kept_tensor_is_kept_once_as_long_as_it_is_the_same() -> None:
    tensors: list[torch.Tensor] = []
    keeper, places, more = Keeper(tensors), [], []
    value = torch.ones(2)
    keeper.into(places)(value)
    keeper.into(more)(value)
    value.add_(1)
    keeper.into(places)(value)
    assert (places, more) == ([0, 1], [0])
    assert [t.tolist() for t in tensors] == [[1, 1], [2, 2]]
    with torch.inference_mode():
        still = torch.ones(3)
        keeper.into(more)(still)
        still.add_(1)
        keeper.into(more)(still)
    assert more == [0, 2, 3]
    assert [t.tolist() for t in tensors[2:]] == [[1, 1, 1], [2, 2, 2]]


def test_what_was_recorded_is_handed_out_call_by_call() -> None:
    recorded = RecordedBatch("f", [torch.zeros(2), torch.ones(2)])
    recorded.entries["m"] += [1, 0]
    recorded.outputs["o"] += [0]
    replay = Replay(recorded)
    force = replay.force("m")
    assert force(torch.full((2,), 9.0).double()).tolist() == [1, 1]
    assert force(torch.full((2,), 9.0).double()).dtype is torch.float64
    with pytest.raises(BranchError) as refused:
        force(torch.zeros(2))
    assert str(refused.value) == "m is called more often in the subject than in the baseline"
    with pytest.raises(BranchError) as refused:
        replay.output("o", torch.zeros(3))
    assert str(refused.value) == (
        "o has shape (3,) in the subject and (2,) in the baseline: compare models of one shape"
    )
    replay = Replay(recorded)
    replay.output("o", torch.zeros(2))
    with pytest.raises(BranchError, match=r"^m is called less often in the subject$"):
        replay.check_calls()
    for _ in range(2):
        replay.force("m")(torch.zeros(2))
    replay.check_calls()
    replay = Replay(recorded)
    for _ in range(2):
        replay.force("m")(torch.zeros(2))
    with pytest.raises(BranchError, match=r"^o is called less often in the subject$"):
        replay.check_calls()
    assert RecordedBatch("f") == RecordedBatch("f", [], {}, {}, {}, {})
    assert RecordedBatch("f").edges["new", 0] == []


def test_a_window_of_a_batch() -> None:
    batch = {"flag": True, "scalar": torch.tensor(3), "ids": torch.arange(6).reshape(3, 2),
             "mask": torch.ones(3, 2), "bias": torch.ones(2, 2)}  # fmt: skip
    assert n_windows(batch) == 3
    first = one_window(batch)
    assert (first["flag"], first["scalar"], first["ids"].tolist()) == (True, 3, [[0, 1]])
    assert (first["mask"].shape, first["bias"].shape) == ((1, 2), (2, 2))
    with pytest.raises(BranchError) as refused:
        n_windows({"flag": True})
    assert str(refused.value) == (
        "a batch holds no tensor: give the keyword arguments of a forward pass"
    )


class Doubles(torch.nn.Module):
    def forward(self, value: Any = None, *, other: Any = None) -> Any:
        given = value if other is None else other
        return given if given is None else (given * 2, "weights")


class Watched(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Doubles()

    def forward(self, way: str, value: torch.Tensor) -> Any:
        if way == "keyword":
            return self.part(other=value)
        return self.part(value) if way == "first" else self.part("none")


def test_a_watched_module_is_seen_and_what_enters_it_replaced() -> None:
    model, seen = Watched(), []
    for way in ("first", "keyword"):
        batch = {"way": way, "value": torch.ones(1)}
        plain = watched_forward(model, batch, {"part": lambda _v: None}, {"part": seen.append})
        assert (plain[0].item(), plain[1]) == (2.0, "weights")
        forced = watched_forward(model, batch, {"part": lambda v: v + 2}, {"part": seen.append})
        assert forced[0].item() == 6.0
    assert [float(value) for value in seen] == [2.0, 6.0, 2.0, 6.0]
    assert not model.part._forward_hooks
    assert not model.part._forward_pre_hooks
    batch = {"way": "neither", "value": torch.ones(1)}
    with pytest.raises(BranchError, match=r"^part was called without a tensor$"):
        watched_forward(model, batch, {"part": lambda _v: None}, {})
    model.part.forward = lambda _value: None
    with pytest.raises(BranchError, match=r"^part returned no tensor$"):
        watched_forward(model, batch, {}, {"part": seen.append})
    with pytest.raises(BranchError) as refused:
        watched_forward(model, batch, {"gone": lambda _v: None}, {})
    assert str(refused.value) == (
        "the subject has no module gone, which the baseline has: compare models of one architecture"
    )


def test_a_quiet_model_has_its_modes_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    with quiet(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False]
