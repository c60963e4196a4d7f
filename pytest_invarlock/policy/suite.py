"""Suites: pairs × scenarios, one plan, one policy; from names, files or the command line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.path_names import check_distinct
from pytest_invarlock.plan import EditSpec, MeasurementPlan, Pair, Scenario
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, Strictness
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.plan_settings import build_plan, build_policy
from pytest_invarlock.policy.resources import PACKAGE, names, read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.sequential_settings import with_sequence
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_invarlock.policy.settings import Settings

COMPARE = "compare"
KINDS = ("any", "cast", "quantize8", "quantize4", "prune", "finetune", "merge", "reparametrized")
_CATEGORY = {
    Strictness.MUST_PASS: "clean",
    Strictness.MUST_FAIL: "stress",
    Strictness.MUST_DETECT: "error",
    Strictness.INFORMATIONAL: "stress",
}


@dataclass(frozen=True, slots=True)
class Suite:
    """What a run measures and demands.

    ``node_prefix`` heads its node ids; ``path`` exists on disk and stands for it there;
    ``draws`` is how many window draws each scenario is measured on.
    """

    name: str
    node_prefix: str
    path: Path
    pairs: tuple[Pair, ...]
    scenarios: tuple[Scenario, ...]
    plan: MeasurementPlan
    policy: DecisionPolicy
    draws: int = 1

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
        return self.policy.checks

    def planned(self) -> Iterator[tuple[Pair, Scenario]]:
        """Every (pair, scenario) in order."""
        for pair in self.pairs:
            for scenario in self.scenarios:
                yield pair, scenario

    def node_ids(self) -> list[str]:
        """Every item's node id in order."""
        return [
            f"{self.node_prefix}::{pair.name}::{scenario.name}::{check}"
            for pair, scenario in self.planned()
            for check in self.checks(pair, scenario)
        ]


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
    labels = _unique([display_name(subject) for subject in subjects])
    kind = settings.choice("kind", KINDS) or "any"
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
    plan = with_sequence(build_plan({}, settings, rootpath), policy, settings)
    return Suite(
        name=COMPARE,
        node_prefix=f"invarlock/{COMPARE}",
        path=rootpath,
        pairs=(pair,),
        scenarios=scenarios,
        plan=plan,
        policy=policy,
        draws=settings.number("repeats") or 1,
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


def _located(reference: str, folder: Path) -> str:
    """A model reference of a suite file: ``./`` and ``../`` start at the file's folder."""
    if reference.startswith(("./", "../")):
        return str((folder / reference).resolve())
    return reference


def _shipped_path(name: str) -> Path:
    from importlib.resources import files

    return Path(str(files(PACKAGE).joinpath("suites", f"{name}.yaml")))


def _build(document: YamlDocument, settings: Settings, prefix: str, path: Path) -> Suite:
    check_document(document, "suite")
    value = document.value
    models = list(settings.texts("model")) or [
        _located(model, path.parent) for model in value["models"]
    ]
    pairs = tuple(
        Pair(label, reference)
        for label, reference in zip(
            _unique([display_name(model) for model in models]), models, strict=True
        )
    )
    scenarios = _selected(document, settings, path.parent)
    check_distinct((pair.name for pair in pairs), "model")
    check_distinct((scenario.name for scenario, _ in scenarios), "scenario")
    expectations = {
        (pair.name, scenario.name): expected for pair in pairs for scenario, expected in scenarios
    }
    policy = build_policy(value, settings, expectations, path.parent)
    plan = with_sequence(build_plan(value, settings, path.parent), policy, settings)
    return Suite(
        name=value["name"],
        node_prefix=prefix,
        path=path,
        pairs=pairs,
        scenarios=tuple(scenario for scenario, _ in scenarios),
        plan=plan,
        policy=policy,
        draws=settings.number("repeats") or value.get("run", {}).get("repeats", 1),
    )


def _selected(
    document: YamlDocument, settings: Settings, folder: Path
) -> list[tuple[Scenario, Expectation]]:
    parsed = [
        _scenario(document, index, entry, folder)
        for index, entry in enumerate(document.value["scenarios"])
    ]
    ids = [scenario.name for scenario, _ in parsed]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            line = document.line_of(("scenarios", index, "id"))
            raise ConfigError(
                f"{document.name}:{line}: scenario id {name!r} stands twice",
                remedy="give every scenario its own id",
            )
    wanted = settings.texts("scenario")
    for name in wanted:
        if name not in ids:
            raise ConfigError(
                f"{settings.made['scenario'].origin}: {document.name} has no scenario {name!r}",
                remedy=nearest(name, ids, "scenario"),
                code="UNKNOWN_SCENARIO",
            )
    return [entry for entry in parsed if not wanted or entry[0].name in wanted]


def _scenario(
    document: YamlDocument, index: int, entry: dict[str, Any], folder: Path
) -> tuple[Scenario, Expectation]:
    from pytest_invarlock.policy.edit_names import check_edit

    edit = None
    if "edit" in entry:
        edit = EditSpec(entry["edit"]["name"], dict(entry["edit"].get("plan") or {}))
        check_edit(edit, document, ("scenarios", index, "edit"))
    scenario = Scenario(
        entry["id"],
        edit=edit,
        subject=_located(entry["subject"], folder) if "subject" in entry else None,
        kind=entry.get("kind", "any"),
    )
    strictness = Strictness(entry["strictness"])
    detectors = entry.get("detectors", {})
    if detectors and strictness is Strictness.MUST_PASS:
        line = document.line_of(("scenarios", index, "detectors"))
        raise ConfigError(
            f"{document.name}:{line}: scenarios[{index}].detectors: "
            "a scenario that must pass has none",
            remedy="drop the key, or make it must_fail or must_detect",
        )
    expected = Expectation(
        category=entry.get("category", _CATEGORY[strictness]),
        strictness=strictness,
        detectors_any=tuple(detectors.get("any", ())),
        detectors_all=tuple(detectors.get("all", ())),
    )
    return scenario, expected
