"""What is tuned, and on which steps: ladders of parameters, from the strongest to the weakest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.resources import read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.tuned import entry_problem, model_key, with_parameters
from pytest_invarlock.policy.yaml_document import YamlDocument, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.plan import Pair, Scenario

LADDERS = "ladders.yaml"
_PLAIN_SCOPES = ("ffn", "attn", "all")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ladder: parameters as a file of tuned parameters names them, and the edit."""

    parameters: Mapping[str, Any]
    edit: EditSpec


@cache
def shipped_ladders() -> Mapping[str, tuple[Mapping[str, Any], ...]]:
    """The shipped ladder of every clean edit."""
    return read_ladders(parse_yaml(read_text("tuned", LADDERS), name=f"tuned/{LADDERS}"))


def read_ladders(document: YamlDocument) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """The ladders of a document.

    Raises ConfigError with file and line for one that breaks the schema, or a step that the edit
    cannot take.
    """
    check_document(document, "tuning_ladders")
    for edit, steps in document.value.items():
        for index, step in enumerate(steps):
            problem = entry_problem(edit, step)
            if problem is not None:
                raise ConfigError(
                    f"{document.place((edit, index))}: {edit}[{index}]: {problem[0]}",
                    remedy=problem[1],
                    code="BAD_VALUE",
                )
    return {edit: tuple(steps) for edit, steps in document.value.items()}


def steps_of(edit: EditSpec) -> tuple[Step, ...]:
    """The steps on which a clean edit is tuned; its own scope, layers and include stay."""
    return tuple(Step(step, with_parameters(edit, step)) for step in shipped_ladders()[edit.name])


def stated_scope(edit: EditSpec) -> dict[str, str]:
    """The scope to write beside tuned parameters; none where the format has no words for it.

    A tuned scope beats the scenario's own. One that lists blocks would be cut short by that, and
    is left to the scenario.
    """
    scope = edit.parameters.get("scope", "all")
    return {"scope": scope} if scope in _PLAIN_SCOPES else {}


def check_tunable(pairs: Sequence[Pair], clean: Sequence[Scenario], name: str) -> None:
    """Raise ConfigError where there is nothing to tune, or one entry would have to hold two."""
    if not clean:
        raise ConfigError(
            f"{name} has no clean edit, and --invarlock-tune tunes nothing else",
            remedy="mark an edit with plan: {clean: true}, or tune suite edits",
            code="NOTHING_TO_TUNE",
        )
    seen: dict[str, Scenario] = {}
    for scenario in clean:
        edit = _edit(scenario)
        other = seen.setdefault(edit.name, scenario)
        if _edit(other) != edit or other.kind != scenario.kind:
            raise ConfigError(
                f"{name}: scenarios {other.name!r} and {scenario.name!r} say different things of "
                f"{edit.name}, and a model has one entry for it",
                remedy=f"tune one of them with --invarlock-scenario={scenario.name}",
                code="TUNED_TWICE",
            )
    keys: dict[str, str] = {}
    for pair in pairs:
        other_model = keys.setdefault(model_key(pair.baseline), pair.name)
        if other_model != pair.name:
            raise ConfigError(
                f"{name}: models {other_model!r} and {pair.name!r} have one name in a file of "
                f"tuned parameters: {model_key(pair.baseline)!r}",
                remedy="tune one of them with --invarlock-model",
                code="TUNED_TWICE",
            )


def tuned_scenarios(clean: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Of each edit the scenario that stands for it, in order."""
    first: dict[str, Scenario] = {}
    for scenario in clean:
        first.setdefault(_edit(scenario).name, scenario)
    return tuple(first.values())


def _edit(scenario: Scenario) -> EditSpec:
    if scenario.edit is None:
        raise ValueError(f"scenario {scenario.name!r} has no edit")
    return scenario.edit
