"""Bench: one pair's baseline, resident in one worker, and what is measured on it only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.invariants import ModelStructure, read_config, read_structure

from pytest_invarlock.adapters import Adapter, HF_Auto_Adapter, LoadedModel
from pytest_invarlock.bench.baseline_cache import BaselineEvidence, cached_evidence, measured_under
from pytest_invarlock.bench.baseline_pass import baseline_pass
from pytest_invarlock.bench.baseline_side import BaselineSide, head_gives_logits
from pytest_invarlock.bench.counters import Counters
from pytest_invarlock.bench.damaged_view import damaged_subject
from pytest_invarlock.bench.deployed import deployed_subject
from pytest_invarlock.bench.draws import Draws
from pytest_invarlock.bench.first_look import FirstLook, first_look
from pytest_invarlock.bench.function_state import function_state
from pytest_invarlock.bench.guard_side import RecordedBaseline, record_baseline
from pytest_invarlock.bench.guard_sources import GuardSource, InstalledGuards
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.memory import free_memory
from pytest_invarlock.bench.subject import edited_subject, loaded_subject
from pytest_invarlock.bench.subject_pass import PairedArm, SubjectPass
from pytest_invarlock.bench.tensor_digest import combined_digest, tensor_digests
from pytest_invarlock.core.determinism import in_force
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError, MeasurementError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.faults.structural import VIEW_FAULTS
from pytest_invarlock.plan import ARMS, Arm
from pytest_invarlock.policy.deploy_names import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.metrics.batches import Batch
    from pytest_invarlock.plan import EditSpec, MeasurementPlan, Pair

Progress = Callable[[str, int, int], None]
Log = Callable[..., None]


def _silent(*_: object, **__: object) -> None:
    return None


@dataclass(eq=False, repr=False)
class Bench:
    """The resident baseline of ``pair`` under a resolved ``plan``.

    ``cache`` is the folder for baseline losses shared by the host's workers (None: keep nothing);
    ``progress`` is told (stage, windows done, windows in all); ``log`` takes an event and details;
    ``kept_guards`` are reusable guards that have seen this baseline.
    """

    pair: Pair
    plan: MeasurementPlan
    cache: Path | None = None
    adapter: Adapter = field(default_factory=HF_Auto_Adapter)
    guard_source: GuardSource = field(default_factory=InstalledGuards)
    progress: Progress = _silent
    log: Log = _silent
    counters: Counters = field(default_factory=Counters)
    kept_guards: dict[str, Any] = field(default_factory=dict)
    _loaded: LoadedModel | None = None
    _digests: dict[str, str] = field(default_factory=dict)
    _structure: ModelStructure | None = None
    _side: BaselineSide | None = None
    _draws: Draws | None = None
    _evidence: dict[int, BaselineEvidence] = field(default_factory=dict)
    _recorded: dict[int, RecordedBaseline] = field(default_factory=dict)
    _state: str = ""
    _journal: EditJournal | None = None
    _lent: bool = False
    _looks: dict[str, FirstLook | None] = field(default_factory=dict)

    @property
    def baseline(self) -> LoadedModel:
        """The baseline, loaded on first use and kept."""
        if self._loaded is None:
            with in_force(self.plan):
                loaded = self.adapter.load(
                    self.pair.baseline, device=self.plan.device, dtype=self.plan.dtype
                )
            self.adopt(loaded)
            self.counters.baseline_loads += 1
            self.log("baseline_load", pair=self.pair.name)
            return loaded
        return self._loaded

    def adopt(self, loaded: LoadedModel) -> None:
        """Take ``loaded`` as the resident baseline and read its identity and structure."""
        self._loaded = None
        self._digests = tensor_digests(loaded.model)
        self._structure = read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread)
        self._state = function_state(loaded.model)
        self._forget_evidence()
        self._journal = None
        # Last: an interruption leaves no resident, never one with the identity of another.
        self._loaded = loaded

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of each of the baseline's tensors."""
        _ = self.baseline
        return self._digests

    @property
    def structure(self) -> ModelStructure:
        """The baseline's structure."""
        _ = self.baseline
        if self._structure is None:
            raise MeasurementError("the baseline was not read", remedy="report this")
        return self._structure

    @property
    def draws(self) -> Draws:
        """The windows of each draw."""
        if self._draws is None:
            self._draws = Draws(self.plan)
        return self._draws

    def windows(self, draw: int) -> WindowSet:
        """The windows to measure a draw on: ready-made ones, else the provider's."""
        return self.draws.windows(draw, self.baseline)

    def drawn_windows(self, draw: int) -> WindowSet:
        """The provider's windows of a draw, tokenised once with the baseline's tokenizer."""
        return self.draws.drawn(draw, self.baseline)

    def use_windows(self, draw: int, windows: WindowSet) -> None:
        """Measure draw ``draw`` on ready-made windows from now on."""
        if self.draws.use(draw, windows):
            self._forget_draw(draw)

    def use_drawn_windows(self, draw: int) -> None:
        """Measure draw ``draw`` on the provider's windows again."""
        if self.draws.use_drawn(draw):
            self._forget_draw(draw)

    def _forget_draw(self, draw: int) -> None:
        self._evidence.pop(draw, None)
        self._recorded.pop(draw, None)
        self.kept_guards.clear()

    def baseline_evidence(self, draw: int) -> BaselineEvidence:
        """Scores of the unedited baseline and its noise floor: once per host and draw."""
        if draw not in self._evidence:
            if self.cache is not None:
                # Kept states are large, and other draws' lie on the disk.
                self._evidence.clear()
            self._evidence[draw] = cached_evidence(
                self.cache, self._baseline_key(draw), lambda: self._baseline_pass(draw)
            )
        return self._evidence[draw]

    def recorded_baseline(self, draw: int) -> RecordedBaseline:
        """The baseline's branches on the guards' windows, taken once before edits and kept."""
        if draw not in self._recorded:
            taken = self.unedited(), self.windows(draw), self.plan, self.counters
            self._recorded = {draw: record_baseline(*taken, given=self.draws.is_given(draw))}
        return self._recorded[draw]

    def _baseline_pass(self, draw: int) -> BaselineEvidence:
        self.counters.baseline_passes += 1
        self.counters.noise_floor_passes += 1
        self.log("baseline_pass", pair=self.pair.name, draw=draw)
        return baseline_pass(
            self.unedited(),
            self.windows(draw),
            {arm: self.batches(draw, arm) for arm in ARMS},
            batch_tokens=self.plan.batch_tokens,
            by_head=self.by_head(draw),
            advance=partial(self._advance, "baseline"),
        )

    def batches(self, draw: int, arm: Arm) -> list[Batch]:
        """The batches of an arm, on the plan's device, in the order they are measured."""
        return [batch for block in self.draws.blocks(draw, arm, self.baseline) for batch in block]

    @contextmanager
    def half_batches(self) -> Iterator[None]:
        """Measure in batches of half as many tokens, the baseline among it, and then as before."""
        whole = self.plan
        self._batch(replace(whole, batch_tokens=max(1, whole.batch_tokens // 2)))
        self.log("half_batches", pair=self.pair.name, batch_tokens=self.plan.batch_tokens)
        try:
            yield
        finally:
            self._batch(whole)

    def _batch(self, plan: MeasurementPlan) -> None:
        self.plan = plan
        self.draws.plan = plan
        self.draws.forget_batches()
        self._evidence.clear()
        self._recorded.clear()
        self.kept_guards.clear()
        free_memory()

    def _baseline_key(self, draw: int) -> str:
        return measured_under(
            self.plan,
            tensors=combined_digest(self.digests),
            config=self.config_digest,
            attention=self.baseline.attention,
            by_head=self.by_head(draw),
            data=self.windows(draw).content_digest(),
        )

    def by_head(self, draw: int) -> bool:
        """Whether the baseline's head reproduces its logits, tried once on one window."""
        return self._own_side(draw).by_head

    def _own_side(self, draw: int) -> BaselineSide:
        if self._side is None:
            self._side = BaselineSide(self.unedited(), self.batches(draw, "final")[0])
        return self._side

    def measure_subject(self, subject: Subject, draw: int) -> dict[Arm, PairedArm]:
        """One pass over ``subject``, paired with the baseline's scores."""
        self.counters.subject_passes += 1
        windows = self.windows(draw)
        total = sum(len(arm) for arm in windows.arms.values())
        evidence = self.baseline_evidence(draw)
        model, side = subject.loaded.model, self._own_side(draw)
        first = self.batches(draw, "final")[0]
        subject_pass = SubjectPass(
            model=model,
            # An edit changes numbers, not how states become logits.
            by_head=side.by_head if subject.in_place else head_gives_logits(model, first),
            windows=windows,
            blocks={arm: self.draws.blocks(draw, arm, self.baseline) for arm in ARMS},
            baseline=evidence.scores,
            reference={arm: side.reference(subject, evidence.scores[arm]) for arm in ARMS},
            advance=partial(self._advance, "subject", 0, total),
        )
        rule = self.plan.sequential
        measured = subject_pass.whole() if rule is None else subject_pass.until_decided(rule)
        self.counters.subject_windows += sum(
            len(batch.order) for arm in measured.values() for batch in arm.batches
        )
        return measured

    def _advance(self, stage: str, before: int, total: int, done: int) -> None:
        self.progress(stage, before + done, total)

    def applied(self, spec: EditSpec, draw: int = 0) -> AbstractContextManager[Subject]:
        """The baseline with ``spec``: `edited`, a `damaged_view`, or packed and loaded again."""
        if spec.name == DEPLOY:
            return deployed_subject(spec, self.unedited(), self.windows(draw), self.plan)
        return self.damaged_view(spec) if spec.name in VIEW_FAULTS else self.edited(spec)

    @contextmanager
    def edited(self, spec: EditSpec) -> Iterator[Subject]:
        """The baseline with ``spec`` applied in place; undone bit for bit on leaving, always.

        Raises:
            EditError: the edit cannot be applied, or not be undone; then the resident model is
                dropped, and reloaded by whoever asks next.
        """
        loaded = self.unedited()
        if self._side is not None:
            self._side.keep()
        journal = EditJournal(loaded.model, self._digests)
        try:
            try:
                # From before the first write until the undo is proved, it is no baseline.
                self._journal = journal
                coverage = apply_edit(spec, journal)
                yield edited_subject(loaded, coverage, journal)
            except BaseException:
                journal.undo()
                # What broke off may have left hooks or data that no journal holds.
                if self._journal is journal and self._is_as_loaded():
                    self._journal = None
                raise
            if self._journal is journal:
                journal.undo()
                self._journal = None
            else:
                # It was dropped since: put back as far as it goes, and used no more.
                with suppress(EditError, RuntimeError):
                    journal.undo()
        except BaseException:
            if self._journal is journal:
                self.drop()
            raise

    def unedited(self) -> LoadedModel:
        """The baseline; raises EditError (EDIT_OPEN) while it carries an edit."""
        loaded = self.baseline
        if self._journal is not None:
            raise EditError(
                f"{self.pair.name}: the baseline carries an edit",
                remedy="leave the edit's context first",
                code="EDIT_OPEN",
            )
        return loaded

    @contextmanager
    def damaged_view(self, spec: EditSpec) -> Iterator[Subject]:
        """The baseline's checkpoint with structural fault ``spec``; the resident is not touched.

        Raises:
            EditError: there is nothing in this checkpoint that the fault could strike.
        """
        subject = damaged_subject(spec, self.unedited(), self.digests)
        self.log("subject_view", pair=self.pair.name)
        try:
            yield subject
        finally:
            del subject
            free_memory()

    @contextmanager
    def checkpoint(self, reference: str) -> Iterator[Subject]:
        """Another checkpoint, loaded for as long as the context lasts."""
        look = self.first_look(reference)
        loaded = self.adapter.load(reference, device=self.plan.device, dtype=self.plan.dtype)
        self.counters.subject_loads += 1
        self.log("subject_load", pair=self.pair.name)
        try:
            yield loaded_subject(loaded, None if look is None else look.spectral)
        finally:
            del loaded
            free_memory()

    def first_look(self, reference: str) -> FirstLook | None:
        """What the files of checkpoint ``reference`` show beside the baseline's; taken once."""
        if reference not in self._looks:
            look = first_look(self.adapter, self.plan, self.pair.baseline, reference)
            self.counters.first_looks += look is not None
            self._looks = {reference: look}
        return self._looks[reference]

    @property
    def config_digest(self) -> str:
        """The digest of the baseline's class and of the config keys that change its function."""
        return digest({"class": type(self.baseline.model).__name__, **self.structure.config})

    def unchanged(self) -> bool:
        """Whether the resident carries no edit and is what was loaded: tensors, config, mode."""
        return self._journal is None and self._is_as_loaded()

    def _is_as_loaded(self) -> bool:
        model = self.baseline.model
        return (
            function_state(model) == self._state
            and tensor_digests(model) == self._digests
            and read_config(model) == self.structure.config
        )

    def lend(self) -> LoadedModel:
        """The baseline for others' hands: from now on it is proved before every measurement."""
        self._lent = True
        return self.baseline

    def prove_baseline(self) -> None:
        """Load the baseline, or prove that no edit and nobody it was lent to has changed it.

        Raises:
            EditError: it was changed; then it is dropped, and reloaded by whoever asks next.
        """
        if self._loaded is not None and (self._journal or (self._lent and not self.unchanged())):
            self.drop()
            raise EditError(
                f"{self.pair.name}: the resident baseline was changed before it was measured",
                remedy="change a copy (copy.deepcopy), or leave invarlock_edit's context first",
                code="BASELINE_CHANGED",
            )
        _ = self.baseline

    def hand_over(self) -> LoadedModel | None:
        """The resident for another bench, proved to be as it was loaded; None where it is not."""
        proved = self._loaded is not None and not self._lent and self.unchanged()
        return self._loaded if proved else None

    def drop(self) -> None:
        """Forget the resident model; the next use loads it afresh."""
        self._loaded = None
        self._journal = None
        self._lent = False
        self._forget_evidence()
        self.log("baseline_drop", pair=self.pair.name)
        free_memory()

    def _forget_evidence(self) -> None:
        self._side = None
        self.draws.forget_batches()
        self._evidence.clear()
        self._recorded.clear()
        self.kept_guards.clear()
