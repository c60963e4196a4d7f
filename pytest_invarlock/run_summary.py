"""RunSummary: what the controller concludes from the files of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.calibration.in_force import plan_in_force
from pytest_invarlock.calibration.preset_file import read_presets
from pytest_invarlock.calibration.requirement import with_calibrations
from pytest_invarlock.certificate.probes import probes_of
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Outcome
from pytest_invarlock.plan import PlannedScenario
from pytest_invarlock.policy.decision_policy import DecisionPolicy, policies_by_scenario
from pytest_invarlock.release_review import with_release_review
from pytest_invarlock.scenario_runs import flaky_scenarios
from pytest_invarlock.verdict import RunVerdict, decide_run

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.evidence.pack import SealedPack
    from pytest_invarlock.records import Record
    from pytest_invarlock.release_review import ReleaseReview
    from pytest_invarlock.run_directory import RunDirectory

Status = Literal["complete", "partial", "incomplete"]


@dataclass(slots=True)
class RunSummary:
    """A run's records, the decision on each, and its verdict where it ran whole.

    ``status`` is ``complete``, ``partial`` (some items were not selected or not reached) or
    ``incomplete`` (interrupted); only a complete run has a verdict and is sealed, and no sweep.
    ``signed`` says that its pack will bear a signature.
    """

    run: RunDirectory
    plans: list[dict[str, Any]]
    policies: Mapping[tuple[str, str], DecisionPolicy]
    planned: tuple[PlannedScenario, ...]
    records: tuple[Record, ...]
    decisions: tuple[Decision, ...]
    status: Status
    verdict: RunVerdict | None
    verdict_node: str | None
    sealed: SealedPack | None = None
    key_created: bool = False
    problem: str | None = None
    signed: bool = False

    @property
    def name(self) -> str:
        """The suite's name, ``compare`` or ``markers``."""
        return str(self.plans[0]["name"]) if self.plans else self.run.run_id

    @property
    def complete(self) -> bool:
        """Whether the run has a verdict."""
        return self.verdict is not None

    @property
    def is_sweep(self) -> bool:
        """Whether the run is of doses, which certify nothing."""
        return any(plan.get("sweeps") for plan in self.plans)

    @property
    def is_calibration(self) -> bool:
        """Whether presets were derived and nothing else was asked for."""
        return (
            self.status == "complete" and not self.planned and bool(calibrated_models(self.plans))
        )

    @property
    def sweep_failed(self) -> bool:
        """Whether a dose could not be measured, or a whole sweep lacks one."""
        if not self.is_sweep:
            return False
        measured = {
            (d.model, d.scenario, d.draw) for d in self.decisions if d.outcome is not Outcome.ERROR
        }
        planned = {(p.model, p.scenario, draw) for p in self.planned for draw in p.runs}
        return len(measured) < len(self.decisions) or (
            self.status == "complete" and measured != planned
        )

    @property
    def word(self) -> str:
        """The verdict in a word, or why there is none."""
        if self.is_sweep:
            return "SWEEP, NO VERDICT"
        if self.is_calibration:
            return "CALIBRATED, NO VERDICT"
        return self.verdict.verdict if self.verdict is not None else self.status.upper()

    def policy(self, decision: Decision) -> DecisionPolicy:
        """The policy a decision was made under."""
        return self.policies[(decision.model, decision.scenario)]

    def probes(self, decision: Decision) -> tuple[str, ...]:
        """The probes that the scenario of a decision asks for."""
        told = [scenario for plan in self.plans for scenario in plan["scenarios"]]
        return probes_of(told, decision.model, decision.scenario)

    def policy_documents(self) -> list[dict[str, Any]]:
        """Every policy of the run, in the order of its plan parts."""
        return [policy for plan in self.plans for policy in plan["policies"]]

    def verdict_document(self) -> dict[str, Any]:
        """``final_verdict.json``: the verdict, or why there is none, and every decision."""
        verdict = (
            self.verdict.document()
            if self.verdict is not None
            else {
                "format": "invarlock-verdict-v1",
                "verdict": None,
                "requirements": [],
                "counts": {},
                "alarms": [],
                "flaky": [one.document() for one in flaky_scenarios(self.decisions)],
            }
        )
        return {
            **verdict,
            "status": self.status,
            "run_id": self.run.run_id,
            "suite": self.name,
            "planned": [entry.document() for entry in self.planned],
            "decisions": [
                {
                    "model": decision.model,
                    "scenario": decision.scenario,
                    "draw": decision.draw,
                    "outcome": decision.outcome.value,
                    "expectation_met": decision.expectation_met,
                    "facts_digest": record.facts.digest,
                }
                for record, decision in zip(self.records, self.decisions, strict=True)
            ],
        }


def calibrated_models(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models whose calibration the parts of a plan demand."""
    return [model for plan in plans for model in plan.get("calibrations", ())]


def summarise(
    run: RunDirectory,
    ran: set[str],
    *,
    cut: Literal["partial", "incomplete"] | None,
    signed: bool = False,
    review: ReleaseReview | None = None,
) -> RunSummary:
    """Read a run's plan and records, decide them, and judge the run where it is whole.

    Args:
        run: the run's folder.
        ran: node ids of the items that came to an outcome.
        cut: how the session was cut short, or None where its loop ran to the end.
        signed: whether a pack of a whole run will be made, and signed.
        review: what a release review is told; None where none was asked for.
    """
    plans = [plan_in_force(plan, run.path) for plan in run.read_plans()]
    planned = tuple(PlannedScenario(**entry) for plan in plans for entry in plan["planned"])
    policies = policies_by_scenario([p for plan in plans for p in plan["policies"]])
    records = tuple(
        sorted(run.all_records(), key=lambda r: (r.facts.model, r.facts.scenario, r.facts.draw))
    )
    decisions = tuple(
        decide(record.facts, policies[(record.facts.model, record.facts.scenario)])
        for record in records
    )
    node_ids = {node_id for plan in plans for node_id in plan["node_ids"]}
    status: Status = cut or ("complete" if node_ids <= ran else "partial")
    models = calibrated_models(plans)
    # Doses are informational whatever the suite demands of their scenario: they certify nothing,
    # nor does a calibration on its own.
    judged = status == "complete" and not any(plan.get("sweeps") for plan in plans)
    judged = judged and bool(planned or not models)
    verdict = decide_run(planned, decisions, policies) if judged else None
    if verdict is not None:
        verdict = with_calibrations(verdict, models, read_presets(run.path, models))
        verdict = with_release_review(verdict, review, records, policies)
    prefix = plans[0]["node_prefix"] if plans else None
    return RunSummary(
        run=run,
        plans=plans,
        policies=policies,
        planned=planned,
        records=records,
        decisions=decisions,
        status=status,
        verdict=verdict,
        verdict_node=f"{prefix}::verdict" if verdict is not None and prefix else None,
        signed=signed and verdict is not None,
    )
