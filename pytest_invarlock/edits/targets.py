"""Which weight matrices an edit changes, and the orientation its arithmetic is written for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from invarlock_guards.families import all_weight_matrices, blocks, weight_matrices

from pytest_invarlock.errors import EditError

if TYPE_CHECKING:
    import torch
    from invarlock_guards.families import WeightMatrix


def edit_targets(
    model: torch.nn.Module,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> Iterator[WeightMatrix]:
    """The matrices of ``model`` that an edit changes, each storage once.

    Args:
        model: the model under edit.
        scope: ``ffn``, ``attn`` or ``all`` of the blocks' projections, optionally limited to
            blocks: ``ffn@layers=0,2-4``.
        layers: the same limit on its own: ``"0,2-4"`` or a list of block numbers from 0.
        include: ``embed`` and ``head`` add the token embedding and the output head; where they
            are tied, either means both.

    Raises:
        EditError: blocks limited twice, malformed, or beyond the model's (EDIT_PARAMETERS); no head
            to include (EDIT_NO_TARGET).
    """
    seen: set[int] = set()
    found = scoped_matrices(model, limited_scope(scope, layers))
    if "embed" in include:
        found += [m for m in all_weight_matrices(model) if m.role == "embedding"]
    if "head" in include:
        found.append(output_head(model))
    for matrix in found:
        # A tied head is the embedding: editing both names would edit the same weights twice.
        if matrix.weight.data_ptr() not in seen:
            seen.add(matrix.weight.data_ptr())
            yield matrix


def finite_targets(
    model: torch.nn.Module,
    scope: str = "all",
    layers: str | Sequence[int] | None = None,
    include: Sequence[str] = (),
) -> list[WeightMatrix]:
    """`edit_targets` of an edit whose arithmetic would carry one bad weight to its neighbours.

    All are looked at before any is given out, and so before anything is written.

    Raises:
        EditError: also where a matrix holds NaN, or infinities in float32 (EDIT_NO_TARGET).
    """
    found = list(edit_targets(model, scope, layers, include))
    for matrix in found:
        # In float32, where the arithmetic is: what float64 alone can hold is infinite there.
        if not bool(matrix.weight.detach().float().isfinite().all()):
            raise EditError(
                f"{matrix.name} holds non-finite weights",
                remedy="edit a sound model, or leave its block out of layers",
                code="EDIT_NO_TARGET",
            )
    return found


def output_head(model: torch.nn.Module) -> WeightMatrix:
    """The output head; where it is tied, the embedding that it is.

    Raises:
        EditError: the model has none (EDIT_NO_TARGET).
    """
    any_model: Any = model
    module = any_model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(module, "weight", None)
    for matrix in all_weight_matrices(model):
        tied = weight is not None and matrix.weight.data_ptr() == weight.data_ptr()
        if matrix.role == "head" or tied:
            return matrix
    raise EditError(
        "the model has no output head",
        remedy="choose a model that predicts tokens",
        code="EDIT_NO_TARGET",
    )


def scoped_matrices(model: torch.nn.Module, scope: str) -> list[WeightMatrix]:
    """`weight_matrices` of ``scope`` as a list; a scope the model cannot meet is an EditError."""
    if not blocks(model):
        raise EditError(
            "the model has no repeated blocks, whose projections edits change",
            remedy="choose a transformer",
            code="EDIT_NO_TARGET",
        )
    try:
        return list(weight_matrices(model, scope))
    except ValueError as error:
        raise EditError(
            str(error), remedy="name blocks that the model has", code="EDIT_PARAMETERS"
        ) from error


def limited_scope(scope: str, layers: str | Sequence[int] | None) -> str:
    """``scope`` with ``layers`` written into it: ``("ffn", [0, 2])`` as ``ffn@layers=0,2``."""
    if layers is None:
        return scope
    if "@" in scope:
        raise EditError(
            f"scope {scope!r} and layers both limit the blocks",
            remedy="limit them in one place",
            code="EDIT_PARAMETERS",
        )
    listed = layers if isinstance(layers, str) else ",".join(str(layer) for layer in layers)
    return f"{scope}@layers={listed}"


def as_rows(matrix: WeightMatrix, value: torch.Tensor | None = None) -> torch.Tensor:
    """``matrix`` (or ``value`` of its shape) as (…, outputs, inputs): a view, detached.

    The leading axis, where there is one, counts stacked experts.
    """
    weight = matrix.weight.detach() if value is None else value
    return weight if matrix.input_axis == -1 else weight.transpose(-1, -2)


def as_stored(matrix: WeightMatrix, rows: torch.Tensor) -> torch.Tensor:
    """The inverse of `as_rows`: (…, outputs, inputs) in the layout the model stores."""
    return as_rows(matrix, rows)
