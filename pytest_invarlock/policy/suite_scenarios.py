"""The scenarios of a suite file: what each measures, and what it must show on which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import BUILTIN_MODELS, PROBES, Description, EditSpec, Scenario
from pytest_invarlock.policy.decision_policy import KNOWN_CHECKS, Expectation, Strictness
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE
from pytest_invarlock.policy.deploy_names import DEPLOY, deploy_spec
from pytest_invarlock.policy.edit_names import check_edit
from pytest_invarlock.policy.guard_names import foreign_guard_names
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.run_mode import of_mode
from pytest_invarlock.policy.schema_check import dotted
from pytest_invarlock.policy.tuned import check_clean, is_clean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.yaml_document import YamlDocument

DEFAULT = "default"
CATEGORY = {
    Strictness.MUST_PASS: "clean",
    Strictness.MUST_FAIL: "stress",
    Strictness.MUST_DETECT: "error",
    Strictness.INFORMATIONAL: "stress",
}


@dataclass(frozen=True, slots=True)
class ScenarioEntry:
    """A scenario as its file has it, and what it must show.

    ``strictness_of`` holds the models, by reference, that something else is demanded of;
    the parameters of an edit with ``clean: true`` are still to be found.
    """

    scenario: Scenario
    expectation: Expectation
    strictness_of: Mapping[str, Strictness] = field(default_factory=dict)

    def expectation_of(self, reference: str) -> Expectation:
        """What the scenario must show on a model."""
        strictness = self.strictness_of.get(reference, self.expectation.strictness)
        expected = replace(self.expectation, strictness=strictness)
        if strictness is Strictness.MUST_PASS:
            return replace(expected, detectors_any=(), detectors_all=())
        return expected


def scenario_entries(
    document: YamlDocument, settings: Settings, folder: Path
) -> list[ScenarioEntry]:
    """The scenarios of a schema-checked suite document, narrowed to those that are asked for."""
    parsed = [
        _entry(document, index, entry, folder)
        for index, entry in enumerate(document.value["scenarios"])
    ]
    ids = [entry.scenario.name for entry in parsed]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            raise ConfigError(
                f"{document.place(('scenarios', index, 'id'))}: scenario id {name!r} stands twice",
                remedy="give every scenario its own id",
            )
    return selected(parsed, document.name, settings)


def selected(
    entries: Sequence[ScenarioEntry], name: str, settings: Settings
) -> list[ScenarioEntry]:
    """Those of ``entries`` that the settings ``scenario`` and ``mode`` ask for; else all.

    The settings ``kind`` and ``repeats`` beat what an entry says.
    """
    ids = [entry.scenario.name for entry in entries]
    wanted = settings.texts("scenario")
    for word in wanted:
        if word not in ids:
            raise ConfigError(
                f"{settings.made['scenario'].origin}: {name} has no scenario {word!r}",
                remedy=nearest(word, ids, "scenario"),
                code="UNKNOWN_SCENARIO",
            )
    chosen = [entry for entry in entries if not wanted or entry.scenario.name in wanted]
    chosen = of_mode(chosen, name, settings)
    return [replace(entry, scenario=_as_set(entry.scenario, settings)) for entry in chosen]


def _as_set(scenario: Scenario, settings: Settings) -> Scenario:
    """``scenario`` with the kind and the number of draws that settings give it."""
    # Whether the word is one is for `Settings.check`, before anything is read.
    kind = settings.text("kind")
    if kind is not None:
        scenario = replace(scenario, kind=kind)
    return replace(scenario, runs=()) if settings.number("repeats") else scenario


def located(reference: str, folder: Path) -> str:
    """A model reference of a suite file: ``./`` and ``../`` start at the file's folder."""
    if reference.startswith(("./", "../")):
        return str((folder / reference).resolve())
    return reference


def _entry(
    document: YamlDocument, index: int, entry: dict[str, Any], folder: Path
) -> ScenarioEntry:
    at = ("scenarios", index)
    strictness, by_model = _strictness(document, index, entry["strictness"], folder)
    category = entry.get("category", DEPLOYABLE if DEPLOY in entry else CATEGORY[strictness])
    edit = None
    if "edit" in entry:
        edit = EditSpec(entry["edit"]["name"], dict(entry["edit"].get("plan") or {}))
        path = (*at, "edit")
        check = check_clean if is_clean(edit) else check_edit
        check(edit, document.seen_from(path), path)
    if DEPLOY in entry:
        edit = deploy_spec(entry[DEPLOY], document, (*at, DEPLOY))
    scenario = Scenario(
        entry["id"],
        edit=edit,
        subject=located(entry["subject"], folder) if "subject" in entry else None,
        kind=entry.get("kind"),
        runs=_runs(document, index, entry, category),
        timeout=float(entry["timeout"]) if "timeout" in entry else None,
        description=Description(
            **{
                key: entry[key]
                for key in ("intent", "primary_guard", "artifact_class")
                if key in entry
            }
        ),
        probes=_probes(document, index, entry),
    )
    demands = {strictness, *by_model.values()}
    detectors = entry.get("detectors", {})
    _check_detectors(document, index, entry)
    if detectors and demands == {Strictness.MUST_PASS}:
        raise ConfigError(
            f"{document.place((*at, 'detectors'))}: scenarios[{index}].detectors: "
            "a scenario that must pass has none",
            remedy="drop the key, or make it must_fail or must_detect",
        )
    detection = demands & {Strictness.MUST_FAIL, Strictness.MUST_DETECT}
    if edit is not None and edit.name == "noop" and detection:
        raise ConfigError(
            f"{document.place((*at, 'strictness'))}: scenarios[{index}].strictness: "
            "noop changes nothing that could be detected",
            remedy="make it must_pass, or name another edit",
            code="BAD_VALUE",
        )
    if detection and not detectors:
        detectors = _meant_detector(entry)
    _check_primary_guard(document, index, entry, demands)
    expected = Expectation(
        category=category,
        strictness=strictness,
        detectors_any=tuple(detectors.get("any", ())),
        detectors_all=tuple(detectors.get("all", ())),
        primary_guard=entry.get("primary_guard"),
        primary_guard_required=entry.get("primary_guard_required", False),
        deployable=DEPLOY in entry,
    )
    return ScenarioEntry(scenario, expected, by_model)


def _runs(
    document: YamlDocument, index: int, entry: Mapping[str, Any], category: str
) -> tuple[int, ...]:
    """The numbers of the draws that a scenario, else its category, asks for; none where none do."""
    seeds: list[int] = entry.get("seeds", [])
    runs: int | None = entry.get("runs")
    if seeds and runs not in (None, len(seeds)):
        raise ConfigError(
            f"{document.place(('scenarios', index, 'seeds'))}: scenarios[{index}].seeds: "
            f"{len(seeds)} draws are named, and runs is {runs}",
            remedy="name as many draws as there are runs, or drop runs",
            code="BAD_VALUE",
        )
    of_category: int = document.value.get("runs", {}).get(category, 0)
    return tuple(sorted(seeds)) or tuple(range(runs or of_category))


def _probes(document: YamlDocument, index: int, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The probes that a scenario asks for, in the order of `PROBES`."""
    named: list[str] = entry.get("probes", [])
    for place, name in enumerate(named):
        if name not in PROBES:
            path = ("scenarios", index, "probes", place)
            raise ConfigError(
                f"{document.place(path)}: {dotted(path)}: there is no probe of {name!r}",
                remedy=nearest(name, list(PROBES), "probe"),
                code="BAD_VALUE",
            )
    return tuple(name for name in PROBES if name in named)


def _check_detectors(document: YamlDocument, index: int, entry: Mapping[str, Any]) -> None:
    """Raise ConfigError for a detector or a primary guard that no check is named as."""
    at: tuple[str | int, ...] = ("scenarios", index)
    named = [((*at, "primary_guard"), entry["primary_guard"])] if "primary_guard" in entry else []
    for which, names in entry.get("detectors", {}).items():
        named += [((*at, "detectors", which, place), name) for place, name in enumerate(names)]
    for path, name in named:
        # Whether another package's guard is also asked, its check tells.
        deploys = name == DEPLOYABLE and DEPLOY in entry
        if not deploys and name not in KNOWN_CHECKS and name not in foreign_guard_names():
            raise ConfigError(
                f"{document.place(path)}: {dotted(path)}: no check is named {name!r}",
                remedy=nearest(name, [*KNOWN_CHECKS, *foreign_guard_names()], "check"),
                code="BAD_VALUE",
            )


def _check_primary_guard(
    document: YamlDocument, index: int, entry: Mapping[str, Any], demands: set[Strictness]
) -> None:
    """Raise ConfigError where a guard must fire that is not named, or on a model need not."""
    if not entry.get("primary_guard_required", False):
        return
    path = ("scenarios", index, "primary_guard_required")
    why, remedy = "no primary_guard is named", "name the guard that must fire"
    silent = sorted(demands & {Strictness.MUST_PASS, Strictness.INFORMATIONAL})
    if silent:
        why = f"a scenario that is {silent[0].value} on a model requires no guard to fire"
        remedy = "make it false, or make it must_fail or must_detect on every model"
    elif "primary_guard" in entry:
        return
    raise ConfigError(
        f"{document.place(path)}: {dotted(path)}: {why}", remedy=remedy, code="BAD_VALUE"
    )


def _meant_detector(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """The scenario's primary guard as its detector; none where it names no guard."""
    guard: str | None = entry.get("primary_guard")
    return {} if guard is None else {"any": [guard]}


def _strictness(
    document: YamlDocument, index: int, given: str | dict[str, str], folder: Path
) -> tuple[Strictness, dict[str, Strictness]]:
    """The strictness, and that of the models which have another."""
    if isinstance(given, str):
        return Strictness(given), {}
    # The shipped models may replace a suite's own, with --invarlock-model.
    shipped = (f"builtin:{name}" for name in BUILTIN_MODELS)
    models = list(dict.fromkeys((*document.value["models"], *shipped)))
    for name in given:
        if name not in (DEFAULT, *models):
            path = ("scenarios", index, "strictness", name)
            raise ConfigError(
                f"{document.place(path)}: scenarios[{index}].strictness: "
                f"the suite has no model {name!r}",
                remedy=nearest(name, [DEFAULT, *models], "model"),
                code="UNKNOWN_KEY",
            )
    by_model = {
        located(name, folder): Strictness(word) for name, word in given.items() if name != DEFAULT
    }
    return Strictness(given[DEFAULT]), by_model
