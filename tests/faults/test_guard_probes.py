"""Mild faults: the seeds' parameters, on the roles they name, drawn by seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec


def injected(model: Any, name: str, **parameters: Any) -> dict[str, Any]:
    return apply_edit(EditSpec(name, parameters), EditJournal(model, tensor_digests(model)))


def ratios(before: Any, model: Any) -> dict[str, float]:
    """Of every changed parameter, the one factor it was multiplied by."""
    found = {}
    for name, parameter in model.named_parameters():
        old = before.get_parameter(name)
        if not torch.equal(parameter, old):
            quotient = (parameter / old)[old != 0]
            assert float(quotient.std()) < 1e-5
            found[name] = float(quotient.mean())
    return found


@pytest.mark.parametrize("factor", [0, -1, 1])
def test_a_factor_that_scales_nothing_is_an_error(factor: float, architecture: Any) -> None:
    with pytest.raises(EditError) as caught:
        injected(architecture("llama"), "ve_mlp_scale_skew", factor=factor)
    assert caught.value.code == "EDIT_PARAMETERS"


def test_weights_that_are_not_finite_are_no_target(architecture: Any) -> None:
    model = architecture("llama")
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    with pytest.raises(EditError) as caught:
        injected(model, "rmt_norm_noise")
    assert caught.value.code == "EDIT_NO_TARGET"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "t5", "bert", "bart", "gpt_neox"])
@pytest.mark.parametrize(
    ("name", "roles", "factor"),
    [
        ("spectral_moderate_scale", ("o_proj", "attn.c_proj", ".o.", "out_proj", "dense"), 1.5),
        (
            "spectral_moderate_scale_mlp",
            ("up_proj", "c_fc", ".wi.", "fc1", "intermediate.dense", "dense_h_to_4h"),
            1.4,
        ),
        (
            "ve_mlp_scale_skew",
            ("down_proj", "mlp.c_proj", ".wo.", "fc2", "output.dense", "dense_4h_to_h"),
            0.9,
        ),
        (
            "ve_mlp_scale_skew_up",
            ("down_proj", "mlp.c_proj", ".wo.", "fc2", "output.dense", "dense_4h_to_h"),
            1.12,
        ),
    ],
)
def test_scales_are_the_seeds_on_the_role_they_name(
    name: str, roles: tuple[str, ...], factor: float, kind: str, architecture: Any
) -> None:
    before, model = architecture(kind), architecture(kind)
    injected(model, name)
    found = ratios(before, model)
    assert found
    for changed, ratio in found.items():
        assert ratio == pytest.approx(factor, rel=1e-5)
        assert any(role in changed for role in roles), changed
    if name.startswith("ve_"):
        assert len(found) == 1


def test_layers_and_counts_are_kept_to(architecture: Any) -> None:
    before, model = architecture("llama"), architecture("llama")
    injected(model, "spectral_moderate_scale", layers=[1], include_qkv=True, max_params=3)
    found = ratios(before, model)
    assert len(found) == 3
    assert all("layers.1.self_attn" in name for name in found)


def test_the_seed_draws(architecture: Any) -> None:
    digests = []
    for seed in (1, 1, 2, 3, 4):
        model = architecture("t5")
        injected(model, "ve_mlp_scale_skew", seed=seed)
        digests.append(tuple(tensor_digests(model).values()))
    assert digests[0] == digests[1]
    assert len(set(digests)) > 1


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "bert"])
@pytest.mark.parametrize("name", ["rmt_norm_noise", "rmt_norm_noise_strong"])
def test_noise_keeps_row_norms_and_draws_rows_together(
    name: str, kind: str, architecture: Any
) -> None:
    before, model = architecture(kind), architecture(kind)
    found = injected(model, name, jitter=0.0)
    rows_changed = 0
    for parameter_name, parameter in model.named_parameters():
        old = before.get_parameter(parameter_name)
        if torch.equal(parameter, old):
            continue
        conv1d = kind == "gpt2"
        new, old = (parameter.mT, old.mT) if conv1d else (parameter, old)
        torch.testing.assert_close(new.norm(dim=-1), old.norm(dim=-1), rtol=1e-5, atol=0)
        stacks = zip(
            new.reshape(-1, *new.shape[-2:]), old.reshape(-1, *old.shape[-2:]), strict=True
        )
        for one, was in stacks:
            changed = (one != was).any(dim=1)
            # The first selected row only meets itself.
            rows_changed += int(changed.sum())
            unit = torch.nn.functional.normalize(one[changed], dim=1)
            alike = unit @ unit.T
            assert float(alike.min()) > (0.999 if name.endswith("strong") else 0.5)
    assert rows_changed <= found["details"]["n_rows"]
    assert rows_changed >= found["details"]["n_rows"] / 2


@pytest.mark.parametrize("selection", ["first", "last", "top_norm", "random"])
def test_rows_are_selected_as_asked(selection: str, architecture: Any) -> None:
    before, model = architecture("llama"), architecture("llama")
    injected(
        model, "rmt_norm_noise", max_params=1, layers=[0], row_fraction=0.25,
        row_selection=selection, jitter=0.1,
    )  # fmt: skip
    changed = {
        name: (parameter != before.get_parameter(name)).any(dim=1)
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before.get_parameter(name))
    }
    (name, rows), *more = changed.items()
    assert not more
    count = round(0.25 * len(rows))
    at = rows.nonzero().flatten().tolist()
    assert len(at) == count
    norms = before.get_parameter(name).norm(dim=1)
    if selection == "first":
        assert at == list(range(count))
    if selection == "last":
        assert at == list(range(len(rows) - count, len(rows)))
    if selection == "top_norm":
        assert at == sorted(norms.argsort(descending=True)[:count].tolist())
