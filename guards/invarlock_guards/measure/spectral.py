"""Measure of the spectral guard: every weight of a subject against the baseline's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.contract import Guard, GuardResult
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.measure.canonical_change import CanonicalChange, canonical_changes
from invarlock_guards.measure.canonical_layout import canonical_units
from invarlock_guards.measure.weight_change import WeightChange, WeightPair, compare, weight_pairs

if TYPE_CHECKING:
    from invarlock_guards.contract import GuardEvidence

Tensors = Mapping[str, torch.Tensor]


def measure_spectral(
    pairs: Iterable[WeightPair], canonical: Iterable[CanonicalChange] | str
) -> GuardEvidence:
    """Compare ``pairs`` one by one; evidence for `judge_spectral`.

    Args:
        pairs: the tensors of both models, read when they are asked for.
        canonical: the changes after the free choices of parametrisation are removed, or the
            reason why there are none.

    Returns:
        ``covered``: by family, and ``vector``, how many matrices and parameters there are, were
        compared and changed. ``changes``: each tensor that is not bitwise equal, with its
        statistics and, for a matrix, ``canon``: the largest canonical change it takes part in.
        ``canon``: whether there is any, and why not.
    """
    covered: dict[str, dict[str, int]] = {}
    changes: list[dict[str, Any]] = []
    for pair in pairs:
        kind = _type(pair)
        row = covered.setdefault(
            "vector" if kind == "vector" else pair.family,
            {"matrices": 0, "parameters": 0, "compared": 0, "changed": 0},
        )
        for change in compare(pair):
            row["matrices"] += kind == "matrix"
            row["parameters"] += change.n_parameters
            row["compared"] += change.n_parameters if change.compared else 0
            if not change.bitwise_equal:
                row["changed"] += 1
                changes.append(_document(change, kind))
        # Let go before the next pair is read.
        del pair
    if isinstance(canonical, str):
        return _evidence(covered, changes, {"available": False, "reason": canonical})
    largest: dict[str, CanonicalChange] = {}
    for found in canonical:
        for module in found.modules:
            before = largest.get(module)
            if before is None or _beyond(found, before):
                largest[module] = found
    for document in changes:
        part = largest.get(document["name"])
        if document["type"] == "matrix" and part is not None:
            document["canon"] = {"value": part.value, "part": part.part, "reason": part.reason}
    return _evidence(covered, changes, {"available": True, "reason": None})


def measure_models(model: torch.nn.Module, baseline: Tensors, subject: Tensors) -> GuardEvidence:
    """`measure_spectral` of all parameters of ``model``, which gives names and roles alone.

    Args:
        model: of the architecture; it may be on the meta device.
        baseline: tensors by parameter name; anything that reads them when asked will do.
        subject: the same of the subject.
    """
    units = canonical_units(model)
    canonical = units if isinstance(units, str) else canonical_changes(units, baseline, subject)
    with torch.no_grad():
        return measure_spectral(weight_pairs(model, baseline, subject), canonical)


def _type(pair: WeightPair) -> str:
    """``matrix``, ``table`` (embeddings and head: rows, not a map) or ``vector``."""
    if pair.is_matrix:
        return "matrix"
    return "table" if pair.family == "embed" and pair.role not in ("norm", "bias") else "vector"


def _document(change: WeightChange, kind: str) -> dict[str, Any]:
    return change.document() | {"type": kind, "canon": None}


def _beyond(one: CanonicalChange, other: CanonicalChange) -> bool:
    """Whether ``one`` is the larger; a change without a value is larger than any."""
    if one.value is None or other.value is None:
        return one.value is None
    return one.value > other.value


def _evidence(
    covered: dict[str, dict[str, int]], changes: list[dict[str, Any]], canon: dict[str, Any]
) -> GuardEvidence:
    return {"covered": covered, "changes": changes, "canon": canon}


class SpectralGuard(Guard):
    """Size, shape and direction of every weight against the baseline's.

    ``prepare`` keeps a copy of the baseline's parameters in main memory, as much as the model is
    large, since a change cannot be told from statistics of one side; the model itself may go.

    >>> import copy, torch, transformers
    >>> from invarlock_guards import SpectralGuard
    >>> config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    >>> model = transformers.GPT2LMHeadModel(config)
    >>> guard = SpectralGuard(kind="any")
    >>> guard.prepare(model, None, None, {})
    {'ready': True}
    >>> with torch.no_grad():
    ...     _ = model.transformer.h[1].mlp.c_proj.weight.mul_(2)
    >>> result = guard.validate(model, None, None)
    >>> result.passed, result.violations[0].module
    (False, 'transformer.h.1.mlp.c_proj.weight')
    """

    name = "spectral"

    def __init__(self, kind: str = "any") -> None:
        self._kind = kind
        self._policy = SpectralPolicy()
        self._baseline: dict[str, torch.Tensor] | None = None

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Copy the baseline's parameters; ``policy`` is read by `SpectralPolicy.from_mapping`."""
        del adapter, calib
        self._policy = SpectralPolicy.from_mapping(policy or {})
        self._baseline = {
            name: parameter.detach().to("cpu", copy=True)
            for name, parameter in model.named_parameters()
        }
        return {"ready": True}

    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult:
        """Compare the subject with the prepared baseline; the model is read only."""
        del adapter, context
        if self._baseline is None:
            return GuardResult(
                self.name, None, "abort", "not_prepared",
                "the baseline was never shown to the guard",
            )  # fmt: skip
        subject = {name: parameter.detach() for name, parameter in model.named_parameters()}
        evidence = measure_models(model, self._baseline, subject)
        return judge_spectral(evidence, kind=self._kind, policy=self._policy)
