"""A preflight as one JSON document, and as lines to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.doctor.findings import SEVERITIES
from pytest_invarlock.path_names import without_absolute_paths
from pytest_invarlock.policy.suite import display_name
from pytest_invarlock.preflight.machine import as_bytes
from pytest_invarlock.preflight.planned import planned_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.doctor.findings import Finding
    from pytest_invarlock.doctor.models import ModelFiles
    from pytest_invarlock.doctor.preflight import Preflight

FORMAT = "doctor-v1"


def doctor_document(found: Preflight) -> dict[str, Any]:
    """The document of ``policies/schemas/doctor.schema.json``; it holds no absolute paths."""
    findings = found.sorted_findings()
    read = found.configuration
    policy = read.policy if read is not None else None
    document = {
        "format_version": FORMAT,
        "summary": summary(findings),
        "config": None
        if read is None
        else {"file": str(read.file), "kind": read.kind, "runs": read.suite is not None},
        "policy": None
        if policy is None
        else {
            "tier": policy.tier,
            "profile": policy.profile,
            "checks": list(policy.checks),
            "floors": policy.document()["floors"],
            "primary_metric": policy.document()["primary_metric"],
        },
        "findings": [finding.document() for finding in findings],
        "resolution": None if read is None else _resolution(found),
        "plan": found.plan,
        "environment": found.environment.document(),
    }
    named = [] if read is None else [str(read.file), str(read.file.absolute())]
    named += [model.reference for model in (*found.models, *found.subjects)]
    shown: dict[str, Any] = without_paths(document, named)
    return shown


def only_finding(finding: Finding, named: Sequence[str] = ()) -> dict[str, Any]:
    """The document of a file that could not even be looked at; ``named`` paths are cut in it."""
    document = {
        "format_version": FORMAT,
        "summary": summary([finding]),
        "config": None,
        "policy": None,
        "findings": [finding.document()],
        "resolution": None,
        "plan": None,
        "environment": None,
    }
    shown: dict[str, Any] = without_paths(document, named)
    return shown


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """How many findings there are of each severity, and ``ok`` or ``errors``."""
    counts = {
        f"{severity}s": sum(one.severity == severity for one in findings) for severity in SEVERITIES
    }
    return {"status": "errors" if counts["errors"] else "ok", **counts}


def doctor_lines(found: Preflight) -> list[str]:
    """The preflight for a terminal: what would be run, then every finding, then their number."""
    lines = _file_lines(found) if found.configuration is not None else _machine_lines(found)
    findings = found.sorted_findings()
    return [*lines, *(finding.text() for finding in findings), count_line(findings)]


def count_line(findings: Sequence[Finding]) -> str:
    """How many findings there are of each severity, as one line."""
    counts = summary(findings)
    return ", ".join(
        f"{counts[word]} {word if counts[word] != 1 else word[:-1]}"
        for word in ("errors", "warnings", "notes")
    )


def _resolution(found: Preflight) -> dict[str, Any]:
    read = found.configuration
    plan = read.plan if read is not None else None
    return {
        "suite": read.suite.name if read is not None and read.suite is not None else None,
        "models": [_model(model) for model in found.models],
        "subjects": [_model(model) for model in found.subjects],
        "scenarios": _scenarios(found),
        "items": [] if read is None or read.suite is None else read.suite.node_ids(),
        "dataset": None
        if found.dataset is None
        else {
            "provider": found.dataset.provider,
            "readable": found.dataset.is_readable,
            "documents": found.dataset.documents,
            "revision": found.dataset.revision,
        },
        "windows": None if plan is None else plan.windows.document(),
        "metric": None if plan is None else plan.metric,
        "adapter": None if plan is None else plan.adapter,
        "device": None if plan is None else plan.device,
        "dtype": None if plan is None else plan.dtype,
        "determinism": None if plan is None else plan.determinism,
        "out": found.out,
    }


def _model(model: ModelFiles) -> dict[str, Any]:
    return {
        "name": display_name(model.reference),
        "found": model.is_there,
        "revision": model.revision,
        "model_type": model.model_type,
        "architecture": model.architecture,
        "context": model.context,
        "weights_bytes": model.weights_bytes,
    }


def _scenarios(found: Preflight) -> list[dict[str, Any]]:
    read = found.configuration
    scenarios = []
    for model in found.models:
        for _, entry in read.entries if read is not None else ():
            scenario = entry.scenario
            edit, source = found.edits.get((model.reference, scenario.name), (scenario.edit, None))
            scenarios.append(
                {
                    "id": scenario.name,
                    "model": display_name(model.reference),
                    "strictness": entry.expectation_of(model.reference).strictness.value,
                    "edit": None if edit is None else edit.document(),
                    "parameters_from": source,
                    "subject": None if scenario.subject is None else display_name(scenario.subject),
                }
            )
    return scenarios


def _file_lines(found: Preflight) -> list[str]:
    resolved = _resolution(found)
    read = found.configuration
    kind = (read.kind or "unreadable").replace("_", " ") if read is not None else ""
    lines = [f"{read.file if read is not None else ''}: {kind}"]
    for role, models in (("model", found.models), ("subject", found.subjects)):
        lines += [f"  {role} {_model_text(model)}" for model in models]
    lines += [f"  scenario {_scenario_text(scenario)}" for scenario in resolved["scenarios"]]
    policy = read.policy if read is not None else None
    if policy is not None:
        lines.append(f"  tier {policy.tier}, profile {policy.profile}")
        lines.append(f"  checks {', '.join(policy.checks)}")
        floors = ", ".join(
            f"{value} {key}"
            for key, value in policy.document()["floors"].items()
            if value is not None
        )
        lines.append(f"  floors {floors}")
    if resolved["windows"] is not None:
        windows = resolved["windows"]
        lines.append(
            f"  windows {windows['preview_windows']} preview, {windows['final_windows']} final, "
            f"{windows['seq_len']} tokens every {windows['stride']}, {windows['convention']}"
        )
    data = found.dataset
    if data is not None:
        state = f"{data.documents} documents" if data.is_readable else "not readable now"
        lines.append(f"  dataset {data.provider}: {state}")
    lines += [f"  device {found.environment.device or 'none'}", f"  out {found.out}"]
    if found.plan is not None:
        # Problems stand among the findings, with their remedies.
        lines += planned_lines({**found.plan, "problems": []})
    return lines


def _model_text(model: ModelFiles) -> str:
    if not model.is_there:
        return f"{model.reference}: not here"
    context = f"context {model.context}" if model.context else "context unknown"
    size = as_bytes(model.weights_bytes or 0)
    return f"{model.reference}: {model.architecture or model.model_type}, {context}, {size}"


def _scenario_text(scenario: dict[str, Any]) -> str:
    word = scenario["strictness"].replace("_", " ")
    head = f"{scenario['model']}::{scenario['id']} ({word})"
    if scenario["edit"] is None:
        return f"{head}: checkpoint {scenario['subject']}"
    given = " ".join(f"{k}={v}" for k, v in scenario["edit"]["parameters"].items())
    source = f" [{scenario['parameters_from']}]" if given and scenario["parameters_from"] else ""
    return f"{head}: {scenario['edit']['name']} {given}".rstrip() + source


def _machine_lines(found: Preflight) -> list[str]:
    environment = found.environment
    cache = environment.hub_cache
    held = f"{cache['models']} models, {cache['datasets']} data sets"
    return [
        *(f"  {name} {version}" for name, version in environment.versions.items()),
        f"  device {environment.device or 'none'}",
        f"  Hub cache {held if cache['exists'] else 'none yet'}, "
        f"network {'allowed' if cache['network'] else 'off'}",
        f"  signing key {environment.signing_key}",
        *(f"  setting {name} from {origin}" for name, origin in environment.settings.items()),
    ]


def without_paths(value: Any, named: Sequence[str]) -> Any:
    """``value``, a JSON value, with every text in it cut as `without_absolute_paths` does."""
    if isinstance(value, str):
        return without_absolute_paths(value, named)
    if isinstance(value, dict):
        return {key: without_paths(inner, named) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner, named) for inner in value]
    return value
