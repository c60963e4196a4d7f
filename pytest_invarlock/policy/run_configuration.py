"""The seeds' run configuration: one model, one edit or subject, as a suite of one scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec, Scenario
from pytest_invarlock.policy.decision_policy import KNOWN_GUARDS, Expectation, Strictness
from pytest_invarlock.policy.edit_names import check_edit
from pytest_invarlock.policy.extended_document import as_word, name_of_file
from pytest_invarlock.policy.guard_limits import POLICY_OF
from pytest_invarlock.policy.guard_preparation import KEY
from pytest_invarlock.policy.presets import drift_band_of
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.suite_scenarios import ScenarioEntry, located
from pytest_invarlock.policy.tuned import check_clean, is_clean
from pytest_invarlock.policy.yaml_document import load_yaml

if TYPE_CHECKING:
    from pytest_invarlock.policy.yaml_document import YamlDocument

_METRIC_OF_LOSS = {"causal": "ppl_causal", "mlm": "ppl_mlm", "seq2seq": "ppl_seq2seq"}
_NOT_FOLLOWED = ("multiple_testing", "min_gain")
_BLOCKS = ("dataset", "edit", "subject", "eval", "guards", "auto", "primary_metric", "output")


def is_run_configuration(value: Mapping[str, Any]) -> bool:
    """Whether a document is a run configuration rather than a suite."""
    return "models" not in value and "scenarios" not in value and "model" in value


def names_a_suite(path: Path) -> bool:
    """Whether a YAML file of any name is one of ours: a suite, or a run configuration."""
    try:
        value = load_yaml(path).value
    except ConfigError:
        return False
    if "scenarios" in value:
        return "models" in value or "extends" in value
    model = isinstance(value.get("model"), Mapping) and "id" in value["model"]
    return (model or "extends" in value) and any(block in value for block in _BLOCKS)


def suite_value(document: YamlDocument, folder: Path) -> dict[str, Any]:
    """The blocks of a run configuration as those of a suite document, schema-checked.

    Raises ConfigError naming file, line and key.
    """
    check_document(document, "run_configuration")
    value = document.value
    model: Mapping[str, Any] = value["model"]
    result: dict[str, Any] = {
        "name": value.get("name") or name_of_file(document.name),
        "models": [located(model["id"], folder)],
        "run": {
            **{key: model[key] for key in ("adapter", "device", "dtype") if key in model},
            **value.get("run", {}),
        },
    }
    context: Mapping[str, Any] = value.get("context", {}).get("run", {})
    if KEY in context:
        result["run"].setdefault(KEY, context[KEY])
    for key in ("dataset", "profile", "preset", "floors", "bootstrap_replicates"):
        if key in value:
            result[key] = value[key]
    if "tier" in value.get("auto", {}):
        result["tier"] = value["auto"]["tier"]
    metric = _metric(document)
    if metric is not None:
        result["eval"] = {"metric": {"kind": metric}}
    limits = _limits(document)
    if limits:
        result["primary_metric"] = limits
    band = value.get("primary_metric", {}).get("drift_band")
    if band is not None:
        result["drift"] = {"band": drift_band_of(document, band)}
    guards = _guards(value)
    if guards:
        result["guards"] = guards
    return result


def only_scenario(document: YamlDocument, folder: Path) -> ScenarioEntry:
    """The one scenario of a schema-checked run configuration; it must pass.

    Raises ConfigError where it names neither an edit nor a subject, or a wrong edit.
    """
    value = document.value
    if "edit" not in value and "subject" not in value:
        raise ConfigError(
            f"{document.place(('model',))}: nothing is compared with the model",
            remedy="give edit: {name, plan}, or subject: a checkpoint; or compare two with "
            "--invarlock-baseline and --invarlock-subject",
            code="NO_SUBJECT",
        )
    if "edit" not in value:
        subject = located(value["subject"], folder)
        name = as_word(Path(subject).name)
        return ScenarioEntry(
            Scenario(name, subject=subject, kind=value.get("kind")),
            Expectation("compare", Strictness.MUST_PASS),
        )
    edit = EditSpec(value["edit"]["name"], dict(value["edit"].get("plan") or {}))
    clean = is_clean(edit)
    (check_clean if clean else check_edit)(edit, document.seen_from(("edit",)), ("edit",))
    return ScenarioEntry(
        Scenario(edit.name, edit=edit, kind=value.get("kind")),
        Expectation("clean", Strictness.MUST_PASS),
    )


def run_notes(value: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a run configuration is accepted and not followed, for user and certificate."""
    auto: Mapping[str, Any] = value.get("auto", {})
    output: Mapping[str, Any] = value.get("output", {})
    notes = _guard_notes(value.get("guards", {}))
    if auto.get("enabled") is False:
        notes.append("auto.enabled: limits are those of the tier all the same")
    if auto.get("probes"):
        notes.append("auto.probes: not built in this version")
    if "target_pm_ratio" in auto:
        notes.append("auto.target_pm_ratio: limits come from the tier and primary_metric")
    if "min" in value.get("primary_metric", {}).get("acceptance_range", {}):
        notes.append("primary_metric.acceptance_range.min: a better subject is no failure")
    unused = [key for key in value.get("context", {}) if key != "run"]
    unused += [f"run.{key}" for key in value.get("context", {}).get("run", {}) if key != KEY]
    if unused:
        notes.append(f"context: not used in this version ({', '.join(unused)})")
    if output.get("save_model"):
        notes.append("output.save_model: nothing is saved; invarlock_edit(...).save writes it")
    if output.get("save_report") is False:
        notes.append("output.save_report: reports are written all the same")
    return tuple(notes)


def _guard_notes(guards: Mapping[str, Any]) -> list[str]:
    order: list[str] = guards.get("order", [])
    left_out = [name for name in ("invariants", *POLICY_OF) if name not in order]
    notes = []
    if order and left_out:
        notes.append(
            f"guards.order leaves out {', '.join(left_out)}: what the tier demands is run all the "
            "same"
        )
    if "multiple_testing" in guards.get("spectral", {}):
        notes.append("guards.spectral.multiple_testing: weights have no sampling distribution")
    if "min_gain" in guards.get("variance", {}):
        notes.append("guards.variance.min_gain: min_effect_lognll is what a gain is held against")
    return notes


def _guards(value: Mapping[str, Any]) -> dict[str, Any]:
    """The order of the guards, and the modes, limits and parameters of those that have some."""
    given: Mapping[str, Any] = value.get("guards", {})
    blocks: dict[str, Any] = {
        name: {key: v for key, v in block.items() if key not in _NOT_FOLLOWED}
        if name in POLICY_OF
        else block
        for name, block in given.items()
    }
    return {name: block for name, block in blocks.items() if block or name not in KNOWN_GUARDS}


def _metric(document: YamlDocument) -> str | None:
    evaluation: Mapping[str, Any] = document.value.get("eval", {})
    kind: str | None = evaluation.get("metric", {}).get("kind")
    loss = evaluation.get("loss", {}).get("type", "auto")
    implied = _METRIC_OF_LOSS.get(loss)
    if implied is None or kind in (implied, "accuracy"):
        return kind
    if kind not in (None, "auto"):
        raise ConfigError(
            f"{document.place(('eval', 'loss', 'type'))}: eval.loss.type: {loss} is not the loss "
            f"of metric {kind}",
            remedy=f"use metric {implied}, or drop eval.loss",
            code="BAD_VALUE",
        )
    return implied


def _limits(document: YamlDocument) -> dict[str, Any]:
    """The limits of the primary metric; ``acceptance_range.max`` and ``max_pm_ratio`` are one."""
    evaluation: Mapping[str, Any] = document.value.get("eval", {})
    metric: Mapping[str, Any] = document.value.get("primary_metric", {})
    limits: dict[str, Any] = {
        key: metric[key]
        for key in ("ratio_limit", "catastrophic_ratio", "direction")
        if key in metric
    }
    upper = [
        (path, limit)
        for path, limit in (
            (("primary_metric", "ratio_limit"), metric.get("ratio_limit")),
            (
                ("primary_metric", "acceptance_range", "max"),
                metric.get("acceptance_range", {}).get("max"),
            ),
            (("eval", "max_pm_ratio"), evaluation.get("max_pm_ratio")),
        )
        if limit is not None
    ]
    for path, limit in upper[1:]:
        if limit != upper[0][1]:
            raise ConfigError(
                f"{document.place(path)}: {'.'.join(path)}: {limit:g} is another limit than "
                f"{'.'.join(upper[0][0])}, {upper[0][1]:g}",
                remedy="keep one of the two",
                code="BAD_VALUE",
            )
    if upper:
        limits["ratio_limit"] = upper[0][1]
    if "spike_threshold" in evaluation:
        limits.setdefault("catastrophic_ratio", evaluation["spike_threshold"])
    return limits
