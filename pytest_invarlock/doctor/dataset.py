"""Whether a plan's evaluation data is there and readable, and enough; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_invarlock.data.conventions import lengths_of
from pytest_invarlock.data.registry import get_provider
from pytest_invarlock.doctor.findings import Finding, at, of_error
from pytest_invarlock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from typing import Any

    from pytest_invarlock.data import Provider
    from pytest_invarlock.doctor.models import ModelFiles
    from pytest_invarlock.plan import MeasurementPlan
    from pytest_invarlock.policy.yaml_document import YamlDocument

_MADE = ("pydoc", "synthetic")
_TO_FETCH = ("DATASET_NOT_CACHED",)


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """What is known of the data: its kind, whether it can be read now, and from how much.

    ``documents`` counts them; None where they could not be read. ``reader`` gives them again.
    """

    provider: str
    is_readable: bool
    documents: int | None = None
    revision: str | None = None
    reader: Provider | None = None


def look_at_dataset(
    plan: MeasurementPlan, document: YamlDocument | None
) -> tuple[DatasetFiles, list[Finding]]:
    """Read the data as a run does, from files and the Hub cache."""
    source = plan.source
    place = place_of(document, "provider")
    try:
        provider = get_provider(source.provider, replace(source, allow_network=False))
        content = provider.contents[0]
        if plan.metric != "auto":
            content = provider.content_for(plan.metric)
        documents = len(provider.documents(content))
    except (DataError, ConfigError) as error:
        missing = DatasetFiles(source.provider, is_readable=False)
        if error.code in _TO_FETCH and source.allow_network:
            return missing, [
                Finding(
                    "DATASET_TO_FETCH", "note",
                    "the data set is not in the local Hub cache: the run fetches it", **place,
                )
            ]  # fmt: skip
        return missing, [replace(of_error(error), **place)]
    return DatasetFiles(source.provider, True, documents, _revision(provider), provider), []


def check_lengths(
    plan: MeasurementPlan, models: Sequence[ModelFiles], document: YamlDocument | None
) -> list[Finding]:
    """What becomes of the windows' length on models with a shorter context."""
    findings = []
    place = place_of(document, "seq_len")
    for model in models:
        try:
            notes = lengths_of(plan.windows, model.context).notes
        except ConfigError as error:
            findings.append(replace(of_error(error), **place))
            continue
        findings += [
            Finding(
                "SEQ_LEN_CAPPED", "warning", f"{model.reference}: {note}",
                remedy=f"give seq_len of at most {model.context}", **place,
            )
            for note in notes
        ]  # fmt: skip
    return findings


def place_of(document: YamlDocument | None, *keys: str) -> dict[str, Any]:
    """The place of the first of ``keys`` that stands in the file's ``dataset``, else of that."""
    if document is None or "dataset" not in document.value:
        return {"key": "dataset"}
    inner = (("dataset", key) for key in keys)
    return at(document, next((path for path in inner if path in document.lines), ("dataset",)))


def _revision(provider: Provider) -> str | None:
    """The commit of Hub data, where its name may leave the machine."""
    given = provider.source.shareable
    is_shareable = provider.is_public if given is None else given
    return provider.public_names().get("revision") if is_shareable else None
