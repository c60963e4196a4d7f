"""From an EditSpec to the function that applies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.edits.fp8_quant import fp8_quant
from pytest_invarlock.edits.lowrank_svd import lowrank_svd
from pytest_invarlock.edits.magnitude_prune import magnitude_prune
from pytest_invarlock.edits.quant_rtn import quant_rtn
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults import block_damage, guard_probes, injections, reparametrization
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.policy.edit_names import parameter_problem
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from pytest_invarlock.bench.journal import EditJournal
    from pytest_invarlock.plan import EditSpec

EditFunction = Callable[..., Mapping[str, float] | None]


def _noop(journal: EditJournal) -> None:
    del journal


EDITS: Mapping[str, EditFunction] = {
    "noop": _noop,
    "quant_rtn": quant_rtn,
    "fp8_quant": fp8_quant,
    "magnitude_prune": magnitude_prune,
    "lowrank_svd": lowrank_svd,
    "nan_injection": injections.nan_injection,
    "inf_injection": injections.inf_injection,
    "extreme_quant": injections.extreme_quant,
    "scale_explosion": injections.scale_explosion,
    "rank_collapse": injections.rank_collapse,
    "norm_collapse": injections.norm_collapse,
    "dtype_round_trip": injections.dtype_round_trip,
    "rmt_norm_noise": guard_probes.rmt_norm_noise,
    "rmt_norm_noise_strong": guard_probes.rmt_norm_noise_strong,
    "spectral_moderate_scale": guard_probes.spectral_moderate_scale,
    "spectral_moderate_scale_mlp": guard_probes.spectral_moderate_scale_mlp,
    "ve_mlp_scale_skew": guard_probes.ve_mlp_scale_skew,
    "ve_mlp_scale_skew_up": guard_probes.ve_mlp_scale_skew_up,
    "zero_layer": block_damage.zero_layer,
    "swap_layers": block_damage.swap_layers,
    "sign_flip": block_damage.sign_flip,
    "permute_rows": block_damage.permute_rows,
    "redraw_matrix": block_damage.redraw_matrix,
    "drop_bias": block_damage.drop_bias,
    "scale_norm_gain": block_damage.scale_norm_gain,
    "zero_head": block_damage.zero_head,
    "kill_expert": block_damage.kill_expert,
    "rescale_gated_pair": reparametrization.rescale_gated_pair,
    "permute_mlp_neurons": reparametrization.permute_mlp_neurons,
    "rotate_value_output_heads": reparametrization.rotate_value_output_heads,
    "fold_norm_gain": reparametrization.fold_norm_gain,
}
"""Edits, faults and controls of a resident model; structural faults are in `VIEW_FAULTS`."""


def apply_edit(spec: EditSpec, journal: EditJournal) -> dict[str, Any]:
    """Apply ``spec`` through ``journal`` and return how much it covered and changed.

    The mapping is the record's ``edit`` block; ``details`` holds the edit's own figures.

    Raises:
        EditError: unknown edit or parameter; a structural fault, which needs a checkpoint view; no
            target; an edit that changed nothing; a ``noop`` that changed something.
    """
    _check(spec)
    details = EDITS[spec.name](journal, **dict(spec.parameters))
    changed = journal.changes()
    if spec.name == "noop" and changed.n_parameters_changed:
        raise EditError("noop changed the model", remedy="report this", code="NOOP_CHANGED")
    if spec.name != "noop" and not changed.n_tensors_touched:
        raise EditError(
            f"{spec.name} found no tensor to change in this architecture",
            remedy="choose another scope, or a model whose blocks it knows",
            code="EDIT_NO_TARGET",
        )
    if spec.name != "noop" and not changed.n_parameters_changed:
        raise EditError(
            f"{spec.name} changed nothing",
            remedy="strengthen its parameters, or declare noop",
            code="EDIT_CHANGED_NOTHING",
        )
    return {
        **spec.document(),
        "n_tensors_touched": changed.n_tensors_touched,
        "n_tensors_changed": changed.n_tensors_changed,
        "n_parameters_touched": changed.n_parameters_touched,
        "n_parameters_changed": changed.n_parameters_changed,
        **({"details": dict(details)} if details else {}),
    }


def _check(spec: EditSpec) -> None:
    if spec.name in VIEW_FAULTS:
        raise EditError(
            f"{spec.name} damages a checkpoint's structure, not a resident model",
            remedy="apply it to a checkpoint view (faults.structural.apply_view_fault)",
            code="EDIT_STRUCTURAL",
        )
    if spec.name not in EDITS:
        raise EditError(
            f"no edit is named {spec.name!r}",
            remedy=nearest(spec.name, sorted((*EDITS, *VIEW_FAULTS)), "edit"),
            code="UNKNOWN_EDIT",
        )
    problem = parameter_problem(spec)
    if problem is not None:
        raise EditError(
            f"{spec.name}: {problem}", remedy="mend its parameters", code="EDIT_PARAMETERS"
        )
