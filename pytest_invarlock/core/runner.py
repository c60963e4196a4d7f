"""CoreRunner: measure an edit of a model that is already in memory, decide, keep or roll back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.adapters.hf_causal import LoadedModel, context_length
from pytest_invarlock.bench.guard_sources import CallersGuards
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.tensor_digest import combined_digest, tensor_digests
from pytest_invarlock.core.api import RunConfig, RunReport, Status
from pytest_invarlock.core.determinism import in_force, resolve_plan
from pytest_invarlock.core.edit_objects import (
    EditedCopy,
    EditedCopyAdapter,
    carry_over,
    check_adapter,
    check_edit_object,
    check_fit,
    described,
    edited_copy,
    spec_of,
)
from pytest_invarlock.core.engine import measure
from pytest_invarlock.core.model_state import confined
from pytest_invarlock.data.window_set import Window, WindowSet
from pytest_invarlock.data.windows import MIN_SCORED_TOKENS
from pytest_invarlock.decide import decide
from pytest_invarlock.decision import Decision, Outcome
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import ConfigError, DataError, EditError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import (
    DataSource,
    EditSpec,
    ForeignGuard,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)
from pytest_invarlock.policy.decision_policy import (
    KNOWN_GUARDS,
    DecisionPolicy,
    Expectation,
    Strictness,
)
from pytest_invarlock.policy.guard_limits import with_outlier_factor
from pytest_invarlock.policy.guard_names import NAME, RESERVED
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.rescaling_settings import tier_rescaling
from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.policy.suite import KINDS

if TYPE_CHECKING:
    from invarlock_guards.contract import Guard

    from pytest_invarlock.core.api import EditLike, ModelAdapter
    from pytest_invarlock.policy.metric_limits import Mode
    from pytest_invarlock.records import Record

MODEL = "model"


class CallersBench(Bench):
    """A bench whose resident is a caller's model: dropped, it is still theirs, and is put right."""

    _unfinished: EditJournal | None = None

    def drop(self) -> None:
        """Forget the resident, but not the bits of an edit that may still be in it."""
        self._unfinished = self._journal or self._unfinished
        super().drop()

    def put_back(self, model: Any, digests: Mapping[str, str]) -> None:
        """Undo what an interrupted undo left in ``model``, and prove that it is ``digests``.

        Raises:
            EditError: it is not (MODEL_LEFT_CHANGED).
        """
        # A second interruption may have come before the first one's drop.
        put_back(model, digests, self._journal or self._unfinished)


class CoreRunner:
    """Runs one edit on one loaded model through the engine that pytest items use."""

    def execute(
        self,
        model: Any,
        adapter: ModelAdapter | None,
        edit: EditSpec | EditLike,
        guards: Sequence[Guard],
        config: RunConfig,
        *,
        calibration_data: Sequence[Mapping[str, Any]] | None = None,
        preview_n: int | None = None,
        final_n: int | None = None,
    ) -> RunReport:
        """Measure ``edit`` on ``model`` against ``model`` itself.

        On success the edit stays applied, the very numbers that were measured; otherwise, after an
        exception or an interruption too, the model is as it was, bit for bit, or an error says
        that it is left changed.

        Args:
            model: a causal language model, on its device.
            adapter: describes the model; may be None.
            edit: a named edit, or an object with ``apply``. One that has a ``spec``, such as
                `RTNQuantEdit`, is run as that named edit; any other is applied to a copy, which
                takes the model's memory a second time (and, while ``apply`` runs, a third time
                in main memory), and carried over on success.
            guards: which guards to demand; the tier's others are left out. One that is not
                built-in is asked itself: ``prepare``, where it has that, on ``model`` before the
                edit, ``validate`` after it. What fails in it rolls back, what it aborts has failed.
            config: limits and names of tier and profile.
            calibration_data: mappings with ``input_ids`` (1, length) and ``attention_mask``; each
                is one window and, without document ids, one document.
            preview_n: windows of the preview arm, from the front; half by default.
            final_n: windows of the final arm, after those; as many by default.

        Raises:
            DataError: no calibration data, or fewer windows than asked for.
            ConfigError: ``GUARD_UNUSABLE`` for a guard without ``validate``, or whose name is
                taken or cannot stand in a record.
            GuardError: ``GUARD_ALTERED_MODEL`` where a guard changed the model.
            AdapterError: ``ADAPTER_UNUSABLE`` for an adapter that lacks a method, which is named.
            EditError: ``EDIT_UNUSABLE`` for an edit that does, or that gives back no mapping;
                ``EDIT_UNFIT`` where ``can_edit`` says no; ``EDIT_STRUCTURAL`` for a change of more
                than numbers; ``EDIT_NOT_CONFINED`` where the edit or the adapter changed ``model``
                itself; ``EDIT_NOT_AS_MEASURED`` where a named edit does not come out twice alike;
                ``MODEL_LEFT_CHANGED`` where ``model`` could not be restored.
        """
        check_adapter(adapter)
        check_edit_object(edit)
        own = _own_guards(guards)
        spec = spec_of(edit)
        if spec is not None and spec.name in VIEW_FAULTS:
            raise EditError(
                f"{spec.name} damages a checkpoint's structure, and a resident model has none",
                remedy="measure it as a scenario of a suite",
                code="EDIT_STRUCTURAL",
            )
        if model.training:
            raise ConfigError(
                "the model is in training mode, where dropout changes every loss",
                remedy="call model.eval() first",
                code="TRAINING_MODE",
            )
        windows = window_set(calibration_data, preview_n, final_n, context_length(model))
        plan = replace(
            _plan(model, windows),
            guards=tuple(guard.name for guard in guards if guard.name in KNOWN_GUARDS),
            foreign_guards=tuple(ForeignGuard(name, gates=True) for name in own),
            rescaling=tier_rescaling(config.tier),
        )
        bench = CallersBench(Pair(MODEL, MODEL), plan, guard_source=CallersGuards(own))
        bench.adopt(LoadedModel(model, None, None, context_length(model), None))
        bench.use_windows(0, windows)
        before = bench.digests
        edited: EditedCopy | None = None
        with confined(model, before, _authors(edit, adapter), restorable=spec is None):
            description = described(adapter, model)
            if adapter is not None:
                check_fit(edit, description, model)
            if not (isinstance(edit, EditSpec) or spec is not None):
                edited = edited_copy(edit, model, adapter)
            scenario = _scenario(edit, spec)
        bench.adapter = EditedCopyAdapter(edited)
        policy = _policy(config, scenario, [guard.name for guard in guards])
        bench.plan = with_outlier_factor(bench.plan, policy.guards)
        try:
            record = measure(bench.pair, scenario, plan, bench=bench)
        finally:
            bench.put_back(model, before)
        decision = decide(record.facts, policy)
        status, error = _status(decision, config)
        told = record.facts.edit if edited is None else {"name": scenario.name, **edited.summary}
        report = _report(record, decision, status, error, config, description, told or {})
        # Last: nothing that can fail comes after it.
        if status == "success":
            _keep(spec, edited, EditJournal(model, before), record, plan)
        return report


def put_back(model: Any, digests: Mapping[str, str], journal: EditJournal | None) -> None:
    """Undo ``journal``, if any, in a caller's ``model`` and prove that it is as ``digests`` say.

    Raises:
        EditError: it is not, or the undo was broken off (MODEL_LEFT_CHANGED).
    """
    left_changed = EditError(
        "the model is left changed: an edit could not be undone in it",
        remedy="load the model again",
        code="MODEL_LEFT_CHANGED",
    )
    try:
        if journal is not None:
            journal.undo()
        restored = tensor_digests(model) == digests
    except BaseException as error:
        # An interruption too: what is lost must be said.
        raise left_changed from error
    if not restored:
        raise left_changed


def _keep(
    spec: EditSpec | None,
    edited: EditedCopy | None,
    journal: EditJournal,
    record: Record,
    plan: MeasurementPlan,
) -> None:
    """Apply for good what was measured: it is that, by digest, or the model is as it was."""
    try:
        # As when it was measured: threads and seeds change an edit's bits.
        with in_force(plan.for_draw(0)):
            if spec is not None:
                apply_edit(spec, journal)
            elif edited is not None:
                carry_over(edited, journal)
        if combined_digest(tensor_digests(journal.model)) != record.facts.subject["tensors_digest"]:
            raise EditError(
                f"{record.facts.scenario}: the edit came out other than it was measured",
                remedy="make it give the same numbers every time, or compare a saved model",
                code="EDIT_NOT_AS_MEASURED",
            )
    except BaseException:
        put_back(journal.model, journal.digests, journal)
        raise


def window_set(
    calibration_data: Sequence[Mapping[str, Any]] | None,
    preview_n: int | None,
    final_n: int | None,
    context: int | None,
) -> WindowSet:
    """Ready-made windows from calibration batches; padding, by attention mask, is left out."""
    if not calibration_data:
        raise DataError(
            "no calibration data was given",
            remedy="pass calibration_data: windows with input_ids",
            code="NO_CALIBRATION_DATA",
        )
    wanted = preview_n or len(calibration_data) // 2
    final = final_n or wanted
    if wanted != final or wanted + final > len(calibration_data) or wanted < 1:
        raise DataError(
            f"{len(calibration_data)} windows do not make {wanted} preview and {final} final ones",
            remedy="pass more windows, or equal preview_n and final_n that fit",
            code="DATA_TOO_SMALL",
        )
    windows = [_window(batch, i, context) for i, batch in enumerate(calibration_data)]
    return WindowSet(
        arms={
            "preview": tuple(windows[:wanted]),
            "final": tuple(windows[wanted : wanted + final]),
        },
        digest=digest([[int(t) for t in window.tokens] for window in windows]),
        seq_len=max(len(window.tokens) for window in windows),
        n_documents={"preview": wanted, "final": final},
        notes=("windows were given ready-made: each is its own document",),
    )


def _window(batch: Mapping[str, Any], index: int, context: int | None) -> Window:
    ids = np.asarray(batch["input_ids"], dtype=np.int32).reshape(-1)
    mask = np.asarray(batch.get("attention_mask", np.ones_like(ids))).reshape(-1).astype(bool)
    tokens = ids[mask]
    if len(tokens) <= MIN_SCORED_TOKENS or (context is not None and len(tokens) > context):
        raise DataError(
            f"calibration window {index} has {len(tokens)} tokens",
            remedy=f"give windows of {MIN_SCORED_TOKENS + 1} to {context or 'any'} tokens",
            code="WINDOW_LENGTH",
        )
    return Window.causal(tokens, 1, index)


def _plan(model: Any, windows: WindowSet) -> MeasurementPlan:
    parameter, n_preview = next(model.parameters()), len(windows.preview)
    selection = WindowSelection(
        windows.seq_len, windows.seq_len, n_preview, len(windows.final),
        guard_windows=min(n_preview, 16),
    )  # fmt: skip
    device, dtype = str(parameter.device), str(parameter.dtype).removeprefix("torch.")
    source = DataSource("given")
    return resolve_plan(MeasurementPlan(source, selection, device=device, dtype=dtype))


def _authors(edit: EditSpec | EditLike, adapter: ModelAdapter | None) -> str:
    """Whose code runs while an edit is prepared, for an error."""
    names = [] if isinstance(edit, EditSpec) else [edit.name]
    return " or ".join(names if adapter is None else [*names, adapter.name])


def _scenario(edit: EditSpec | EditLike, spec: EditSpec | None) -> Scenario:
    if isinstance(edit, EditSpec) or spec is not None:
        return Scenario(edit.name, edit=spec)
    return Scenario(edit.name, subject=edit.name, kind=_kind(edit))


def _kind(edit: EditLike) -> str:
    """The kind of change an edit object declares, where it is one that guards know."""
    kind = getattr(edit, "kind", "any")
    return kind if kind in KINDS else "any"


def _policy(config: RunConfig, scenario: Scenario, guards: Sequence[str]) -> DecisionPolicy:
    settings = Settings(
        {
            "tier": Setting((config.tier,), "RunConfig.tier"),
            "profile": Setting((config.profile,), "RunConfig.profile"),
        }
    )
    given = {
        "ratio_limit": config.max_pm_ratio,
        "catastrophic_ratio": config.spike_threshold,
    }
    limits = {"primary_metric": {key: v for key, v in given.items() if v is not None}}
    expected = {(MODEL, scenario.name): Expectation("compare", Strictness.MUST_PASS)}
    policy = build_policy(limits, settings, expected)
    # Who hands a guard over asks for its verdict.
    own: dict[str, Mode] = dict.fromkeys((g for g in guards if g not in KNOWN_GUARDS), "gate")
    return replace(policy, checks=(*guards, "primary_metric"), modes={**policy.modes, **own})


def _own_guards(guards: Sequence[Guard]) -> dict[str, Guard]:
    """The guards that are not built-in, by name; raises ConfigError for one that cannot be one."""
    own: dict[str, Guard] = {}
    for guard in guards:
        name = getattr(guard, "name", None)
        if name in KNOWN_GUARDS:
            continue
        why = None
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            why = "has no name of letters, digits and _ . -"
        elif name in RESERVED or name in own:
            why = f"has the name {name!r}, which is taken"
        elif not callable(getattr(guard, "validate", None)):
            why = "has no validate()"
        if why is not None or not isinstance(name, str):
            raise ConfigError(
                f"guard {type(guard).__name__} {why}", remedy="mend it", code="GUARD_UNUSABLE"
            )
        own[name] = guard
    return own


def _status(decision: Decision, config: RunConfig) -> tuple[Status, str | None]:
    aborted = any(
        check.check in decision.fired and check.numbers.get("action") == "abort"
        for check in decision.checks
    )
    if decision.outcome is Outcome.ERROR or "invariants" in decision.fired or aborted:
        return "failed", decision.text
    if decision.outcome is Outcome.FAIL:
        return "rollback", None
    if decision.outcome is Outcome.INCONCLUSIVE and config.profile != "dev":
        return "failed", decision.text
    return "success", None


def _report(
    record: Record,
    decision: Decision,
    status: Status,
    error: str | None,
    config: RunConfig,
    description: Mapping[str, Any],
    edit: Mapping[str, Any],
) -> RunReport:
    metric = decision.check("primary_metric")
    return RunReport(
        status=status,
        metrics={"verdict": decision.outcome.value, "primary_metric": metric.document()},
        guards={c.check: c.document() for c in decision.checks if c is not metric},
        edit=dict(edit),
        meta={
            "model": dict(description),
            "plan_digest": record.facts.plan_digest,
            "facts_digest": record.facts.digest,
            "observations": dict(record.observations),
            "rollback_reason": decision.text if status == "rollback" else None,
        },
        evaluation_windows={
            arm: {name: array.tolist() for name, array in losses.arrays().items()}
            for arm, losses in record.facts.arms.items()
        },
        error=error,
        context=dict(config.context),
    )
