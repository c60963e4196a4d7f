"""The suite key ``calibration``: on what, and how often, a model's own limits are derived."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec, Scenario
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.deploy_names import DEPLOY
from pytest_invarlock.policy.edit_names import check_edit
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.schema_check import dotted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.plan import Pair
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite_scenarios import ScenarioEntry
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument

KEY = "calibration"
"""The key of a suite, and the segment of node ids under which a model's calibration stands."""
ITEM = "preset"
NOOP = "noop"
DEFAULT_RUNS, DEFAULT_HELD_OUT = 5, 1
DEFAULT_EDIT = EditSpec("quant_rtn", {"bitwidth": 8})
"""What counts as benign where a suite has no scenario that must pass."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the limits of a suite's models are derived.

    Attributes:
        runs: draws of windows that limits are derived from, numbered from 0.
        held_out: further draws, on which the derived limits are judged and nothing is derived.
        benign: by the pair's name, the subjects that must not alarm, beside the baseline itself.
    """

    runs: int
    held_out: int
    benign: Mapping[str, tuple[Scenario, ...]]

    @property
    def draws(self) -> int:
        """How many draws of windows are measured in all."""
        return self.runs + self.held_out

    def measurements(self, pair: Pair) -> int:
        """How many measurements of ``pair`` that makes, the baseline itself among its subjects."""
        return (1 + len(self.benign[pair.name])) * self.draws

    def document(self, pair: Pair) -> dict[str, Any]:
        """What is measured of ``pair``, as plain JSON values."""
        return {
            "runs": self.runs,
            "held_out": self.held_out,
            "benign": [
                {
                    "scenario": scenario.name,
                    "kind": scenario.kind,
                    "edit": None if scenario.edit is None else scenario.edit.document(),
                }
                for scenario in self.benign[pair.name]
            ],
        }


def unselected(settings: Settings) -> Settings:
    """``settings`` without those that narrow a suite: what is benign hangs on none of them."""
    made = {k: v for k, v in settings.made.items() if k not in ("scenario", "mode", "repeats")}
    return replace(settings, made=made)


def read_calibration(
    document: YamlDocument,
    entries: Sequence[ScenarioEntry],
    own: Mapping[tuple[str, str], Scenario],
    pairs: Sequence[Pair],
) -> Calibration | None:
    """The calibration that a suite asks for, or None.

    Args:
        document: of the suite, checked by its schema.
        entries: of all its scenarios, whatever settings select.
        own: by pair and scenario, those whose parameters were looked up for the model.
        pairs: the suite's models.

    Raises:
        ConfigError: an unknown scenario or edit, one that must fail, or a scenario of the same
            name as the calibration.
    """
    if KEY not in document.value:
        return None
    block: Mapping[str, Any] = document.value[KEY] or {}
    names = [entry.scenario.name for entry in entries]
    if KEY in names:
        at = ("scenarios", names.index(KEY), "id")
        raise _wrong(document, at, f"a scenario is called {KEY!r}", "rename it")
    given: list[Any] = block.get("benign", [])
    named = [_named(document, index, given, entries) for index in range(len(given))]
    return Calibration(
        runs=block.get("runs", DEFAULT_RUNS),
        held_out=block.get("held_out", DEFAULT_HELD_OUT),
        benign={
            pair.name: tuple(
                own.get((pair.name, scenario.name), scenario)
                for scenario in named or _that_must_pass(entries, own, pair)
            )
            for pair in pairs
        },
    )


def _named(
    document: YamlDocument, index: int, given: Sequence[Any], entries: Sequence[ScenarioEntry]
) -> Scenario:
    at, word = (KEY, "benign", index), given[index]
    if word in given[:index]:
        raise _wrong(document, at, "it stands twice", "drop it")
    if isinstance(word, str):
        return _of_suite(document, at, word, entries)
    edit = EditSpec(word["name"], dict(word.get("plan") or {}))
    check_edit(edit, document.seen_from(at), at)
    if edit.name == NOOP:
        raise _wrong(document, at, "the baseline itself is measured in any case", "drop it")
    return Scenario(f"benign-{index}-{edit.name}", edit=edit)


def _of_suite(
    document: YamlDocument, at: KeyPath, word: str, entries: Sequence[ScenarioEntry]
) -> Scenario:
    found = {entry.scenario.name: entry for entry in entries}
    if word not in found:
        why = f"the suite has no scenario {word!r}"
        raise _wrong(document, at, why, nearest(word, sorted(found), "scenario"))
    entry = found[word]
    demanded = {entry.expectation.strictness, *entry.strictness_of.values()}
    if demanded & {Strictness.MUST_FAIL, Strictness.MUST_DETECT}:
        why = f"scenario {word!r} is to be caught: it is not benign"
        raise _wrong(document, at, why, "name scenarios that must pass")
    if entry.expectation.deployable:
        why = f"scenario {word!r} deploys, and is there only with its backend"
        raise _wrong(document, at, why, "name scenarios that edit")
    return entry.scenario


def _that_must_pass(
    entries: Sequence[ScenarioEntry], own: Mapping[tuple[str, str], Scenario], pair: Pair
) -> tuple[Scenario, ...]:
    """Edits that must pass and have parameters for this model, else `DEFAULT_EDIT`."""
    found = tuple(
        entry.scenario
        for entry in entries
        if entry.scenario.edit is not None
        # What a backend makes is there only where it is installed.
        and entry.scenario.edit.name not in (NOOP, DEPLOY)
        and entry.expectation_of(pair.baseline).strictness is Strictness.MUST_PASS
        and own.get((pair.name, entry.scenario.name), entry.scenario).skipped is None
    )
    return found or (Scenario(f"benign-{DEFAULT_EDIT.name}", edit=DEFAULT_EDIT),)


def _wrong(document: YamlDocument, at: KeyPath, why: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"{document.place(at)}: {dotted(at)}: {why}", remedy=remedy, code="BAD_CALIBRATION"
    )
