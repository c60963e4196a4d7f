"""Whether a pack holds a record and a certificate of all that it says was planned and decided.

Names and numbers only: what the records say is `rederive`'s to judge. A scenario that failed and
was left out, with its record, certificate and decision, stands in the plan still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.evidence.findings import Finding, Level, Stage
from pytest_invarlock.evidence.layout import FINAL_VERDICT, MANIFEST, certificates, records
from pytest_invarlock.path_names import slug

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_invarlock.evidence.verified import VerifiedPack


def uncounted(pack: VerifiedPack) -> list[Finding]:
    """Findings COUNT_MISMATCH: planned, decided, recorded and certified are not the same draws.

    Of a FAIL, a planned draw without a record is a warning: the run had no record of it, and failed
    for that. Raises EvidenceError for a verdict document that is missing or no JSON.
    """
    names = pack.names()
    recorded = {_draw(path, ".record.json") for path in records(names)}
    certified = {_draw(path, "/evaluation.report.json") for path in certificates(names)}
    planned = {
        _key(entry.model, entry.scenario, draw)
        for entry in pack.manifest.header.planned
        for draw in entry.runs
    }
    decided = [_decided(entry) for entry in pack.read_json(FINAL_VERDICT)["decisions"]]
    lost: Level = "warning" if pack.verdict() == "FAIL" else "error"
    findings = [
        *_missing(planned - recorded, MANIFEST, "was planned, and has no record", lost),
        *_missing(recorded - planned, MANIFEST, "has a record, and was never planned"),
        *_missing(set(decided) - recorded, FINAL_VERDICT, "was decided, and has no record"),
        *_missing(recorded - set(decided), FINAL_VERDICT, "has a record, and was not decided"),
        *_missing(recorded - certified, MANIFEST, "has a record, and no certificate"),
        *_missing(certified - recorded, MANIFEST, "has a certificate, and no record"),
    ]
    if len(decided) != len(set(decided)):
        findings += _missing(["a draw"], FINAL_VERDICT, "was decided twice")
    return findings


def _missing(draws: Iterable[str], path: str, what: str, level: Level = "error") -> list[Finding]:
    return [
        Finding("COUNT_MISMATCH", Stage.SEMANTICS, path, f"{draw} {what}", level)
        for draw in sorted(draws)
    ]


def _key(model: str, scenario: str, draw: int) -> str:
    return f"{slug(model)}/{slug(scenario)}/run_{draw}"


def _decided(entry: dict[str, Any]) -> str:
    return _key(entry["model"], entry["scenario"], entry["draw"])


def _draw(path: str, suffix: str) -> str:
    return path.partition("/")[2].removesuffix(suffix)
