"""Suites: pairs × scenarios, one plan, one policy; from names, files or the command line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.path_names import check_distinct
from pytest_invarlock.plan import MeasurementPlan, Pair, Scenario
from pytest_invarlock.policy.calibrated_preset import chosen_calibrated, policies_of_pairs
from pytest_invarlock.policy.calibration import ITEM, Calibration, read_calibration, unselected
from pytest_invarlock.policy.calibration import KEY as CALIBRATION
from pytest_invarlock.policy.confirming_draws import is_to_be_confirmed, with_confirming
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.demanded_plan import demanded_plan
from pytest_invarlock.policy.extended_document import extended
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.placed_errors import placing_errors
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.resources import PACKAGE, names, read_text
from pytest_invarlock.policy.run_configuration import (
    is_run_configuration,
    only_scenario,
    run_notes,
    suite_value,
)
from pytest_invarlock.policy.run_mode import (
    calibrates_only,
    derives_presets,
    mode_notes,
    of_mode,
)
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.suite_scenarios import (
    ScenarioEntry,
    located,
    scenario_entries,
    selected,
)
from pytest_invarlock.policy.sweep import (
    Sweep,
    read_sweeps,
    refuse_sweeps,
    sweep_notes,
    swept,
    with_doses,
)
from pytest_invarlock.policy.tuned import TunedEdit, TunedParameters, is_clean, tuned_notes
from pytest_invarlock.policy.tuning_ladder import check_tunable, tuned_scenarios
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_invarlock.policy.settings import Settings

COMPARE = "compare"
TUNING = "tuning"
KINDS = ("any", "cast", "quantize8", "quantize4", "prune", "finetune", "merge", "reparametrized")


@dataclass(frozen=True, slots=True)
class Suite:
    """What a run measures and demands.

    ``node_prefix`` heads its node ids; ``path`` exists on disk and stands for it there;
    ``draws`` is how many window draws a scenario is measured on that does not say it itself;
    ``out`` is the folder that the file itself wants its results in. ``own`` holds, by the names of
    pair and scenario, those that another model measures with other parameters. ``clean``
    holds the scenarios whose parameters were looked up, as their file has them; with ``tunes``
    these are searched instead of the suite being run. With ``sweeps`` the scenarios are just
    their doses. ``calibration`` says how each model's preset is derived, None where none is;
    ``own_policies`` holds, by a pair's name, its policy where a calibrated preset was given or is
    derived.
    """

    name: str
    node_prefix: str
    path: Path
    pairs: tuple[Pair, ...]
    scenarios: tuple[Scenario, ...]
    plan: MeasurementPlan
    policy: DecisionPolicy
    draws: int = 1
    out: str | None = None
    own: Mapping[tuple[str, str], Scenario] = field(default_factory=dict)
    clean: tuple[Scenario, ...] = ()
    tunes: bool = False
    sweeps: tuple[Sweep, ...] = ()
    calibration: Calibration | None = None
    own_policies: Mapping[str, DecisionPolicy] = field(default_factory=dict)

    @property
    def calibrates(self) -> bool:
        """Whether each model has an item that derives its preset."""
        return self.calibration is not None

    def policy_of(self, pair: Pair) -> DecisionPolicy:
        """The policy that judges ``pair``: the suite's, or the one of the pair's own preset."""
        return self.own_policies.get(pair.name, self.policy)

    def policies(self) -> list[DecisionPolicy]:
        """Every policy of the suite; each scenario stands in one of them."""
        return list(self.own_policies.values()) or [self.policy]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, for the user."""
        return self.plan.notes

    def expectation(self, pair: Pair, scenario: Scenario) -> Expectation:
        """What ``scenario`` of ``pair`` must show."""
        return self.policy.expectation(pair.name, scenario.name)

    def checks(self, pair: Pair, scenario: Scenario) -> tuple[str, ...]:
        """The names of the items of a scenario: one per check, or its single item."""
        expected = self.expectation(pair, scenario)
        if expected.wants_detection:
            return ("detected",)
        if expected.strictness is Strictness.INFORMATIONAL:
            return ("signal",)
        return self.policy.checks_of(expected)

    def runs_of(self, pair: Pair, scenario: Scenario) -> tuple[int, ...]:
        """The numbers of the draws of windows that ``scenario`` of ``pair`` is measured on."""
        runs = scenario.runs or tuple(range(self.draws))
        return with_confirming(runs) if is_to_be_confirmed(self, pair, scenario) else runs

    def planned(self) -> Iterator[tuple[Pair, Scenario]]:
        """Every (pair, scenario) in order."""
        for pair in self.pairs:
            for scenario in self.scenarios_of(pair):
                yield pair, scenario

    def scenarios_of(self, pair: Pair) -> tuple[Scenario, ...]:
        """The scenarios of one pair, in order."""
        return tuple(self.own.get((pair.name, s.name), s) for s in self.scenarios)

    def distinct_scenarios(self) -> list[tuple[str | None, Scenario]]:
        """Every scenario once; with the model's name where the models measure different ones."""
        found: list[tuple[str | None, Scenario]] = []
        for index, scenario in enumerate(self.scenarios):
            of_models = [(pair.name, self.scenarios_of(pair)[index]) for pair in self.pairs]
            if all(other == scenario for _, other in of_models):
                found.append((None, scenario))
            else:
                found += of_models
        return found

    def node_ids(self) -> list[str]:
        """Every item's node id in order."""
        if self.tunes:
            return [
                f"{self.node_prefix}::{pair.name}::{TUNING}::{scenario.edit.name}"
                for pair in self.pairs
                for scenario in tuned_scenarios(self.clean)
                if scenario.edit is not None
            ]
        return [
            node_id
            for pair in self.pairs
            for node_id in (
                *([self.calibration_node(pair)] if self.calibrates else []),
                *(
                    f"{self.node_prefix}::{pair.name}::{scenario.name}::{check}"
                    for scenario in self.scenarios_of(pair)
                    for check in self.checks(pair, scenario)
                ),
            )
        ]

    def calibration_node(self, pair: Pair) -> str:
        """The node id of the item that derives the preset of ``pair``."""
        return f"{self.node_prefix}::{pair.name}::{CALIBRATION}::{ITEM}"


def shipped_suites() -> list[str]:
    """The names of the shipped suites."""
    return names("suites", ".yaml")


def suite_description(name: str) -> str:
    """The one-line description a shipped suite gives itself."""
    value = parse_yaml(read_text("suites", f"{name}.yaml"), name=name).value
    return str(value.get("description", ""))


def load_suite(reference: str, settings: Settings, rootpath: Path) -> Suite:
    """The suite of a shipped name or of a YAML file; raises ConfigError naming what is wrong."""
    shipped = shipped_suites()
    if reference in shipped:
        document = parse_yaml(
            read_text("suites", f"{reference}.yaml"), name=f"suites/{reference}.yaml"
        )
        return _build(document, settings, f"invarlock/{reference}", _shipped_path(reference))
    path = Path(reference)
    if not path.is_absolute():
        path = rootpath / path
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        raise ConfigError(
            f"no suite is named {reference!r}",
            remedy=nearest(reference, shipped, "suite"),
            code="UNKNOWN_SUITE",
        )
    return load_suite_file(path, settings, rootpath)


def load_suite_file(path: Path, settings: Settings, rootpath: Path) -> Suite:
    """The suite in the YAML file ``path``; its node ids start with the path below ``rootpath``."""
    document = load_yaml(path)
    resolved = path.resolve()
    root = rootpath.resolve()
    prefix = resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else path.name
    return _build(document, settings, prefix, path)


def compare_suite(settings: Settings, rootpath: Path) -> Suite:
    """The ad-hoc suite of ``--invarlock-baseline`` and ``--invarlock-subject``."""
    baseline = settings.text("baseline")
    subjects = settings.texts("subject")
    if baseline is None or not subjects:
        given, missing = ("subject", "baseline") if baseline is None else ("baseline", "subject")
        raise ConfigError(
            f"--invarlock-{given} stands alone", remedy=f"give --invarlock-{missing} as well"
        )
    if settings.flag("tune"):
        check_tunable((), (), "a comparison of checkpoints")
    of_mode((), "a comparison of checkpoints", settings)
    calibrates_only(settings, "a comparison of checkpoints", calibrated=False)
    refuse_sweeps(settings, "a comparison of checkpoints has no dose", "sweep a suite's scenario")
    labels = _unique([display_name(subject) for subject in subjects])
    kind = settings.choice("kind", KINDS)
    check_distinct(labels, "subject")
    pair = Pair(display_name(baseline), baseline)
    scenarios = tuple(
        Scenario(label, subject=subject, kind=kind)
        for label, subject in zip(labels, subjects, strict=True)
    )
    expectations = {
        (pair.name, scenario.name): Expectation("compare", Strictness.MUST_PASS)
        for scenario in scenarios
    }
    policy = build_policy({}, settings, expectations)
    plan = demanded_plan({}, settings, rootpath, policy)
    return Suite(
        name=COMPARE,
        node_prefix=f"invarlock/{COMPARE}",
        path=rootpath,
        pairs=(pair,),
        scenarios=scenarios,
        plan=plan,
        policy=policy,
        draws=settings.number("repeats") or 1,
        own_policies=policies_of_pairs(policy, chosen_calibrated({}, settings, rootpath, (pair,))),
    )


def display_name(reference: str) -> str:
    """A model's name in node ids: a path by its last component, no brackets, ``::`` or ``@``."""
    name = reference.removeprefix("hf:")
    path = Path(os.path.expanduser(name))  # noqa: PTH111  Path's own raises for unknown users
    if not name.startswith("builtin:") and (path.is_dir() or name.startswith(("/", ".", "~"))):
        name = path.resolve().name or "root"
    for forbidden, instead in (("[", "("), ("]", ")"), ("@", "-")):
        name = name.replace(forbidden, instead)
    return re.sub(":{2,}", ":", name)


def _unique(labels: list[str]) -> list[str]:
    unique: list[str] = []
    for label in labels:
        candidate, number = label, 1
        while candidate in unique:
            number += 1
            candidate = f"{label}~{number}"
        unique.append(candidate)
    return unique


def _shipped_path(name: str) -> Path:
    from importlib.resources import files

    return Path(str(files(PACKAGE).joinpath("suites", f"{name}.yaml")))


def _build(document: YamlDocument, settings: Settings, prefix: str, path: Path) -> Suite:
    folder = path.parent
    document = extended(document, folder)
    notes: tuple[str, ...] = ()
    if is_run_configuration(document.value):
        value = suite_value(document, folder)
        entries = selected([only_scenario(document, folder)], document.name, settings)
        notes = run_notes(document.value)
    else:
        check_document(document, "suite")
        value = document.value
        entries = scenario_entries(document, settings, folder)
    sweeps = read_sweeps(settings)
    entries = swept(sweeps, entries, document.name)
    models = list(settings.texts("model")) or [located(model, folder) for model in value["models"]]
    pairs = tuple(
        Pair(label, reference)
        for label, reference in zip(
            _unique([display_name(model) for model in models]), models, strict=True
        )
    )
    check_distinct((pair.name for pair in pairs), "model")
    own, found = _clean_edits(pairs, entries, settings)
    clean = tuple(
        entry.scenario for entry in entries if entry.scenario.edit and is_clean(entry.scenario.edit)
    )
    if settings.flag("tune"):
        check_tunable(pairs, clean, document.name)
    entries, own = with_doses(sweeps, entries, own, pairs)
    check_distinct((entry.scenario.name for entry in entries), "scenario")
    expectations = {
        (pair.name, entry.scenario.name): entry.expectation_of(pair.baseline)
        for pair in pairs
        for entry in entries
    }
    with placing_errors(document, settings):
        policy = build_policy(value, settings, expectations, folder)
        probes = {probe for entry in entries for probe in entry.scenario.probes}
        plan = demanded_plan(value, settings, folder, policy, probes)
        presets = chosen_calibrated(value, settings, folder, pairs)
    calibration = None
    if derives_presets(settings) and not (
        presets or sweeps or settings.flag("tune") or is_run_configuration(document.value)
    ):
        calibration = _calibration(document, settings, folder, pairs)
    if calibrates_only(settings, document.name, calibrated=calibration is not None):
        entries = []
    return Suite(
        name=value["name"],
        node_prefix=prefix,
        path=path,
        pairs=pairs,
        scenarios=tuple(
            own.get((pairs[0].name, entry.scenario.name), entry.scenario) for entry in entries
        ),
        plan=replace(
            plan,
            notes=(
                *plan.notes,
                *notes,
                *mode_notes(settings, without_preset=CALIBRATION in value and not presets),
                *(() if settings.flag("tune") else tuned_notes(found, plan)),
                *sweep_notes(sweeps),
            ),
        ),
        policy=policy,
        draws=settings.number("repeats") or value.get("run", {}).get("repeats", 1),
        out=document.value.get("output", {}).get("dir"),
        own=own,
        clean=clean,
        tunes=settings.flag("tune"),
        sweeps=sweeps,
        calibration=calibration,
        own_policies=policies_of_pairs(
            policy, presets if calibration is None else dict.fromkeys(p.name for p in pairs)
        ),
    )


def _calibration(
    document: YamlDocument, settings: Settings, folder: Path, pairs: Sequence[Pair]
) -> Calibration | None:
    if CALIBRATION not in document.value:
        return None
    entries = scenario_entries(document, unselected(settings), folder)
    own, _ = _clean_edits(pairs, entries, settings)
    return read_calibration(document, entries, own, pairs)


def _clean_edits(
    pairs: Sequence[Pair], entries: Sequence[ScenarioEntry], settings: Settings
) -> tuple[dict[tuple[str, str], Scenario], dict[tuple[str, str], TunedEdit]]:
    """The scenarios with ``clean: true``, with the parameters of each model; and what was found."""
    own: dict[tuple[str, str], Scenario] = {}
    found: dict[tuple[str, str], TunedEdit] = {}
    clean = [
        (entry.scenario, entry.scenario.edit)
        for entry in entries
        if entry.scenario.edit is not None and is_clean(entry.scenario.edit)
    ]
    if not clean and settings.text("tuned") is None:
        return own, found
    parameters = TunedParameters(settings)
    for pair in pairs:
        for scenario, edit in clean:
            tuned = parameters.resolved(edit, pair.baseline)
            own[(pair.name, scenario.name)] = replace(
                scenario, edit=tuned.edit, skipped=tuned.skipped
            )
            found[(pair.name, edit.name)] = tuned
    return own, found
