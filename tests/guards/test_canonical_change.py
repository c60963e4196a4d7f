"""What is free in a parametrisation is removed, and what is not stays: damage keeps its size."""

from __future__ import annotations

import copy
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from invarlock_guards.families import all_weight_matrices, weight_matrices
from invarlock_guards.measure import neuron_matching
from invarlock_guards.measure.canonical_change import CanonicalChange, canonical_changes
from invarlock_guards.measure.canonical_layout import (
    ARCHITECTURES,
    AttentionUnit,
    NetworkUnit,
    PlainUnit,
    canonical_units,
)
from invarlock_guards.measure.neuron_matching import Rows, match_neurons

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Step = tuple[str, dict[str, Any]]
CONTROLS: tuple[Step, ...] = (
    ("permute_mlp_neurons", {}),
    ("rotate_value_output_heads", {}),
    ("fold_norm_gain", {}),
    ("rescale_gated_pair", {"factor": 3.0}),
)
UNFIT = {"EDIT_NO_TARGET", "CONTROL_CHANGED_FUNCTION"}


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@contextmanager
def edited(model: torch.nn.Module, *steps: Step) -> Iterator[int]:
    """``model`` with the steps that fit it applied; undone at the end. Gives how many fitted."""
    journal = EditJournal(model, tensor_digests(model))
    fitted = 0
    try:
        for name, parameters in steps:
            before = tensors_of(model)
            try:
                apply_edit(EditSpec(name, parameters), journal)
                fitted += 1
            except EditError as error:
                if error.code not in UNFIT:
                    raise
                # A control that does not fit undoes everything written before it too.
                for tensor, value in before.items():
                    journal.write(tensor, value)
        yield fitted
    finally:
        journal.undo()


def changes_of(
    model: torch.nn.Module, baseline: Mapping[str, torch.Tensor]
) -> list[CanonicalChange]:
    units = canonical_units(model)
    assert not isinstance(units, str)
    return list(canonical_changes(units, baseline, dict(model.named_parameters())))


def largest(model: torch.nn.Module, baseline: Mapping[str, torch.Tensor]) -> float:
    values = [found.value for found in changes_of(model, baseline)]
    assert None not in values
    return max((v for v in values if v is not None), default=0.0)


def after(model: torch.nn.Module, *steps: Step) -> float:
    baseline = tensors_of(model)
    with edited(model, *steps) as fitted:
        assert fitted
        return largest(model, baseline)


RTN8: Step = ("quant_rtn", {"bitwidth": 8, "group_size": 32})
RTN4: Step = ("quant_rtn", {"bitwidth": 4, "group_size": 32})


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("steps", "bound"),
    [
        *[((control,), 4e-4) for control in CONTROLS[:3]],
        (CONTROLS, 4e-4),
        ((*CONTROLS, RTN8), 0.010),
        ((RTN8,), 0.010),
        ((*CONTROLS, RTN4), 0.175),
        ((RTN4,), 0.175),
        ((("magnitude_prune", {"sparsity": 0.3}),), 0.201),
    ],
    ids=str,
)
def test_benign_changes_stay_within_the_reference(
    name: str, steps: tuple[Step, ...], bound: float, shipped: Any
) -> None:
    assert after(shipped(name), *steps) <= bound


# Fused in GPT-2: a query and a key both scaled are a product scaled twice.
FUSED = {"c_attn": 0.5625}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_matrix_scaled_by_a_quarter_changes_by_a_quarter(name: str, shipped: Any) -> None:
    model = shipped(name)
    baseline = tensors_of(model)
    n_matrices = 0
    for matrix in weight_matrices(model, "all@layers=1"):
        journal = EditJournal(model, tensor_digests(model))
        journal.write(matrix.name, matrix.weight * 1.25)
        expected = next((v for key, v in FUSED.items() if key in matrix.name), 0.25)
        assert largest(model, baseline) == pytest.approx(expected, rel=1e-5)
        journal.undo()
        n_matrices += 1
    assert n_matrices == (7 if name == "llama" else 4)


KINDS = (
    "gpt2", "gpt2_cross", "llama", "mistral", "mixtral", "qwen2", "qwen3", "phi3", "gpt_neox",
    "opt", "phi", "gemma", "bloom", "bert", "roberta", "t5", "t5_gated", "bart",
)  # fmt: skip


def perturbed(model: Any) -> Any:
    """A copy whose gains and biases are drawn: a fresh model has them at one and zero."""
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_controls_change_nothing_and_damage_its_own_module_in_every_architecture(
    kind: str, architecture: Any
) -> None:
    model = perturbed(architecture(kind))
    baseline = tensors_of(model)
    for control in CONTROLS:
        with edited(model, control) as fitted:
            value = largest(model, baseline)
            changed = any(not torch.equal(p, baseline[n]) for n, p in model.named_parameters())
            assert value <= 4e-4, control
            assert changed is bool(fitted)
    for role in ("v", "up"):
        with edited(model, ("redraw_matrix", {"role": role})):
            (damaged,) = (n for n, p in model.named_parameters() if not torch.equal(p, baseline[n]))
            worst = max(changes_of(model, baseline), key=lambda c: c.value or 0)
            assert (worst.value or 0) > 1.2
            assert damaged in {module.partition("[")[0] for module in worst.modules}


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_outside_embeddings_is_in_a_unit(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    units = canonical_units(model)
    assert not isinstance(units, str)
    held = set()
    for unit in units:
        if isinstance(unit, AttentionUnit):
            held |= {o.name for o in (unit.q, unit.k, unit.v, unit.o)}
        elif isinstance(unit, NetworkUnit):
            held |= {unit.up.name, unit.down.name} | ({unit.gate.name} if unit.gate else set())
        else:
            held.add(unit.matrix.name)
    matrices = {m.name for m in all_weight_matrices(model) if m.family != "embed"}
    assert held == matrices
    blocks = {m.name for m in weight_matrices(model)}
    assert not {u.matrix.name for u in units if isinstance(u, PlainUnit)} & blocks


def test_every_architecture_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")
    table = page[page.index("| architecture (`model_type`)") :]
    rows = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(ARCHITECTURES)


def test_units_are_read_from_a_model_without_numbers(architecture: Any) -> None:
    model = architecture("llama")
    with torch.device("meta"):
        shell = type(model)(model.config)
    assert canonical_units(shell) == canonical_units(model)


@pytest.mark.parametrize("kind", ["falcon", "mamba", "qwen2_moe", "gpt_oss"])
def test_an_unknown_architecture_says_so(kind: str, architecture: Any) -> None:
    assert canonical_units(architecture(kind)) == f"unknown architecture {kind}"


def test_a_module_without_a_configuration_is_unknown() -> None:
    assert canonical_units(torch.nn.Linear(2, 2)) == "unknown architecture"


@pytest.mark.parametrize(
    ("kind", "option"),
    [("opt", {"do_layer_norm_before": False}),
     ("bloom", {"apply_residual_connection_post_layernorm": True})],
)  # fmt: skip
def test_gains_that_the_residual_stream_reads_are_not_free(
    kind: str, option: dict[str, Any], architecture: Any
) -> None:
    model = copy.deepcopy(architecture(kind))
    folded = canonical_units(model)
    for key, value in option.items():
        setattr(model.config, key, value)
    units = canonical_units(model)
    assert not isinstance(units, str)
    assert not isinstance(folded, str)
    assert any(isinstance(u, NetworkUnit) and u.up.norm for u in folded)
    assert not any(isinstance(u, NetworkUnit) and u.up.norm for u in units)


def dense_change(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((other - one).norm() / one.norm())


def test_products_of_heads_are_those_of_dense_matrices(shipped: Any) -> None:
    model = shipped("llama")
    baseline = tensors_of(model)
    prefix = "model.layers.1.self_attn"
    with edited(model, ("quant_rtn", {"bitwidth": 3, "scope": "attn@layers=1"})):
        subject = tensors_of(model)
        found = {c.part: c.value for c in changes_of(model, baseline)}
    gain = baseline["model.layers.1.input_layernorm.weight"].double()

    def product(tensors: dict[str, torch.Tensor], head: int) -> torch.Tensor:
        o = tensors[f"{prefix}.o_proj.weight"].double()[:, 32 * head : 32 * head + 32]
        v = tensors[f"{prefix}.v_proj.weight"].double()[32 * (head // 2) :][:32] * gain
        return o @ v

    heads = [dense_change(product(baseline, h), product(subject, h)) for h in range(4)]
    worst = max(range(4), key=lambda h: heads[h])
    assert found[f"o·v of head {worst}"] == pytest.approx(heads[worst], rel=1e-6)

    def turned(tensors: dict[str, torch.Tensor], head: int) -> torch.Tensor:
        q = tensors[f"{prefix}.q_proj.weight"].double()[32 * head :][:32] * gain
        k = tensors[f"{prefix}.k_proj.weight"].double()[32 * (head // 2) :][:32] * gain
        query, key = torch.complex(q[:16], q[16:]), torch.complex(k[:16], k[16:])
        return torch.einsum("px,py->pxy", query, key.conj())

    heads = [dense_change(turned(baseline, h), turned(subject, h)) for h in range(4)]
    worst = max(range(4), key=lambda h: heads[h])
    assert found[f"q·k of head {worst}"] == pytest.approx(heads[worst], rel=1e-6)


def test_what_rotary_positions_leave_free_is_removed(shipped: Any) -> None:
    model = shipped("llama")
    baseline = tensors_of(model)
    ids = torch.randint(3, 1000, (2, 24), generator=torch.Generator().manual_seed(1))
    logits = model(ids).logits
    draw = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(2))
    phase = torch.polar(torch.exp(draw[0]), 3 * draw[1])
    journal = EditJournal(model, tensor_digests(model))
    for role, heads, factor in (("q", 4, phase), ("k", 2, 1 / phase.conj())):
        name = f"model.layers.1.self_attn.{role}_proj.weight"
        pairs = baseline[name].reshape(heads, 2, 16, 128)
        turned = torch.complex(pairs[:, 0], pairs[:, 1])
        turned = turned * factor.repeat_interleave(heads // 2, dim=0)[..., None]
        journal.write(name, torch.stack((turned.real, turned.imag), 1).reshape(-1, 128))
    assert torch.allclose(model(ids).logits, logits, atol=1e-4)
    assert largest(model, baseline) <= 1e-5
    # The same turn of the key alone is damage.
    journal.write("model.layers.1.self_attn.q_proj.weight",
                  baseline["model.layers.1.self_attn.q_proj.weight"])  # fmt: skip
    assert not torch.allclose(model(ids).logits, logits, atol=1e-2)
    assert largest(model, baseline) > 0.5
    journal.undo()


def test_query_and_key_without_rotation_are_compared_as_a_product(shipped: Any) -> None:
    model = shipped("gpt2")
    baseline = tensors_of(model)
    name = "transformer.h.2.attn.c_attn.weight"
    journal = EditJournal(model, tensor_digests(model))
    mixed = baseline[name].clone()
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(3))).Q
    # Of the first head, any map of the query is undone in the key.
    mixed[:, :32] = mixed[:, :32] @ (2 * turn)
    mixed[:, 128:160] = mixed[:, 128:160] @ (turn / 2)
    journal.write(name, mixed)
    assert largest(model, baseline) <= 1e-5
    mixed[:, 128:160] = mixed[:, 128:160].flip(1)
    journal.write(name, mixed)
    assert largest(model, baseline) > 0.5
    journal.undo()


def test_outer_products_are_those_of_dense_matrices(shipped: Any) -> None:
    model = shipped("llama")
    baseline = tensors_of(model)
    prefix = "model.layers.2.mlp"
    with edited(model, ("quant_rtn", {"bitwidth": 3, "scope": "ffn@layers=2"})):
        subject = tensors_of(model)
        found = {c.part: c.value for c in changes_of(model, baseline)}
    gain = baseline["model.layers.2.post_attention_layernorm.weight"].double()
    square = total = 0.0
    for neuron in range(320):
        products = []
        for tensors in (baseline, subject):
            up = tensors[f"{prefix}.up_proj.weight"].double()[neuron] * gain
            products.append(
                torch.outer(tensors[f"{prefix}.down_proj.weight"].double()[:, neuron], up)
            )
        square += float((products[1] - products[0]).square().sum())
        total += float(products[0].square().sum())
    assert found["up·down"] == pytest.approx((square / total) ** 0.5, rel=1e-6)


def test_units_without_a_changed_tensor_are_not_computed(
    shipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shipped("llama")
    baseline = tensors_of(model)
    assert changes_of(model, baseline) == []
    journal = EditJournal(model, tensor_digests(model))
    # A gain alone changes what its readers do.
    norm = "model.layers.1.post_attention_layernorm.weight"
    journal.write(norm, baseline[norm] * 1.5)
    parts = {c.part: c.value for c in changes_of(model, baseline)}
    journal.undo()
    assert parts.keys() == {"gate", "up·down"}
    assert parts["gate"] == pytest.approx(0.5)


def test_what_cannot_be_compared_has_no_value(shipped: Any) -> None:
    model = shipped("gpt2")
    baseline = tensors_of(model)
    name = "transformer.h.1.mlp.c_fc.weight"
    units = canonical_units(model)
    assert not isinstance(units, str)
    broken = baseline[name].clone()
    broken[0, 0] = float("nan")
    for value, reason in (
        (broken, "non_finite"), (baseline[name][:, :8], "shape"),
        (baseline[name].to(torch.int8), "dtype"), (None, "missing"),
    ):  # fmt: skip
        subject = {k: v for k, v in (baseline | {name: value}).items() if v is not None}
        (found,) = canonical_changes(units, baseline, subject)
        assert (found.value, found.reason) == (None, reason)
        assert name in found.modules
    zero = baseline | {name: torch.zeros_like(baseline[name])}
    found_up = next(c for c in canonical_changes(units, zero, baseline) if c.part == "up")
    assert (found_up.value, found_up.reason) == (None, "zero_baseline")
    gone = next(c for c in canonical_changes(units, baseline, zero) if c.part == "up")
    assert gone.value == pytest.approx(1.0)


def rows(n: int, m: int, seed: int) -> Rows:
    return Rows.of(torch.randn(n, m, generator=torch.Generator().manual_seed(seed)))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 999), noise=st.sampled_from([0.0, 0.1]))
def test_any_permutation_of_neurons_is_found(n: int, seed: int, noise: float) -> None:
    one, other = rows(n, 64, seed), rows(n, 48, seed + 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moved = [Rows.of(r.read()[order] + noise * rows(n, r.shape[1], seed + 2).read())
             for r in (one, other)]  # fmt: skip
    match = match_neurons([one, other], moved)
    assert torch.equal(order[match], torch.arange(n))


def test_neurons_keep_their_place_where_one_matrix_of_two_is_shuffled() -> None:
    gate, down = rows(50, 64, 0), rows(50, 64, 1)
    shuffled = Rows.of(gate.read().flip(0))
    match = match_neurons([gate, down], [shuffled, down])
    assert torch.equal(match, torch.arange(50))


@pytest.mark.parametrize("assigned", [0, 1024])
def test_what_stays_ambiguous_is_still_a_permutation(
    assigned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuron_matching, "ASSIGNED", assigned)
    monkeypatch.setattr(neuron_matching, "TILE", 7)
    # Equal neurons have no one nearest neighbour.
    one = Rows.of(torch.ones(40, 8))
    other = Rows.of(torch.ones(40, 8) + 3 * rows(40, 8, 1).read())
    match = match_neurons([one], [other])
    assert torch.equal(match.sort().values, torch.arange(40))


def noisy_changes(
    model: torch.nn.Module, scales: dict[str, float], lifted: dict[str, float]
) -> dict[tuple[str, tuple[str, ...]], CanonicalChange]:
    """The changes that noise makes, baseline and subject scaled alike, the subject ``lifted`` too.

    Both mappings go from the end of a name to a factor.
    """
    generator = torch.Generator().manual_seed(3)
    baseline, subject = {}, {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        one = parameter.detach().double()
        other = one * (1 + 0.1 * noise)
        for ending, factor in scales.items():
            if name.endswith(ending):
                one, other = one * factor, other * factor
        for ending, factor in lifted.items():
            other = other * factor if name.endswith(ending) else other
        baseline[name], subject[name] = one, other
    units = canonical_units(model)
    assert not isinstance(units, str)
    return {
        (c.part.partition(" of head")[0], c.modules): c
        for c in canonical_changes(units, baseline, subject)
    }


WEIGHTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "up_proj.weight",
           "down_proj.weight", "gate_proj.weight")  # fmt: skip


@pytest.mark.parametrize("factors", [(1e180, 1e180), (1e-200, 1e-200), (1e-160, 1e190)])
def test_numbers_near_the_ends_of_float64_are_compared_as_others_are(
    factors: tuple[float, float], tiny_model: Any
) -> None:
    model = tiny_model("llama")
    scales = {name: factors[index % 2] for index, name in enumerate(WEIGHTS)}
    plain, scaled = noisy_changes(model, {}, {}), noisy_changes(model, scales, {})
    assert plain.keys() == scaled.keys()
    assert len(plain) == 8
    for part, change in scaled.items():
        assert change.reason is None, change
        assert change.value == pytest.approx(plain[part].value, rel=1e-9)


@pytest.mark.parametrize("lift", [1e250, 1e300])
@pytest.mark.parametrize("scale", [1.0, 1e-200])
def test_a_change_beyond_float64_has_a_reason_and_no_number(
    lift: float, scale: float, tiny_model: Any
) -> None:
    found = noisy_changes(
        tiny_model("llama"), dict.fromkeys(WEIGHTS, scale), dict.fromkeys(WEIGHTS[:2], lift)
    )
    reached = [c for c in found.values() if {"q·k"} & {c.part.partition(" of")[0]}]
    assert reached
    assert {(c.value, c.reason) for c in reached} == {(None, "out_of_range")}


def test_a_gain_that_overflows_has_a_reason(tiny_model: Any) -> None:
    scales = {**dict.fromkeys(WEIGHTS, 1e200), "layernorm.weight": 1e200}
    for change in noisy_changes(tiny_model("llama"), scales, {}).values():
        assert (change.value is None) is (change.reason is not None)
        assert change.value is None or change.value < 1


def test_a_baseline_of_zeros_is_told_from_one_of_tiny_numbers(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    module = "model.layers.0.mlp.up_proj"
    named = [
        c for c in noisy_changes(model, {}, {}).values() if any(module in m for m in c.modules)
    ]
    # Noise on zeros is zero: the product is none on both sides.
    assert [(c.value, c.reason) for c in named] == [(0.0, None)]
