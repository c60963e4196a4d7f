"""One resident model of the guards' evidence: edits it in place, measures, judges, undoes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from invarlock_guards.families import all_weight_matrices
from invarlock_guards.judge.invariants import judge_invariants
from invarlock_guards.judge.rmt import judge_rmt
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.judge.variance import judge_variance

from pytest_invarlock.adapters.hf_auto import HF_Auto_Adapter
from pytest_invarlock.bench.damaged_view import damaged_subject
from pytest_invarlock.bench.draws import Draws, batch_shape
from pytest_invarlock.bench.guard_side import RecordedBaseline, guard_evidence, record_baseline
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.subject import Subject, edited_subject
from pytest_invarlock.bench.tensor_digest import tensor_digests
from pytest_invarlock.metrics.batches import Batch, make_batches
from pytest_invarlock.metrics.token_scoring import score, window_sums
from pytest_invarlock.plan import DataSource, EditSpec, MeasurementPlan, WindowSelection
from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.tiers import load_tier
from pytest_invarlock.stats import ratio_bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from invarlock_guards.contract import GuardEvidence, GuardResult
    from numpy.typing import NDArray

    from pytest_invarlock.adapters import LoadedModel

GUARDS = ("invariants", "spectral", "rmt", "variance")
LOOSER = ("any", "quantize8", "quantize4")
"""Kinds under which every run is judged beside its declared one: one of each group of limits."""
SEQ_LEN, METRIC_WINDOWS, GUARD_WINDOWS = 128, 24, 8
RATIO_LIMIT = 1.10

Step = tuple["str | Callable[..., Any]", dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One edit to measure.

    Attributes:
        key: of the run among those of its model; fixes every draw of it.
        group: ``benign``, ``damage`` or ``fault``.
        name: class of change, as the page's tables name it.
        dose: of the class, as shown; empty where it has none.
        site: what was changed, in words.
        kind: the kind that a user would declare.
        draw: of windows.
        steps: edits by name or function, with their parameters, in order.
        branch: the one branch that is damaged; None where there are several or none.
        gross: whether the damage is gross by construction.
    """

    key: str
    group: str
    name: str
    dose: str
    site: str
    kind: str
    draw: int
    steps: tuple[Step, ...]
    branch: str | None = None
    gross: bool = False


@dataclass
class Windows:
    """What one draw gives: the guards' record of the baseline, and its losses."""

    recorded: RecordedBaseline
    batches: list[Batch]
    losses: NDArray[np.float64]
    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]


@dataclass
class Bench:
    """A loaded baseline, its windows by draw, and one journal at a time."""

    reference: str
    metric_windows: int = METRIC_WINDOWS
    guard_windows: int = GUARD_WINDOWS
    loaded: LoadedModel = field(init=False)
    _windows: dict[int, Windows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loaded = HF_Auto_Adapter().load(self.reference, device="cpu", dtype="float32")
        self.digests = tensor_digests(self.loaded.model)
        before = edited_subject(self.loaded, {}, EditJournal(self.loaded.model, self.digests))
        self.structure = before.structure
        selection = WindowSelection(
            SEQ_LEN, SEQ_LEN, self.metric_windows, self.metric_windows,
            guard_windows=self.guard_windows,
        )  # fmt: skip
        self.plan = MeasurementPlan(DataSource("pydoc"), selection, device="cpu", dtype="float32")
        self._draws = Draws(self.plan)
        tier = load_tier("balanced")
        self._policies = {n: guard_policy(n, tier.guards.get(n, {})) for n in GUARDS[1:]}

    def windows(self, draw: int) -> Windows:
        """The windows of ``draw``; when first asked for, the baseline must carry no edit."""
        if draw not in self._windows:
            drawn = self._draws.windows(draw, self.loaded)
            shape = batch_shape(self.loaded, self.plan.batch_tokens, drawn.reading)
            batches = make_batches(drawn.final, shape, device=self.loaded.device)
            self._windows[draw] = Windows(
                record_baseline(self.loaded, drawn, self.plan, given=False),
                batches,
                self._losses(self.loaded, batches, len(drawn.final)),
                np.array([window.n_scored for window in drawn.final]),
                np.array([window.document for window in drawn.final]),
            )
        return self._windows[draw]

    def branch_of(self) -> dict[str, str]:
        """The branch that each parameter belongs to, by name."""
        record = self.windows(0).recorded.record
        assert record is not None
        names = dict(self.loaded.model.named_parameters())
        found: dict[str, str] = {}
        for branch in record.plan.branches:
            modules = (*branch.norms, branch.name)
            for name in names:
                if any(name.startswith(module + ".") for module in modules):
                    found[name] = branch.name
        return found

    @property
    def has_experts(self) -> bool:
        """Whether a feed-forward network of the model is several."""
        return any(m.expert is not None or m.weight.ndim == 3 for m in self.matrices())

    def matrices(self) -> list[Any]:
        """The blocks' matrices, in model order."""
        return [m for m in all_weight_matrices(self.loaded.model) if m.block is not None]

    def measure(self, run: Run, *, metric: bool = True) -> dict[str, Any]:
        """The row of ``run``: verdicts, what was named first, statistics and the metric."""
        windows = self.windows(run.draw)
        started = time.perf_counter()
        journal = EditJournal(self.loaded.model, self.digests)
        try:
            subject = self._subject(run, journal)
            evidence = guard_evidence(
                self.loaded, self.structure, windows.recorded, subject, GUARDS, reads_alike=True
            )
            guarded = time.perf_counter() - started
            losses = self._metric(subject, windows) if metric else {}
        finally:
            journal.undo()
        kinds = dict.fromkeys((run.kind, *LOOSER))
        results = {kind: self.judge(evidence, kind) for kind in kinds}
        words = {kind: {n: _word(r) for n, r in by.items()} for kind, by in results.items()}
        return {
            "key": run.key, "group": run.group, "name": run.name, "dose": run.dose,
            "site": run.site, "kind": run.kind, "draw": run.draw, "branch": run.branch,
            "gross": run.gross, **losses,
            "verdicts": words,
            "first": {
                kind: {n: _first(r) for n, r in by.items() if r.violations}
                for kind, by in results.items()
            },
            "statistics": statistics(evidence),
            "guard_s": round(guarded, 3), "s": round(time.perf_counter() - started, 3),
        }  # fmt: skip

    def judge(self, evidence: Mapping[str, GuardEvidence], kind: str) -> dict[str, GuardResult]:
        """Every guard's result of one evidence under ``kind``; a part that is missing is absent."""
        found = {"invariants": judge_invariants(evidence["invariants"], kind=kind)}
        judges: dict[str, Callable[..., GuardResult]] = {
            "spectral": judge_spectral, "rmt": judge_rmt, "variance": judge_variance
        }  # fmt: skip
        for name, judge in judges.items():
            if "not_evaluated" not in evidence[name]:
                found[name] = judge(evidence[name], kind=kind, policy=self._policies[name])
        return found

    def _subject(self, run: Run, journal: EditJournal) -> Subject:
        from pytest_invarlock.edits.registry import EDITS
        from pytest_invarlock.faults.structural import VIEW_FAULTS

        name = run.steps[0][0] if run.steps else ""
        if isinstance(name, str) and name in VIEW_FAULTS:
            return damaged_subject(EditSpec(name, run.steps[0][1]), self.loaded, self.digests)
        for edit, parameters in run.steps:
            (EDITS[edit] if isinstance(edit, str) else edit)(journal, **parameters)
        return edited_subject(self.loaded, {}, journal)

    def _losses(self, loaded: LoadedModel, batches: list[Batch], n: int) -> NDArray[np.float64]:
        return window_sums(score(loaded.model, batches, by_head=False).nll, batches, n)

    def _metric(self, subject: Subject, windows: Windows) -> dict[str, Any]:
        if subject.load_failure is not None:
            return {"ratio": None, "upper": None, "pm": "error"}
        losses = self._losses(subject.loaded, windows.batches, len(windows.tokens))
        if not np.isfinite(losses).all():
            return {"ratio": None, "upper": None, "pm": "fail"}
        bounds = ratio_bounds(
            windows.losses, losses, windows.tokens, windows.documents,
            seed=b"guards", replicates=999,
        )  # fmt: skip
        upper, lower = float(np.exp(bounds.delta_upper)), float(np.exp(bounds.delta_lower))
        passes = upper <= RATIO_LIMIT
        fails = lower > RATIO_LIMIT or bounds.ratio > 2
        word = "pass" if passes else "fail" if fails else "inconclusive"
        return {"ratio": bounds.ratio, "upper": min(upper, 1e9), "pm": word}


def _word(result: GuardResult) -> str:
    if result.passed is None:
        return "error"
    return "fail" if not result.passed else "warn" if result.action == "warn" else "pass"


def _first(result: GuardResult) -> list[Any]:
    """Kind, module, value and limit of the first violation."""
    first = result.violations[0]
    return [first.kind, first.module, first.value, first.threshold]


def statistics(evidence: Mapping[str, GuardEvidence]) -> dict[str, float]:
    """The largest of each statistic over modules: what limits are set on."""
    found: dict[str, float] = {}

    def see(key: str, value: float | None) -> None:
        if value is not None:
            found[key] = round(max(found.get(key, 0.0), abs(value)), 6)

    for change in evidence["spectral"].get("changes", ()):
        if change["type"] == "matrix":
            for key in ("ln_sigma", "ln_stable_rank", "ln_frobenius", "relative_change"):
                see(key, change[key])
            see("edge_of_change", change["balanced_edge"])
            see("canon", change["canon"] and change["canon"]["value"])
        else:
            see("outer_change", change["relative_change"])
    for row in evidence["rmt"].get("branches", ()):
        see("error", row["e"])
        see("angle", row["c"])
        see("norm_log_rms" if row["kind"] == "norm" else "log_rms", row["l"])
    for site in evidence["rmt"].get("sites", ()):
        see("feature_edge", site["fedge"])
        if site["n_features"]:
            see("newly_dead", site["n_newly_dead"] / site["n_features"])
    return found
