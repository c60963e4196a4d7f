"""From an EditSpec to the function that applies it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_invarlock.edits.magnitude_prune import magnitude_prune
from pytest_invarlock.edits.quant_rtn import quant_rtn
from pytest_invarlock.errors import EditError
from pytest_invarlock.faults.injections import nan_injection, scale_explosion
from pytest_invarlock.policy.edit_names import parameter_problem
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from pytest_invarlock.bench.journal import EditJournal
    from pytest_invarlock.plan import EditSpec

EditFunction = Callable[..., None]


def _noop(journal: EditJournal) -> None:
    del journal


EDITS: Mapping[str, EditFunction] = {
    "noop": _noop,
    "quant_rtn": quant_rtn,
    "magnitude_prune": magnitude_prune,
    "nan_injection": nan_injection,
    "scale_explosion": scale_explosion,
}


def apply_edit(spec: EditSpec, journal: EditJournal) -> dict[str, Any]:
    """Apply ``spec`` through ``journal`` and return how much it covered and changed.

    Raises:
        EditError: unknown edit or parameter; no target; an edit that changed nothing; a ``noop``
            that changed something.
    """
    if spec.name not in EDITS:
        raise EditError(
            f"no edit is named {spec.name!r}",
            remedy=nearest(spec.name, sorted(EDITS), "edit"),
            code="UNKNOWN_EDIT",
        )
    problem = parameter_problem(spec)
    if problem is not None:
        raise EditError(
            f"{spec.name}: {problem}", remedy="mend its parameters", code="EDIT_PARAMETERS"
        )
    EDITS[spec.name](journal, **dict(spec.parameters))
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
    }
