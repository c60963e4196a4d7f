"""The document of a calibrated preset: limits, what they follow from, and how they held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.decision import Outcome
from pytest_invarlock.policy.calibrated_preset import META, SCHEMA
from pytest_invarlock.provenance import tool_version
from pytest_invarlock.stats.wilson import wilson

if TYPE_CHECKING:
    from pytest_invarlock.calibration.benign_run import BenignRun
    from pytest_invarlock.calibration.derive import DerivedLimit
    from pytest_invarlock.decision import Decision

UNJUDGED = (Outcome.ERROR, Outcome.INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What `decide` said of benign subjects under the derived limits, on draws of their own.

    An *alarm* is a subject of which any check FAILs; one is *unjudged* where none does and a check
    could not decide. The rate is of those that were judged.
    """

    draws: tuple[int, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @classmethod
    def of(cls, draws: Sequence[int], decisions: Sequence[Decision]) -> HeldOut:
        """The check of held-out ``draws``."""
        return cls(tuple(draws), tuple(decisions))

    @property
    def alarms(self) -> list[Decision]:
        """Benign subjects that were taken for damage."""
        return [decision for decision in self.decisions if decision.fired]

    @property
    def unjudged(self) -> list[Decision]:
        """Subjects of which a check could not tell."""
        return [
            decision
            for decision in self.decisions
            if not decision.fired and any(c.outcome in UNJUDGED for c in decision.checks)
        ]

    @property
    def holds(self) -> bool:
        """Whether every benign subject was judged, and none alarmed."""
        return bool(self.decisions) and not self.alarms and not self.unjudged

    def problems(self) -> list[str]:
        """A line for every check that fired or could not tell."""
        return [
            f"{decision.scenario} (draw {decision.draw}): {check.check} {check.outcome.value}: "
            f"{check.text}"
            for decision in self.decisions
            for check in decision.checks
            if check.outcome is Outcome.FAIL or check.outcome in UNJUDGED
        ]

    def document(self) -> dict[str, Any]:
        """The counts as plain JSON values, the measured rate with Wilson's 95 % interval."""
        counts = {
            "n": len(self.decisions) - len(self.unjudged),
            "alarms": len(self.alarms),
            "unjudged": len(self.unjudged),
        }
        return {
            "draws": list(self.draws),
            **counts,
            **rate_and_interval(counts),
            "found": [
                {
                    "subject": decision.scenario,
                    "draw": decision.draw,
                    "check": check.check,
                    "outcome": check.outcome.value,
                    "reason": check.reason,
                }
                for decision in self.decisions
                for check in decision.checks
                if check.outcome is Outcome.FAIL or check.outcome in UNJUDGED
            ],
        }


def rate_and_interval(counts: Mapping[str, int]) -> dict[str, Any]:
    """The rate of ``alarms`` among ``n`` that were judged, None of none, with Wilson's interval."""
    alarms, n = counts["alarms"], counts["n"]
    return {
        "false_positive_rate": alarms / n if n else None,
        "interval": list(wilson(alarms, n)),
    }


def limit_blocks(limits: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The blocks of a preset: of the documents of limits, those that are not the tier's."""
    band: dict[str, float] = {}
    guards: dict[str, Any] = {}
    for limit in limits:
        if limit["source"] == "tier":
            continue
        if limit["key"] == "drift.band":
            band = {"min": 1 / limit["used"], "max": limit["used"]}
            continue
        block = guards
        *parts, last = limit["key"].split(".")[1:]
        for part in parts:
            block = block.setdefault(part, {})
        block[last] = limit["used"]
    return {"primary_metric": {"drift_band": band} if band else {}, "guards": guards}


def preset_document(
    meta: Mapping[str, Any],
    runs: Sequence[BenignRun],
    limits: Sequence[DerivedLimit],
    held_out: HeldOut,
) -> dict[str, Any]:
    """The document of a preset (``policies/schemas/calibrated_preset.schema.json``).

    Only limits that are tighter than the tier's stand in its blocks; of all of them ``limits``
    tells which value is used and why. It holds no paths and no text of the data.

    Args:
        meta: model, tier, profile, runs, inputs, benign and data, as plain JSON values.
        runs: what benign runs showed; the limits can be derived from them again.
        limits: as `derive` gave them.
        held_out: how they held.
    """
    told = [limit.document() for limit in limits]
    return {
        "description": f"Limits of {meta['model']}, derived from its own benign runs.",
        META: {
            **meta,
            "schema": SCHEMA,
            "tool": f"pytest-invarlock {tool_version()}",
            "usable": held_out.holds,
            "limits": told,
            "statistics": [run.document() for run in runs],
            "held_out": held_out.document(),
        },
        **limit_blocks(told),
    }
