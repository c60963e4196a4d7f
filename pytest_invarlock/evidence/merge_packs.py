"""Packs of parts of one suite as one run: what was planned, demanded and measured, put together.

Everything a run would have kept apart is refused: records of two packs for one draw, scenarios that
some model lacks, other limits, other code, other data. What no pack names cannot be missed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pytest_invarlock.calibration.preset_file import preset_path
from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.environment import Permissions
from pytest_invarlock.evidence.pack_schemas import (
    ENVIRONMENT,
    POLICY,
    RECORD_NAME,
    REVISIONS,
    SCENARIOS,
    SOURCE,
)
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.calibrated_preset import ORIGIN as PRESET
from pytest_invarlock.records import Record, record_from_bytes

if TYPE_CHECKING:
    from pytest_invarlock.evidence.manifest import ManifestHeader
    from pytest_invarlock.evidence.verified import VerifiedPack

MERGED_FORMAT = "invarlock-merged-v1"
Document = dict[str, Any]
_MEASURED_ALIKE = (
    "source",
    "windows",
    "metric",
    "mask_probability",
    "sequential",
    "outlier_factor",
    "determinism",
    "dtype",
    "baseline_tensors",
    "baseline_config",
)
"""Keys of a plan in which records of one model may not differ; data digests differ by draw."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one verified pack brings; ``signer`` is None for an unsigned one."""

    digest: str
    signer: str | None
    header: ManifestHeader
    policies: Sequence[Document]
    scenarios: Sequence[Document]
    records: tuple[Record, ...]
    presets: Mapping[str, Document | None]
    permissions: Permissions = field(default_factory=Permissions)
    source_repo: Document | None = None
    model_revisions: Document | None = None
    release_review: bool = False

    def document(self) -> Document:
        """Which pack it was, as the merged pack says it."""
        return {
            "pack_digest": self.digest,
            "signer": self.signer,
            "run_id": self.header.run_id,
            "verdict": self.header.verdict,
            "created_at": self.header.created_at,
            "plan_digest": self.header.plan_digest,
            "policy_digest": self.header.policy_digest,
        }


@dataclass(frozen=True, slots=True)
class Merged:
    """The union: a plan as a run keeps it, its records, presets, and what it was made of."""

    suite: str
    plan: Document
    records: tuple[Record, ...]
    presets: Mapping[str, Document | None]
    sources: tuple[Source, ...]
    source_repo: Document | None = None
    model_revisions: Document | None = None
    release_review: bool = False

    @property
    def permissions(self) -> Permissions:
        """What any of the sources was allowed."""
        allowed = [source.permissions for source in self.sources]
        return Permissions(
            any(one.allow_network for one in allowed), any(one.allow_remote_code for one in allowed)
        )

    def document(self) -> Document:
        """``metadata/merged.json``."""
        return {
            "format": MERGED_FORMAT,
            "packs": [source.document() for source in self.sources],
        }


def read_source(pack: VerifiedPack) -> Source:
    """What ``pack``, which has passed every stage, brings to a merger."""
    told, allowed = pack.read_json(SCENARIOS), pack.read_json(ENVIRONMENT)["runtime"]
    paths = {model: preset_path(model) for model in told.get("calibrations", [])}
    return Source(
        digest=f"sha256:{pack.sha256('manifest.json')}",
        signer=pack.signed_by,
        header=pack.manifest.header,
        policies=pack.read_json(POLICY)["policies"],
        scenarios=told["scenarios"],
        records=tuple(
            record_from_bytes(pack.read_json(path), pack.read(path.replace(".record.json", ".npz")))
            for path in filter(RECORD_NAME.fullmatch, pack.names())
        ),
        presets={
            model: pack.read_json(path) if pack.holds(path) else None
            for model, path in paths.items()
        },
        permissions=Permissions(allowed["allow_network"], allowed["allow_remote_code"]),
        source_repo=_optional(pack, SOURCE),
        model_revisions=_optional(pack, REVISIONS),
        release_review=told.get("release_review", False),
    )


def _optional(pack: VerifiedPack, path: str) -> Document | None:
    return pack.read_json(path) if pack.holds(path) else None


def merge(sources: Sequence[Source]) -> Merged:
    """Put packs together; the verdict of the union is for `decide_run` to say.

    Raises:
        EvidenceError: MERGE_FEW, MERGE_SUITE, MERGE_CODE, MERGE_POLICY, MERGE_SCENARIOS,
            MERGE_OVERLAP, MERGE_HOLES or MERGE_PLAN; the cause names what differs.
    """
    if len(sources) < 2:
        raise _refused("MERGE_FEW", "one pack is nothing to merge")
    # Whoever names the packs in another order gets the same pack.
    sources = sorted(sources, key=lambda source: (source.header.run_id, source.digest))
    suite = _one("MERGE_SUITE", "suites", (source.header.suite for source in sources))
    records = tuple(record for source in sources for record in source.records)
    _one("MERGE_CODE", "versions of the program", (s.header.tool.code_digest for s in sources))
    _one("MERGE_CODE", "versions of the measuring code", (r.facts.plan["code"] for r in records))
    policies = _policies(sources)
    planned = _planned(sources)
    _check_whole(planned, policies)
    _check_alike(records)
    presets: dict[str, Document | None] = {}
    for source in sources:
        for model, preset in source.presets.items():
            if model in presets and presets[model] != preset:
                raise _refused("MERGE_OVERLAP", f"model {model!r} was calibrated twice")
            presets[model] = preset
    plan = {
        "name": suite,
        "node_prefix": None,
        "node_ids": [],
        "planned": [entry.document() for entry in planned],
        "policies": policies,
        "scenarios": _scenarios(sources),
        **({"calibrations": list(presets)} if presets else {}),
    }
    reviews = {source.release_review for source in sources}
    if len(reviews) > 1:
        raise _refused("MERGE_POLICY", "a release review was asked for in some packs only")
    return Merged(
        suite, plan, records, presets, tuple(sources),
        _source_repo(sources), _model_revisions(sources), reviews.pop(),
    )  # fmt: skip


def _policies(sources: Sequence[Source]) -> list[Document]:
    """The policies with the expectations of all packs: one, or one a model with its own preset."""
    found: dict[str, Document] = {}
    expectations: dict[str, dict[tuple[str, str], Document]] = {}
    for document in (policy for source in sources for policy in source.policies):
        limits = {key: value for key, value in document.items() if key != "expectations"}
        key = digest(limits)
        found.setdefault(key, limits)
        mine = expectations.setdefault(key, {})
        for entry in document["expectations"]:
            place = (entry["model"], entry["scenario"])
            for known in expectations.values():
                if known.get(place, entry) != entry or (place in known and known is not mine):
                    raise _refused("MERGE_POLICY", f"{_told(*place)} is judged in two ways")
            mine[place] = entry
    for one, other in combinations(found, 2):
        models = [{model for model, _ in expectations[key]} for key in (one, other)]
        if not _same_but_presets(found[one], found[other]) or models[0] & models[1]:
            raise _refused("MERGE_POLICY", "the packs were decided under different policies")
    return [
        {**found[key], "expectations": [entry for _, entry in sorted(expectations[key].items())]}
        for key in found
    ]


def _same_but_presets(one: Document, other: Document) -> bool:
    """Whether two policies differ only in what calibrated presets of their models set."""
    own = {
        key
        for policy in (one, other)
        for key, origin in policy["provenance"].items()
        if origin == PRESET
    }
    bare = [deepcopy(one), deepcopy(other)]
    for policy in bare:
        for key in own:
            policy["provenance"].pop(key, None)
            block: Any = policy
            *path, last = key.split(".")
            for name in path:
                block = block.get(name, {})
            block.pop(last, None)
    return digest(bare[0]) == digest(bare[1])


def _planned(sources: Sequence[Source]) -> list[PlannedScenario]:
    """The planned scenarios, the draws of one that several packs share put together."""
    draws: dict[tuple[str, str], list[int]] = {}
    shared: set[tuple[str, str]] = set()
    for source in sources:
        for entry in source.header.planned:
            place = (entry.model, entry.scenario)
            if place in draws:
                shared.add(place)
            twice = set(draws.setdefault(place, [])) & set(entry.runs)
            if twice:
                raise _refused(
                    "MERGE_OVERLAP", f"{_told(*place)} run {min(twice)} stands in two packs"
                )
            draws[place] += entry.runs
    for place in sorted(shared):
        # Runs are counted from 0; where one pack alone speaks of a scenario, that was its plan.
        missing = sorted(set(range(max(draws[place]) + 1)) - set(draws[place]))
        if missing:
            raise _refused("MERGE_HOLES", f"{_told(*place)} run {missing[0]} is in no pack")
    return [
        PlannedScenario.of_runs(model, scenario, sorted(found))
        for (model, scenario), found in sorted(draws.items())
    ]


def _check_whole(planned: Sequence[PlannedScenario], policies: Sequence[Document]) -> None:
    """Every scenario of every model, and everything that a policy speaks of, is there."""
    there = {(entry.model, entry.scenario) for entry in planned}
    models, scenarios = {model for model, _ in there}, {scenario for _, scenario in there}
    wanted = {(model, scenario) for model in models for scenario in scenarios}
    wanted |= {
        (entry["model"], entry["scenario"])
        for policy in policies
        for entry in policy["expectations"]
    }
    missing = sorted(wanted - there)
    if missing:
        raise _refused("MERGE_HOLES", f"{_told(*missing[0])} is in no pack")


def _check_alike(records: Iterable[Record]) -> None:
    """Records of one model were measured on the same data, by the same rules."""
    first: dict[str, Record] = {}
    data: dict[tuple[str, int], Record] = {}
    for record in records:
        facts = record.facts
        if facts.error is not None:
            continue
        one = first.setdefault(facts.model, record).facts
        for key in _MEASURED_ALIKE:
            if facts.plan.get(key) != one.plan.get(key):
                raise _unlike(record, one, key)
        same = data.setdefault((facts.model, facts.draw), record).facts
        if facts.plan["data_digest"] != same.plan["data_digest"]:
            raise _unlike(record, same, "data_digest")


def _unlike(record: Record, other: Any, key: str) -> EvidenceError:
    facts = record.facts
    return _refused(
        "MERGE_PLAN",
        f"{_told(facts.model, facts.scenario)} was measured with another {key} than "
        f"{_told(other.model, other.scenario)}",
    )


def _source_repo(sources: Sequence[Source]) -> Document | None:
    """The state of the repository that all packs were made in; None where one does not say."""
    told = [source.source_repo for source in sources if source.source_repo is not None]
    if told:
        _one("MERGE_CODE", "states of the repository", map(_state, told))
    return told[0] if len(told) == len(sources) else None


def _state(told: Document) -> str:
    clean = {True: "dirty", False: "clean", None: "not known to be clean"}
    return f"{told['commit']} {clean[told['dirty']]}"


def _model_revisions(sources: Sequence[Source]) -> Document | None:
    """The Hub commits of all packs; one name stands for one commit."""
    told = [source.model_revisions for source in sources if source.model_revisions is not None]
    if not told:
        return None
    merged = {**told[0], "generated_at": max(one["generated_at"] for one in told)}
    for kind in ("models", "datasets"):
        merged[kind] = {}
        for name, entry in (item for one in told for item in one[kind].items()):
            known = merged[kind].setdefault(name, entry)
            if known["revision"] != entry["revision"]:
                raise _refused("MERGE_PLAN", f"{name!a} is of two revisions")
    return merged


def _scenarios(sources: Sequence[Source]) -> list[Document]:
    told: dict[tuple[str | None, str], Document] = {}
    for source in sources:
        for entry in source.scenarios:
            place = (entry.get("model"), entry["scenario"])
            if told.setdefault(place, entry) != entry:
                raise _refused(
                    "MERGE_SCENARIOS", f"scenario {entry['scenario']!r} is another in two packs"
                )
    return [told[place] for place in sorted(told, key=lambda place: (place[0] or "", place[1]))]


def _one(code: str, what: str, values: Iterable[str]) -> str:
    found = sorted(set(values))
    if len(found) != 1:
        shown = ", ".join(value[:80] for value in found[:2])
        raise _refused(code, f"the packs are of {len(found)} {what}: {shown}")
    return found[0]


def _told(model: str, scenario: str) -> str:
    return f"{model}::{scenario}"


def _refused(code: str, cause: str) -> EvidenceError:
    return EvidenceError(
        cause, remedy="merge packs of parts of one suite, run with the same settings", code=code
    )
