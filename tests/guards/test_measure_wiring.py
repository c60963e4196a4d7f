"""How sub-layers, norms and units are told from few made-up matrices and passes, case by case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from invarlock_guards.families import WeightMatrix
from invarlock_guards.measure.branches import Branch, BranchPlan, _Trace, _Wiring
from invarlock_guards.measure.canonical_change import _inner, _peaks, _product
from invarlock_guards.measure.canonical_layout import (
    Architecture,
    AttentionUnit,
    NetworkUnit,
    Operand,
    PlainUnit,
    _part,
    _Units,
)
from invarlock_guards.measure.forced_branches import _Passes
from invarlock_guards.measure.sublayers import (
    ProjectionSite,
    SubLayer,
    _attentions,
    _named_apart,
    _tokens,
)
from torch import nn


def layer(inputs: tuple[str, ...] = ("b.q", "b.v"), output: str = "b.o", **more: Any) -> SubLayer:
    fields: dict[str, Any] = {
        "name": "b", "kind": "attention", "family": "attn", "block": 0, "stack": "decoder",
        "inputs": inputs, "output": output, "projections": (), "matrices": ("w",),
        "tokens": "decoder_attention_mask",
    }  # fmt: skip
    return SubLayer(**fields | more)


def traced(*calls: tuple[str, torch.Tensor, torch.Tensor], norms: tuple[str, ...]) -> _Trace:
    """A trace of modules that were called one after another, each with an input and an output."""
    trace = _Trace()
    trace.norms = list(norms)
    for name, given, gave in calls:
        trace.enter(name)(given)
        trace.leave(name)(gave)
    return trace


def test_a_trace_keeps_first_values_and_the_order_of_calls() -> None:
    trace = _Trace(norms=["n"])
    assert _Trace() == _Trace({}, {}, {}, {}, [], 0)
    value = torch.ones(2)
    for name in ("n", "m", "n"):
        trace.enter(name)(value)
        trace.leave(name)(value)
    trace.enter("m")(torch.zeros(2))
    assert (trace.order, trace.returned, trace.clock) == ({"n": 0, "m": 2}, {"n": 1, "m": 3}, 4)
    assert trace.outputs["n"] is trace.inputs["n"] is trace.inputs["m"] is value
    value.add_(1)
    # What others may write to in place is copied; a norm's output is known by its memory.
    assert trace.outputs["m"].tolist() == [1, 1]


X, Y = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.25, -4.0])
READS = ("b.q", "b.v")


def wired(
    *calls: tuple[str, torch.Tensor, torch.Tensor], norms: tuple[str, ...]
) -> tuple[Any, ...]:
    wiring = _Wiring(traced(*calls, norms=norms), [layer()], ["b"])
    found = wiring.branch(layer())
    return found.norms, found.entries, found.outputs, wiring.free_norms()


def attends(given: torch.Tensor) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    return [("b.q", given, given * 2), ("b.v", given, given * 3), ("b.o", given * 3, Y)]


def test_a_norm_before_a_sublayer_is_told_by_what_it_gave() -> None:
    for gave in (X * 5, X.clone()):
        # The next norm reads the sum; where the first changed nothing, it reads the stream alike.
        calls = [("b.n", X, gave), *attends(gave), ("b.m", X + Y, Y)]
        assert wired(*calls, norms=("b.n", "b.m")) == (("b.n",), ("b.n",), ("b.o",), ["b.m"])
    copied = [("b.n", X, X * 5), *attends((X * 5).clone())]
    assert wired(*copied, norms=("b.n",)) == (("b.n",), ("b.n",), ("b.o",), [])
    # Of two that gave the same the one whose memory is read, else the later.
    first, second = X * 5, X * 5
    for read, norm, free in ((first, "b.n", "b.m"), (second, "b.m", "b.n"), (X * 5, "b.m", "b.n")):
        two = [("b.n", X, first), ("b.m", X, second), *attends(read)]
        assert wired(*two, norms=("b.n", "b.m")) == ((norm,), (norm,), ("b.o",), [free])
    elsewhere = [("c.n", X, X * 5), *attends(X * 5)]
    assert wired(*elsewhere, norms=("c.n",)) == ((), READS, ("b.o",), ["c.n"])


def test_a_norm_of_the_output_alone_is_a_sandwich() -> None:
    calls = [("b.n", X, X * 5), *attends(X * 5), ("b.s", Y, Y * 2), ("b.m", X + Y * 2, X)]
    assert wired(*calls, norms=("b.n", "b.s", "b.m")) == (
        ("b.n", "b.s"), ("b.n",), ("b.s",), ["b.m"]
    )  # fmt: skip
    # Only the next one can be.
    late = [*attends(X), ("b.m", X * 9, X), ("b.s", Y, Y * 2)]
    assert wired(*late, norms=("b.s", "b.m")) == ((), READS, ("b.o",), ["b.s", "b.m"])


def test_a_norm_of_the_sum_is_behind() -> None:
    for total, behind in ((X + Y, True), (X + Y * 1.5, False)):
        calls = [*attends(X), ("b.p", total, X)]
        expected = (("b.p",), (*READS, "b.p"), ("b.o", "b.p"), [])
        none = ((), READS, ("b.o",), ["b.p"])
        assert wired(*calls, norms=("b.p",)) == (expected if behind else none)
    # What it gives is the stream: the sub-layer that reads it is not behind a norm.
    both = [layer(("b.u",), "b.d", kind="feed_forward", name="b.f"), layer()]
    trace = traced(
        *attends(X), ("b.p", X + Y, X * 4), ("b.u", X * 4, X), ("b.d", X, Y * 3), norms=("b.p",)
    )
    wiring = _Wiring(trace, both, ["b"])
    assert wiring.branch(both[0]).entries == ("b.u",)
    assert wiring.branch(both[1]).outputs == ("b.o", "b.p")
    assert wiring.free_norms() == []


def test_a_norm_inside_a_sublayer_is_its_own_business() -> None:
    inside = [("b.q", X, X), ("b.v", X, X), ("b.qn", X, X), ("b.o", X, Y)]
    assert wired(*inside, norms=("b.qn",)) == ((), READS, ("b.o",), [])
    trace = traced(*inside, norms=("b.qn",))
    assert _Wiring(trace, [layer(("b.q", "b.qn"))], ["b"]).free_norms() == ["b.qn"]


def test_a_branch_has_what_its_sublayer_says() -> None:
    site = ProjectionSite("b.q", "q", "decoder_attention_mask")
    one = layer(projections=(site,), matrices=("w", "v"))
    trace = traced(*attends(X), norms=())
    assert _Wiring(trace, [one], ["b"]).branch(one) == Branch(
        "b", "attention", "attn", 0, "decoder", (), READS, ("b.o",), (site,), ("w", "v"),
        "decoder_attention_mask",
    )  # fmt: skip
    # An input that was not called is no entry.
    half = traced(attends(X)[0], attends(X)[2], norms=())
    assert _Wiring(half, [one], ["b"]).branch(one).entries == ("b.q",)


def matrix(name: str, role: Any, shape: tuple[int, ...] = (4, 4), **more: Any) -> WeightMatrix:
    fields: dict[str, Any] = {
        "name": name, "weight": nn.Parameter(torch.ones(shape)), "family": "attn", "role": role,
        "block": 0, "input_axis": -1,
    }  # fmt: skip
    return WeightMatrix(**fields | more)


class Linears(nn.Module):
    """Modules by dotted name."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            at: nn.Module = self
            *around, own = name.split(".")
            for part in around:
                if part not in dict(at.named_children()):
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.add_module(own, nn.Linear(2, 2, bias=False))

    def matrix(self, name: str, role: Any, **more: Any) -> WeightMatrix:
        weight = self.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        return matrix(f"{name}.weight", role, weight=weight, **more)


def test_low_rank_queries_read_the_stream_before_keys_and_values() -> None:
    roles = {"kv_a": "kv_a", "kv_b": "kv_b", "q_b": "q_b", "q_a": "q_a", "out": "o"}
    model = Linears(*(f"b.attn.{name}" for name in roles))
    (found,) = _attentions(model, [model.matrix(f"b.attn.{n}", r) for n, r in roles.items()])
    assert found.inputs == ("b.attn.q_a", "b.attn.kv_a")
    assert (found.name, found.output) == ("b.attn", "b.attn.out")
    assert [site.role for site in found.projections] == list(roles.values())
    for first in ("q", "qkv"):
        plain = Linears("b.k", "b.x", "b.o")
        (found,) = _attentions(
            plain, [plain.matrix("b.k", "k"), plain.matrix("b.x", first), plain.matrix("b.o", "o")]
        )
        assert found.inputs == ("b.x", "b.k")


def test_of_two_attentions_each_has_the_output_nearest_to_it() -> None:
    model = Linears("b.one.q", "b.one.out", "b.two.in.q", "b.two.out", "b.c.q", "b.c.k", "b.c.out")
    found = _attentions(
        model,
        [
            model.matrix("b.one.q", "q"), model.matrix("b.two.in.q", "q", stack="decoder"),
            model.matrix("b.c.q", "q", cross=True, stack="decoder", block=3),
            model.matrix("b.c.k", "k", cross=True, stack="decoder"),
            model.matrix("b.two.out", "o"), model.matrix("b.one.out", "o"),
            model.matrix("b.c.out", "o", cross=True, stack="decoder"),
        ],
    )  # fmt: skip
    own = "decoder_attention_mask"
    assert [(f.name, f.kind, f.output, f.block, f.stack, f.tokens) for f in found] == [
        ("b.one", "attention", "b.one.out", 0, None, "attention_mask"),
        ("b.two", "attention", "b.two.out", 0, "decoder", own),
        ("b.c", "cross_attention", "b.c.out", 3, "decoder", own),
    ]
    assert found[2].projections == (
        ProjectionSite("b.c.q", "q", own), ProjectionSite("b.c.k", "k", "attention_mask"),
        ProjectionSite("b.c.out", "o", own),
    )  # fmt: skip
    assert found[2].matrices == ("b.c.q.weight", "b.c.k.weight", "b.c.out.weight")
    # Without an output, or read by torch's own attention, there is nothing to look at.
    assert _attentions(model, [model.matrix("b.one.q", "q")]) == []
    fused = matrix("b.one.in_proj_weight", "qkv")
    assert _attentions(model, [fused, model.matrix("b.one.out", "o")]) == []


def test_whose_tokens_a_projection_sees() -> None:
    def seen(role: Any, **more: Any) -> str:
        return _tokens(matrix("m", role, **more), "decoder_attention_mask")

    assert {seen(role) for role in ("q", "k", "v", "o")} == {"decoder_attention_mask"}
    for role in ("q", "q_a", "q_b", "o"):
        assert seen(role, cross=True, stack="decoder") == "decoder_attention_mask"
    for role in ("k", "v", "kv", "kv_a"):
        assert seen(role, cross=True, stack="decoder") == "attention_mask"
        assert seen(role, cross=True) == "encoder_attention_mask"


def test_sublayers_that_share_a_module_are_named_by_their_outputs() -> None:
    one, two = layer(), layer(("b.u",), "b.d", name="b.f")
    assert _named_apart(one, [one, two]).name == "b.o"
    assert _named_apart(two, [one, two]) is two
    assert _named_apart(one, [one]) is one


def units(architecture: Architecture | None = None, **config: Any) -> _Units:
    made = object.__new__(_Units)
    made._architecture = architecture or Architecture()
    made._config = SimpleNamespace(**config)
    made._norms = {(0, "ln"): "b.ln.weight", (0, "cross"): "b.cross.weight", (None, "last"): "n"}
    made._prefixes = ["b."]
    return made


@pytest.mark.parametrize(
    ("stack", "config", "count"),
    [
        (None, {"num_attention_heads": 2}, 2),
        (None, {"num_attention_heads": 2, "encoder_attention_heads": 3}, 2),
        ("encoder", {"num_attention_heads": 2, "encoder_attention_heads": 3}, 3),
        ("decoder", {"num_attention_heads": 2, "encoder_attention_heads": 3}, 2),
        ("decoder", {"decoder_attention_heads": 1}, 1),
        ("decoder", {"decoder_attention_heads": None, "num_attention_heads": 5}, 5),
        ("encoder", {"encoder_attention_heads": 0, "num_attention_heads": 5}, None),
        (None, {"num_attention_heads": 2.0}, None),
        (None, {}, None),
    ],
)
def test_heads_are_counted_by_stack(stack: Any, config: Any, count: int | None) -> None:
    assert units(**config)._heads(matrix("b.o.weight", "o", stack=stack)) == count


def test_which_norm_multiplies_what_a_matrix_reads() -> None:
    readers = {"ln": ("attn.", frozenset({"q", "k"})), "gone": ("", frozenset({"up"}))}
    made = units(Architecture(readers, 1.0, outer_norms={"head": "last", "cross": "last"}))

    def norm(name: str, role: Any, **more: Any) -> str | None:
        return made._norm(matrix(name, role, **more))

    assert norm("b.attn.q.weight", "q") == "b.ln.weight"
    assert norm("b.attn.v.weight", "v") is None
    assert norm("b.other.q.weight", "q") is None
    assert norm("b.attn.q.weight", "q", cross=True) == "b.ln.weight"
    assert norm("b.up.weight", "up") is None
    for role in ("k", "v", "kv"):
        assert norm(f"b.attn.{role}.weight", role, cross=True) == "n"
    assert norm("head.weight", "head", block=None) == "n"
    assert norm("other.weight", "pooler", block=None) is None
    assert made._operand(matrix("b.attn.q.weight", "q", input_axis=-2), 3) == Operand(
        "b.attn.q.weight", True, "b.ln.weight", 1.0, 3
    )
    assert Architecture() == Architecture({}, 0.0, "added", "contiguous", {})
    assert Operand("m", False) == Operand("m", False, None, 0.0, None, None, None)
    whole = Operand("m", True, "n", 1.0, 2)
    assert _part(whole, rows=(1, 2)) == Operand("m", True, "n", 1.0, 2, (1, 2))
    assert _part(whole, grouped=(1, 2, 3, 4)) == Operand("m", True, "n", 1.0, 2, None, (1, 2, 3, 4))
    assert (whole.module, Operand("m", True).module) == ("m[2]", "m")


def op(name: str, rows: Any = None, grouped: Any = None, expert: int | None = None) -> Operand:
    return Operand(name, False, None, 0.0, expert, rows, grouped)


def attention(made: _Units, **shapes: tuple[int, int]) -> list[Any]:
    return made._attention({role: matrix(role, role, shape) for role, shape in shapes.items()})


def test_attentions_by_the_matrices_they_are_stored_in() -> None:
    made = units(num_attention_heads=4)
    o = op("o")
    assert attention(made, q=(8, 6), k=(4, 6), v=(4, 6), o=(6, 8)) == [
        AttentionUnit(op("q"), op("k"), op("v"), o, 4, 2, "added")
    ]
    assert attention(made, q=(8, 6), kv=(8, 6), o=(6, 8)) == [
        AttentionUnit(op("q"), op("kv", (0, 4)), op("kv", (4, 8)), o, 4, 2, "added")
    ]
    assert attention(made, qkv=(16, 6), o=(6, 8)) == [
        AttentionUnit(op("qkv", (0, 8)), op("qkv", (8, 12)), op("qkv", (12, 16)), o, 4, 2, "added")
    ]
    grouped = units(Architecture(positions="other", heads="grouped"), num_attention_heads=4)
    assert attention(grouped, qkv=(16, 6), o=(6, 8)) == [
        AttentionUnit(
            op("qkv", grouped=(2, 8, 0, 4)), op("qkv", grouped=(2, 8, 4, 6)),
            op("qkv", grouped=(2, 8, 6, 8)), o, 4, 2, "other",
        )
    ]  # fmt: skip
    one = attention(made, q=(8, 6), k=(2, 6), v=(2, 6), o=(6, 8))
    assert one[0].n_kv_heads == 1
    # No whole head of keys, heads that are not shared evenly, or a matrix too many or too few.
    for shapes in (
        {"q": (8, 6), "k": (1, 6), "v": (1, 6), "o": (6, 8)},
        {"q": (8, 6), "k": (6, 6), "v": (6, 6), "o": (6, 8)},
        {"q": (8, 6), "k": (4, 6), "o": (6, 8)},
        {"q": (8, 6), "k": (4, 6), "v": (4, 6)},
        {"q": (8, 6), "k": (4, 6), "v": (4, 6), "o": (6, 9)},
    ):
        assert attention(made, **shapes) == [PlainUnit(op(role)) for role in shapes]


def networks(*experts: int, **shapes: int) -> list[Any]:
    members = {
        role: matrix(role, role, (*experts, rows, 3), family="ffn") for role, rows in shapes.items()
    }
    return units()._networks(members)


def test_networks_by_the_matrices_they_are_stored_in() -> None:
    up, gate, down = op("up"), op("gate"), op("down")
    assert networks(up=4, down=4) == [NetworkUnit(up, down)] == [NetworkUnit(up, down, None)]
    assert networks(gate=4, up=4, down=4) == [NetworkUnit(up, down, gate)]
    assert networks(gate_up=6, down=4) == [
        NetworkUnit(op("gate_up", (3, 6)), down, op("gate_up", (0, 3)))
    ]
    assert networks(up=4, odd=4, down=4) == [PlainUnit(op(n)) for n in ("up", "odd", "down")]
    assert networks(2, up=4, odd=4) == [
        PlainUnit(op(name, expert=expert)) for expert in (0, 1) for name in ("up", "odd")
    ]
    assert networks(2, gate_up=6, down=4) == [
        NetworkUnit(op("gate_up", (3, 6), None, e), op("down", expert=e),
                    op("gate_up", (0, 3), None, e))
        for e in (0, 1)
    ]  # fmt: skip
    assert networks(2, up=4, down=4)[1] == NetworkUnit(op("up", expert=1), op("down", expert=1))


def test_the_sums_of_a_product_by_hand() -> None:
    left, right = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    one, other = (left, right), (left * 2, right)
    assert _product(_inner, one, other) == (45.0, 45.0)
    assert _product(_inner, one, other, 1.0, 2.0) == (180.0, 180.0)
    assert _product(_inner, one, other, 0.5, 2.0) == (45.0, 45.0)
    assert _peaks(one, other) == [(2.0, 4.0), (3.0, 3.0)]
    with pytest.raises(ValueError, match="zip"):
        _product(_inner, one, other, 1.0)


def test_where_edges_are_measured() -> None:
    site = ProjectionSite("b.q", "q", "decoder_attention_mask")
    one = _Wiring(traced(*attends(X), norms=()), [layer()], ["b"]).branch(
        layer(projections=(site,))
    )
    experts = Branch(
        "e", "feed_forward", "ffn", 0, None, (), ("e",), ("e", "p"), (), (), "attention_mask"
    )
    norm = Branch("n", "norm", "other", 0, None, ("n",), ("n",), ("n",), (), (), "attention_mask")
    batch = {"input_ids": torch.ones(2, 3)}
    passes = _Passes(BranchPlan((one, experts, norm), 1.0, ()), [batch, batch], 2, 1.5)
    assert passes._sites == {"b.q": "decoder_attention_mask", "e": "attention_mask"}
    assert passes._tokens == {
        "b.o": "decoder_attention_mask", "e": "attention_mask", "p": "attention_mask",
        "n": "attention_mask",
    }  # fmt: skip
    assert (passes._starts, passes.edge_windows) == ([0, 2], {0, 3})
