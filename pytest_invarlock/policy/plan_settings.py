"""Resolve plan and policy: settings over suite file over profile over default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import (
    Convention,
    Determinism,
    MeasurementPlan,
    Metric,
    WindowSelection,
)
from pytest_invarlock.policy.adapter_names import check_adapter
from pytest_invarlock.policy.dataset_settings import (
    NAMED_LENGTHS,
    DatasetLayer,
    resolve_dataset,
)
from pytest_invarlock.policy.decision_policy import DecisionPolicy, Expectation, GuardMode
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE, DeployLimits
from pytest_invarlock.policy.foreign_guards import (
    demanded_guards,
    foreign_modes,
    guard_blocks,
    ordered_checks,
)
from pytest_invarlock.policy.guard_limits import POLICY_OF, overridden
from pytest_invarlock.policy.guard_preparation import (
    KEY,
    is_strict,
    loosened_by,
    preparation_notes,
)
from pytest_invarlock.policy.metric_limits import (
    AccuracyLimits,
    DriftLimits,
    Floors,
    MetricLimits,
    TailLimits,
)
from pytest_invarlock.policy.presets import Preset, chosen_preset
from pytest_invarlock.policy.tiers import Profile, Tier, load_profile, load_tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_invarlock.policy.settings import Settings

DEFAULT_SEQ_LEN = 512
DEFAULT_BATCH_TOKENS = 8192
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
PROFILES = ("dev", "ci_cpu", "ci", "release")


def resolve_profile(value: Mapping[str, Any], settings: Settings) -> Profile:
    """The profile: as set, as the suite file says, else ``ci`` under CI and ``dev`` elsewhere."""
    default = "ci" if settings.in_ci else "dev"
    return load_profile(settings.choice("profile", PROFILES) or str(value.get("profile", default)))


def build_plan(value: Mapping[str, Any], settings: Settings, folder: Path) -> MeasurementPlan:
    """The measurement plan of a suite document (or of ``{}``), with notes for the user.

    ``folder`` is where relative file names of the document are looked for. Other settings beat the
    document, that the preset, wherever it is named, and that the profile.
    """
    profile = resolve_profile(value, settings)
    preset = chosen_preset(value, settings, folder)
    layers = [DatasetLayer(value.get("dataset", {}), folder, "suite file")]
    if preset is not None:
        layers.append(DatasetLayer(preset.dataset, preset.folder, f"preset {preset.name}"))
    resolved = resolve_dataset(layers, settings, profile.name)
    dataset = resolved.counts
    run: Mapping[str, Any] = value.get("run", {})
    threads = _auto_or_number(settings, "threads", run.get("threads"), "auto")
    batch = _auto_or_number(settings, "batch", run.get("batch_tokens"), DEFAULT_BATCH_TOKENS)
    adapter = settings.text("adapter") or run.get("adapter", "auto")
    made = settings.made.get("adapter")
    check_adapter(adapter, "" if made is None else f"{made.origin}: ")
    return MeasurementPlan(
        source=resolved.source,
        windows=_selection(dataset, settings, profile),
        metric=_metric(value, preset),
        adapter=adapter,
        mask_probability=float(dataset.get("mask_probability", 0.15)),
        strict_pairing=profile.name in ("ci", "release"),
        device=settings.choice("device", DEVICES) or run.get("device", "auto"),
        dtype=settings.choice("dtype", DTYPES) or run.get("dtype", "auto"),
        threads=cast("int | Literal['auto']", threads),
        determinism=cast(
            Determinism,
            settings.choice("determinism", ("throughput", "strict"))
            or run.get("determinism", profile.determinism),
        ),
        batch_tokens=batch,
        notes=(
            *settings.notes,
            *resolved.notes,
            *(() if preset is None else preset.notes),
            *preparation_notes(value, settings, profile.name),
            *_loose_notes(settings),
        ),
    )  # fmt: skip


def _loose_notes(settings: Settings) -> tuple[str, ...]:
    """What a user let pass that a run refuses by itself."""
    loose = {
        "no-preflight": "memory and disk were not demanded before the run",
        "allow-remote-code": "code that a model brings may be run",
    }
    return tuple(
        f"{settings.made[name].origin}: {text}"
        for name, text in loose.items()
        if settings.flag(name)
    )


def _selection(dataset: Mapping[str, Any], settings: Settings, profile: Profile) -> WindowSelection:
    _check_arms(dataset, settings, profile)
    convention: Convention = dataset.get("convention", "document")
    seq_len = settings.number("seq-len", minimum=33) or dataset.get("seq_len")
    stride = settings.number("stride") or dataset.get("stride")
    fixed = NAMED_LENGTHS.get(convention)
    for name, asked in (("seq_len", seq_len), ("stride", stride)):
        if fixed is not None and asked not in (None, fixed):
            raise ConfigError(
                f"dataset.{name} is {asked}, and convention {convention} fixes it at {fixed}",
                remedy=f"drop {name}, or use another convention",
                code="CONVENTION_LENGTH",
            )
    seq_len = fixed or seq_len or DEFAULT_SEQ_LEN
    return WindowSelection(
        seq_len=seq_len,
        stride=min(stride or seq_len, seq_len),
        preview_windows=settings.number("preview-windows")
        or dataset.get("preview_n", profile.preview_windows),
        final_windows=settings.number("final-windows")
        or dataset.get("final_n", profile.final_windows),
        max_windows_per_document=dataset.get("max_windows_per_document", 8),
        seed=dataset.get("seed", 0),
        convention=convention,
        guard_windows=profile.guard_calibration_windows,
    )


def _metric(value: Mapping[str, Any], preset: Preset | None) -> Metric | Literal["auto"]:
    """As the document says, else its preset; nothing takes the one of the model's kind."""
    kind = value.get("eval", {}).get("metric", {}).get("kind")
    if kind is None and preset is not None:
        kind = preset.metric
    metric: Metric | Literal["auto"] = kind or "auto"
    return metric


def _auto_or_number(settings: Settings, name: str, in_file: Any, automatic: Any) -> Any:
    """A number somewhere, else what ``auto`` means; ``auto`` as a setting beats the file too."""
    if settings.text(name) == "auto":
        return automatic
    given = settings.number(name)
    if given is not None:
        return given
    return automatic if in_file in (None, "auto") else in_file


def _check_ratios(metric: Mapping[str, Any], tier: Tier) -> None:
    """Raise ConfigError where what the limit accepts would fail as catastrophic."""
    stated = {
        key: (float(metric.get(key, getattr(tier, key))), "" if key in metric else " of the tier")
        for key in ("ratio_limit", "catastrophic_ratio")
    }
    (limit, of_limit), (most, of_most) = stated.values()
    if most < limit:
        raise ConfigError(
            f"primary_metric.ratio_limit {limit:g}{of_limit} is above catastrophic_ratio "
            f"{most:g}{of_most} (eval.spike_threshold of a run configuration): a ratio between "
            "them would fail as catastrophic though the limit accepts it",
            remedy="name a larger catastrophic_ratio, or a smaller ratio_limit",
            code="CATASTROPHIC_BELOW_LIMIT",
        )


def _check_arms(dataset: Mapping[str, Any], settings: Settings, profile: Profile) -> None:
    preview = settings.number("preview-windows") or dataset.get(
        "preview_n", profile.preview_windows
    )
    final = settings.number("final-windows") or dataset.get("final_n", profile.final_windows)
    if preview != final:
        raise ConfigError(
            f"the arms differ in size: {preview} preview windows, {final} final windows",
            remedy="give both arms the same count (preview_n, final_n)",
            code="UNEQUAL_ARMS",
        )


def with_foreign_guards(
    plan: MeasurementPlan, value: Mapping[str, Any], settings: Settings, folder: Path | None
) -> MeasurementPlan:
    """``plan`` with the guards of other packages that the tier and the document demand."""
    tier = _tier(value, settings, folder)
    return replace(plan, foreign_guards=demanded_guards(tier, value.get("guards", {})))


def _tier(value: Mapping[str, Any], settings: Settings, folder: Path | None) -> Tier:
    """The tier: as set, as the document says, else ``balanced``."""
    named = settings.text("tier")
    return load_tier(named) if named else load_tier(str(value.get("tier", "balanced")), folder)


def build_policy(
    value: Mapping[str, Any],
    settings: Settings,
    expectations: Mapping[tuple[str, str], Expectation],
    folder: Path | None = None,
) -> DecisionPolicy:
    """The decision policy of a suite document (or of ``{}``), each override with its provenance.

    ``folder`` is where a tier file that the document names is looked for.
    """
    profile = resolve_profile(value, settings)
    preset = chosen_preset(value, settings, folder or Path())
    band = {} if preset is None or preset.drift_band is None else {"band": preset.drift_band}
    tier = _tier(value, settings, folder)
    metric: Mapping[str, Any] = value.get("primary_metric", {})
    _check_ratios(metric, tier)
    floors: Mapping[str, Any] = value.get("floors", {})
    asked: Mapping[str, Any] = value.get("guards", {})
    given = guard_blocks(asked)
    foreign = demanded_guards(tier, asked)
    modes: dict[str, GuardMode] = {
        **tier.modes,
        **{name: guard["mode"] for name, guard in given.items() if "mode" in guard},
        **foreign_modes(foreign, tier, given),
    }
    guards = {
        name: overridden(name, tier.guards.get(name, {}), given.get(name, {}), place="suite file")
        for name in POLICY_OF
        if name in tier.guards or name in given
    }
    deploys = any(expected.deployable for expected in expectations.values())
    provenance = {
        "floors.guard_window_share": "convention (half of the planned guard windows)",
        **{
            key: told
            for key, told in tier.provenance.items()
            if deploys or not key.startswith(f"{DEPLOYABLE}.")
        },
        **{f"drift.{key}": "preset" for key in band},
    }
    for block in ("primary_metric", "accuracy", "tail", "drift", "floors"):
        provenance |= {f"{block}.{key}": "suite file" for key in value.get(block, {})}
    provenance |= {
        f"guards.{name}.{key}": "suite file" for name, block in given.items() for key in block
    }
    fractions: Mapping[str, float] = value.get("minimum_signal_fraction", {})
    provenance |= {f"minimum_signal_fraction.{category}": "suite file" for category in fractions}
    if "bootstrap_replicates" in value:
        provenance["bootstrap_replicates"] = "suite file"
    if settings.text("tier"):
        provenance["tier"] = settings.made["tier"].origin
    strict_prepare = is_strict(value, settings, profile.name)
    if not strict_prepare:
        provenance[f"run.{KEY}"] = loosened_by(value, settings) or ""
    if tier.file_digest is not None:
        provenance["tier_file"] = tier.file_digest
    return DecisionPolicy(
        tier=tier.name,
        profile=profile.name,
        checks=ordered_checks(tier, foreign, asked),
        modes=modes,
        guards=guards,
        primary_metric=MetricLimits(
            ratio_limit=float(metric.get("ratio_limit", tier.ratio_limit)),
            catastrophic_ratio=float(metric.get("catastrophic_ratio", tier.catastrophic_ratio)),
            alpha=tier.alpha,
            bootstrap_alpha=tier.bootstrap_alpha,
            bootstrap_replicates=value.get("bootstrap_replicates", profile.bootstrap_replicates),
            direction=metric.get("direction", tier.direction),
        ),
        accuracy=AccuracyLimits(**{**tier.accuracy, **value.get("accuracy", {})}),
        tail=TailLimits(**{**tier.tail, **value.get("tail", {})}),
        drift=DriftLimits(**{**tier.drift, **band, **value.get("drift", {})}),
        floors=Floors(
            documents=floors.get("documents", profile.documents),
            effective_documents=float(
                floors.get("effective_documents", profile.effective_documents)
            ),
            tokens=floors.get("tokens", tier.token_floor if profile.token_floor_enforced else None),
            guard_window_share=float(floors.get("guard_window_share", profile.guard_window_share)),
        ),
        on_inconclusive=cast(
            "Literal['fail', 'xfail']",
            settings.choice("on-inconclusive", ("fail", "xfail")) or "fail",
        ),
        expectations=dict(expectations),
        provenance=provenance,
        strict_guard_prepare=strict_prepare,
        minimum_signal_fraction={name: float(share) for name, share in fractions.items()},
        deployable=_deploy_limits(tier, expectations.values()),
    )


def _deploy_limits(tier: Tier, expectations: Iterable[Expectation]) -> DeployLimits | None:
    """The tier's limits where a scenario deploys; elsewhere they would only tell policies apart."""
    if tier.deployable is None or not any(expected.deployable for expected in expectations):
        return None
    return DeployLimits.read(tier.deployable)
