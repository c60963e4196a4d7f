"""Roles of what stands outside the blocks, and of embeddings anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.projections import Found, Projection, projection_of
from invarlock_guards.role_names import (
    HEADS,
    POOLERS,
    POSITIONS,
    SEGMENTS,
    TOKEN_EMBEDDINGS,
    TRANSFORMS,
)
from invarlock_guards.stacks import text_config

if TYPE_CHECKING:
    from invarlock_guards.role_names import Role


class OuterRoles:
    """Tells the roles that a model and its configuration give to modules outside its blocks."""

    def __init__(self, model: torch.nn.Module) -> None:
        config = text_config(model)
        self._tokens = _weight_of(model, "get_input_embeddings")
        self._head = _weight_of(model, "get_output_embeddings")
        self._vocabulary = getattr(config, "vocab_size", None)
        self._labels = getattr(config, "num_labels", None)
        self._width = getattr(config, "hidden_size", None)

    def embedding(self, name: str, module: torch.nn.Embedding) -> Found:
        """The role of a table of rows: its input, an index, chooses along axis -2."""
        own_name = name.rpartition(".")[2]
        role: Role = "unknown"
        if module.weight is self._tokens:
            role = "embedding"
        elif own_name in POSITIONS:
            role = "position"
        elif own_name in SEGMENTS:
            role = "segment"
        elif own_name in TOKEN_EMBEDDINGS or module.num_embeddings == self._vocabulary:
            role = "embedding"
        return Found(role, -2)

    def projection(self, name: str, module: torch.nn.Module) -> Found | None:
        """The role of a projection outside the blocks; None if ``module`` is no projection."""
        matrix = projection_of(name, module)
        if matrix is None:
            return None
        role: Role = "head" if module.weight is self._head else self._role(matrix)
        return Found(role, matrix.input_axis)

    def _role(self, matrix: Projection) -> Role:
        names = {matrix.own_name, matrix.owner}
        narrow = None if self._tokens is None else self._tokens.shape[-1]
        streams = (self._width, narrow)
        if matrix.own_name in HEADS or (
            matrix.inputs in streams and matrix.inputs != matrix.outputs == self._vocabulary
        ):
            return "head"
        if matrix.owner in HEADS and matrix.outputs == self._labels:
            return "head"
        if names & POOLERS:
            return "pooler"
        if names & TRANSFORMS and matrix.inputs == matrix.outputs:
            return "transform"
        if narrow != self._width:
            # Embeddings narrower than the residual stream are widened, and narrowed for the head.
            if (matrix.inputs, matrix.outputs) == (narrow, self._width):
                return "embed_in"
            if (matrix.inputs, matrix.outputs) == (self._width, narrow):
                return "embed_out"
        return "unknown"


def _weight_of(model: torch.nn.Module, getter: str) -> Any:
    """The weight of the module that a transformers model gives as its ``getter``, or None."""
    get = getattr(model, getter, None)
    if get is None:
        return None
    try:
        return getattr(get(), "weight", None)
    except (AttributeError, NotImplementedError):
        # transformers models without such a module say so in either way.
        return None
