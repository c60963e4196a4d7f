"""Single projections: modules that multiply their input by a matrix, in either layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invarlock_guards.role_names import Role


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A matrix from ``inputs`` to ``outputs`` features, by its parameter's ``name``.

    ``own_name`` and ``owner`` are attribute names: the projection's, and that of the module it is
    in. ``input_axis``, negative, is the axis of the parameter that meets the input.
    """

    name: str
    own_name: str
    owner: str
    inputs: int
    outputs: int
    input_axis: int


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one parameter: its role, input axis, and place among its like."""

    role: Role
    input_axis: int = -1
    cross: bool = False
    expert: int | None = None


def projection_of(name: str, module: torch.nn.Module) -> Projection | None:
    """The projection that ``module`` is, or None; packed or wrapped weights are none."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    if isinstance(module, torch.nn.Linear):
        sizes: tuple[object, ...] = (module.out_features, module.in_features)
        axis = -1
    elif type(module).__name__ == "Conv1D":
        # transformers' Conv1D stores (input, output), the transpose of Linear.
        sizes, axis = (module.nx, module.nf), -2
    else:
        return None
    if tuple(weight.shape) != sizes:
        return None
    owner, _, own_name = f".{name}".rpartition(".")
    return Projection(
        name=f"{name}.weight" if name else "weight",
        own_name=own_name,
        owner=owner.rpartition(".")[2],
        inputs=weight.shape[axis],
        outputs=weight.shape[-3 - axis],
        input_axis=axis,
    )


def projections_in(name: str, module: torch.nn.Module) -> Iterator[Projection]:
    """Every projection in ``module``, itself included."""
    for inner_name, inner in module.named_modules(prefix=name, remove_duplicate=False):
        projection = projection_of(inner_name, inner)
        if projection is not None:
            yield projection


def is_norm(module: torch.nn.Module) -> bool:
    """Whether ``module`` owns one vector of weights, at most a bias like it, and nothing else."""
    owned = dict(module.named_parameters(remove_duplicate=False))
    weight = owned.get("weight")
    if weight is None or weight.ndim != 1 or isinstance(module, torch.nn.PReLU):
        return False
    return all(p.shape == weight.shape for p in owned.values()) and owned.keys() <= {
        "weight",
        "bias",
    }
