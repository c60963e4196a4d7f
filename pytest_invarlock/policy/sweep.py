"""Sweeps: one parameter of a scenario's edit or fault over several doses, each its own scenario.

``--invarlock-sweep=SCENARIO:PARAM=a,b,c`` makes of a suite one of just those doses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.path_names import check_distinct, slug
from pytest_invarlock.plan import EditSpec, Scenario
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.edit_names import declared_kind, parameter_problem
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.resources import schema
from pytest_invarlock.policy.suite_scenarios import CATEGORY, ScenarioEntry
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.plan import Pair
    from pytest_invarlock.policy.settings import Settings

Scalar = str | int | float | bool | None
SETTING = "sweep"
NO_CERTIFICATION = "a sweep certifies nothing: no verdict, no evidence pack"
_GRAMMAR = "write SCENARIO:PARAM=a,b,c"
# What would make more of a list of values than scalars.
_NO_SCALAR = re.compile(r"[\[\]{}#&*!]")
_INFORMATIONAL = Expectation(CATEGORY[Strictness.INFORMATIONAL], Strictness.INFORMATIONAL)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The doses of one parameter of a scenario, in the order given; ``origin`` names the setting.

    ``values`` are YAML 1.2 core scalars, no two alike.
    """

    scenario: str
    parameter: str
    values: tuple[Scalar, ...]
    origin: str

    @property
    def stem(self) -> str:
        """The name of the sweep's files, without suffix."""
        return slug(f"{self.scenario}.{self.parameter}")

    def dose_name(self, value: Scalar) -> str:
        """The scenario name of a dose, such as ``quant.bitwidth=3``: no ``[ ] :: @``."""
        return f"{self.scenario}.{self.parameter}={re.sub('[^A-Za-z0-9_.+-]', '-', _text(value))}"

    def document(self) -> dict[str, Any]:
        """The sweep as plain JSON values."""
        return {
            "scenario": self.scenario,
            "parameter": self.parameter,
            "stem": self.stem,
            "doses": [{"value": value, "scenario": self.dose_name(value)} for value in self.values],
        }


def read_sweeps(settings: Settings) -> tuple[Sweep, ...]:
    """The sweeps that are asked for, by grammar alone; none where the setting is not made.

    Raises ConfigError for text that is no sweep, doses or sweeps that stand twice, and beside the
    settings ``scenario`` and ``tune``, which choose otherwise.
    """
    texts = settings.texts(SETTING)
    if not texts:
        return ()
    origin = settings.made[SETTING].origin
    for other in ("scenario", "tune"):
        if other == "tune" and not settings.flag("tune"):
            continue
        if other in settings.made:
            raise ConfigError(
                f"{origin} stands beside {settings.made[other].origin}: each says what is run",
                remedy="drop one of the two",
                code="BAD_VALUE",
            )
    sweeps = tuple(_parsed(text, origin) for text in texts)
    stems = [(sweep.scenario, sweep.parameter) for sweep in sweeps]
    for index, (scenario, parameter) in enumerate(stems):
        if (scenario, parameter) in stems[:index]:
            raise ConfigError(
                f"{origin}: {scenario}:{parameter} stands twice",
                remedy="give all its doses in one list",
                code="DUPLICATE_KEY",
            )
    check_distinct((f"{scenario}.{parameter}" for scenario, parameter in stems), "sweep")
    return sweeps


def refuse_sweeps(settings: Settings, what: str, remedy: str) -> None:
    """Raise ConfigError where a sweep is asked for of ``what``, which has no scenario to sweep."""
    if settings.texts(SETTING):
        raise ConfigError(f"{settings.made[SETTING].origin}: {what}", remedy=remedy, code="NO_DOSE")


def sweep_notes(sweeps: Sequence[Sweep]) -> tuple[str, ...]:
    """What to tell, and to write into every certificate, of a run that is a sweep."""
    return (NO_CERTIFICATION,) if sweeps else ()


def swept(
    sweeps: Sequence[Sweep], entries: Sequence[ScenarioEntry], file: str
) -> list[ScenarioEntry]:
    """Those of ``entries`` that a sweep names; all where there is no sweep.

    Raises ConfigError for a scenario that the suite ``file`` lacks, or that has no dose.
    """
    if not sweeps:
        return list(entries)
    by_name = {entry.scenario.name: entry for entry in entries}
    for sweep in sweeps:
        if sweep.scenario not in by_name:
            raise ConfigError(
                f"{sweep.origin}: {file} has no scenario {sweep.scenario!r}",
                remedy=nearest(sweep.scenario, list(by_name), "scenario"),
                code="UNKNOWN_SCENARIO",
            )
        if by_name[sweep.scenario].scenario.edit is None:
            raise ConfigError(
                f"{sweep.origin}: scenario {sweep.scenario!r} compares a checkpoint: it has no "
                "parameter to sweep",
                remedy="name a scenario with an edit or fault",
                code="NO_DOSE",
            )
    named = {sweep.scenario for sweep in sweeps}
    return [entry for entry in entries if entry.scenario.name in named]


def with_doses(
    sweeps: Sequence[Sweep],
    entries: Sequence[ScenarioEntry],
    own: Mapping[tuple[str, str], Scenario],
    pairs: Sequence[Pair],
) -> tuple[list[ScenarioEntry], dict[tuple[str, str], Scenario]]:
    """Every dose as an informational scenario; and those that differ between models.

    Args:
        sweeps: what is swept, in order; without one, ``entries`` and ``own`` come back.
        entries: the swept scenarios.
        own: by the names of pair and scenario, those whose edit is another on each model: clean
            edits, with the parameters that were found.
        pairs: the models.

    Raises ConfigError for a parameter that the edit does not have, and a value it cannot have.
    """
    if not sweeps:
        return list(entries), dict(own)
    by_name = {entry.scenario.name: entry.scenario for entry in entries}
    doses: list[ScenarioEntry] = []
    own_doses: dict[tuple[str, str], Scenario] = {}
    for sweep in sweeps:
        for value in sweep.values:
            name = sweep.dose_name(value)
            of_models = {
                (pair.name, name): _dose(sweep, own[(pair.name, sweep.scenario)], value, pair)
                for pair in pairs
                if (pair.name, sweep.scenario) in own
            }
            first = next(iter(of_models.values()), None)
            scenario = first or _dose(sweep, by_name[sweep.scenario], value)
            doses.append(ScenarioEntry(scenario, _INFORMATIONAL))
            own_doses |= of_models
    return doses, own_doses


def _dose(sweep: Sweep, scenario: Scenario, value: Scalar, pair: Pair | None = None) -> Scenario:
    """``scenario`` with one parameter replaced, under whichever name the scenario gives it.

    A kind that was the edit's own becomes the dose's. One that was skipped for the model stays so:
    it has no other parameters to stand beside the dose.
    """
    if scenario.skipped is not None:
        return replace(scenario, name=sweep.dose_name(value))
    if scenario.edit is None:
        raise ValueError(f"{scenario.name} has no edit: it was to be refused before")
    edit = scenario.edit
    what = edit.name if pair is None else f"{edit.name} (the clean edit of {pair.name})"
    known = sorted(schema("edits")["$defs"][edit.name]["properties"])
    if sweep.parameter not in known:
        raise ConfigError(
            f"{sweep.origin}: {what} has no parameter {sweep.parameter!r}",
            remedy=f"its parameters are: {', '.join(known)}" if known else "it takes none",
            code="UNKNOWN_KEY",
        )
    replaced = {sweep.parameter, *_other_names(edit.name, sweep.parameter)}
    kept = {key: given for key, given in edit.parameters.items() if key not in replaced}
    changed = EditSpec(edit.name, {**kept, sweep.parameter: value})
    problem = parameter_problem(changed)
    if problem is not None:
        raise ConfigError(
            f"{sweep.origin}: {sweep.scenario}:{sweep.parameter}={_text(value)}: {what}: {problem}",
            remedy="give values that the parameter may have beside the others",
            code="BAD_VALUE",
        )
    follows = scenario.kind == declared_kind(edit)
    return replace(
        scenario,
        name=sweep.dose_name(value),
        edit=changed,
        kind=declared_kind(changed) if follows else scenario.kind,
    )


def _other_names(edit: str, parameter: str) -> set[str]:
    """What an edit takes instead of ``parameter``, never beside it, as bits and bitwidth."""
    barred = {
        (one, other)
        for one, rules in schema("edits")["$defs"][edit].get("dependentSchemas", {}).items()
        for other, rule in rules["properties"].items()
        if "not" in rule
    }
    return {other for one, other in barred if one == parameter} | {
        one for one, other in barred if other == parameter
    }


def _parsed(text: str, origin: str) -> Sweep:
    head, equals, listed = text.partition("=")
    scenario, colon, parameter = head.partition(":")
    scenario, parameter = scenario.strip(), parameter.strip()
    if not (equals and colon and scenario and parameter):
        raise ConfigError(f"{origin}: {text!r} is no sweep", remedy=_GRAMMAR, code="BAD_VALUE")
    values = _values(text, listed.strip(), origin)
    sweep = Sweep(scenario, parameter, values, origin)
    names = [sweep.dose_name(value) for value in values]
    for index, value in enumerate(values):
        # 1 and 1.0 are one dose; 1 and true are not.
        alike = [v for v in values[:index] if v == value and _is_bool(v) == _is_bool(value)]
        if alike or names[index] in names[:index]:
            raise ConfigError(
                f"{origin}: {text!r}: dose {_text(value)} stands twice",
                remedy="give every dose once",
                code="DUPLICATE_KEY",
            )
    return sweep


def _values(text: str, listed: str, origin: str) -> tuple[Scalar, ...]:
    if not listed:
        raise ConfigError(f"{origin}: {text!r} has no dose", remedy=_GRAMMAR, code="BAD_VALUE")
    wrong = ConfigError(
        f"{origin}: {text!r} holds no list of plain values", remedy=_GRAMMAR, code="BAD_VALUE"
    )
    if _NO_SCALAR.search(listed) or listed.endswith(","):
        raise wrong
    try:
        values = parse_yaml(f"values: [{listed}]", name=origin).value["values"]
    except ConfigError as error:
        raise wrong from error
    if any(isinstance(value, dict | list) for value in values):
        raise wrong
    return tuple(values)


def _text(value: Scalar) -> str:
    """A dose as one writes it in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if _is_bool(value) else str(value)


def _is_bool(value: Scalar) -> bool:
    return isinstance(value, bool)
