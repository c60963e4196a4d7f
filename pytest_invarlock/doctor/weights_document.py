"""A comparison of two checkpoints' files as one JSON document, and as lines to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import Outcome
from pytest_invarlock.doctor.document import count_line, summary, without_paths
from pytest_invarlock.doctor.weights import TIER
from pytest_invarlock.evidence.plain_text import plain
from pytest_invarlock.policy.suite import display_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.doctor.weights import WeightsComparison

FORMAT = "doctor-weights-v1"
SHOWN = 10
"""How many modules the table has at most; the document has all that differ."""

_NUMBERS = (
    ("ln_sigma", "ln σ"),
    ("ln_stable_rank", "ln rank"),
    ("ln_frobenius", "ln ‖W‖"),
    ("relative_change", "‖ΔW‖/‖W‖"),
    ("balanced_edge", "edge ΔW"),
)
# Columns that are not numbers: module, family, and why a number is missing.
_TEXTS = (0, 1, len(_NUMBERS) + 3)


def weights_document(found: WeightsComparison) -> dict[str, Any]:
    """The document of ``policies/schemas/doctor_weights.schema.json``; no absolute paths in it."""
    decision, evidence = found.decision, found.evidence
    document = {
        "format_version": FORMAT,
        "summary": summary(found.findings),
        "baseline": _side(found.baseline, found.revisions[0]),
        "subject": _side(found.subject, found.revisions[1]),
        "kind": found.kind,
        "tier": TIER,
        "checks": [] if decision is None else [check.document() for check in decision.checks],
        "covered": {} if evidence is None else dict(evidence.spectral["covered"]),
        "modules": [dict(module) for module in found.modules],
        "findings": [finding.document() for finding in found.findings],
    }
    named = (found.baseline, found.subject, *found.named)
    shown: dict[str, Any] = without_paths(document, named)
    return shown


def _side(reference: str, revision: str | None) -> dict[str, str | None]:
    return {"name": display_name(reference), "revision": revision}


def weights_lines(found: WeightsComparison) -> list[str]:
    """The comparison for a terminal: each check, the worst modules, then every finding."""
    lines = [f"{found.baseline} -> {found.subject}: kind {found.kind}, tier {TIER}"]
    if found.decision is not None:
        # What a check found that is not PASS stands among the findings.
        lines += [
            f"  {c.check} {c.outcome}" + (f": {c.text}" if c.outcome is Outcome.PASS else "")
            for c in found.decision.checks
        ]
        lines += _table(found.modules)
    return [*lines, *(finding.text() for finding in found.findings), count_line(found.findings)]


def _table(modules: Sequence[Mapping[str, Any]]) -> list[str]:
    if not modules:
        return ["  no tensor differs"]
    rows = [("module", "family", *(title for _, title in _NUMBERS), "canon", "")]
    rows += [
        (
            plain(module["name"]),
            module["family"],
            *(_number(module[key]) for key, _ in _NUMBERS),
            _number(None if module["canon"] is None else module["canon"]["value"]),
            module["reason"] or "",
        )
        for module in modules[:SHOWN]
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  "
        + "  ".join(
            cell.ljust(width) if place in _TEXTS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    more = len(modules) - SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
