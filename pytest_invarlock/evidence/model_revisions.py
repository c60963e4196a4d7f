"""``metadata/model_revisions.json``: the Hub commits that a run measured, out of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.records import Record

STATE_FILE = "model_revisions.json"
FORMAT = "invarlock-model-revisions-v1"
_FIELDS = ("revision", "resolved_at", "gated", "private")


def packed_revisions(
    document: Mapping[str, Any] | None, records: Sequence[Record]
) -> dict[str, Any] | None:
    """What of ``state/model_revisions.json`` goes into the pack; None where nothing does.

    Models whose commit no record names, and data sets that their owner did not call shareable,
    stay at home.
    """
    if document is None:
        return None
    revisions = measured_revisions(records)
    sources = [record.facts.plan.get("source") or {} for record in records]
    public = {source.get("dataset_name") for source in sources if source.get("shareable")}
    models = _entries(document.get("models", {}))
    datasets = _entries(document.get("datasets", {}))
    found = {
        "models": {k: v for k, v in models.items() if v["revision"] in revisions},
        "datasets": {k: v for k, v in datasets.items() if k in public},
    }
    if not any(found.values()):
        return None
    return {"format": FORMAT, "generated_at": str(document.get("generated_at", "")), **found}


def measured_revisions(records: Sequence[Record]) -> set[str]:
    """The Hub commits of the models that the records say were loaded."""
    sides = [side for r in records for side in (r.facts.baseline, r.facts.subject)]
    return {str(side["revision"]) for side in sides if side.get("revision")}


def _entries(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: entry[key] for key in _FIELDS if key in entry}
        for name, entry in entries.items()
    }
