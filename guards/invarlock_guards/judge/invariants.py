"""Judge of the invariants guard: structure, finiteness, tying, configuration and tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invarlock_guards.contract import GuardResult, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from invarlock_guards.contract import GuardEvidence

FREE_DTYPE_KINDS = frozenset({"any", "cast"})
"""Declared kinds of change under which casting every tensor alike is expected."""

_DIFFERENCES = (
    ("missing", "missing_tensor"),
    ("unexpected", "unexpected_tensor"),
    ("shape_changes", "shape_change"),
    ("non_finite", "non_finite"),
    ("ties_broken", "tie_broken"),
    ("ties_added", "tie_added"),
    ("config_changes", "config_change"),
    ("tokenizer_changes", "tokenizer_change"),
)


def judge_invariants(evidence: GuardEvidence, *, kind: str) -> GuardResult:
    """Every recorded difference violates, but a cast of all tensors alike where the kind allows it.

    Args:
        evidence: what `invarlock_guards.measure.invariants.measure_invariants` returned.
        kind: the declared kind of change.
    """
    if not evidence.get("n_tensors"):
        return GuardResult(
            "invariants", None, "abort", "nothing_measured", "no tensor of the model was compared"
        )
    violations = [
        Violation(name, entry["name"], entry["subject"], entry["baseline"])
        for key, name in _DIFFERENCES
        for entry in evidence[key]
    ]  # fmt: skip
    dtype_changes = [
        Violation("dtype_change", entry["name"], entry["subject"], entry["baseline"])
        for entry in evidence["dtype_changes"]
    ]
    cast = kind in FREE_DTYPE_KINDS and _all_cast_alike(evidence)
    expected = tuple(dtype_changes) if cast else ()
    violations += [] if cast else dtype_changes
    metrics = _counts(evidence)
    if violations:
        return GuardResult(
            "invariants", False, "abort", violations[0].kind, _sentence(violations),
            metrics, tuple(violations), expected,
        )  # fmt: skip
    text = f"{evidence['n_tensors']} tensors: finite, same names, shapes, dtypes and ties"
    if expected:
        text = (
            f"{evidence['n_tensors']} tensors: finite, same names, shapes and ties; all cast alike"
        )
    return GuardResult("invariants", True, "continue", "ok", text, metrics, (), expected)


def _all_cast_alike(evidence: GuardEvidence) -> bool:
    changes = evidence["dtype_changes"]
    pairs = {(entry["baseline"], entry["subject"]) for entry in changes}
    return len(pairs) == 1 and len(changes) == evidence["n_floating_tensors"]


def _counts(evidence: GuardEvidence) -> Mapping[str, int]:
    counts = {
        "n_tensors": int(evidence["n_tensors"]),
        "n_parameters": int(evidence["n_parameters"]),
    }
    for key in (*(key for key, _ in _DIFFERENCES), "dtype_changes"):
        counts[f"n_{key}"] = len(evidence[key])
    return counts


def _sentence(violations: list[Violation]) -> str:
    first = violations[0]
    rest = f" and {len(violations) - 1} more" if len(violations) > 1 else ""
    found: Any = "" if first.value is None else f" ({first.value}, baseline {first.threshold})"
    return f"{first.kind.replace('_', ' ')} in {first.module}{found}{rest}"
