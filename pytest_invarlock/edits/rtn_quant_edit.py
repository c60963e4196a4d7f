"""RTNQuantEdit: round-to-nearest quantisation as an edit object of the Python API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_invarlock.edits.quant_rtn import quant_rtn
from pytest_invarlock.edits.writer import InPlaceWriter
from pytest_invarlock.errors import EditError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.edit_names import declared_kind, parameter_problem

_RENAMED = {"bits": "bitwidth", "group": "group_size"}


@dataclass(frozen=True, slots=True)
class RTNQuantEdit:
    """`quant_rtn` with the original's names; the same arithmetic as in suite files and markers.

    Its defaults are the original's, 8 bits of ``ffn``, where `quant_rtn` has neither a default
    width nor a limit of scope: give ``scope="all"`` for what a suite file does without one.

    Args:
        bitwidth: 2 to 8.
        per_channel: one scale an output channel, or, where False, one a matrix.
        group_size: weights along the input axis that share a scale, at every bit width.
        clamp_ratio: 0 to 0.5, the share of each channel's weights that is clipped beforehand.
        scope: ``ffn``, ``attn`` or ``all``, with ``@layers=`` to limit the blocks.
        layers: the blocks, where the scope does not name them.
        include: ``embed`` and ``head``.

    Raises:
        EditError: parameters out of range (EDIT_PARAMETERS).
    """

    bitwidth: int = 8
    per_channel: bool = True
    group_size: int | None = None
    clamp_ratio: float = 0.0
    scope: str = "ffn"
    layers: str | Sequence[int] | None = None
    include: Sequence[str] = ()

    name = "quant_rtn"

    def __post_init__(self) -> None:
        """Refuse parameters that a suite file could not have either."""
        problem = parameter_problem(self.spec)
        if problem is not None:
            raise EditError(
                f"RTNQuantEdit: {problem}", remedy="mend its parameters", code="EDIT_PARAMETERS"
            )

    @property
    def spec(self) -> EditSpec:
        """The same edit as plans and records name it."""
        parameters: dict[str, Any] = {
            "bitwidth": self.bitwidth,
            "per_channel": self.per_channel,
            "clamp_ratio": self.clamp_ratio,
            "scope": self.scope,
        }
        if self.group_size is not None:
            parameters["group_size"] = self.group_size
        if self.layers is not None:
            parameters["layers"] = (
                self.layers if isinstance(self.layers, str) else list(self.layers)
            )
        if self.include:
            parameters["include"] = list(self.include)
        return EditSpec(self.name, parameters)

    @property
    def kind(self) -> str:
        """The kind of change it declares to the guards: ``quantize8`` or ``quantize4``."""
        return declared_kind(self.spec)

    def can_edit(self, model_desc: Mapping[str, Any]) -> bool:
        """Whether an adapter's description is of a model with blocks; `apply` has the last word."""
        return int(model_desc.get("n_layer") or 0) > 0

    def apply(
        self,
        model: torch.nn.Module,
        adapter: Any = None,
        plan: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        """Quantise ``model`` in place, for good, and return what was covered and changed.

        Args:
            model: the model to change.
            adapter: unused; the seeds' API passes it.
            plan: parameters that replace this object's; so do ``overrides``.

        Raises:
            EditError: an unknown parameter, no matrix in scope, or nothing changed.
        """
        del adapter
        edit = self._with({**(plan or {}), **overrides})
        writer = InPlaceWriter(model)
        details = quant_rtn(writer, **dict(edit.spec.parameters))
        if not writer.n_parameters_changed:
            touched = writer.n_tensors_touched
            raise EditError(
                "quant_rtn changed nothing" if touched else "quant_rtn found no matrix in scope",
                remedy="choose another scope or fewer bits",
                code="EDIT_CHANGED_NOTHING" if touched else "EDIT_NO_TARGET",
            )
        return {
            **edit.spec.document(),
            "n_tensors_touched": writer.n_tensors_touched,
            "n_tensors_changed": writer.n_tensors_changed,
            "n_parameters_touched": writer.n_parameters_touched,
            "n_parameters_changed": writer.n_parameters_changed,
            "details": dict(details),
        }

    def _with(self, parameters: Mapping[str, Any]) -> RTNQuantEdit:
        renamed = {_RENAMED.get(key, key): value for key, value in parameters.items()}
        unknown = sorted(set(renamed) - set(self.__slots__))
        if unknown:
            raise EditError(
                f"quant_rtn has no parameter {unknown[0]!r}",
                remedy=f"use {', '.join(self.__slots__)}",
                code="EDIT_PARAMETERS",
            )
        return replace(self, **renamed)
