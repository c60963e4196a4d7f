"""Calibration: benign subjects measured on documents that no verdict rests on, limits derived, and
the derived limits judged on draws that nothing was derived from.

Nothing here compares a number with a limit: `derive` says what follows from benign runs, and
`decide` judges the held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.judge.kinds import KindGroup
from invarlock_guards.judge.policy_values import GroupLimits
from invarlock_guards.judge.rmt import RMTPolicy
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.judge.variance_policy import VariancePolicy

from pytest_invarlock.calibration.benign_run import NOOP, BenignRun, benign_run
from pytest_invarlock.calibration.derive import GROUPS, DerivedLimit, TierLimits, derive
from pytest_invarlock.calibration.preset_document import HeldOut, preset_document
from pytest_invarlock.checks.guard_overhead import CHECK as OVERHEAD
from pytest_invarlock.core.engine import measure
from pytest_invarlock.decide import decide
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.plan import EditSpec, Scenario
from pytest_invarlock.policy.calibrated_preset import CalibratedPreset, tightened
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.provenance import code_digest

if TYPE_CHECKING:
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.plan import MeasurementPlan, Pair
    from pytest_invarlock.policy.calibration import Calibration
    from pytest_invarlock.policy.decision_policy import DecisionPolicy, GuardMode
    from pytest_invarlock.records import Facts

CHECKS = ("spectral", "rmt", "variance", "drift")
"""Checks with limits that may be derived; on the others a calibration has nothing to say."""
BASELINE = Scenario(NOOP, edit=EditSpec(NOOP))
KIND_OF: Mapping[KindGroup, str] = {"strict": "cast", "compression": "prune", "open": "any"}


def calibration_plan(plan: MeasurementPlan) -> MeasurementPlan:
    """``plan`` on the documents kept for tuning, whole, without what says nothing of limits."""
    return replace(
        plan.for_draw(0),
        windows=replace(plan.windows, pool="calibration"),
        guards=tuple(name for name in plan.guards if name != OVERHEAD),
        foreign_guards=(),
        sequential=None,
        rescaling=None if plan.rescaling is None else replace(plan.rescaling, remediate=False),
        notes=(),
    )


def calibration_inputs(
    plan: MeasurementPlan, calibration: Calibration, pair: Pair, policy: DecisionPolicy
) -> str:
    """The digest of all that a preset follows from, but for the bytes of model and data."""
    return digest(
        {
            "baseline": pair.name,
            "calibration": calibration.document(pair),
            "plan": calibration_plan(plan).document(source=None, data_digest=None),
            "provider": plan.source.provider,
            "policy": calibration_policy(policy, pair, calibration).document(),
            "code": code_digest(),
        }
    )


def calibration_policy(
    policy: DecisionPolicy, pair: Pair, calibration: Calibration
) -> DecisionPolicy:
    """``policy`` with those of `CHECKS` it demands, all of them gating, and every subject to pass.

    Raises ConfigError where it demands none of them.
    """
    checks = tuple(name for name in policy.checks if name in CHECKS)
    if not checks:
        raise ConfigError(
            f"tier {policy.tier} demands none of {', '.join(CHECKS)}: there is no limit to derive",
            remedy="drop the key calibration, or use another tier",
            code="NOTHING_TO_CALIBRATE",
        )
    subjects = (BASELINE, *calibration.benign[pair.name])
    modes: dict[str, GuardMode] = {name: "gate" for name in checks if name != "drift"}
    return replace(
        policy,
        checks=checks,
        modes=modes,
        drift=replace(policy.drift, mode="gate"),
        expectations={
            (pair.name, subject.name): Expectation("clean", Strictness.MUST_PASS)
            for subject in subjects
        },
    )


def tier_limits(policy: DecisionPolicy) -> TierLimits:
    """The limits of ``policy`` that a calibration may tighten."""
    spectral = SpectralPolicy.from_mapping(policy.guards.get("spectral", {}))
    rmt = RMTPolicy.from_mapping(policy.guards.get("rmt", {}))
    variance = VariancePolicy.from_mapping(policy.guards.get("variance", {}))
    return TierLimits(
        drift_band=policy.drift.band,
        spectral=lambda statistic, group, family: spectral.limit(statistic, KIND_OF[group], family),
        error=_groups(rmt.error),
        angle=_groups(rmt.angle),
        epsilon=dict(rmt.epsilon_by_family),
        log_rms=_groups(variance.log_rms),
        min_effect=variance.min_effect_lognll,
    )


def _groups(limits: GroupLimits) -> dict[str, float]:
    return {group: limits.of(KIND_OF[group]) for group in GROUPS}


@dataclass(frozen=True, slots=True)
class Derived:
    """A preset's document, what was found on the held-out draws, the first run's facts.

    ``facts`` are of the baseline against itself: what was loaded and read is stated there.
    """

    document: Mapping[str, Any]
    held_out: HeldOut
    facts: Facts


@dataclass(slots=True)
class _Data:
    """What the windows of all draws were, as far as that may leave the machine."""

    digests: list[str] = field(default_factory=list)
    windows: dict[str, int] = field(default_factory=dict)
    documents: dict[str, int] = field(default_factory=dict)

    def note(self, bench: Bench, draw: int) -> None:
        drawn = bench.windows(draw)
        self.digests.append(bench.draws.data_digest(draw, bench.baseline))
        self.windows = {arm: drawn.n_drawn(arm) for arm in drawn.arms}
        self.documents = dict(drawn.n_documents)


def calibrate(
    bench: Bench,
    calibration: Calibration,
    policy: DecisionPolicy,
    *,
    inputs: str,
    progress: Callable[[str], None],
) -> Derived:
    """Measure, derive and check; returns the preset, usable or not.

    Args:
        bench: the model's bench, of a `calibration_plan`.
        calibration: how often, and which subjects are benign.
        policy: of the model's scenarios; what it says is the loosest that is derived.
        inputs: the digest of all that goes in (`calibration_inputs`).
        progress: is told of each run before it is measured.

    Raises:
        ConfigError: the policy demands no check with limits to derive.
        InvarlockError: any error of loading, data, edit or measurement; no preset follows then.
    """
    pair = bench.pair
    judged = calibration_policy(policy, pair, calibration)
    subjects = (BASELINE, *calibration.benign[pair.name])
    total = len(subjects) * (calibration.runs + calibration.held_out)
    data = _Data()
    runs: list[BenignRun] = []
    seen: list[Facts] = []
    done = 0
    deriving = range(calibration.runs)
    for facts, decision in _measured(bench, subjects, deriving, judged, data):
        done += 1
        progress(f"{done}/{total}")
        runs.append(benign_run(facts, decision))
        seen = seen or [facts]
    limits = derive(runs, tier_limits(judged))
    draft = _document(bench, calibration, judged, runs, limits, HeldOut(), inputs, data)
    tight = tightened(judged, CalibratedPreset.of(draft))
    held_out = range(calibration.runs, calibration.runs + calibration.held_out)
    found: list[Decision] = []
    for _, decision in _measured(bench, subjects, held_out, tight, data):
        done += 1
        progress(f"{done}/{total}")
        found.append(decision)
    checked = HeldOut.of(held_out, found)
    document = _document(bench, calibration, judged, runs, limits, checked, inputs, data)
    return Derived(document, checked, seen[0])


def _measured(
    bench: Bench,
    subjects: Sequence[Scenario],
    draws: Sequence[int],
    policy: DecisionPolicy,
    data: _Data,
) -> Iterator[tuple[Facts, Decision]]:
    for draw in draws:
        for subject in subjects:
            record = measure(bench.pair, subject, bench.plan.for_draw(draw), bench=bench)
            yield record.facts, decide(record.facts, policy, pool="calibration")
        data.note(bench, draw)


def _document(
    bench: Bench,
    calibration: Calibration,
    policy: DecisionPolicy,
    runs: Sequence[BenignRun],
    limits: Sequence[DerivedLimit],
    held_out: HeldOut,
    inputs: str,
    data: _Data,
) -> dict[str, Any]:
    pair = bench.pair
    meta = {
        "model": pair.name,
        "tier": policy.tier,
        "profile": policy.profile,
        "runs": calibration.runs,
        "inputs": inputs,
        "benign": [
            {
                "scenario": subject.name,
                "kind": kind_of(subject),
                "edit": None if subject.edit is None else subject.edit.document(),
            }
            for subject in (BASELINE, *calibration.benign[pair.name])
        ],
        "data": {
            "provider": bench.plan.source.provider,
            "pool": bench.plan.windows.pool,
            "seq_len": bench.plan.windows.seq_len,
            "windows": data.windows,
            "documents": data.documents,
            "digests": list(data.digests),
        },
    }
    return preset_document(meta, runs, limits, held_out)
