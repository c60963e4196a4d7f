"""Bench: one pair's baseline, resident in one worker, and what is measured on it only once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from invarlock_guards.measure.invariants import ModelStructure, read_structure

from pytest_invarlock.adapters.hf_causal import HF_Causal_Adapter, LoadedModel
from pytest_invarlock.bench.baseline_cache import Losses, cached_losses
from pytest_invarlock.bench.journal import EditJournal
from pytest_invarlock.bench.tensor_digest import (
    combined_digest,
    model_tensors,
    tensor_digest,
    tensor_digests,
)
from pytest_invarlock.core.determinism import device_identity, in_force
from pytest_invarlock.data import WindowSet, draw_windows, get_provider
from pytest_invarlock.edits import apply_edit
from pytest_invarlock.errors import EditError, MeasurementError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.metrics.token_nll import (
    Batch,
    head_reproduces_logits,
    make_batches,
    window_nll,
)
from pytest_invarlock.plan import ARMS, Arm
from pytest_invarlock.provenance import code_digest, library_versions

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.data import Provider
    from pytest_invarlock.plan import EditSpec, MeasurementPlan, Pair

Progress = Callable[[str, int, int], None]
Log = Callable[..., None]


def _silent(*_: object, **__: object) -> None:
    return None


@dataclass(slots=True)
class Counters:
    """How often the expensive things were done; tests hold them to what was promised."""

    baseline_loads: int = 0
    baseline_passes: int = 0
    subject_loads: int = 0
    subject_passes: int = 0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subject:
    """A subject ready to be measured: the edited resident model, or another checkpoint."""

    loaded: LoadedModel
    digests: Mapping[str, str]
    structure: ModelStructure
    edit: Mapping[str, Any] | None
    by_head: bool


@dataclass(eq=False, repr=False)
class Bench:
    """The resident baseline of ``pair`` under a resolved ``plan``.

    ``cache`` is the folder for baseline losses shared by the host's workers (None: keep nothing);
    ``progress`` is told (stage, windows done, windows in all); ``log`` takes an event and details.
    """

    pair: Pair
    plan: MeasurementPlan
    cache: Path | None = None
    adapter: HF_Causal_Adapter = field(default_factory=HF_Causal_Adapter)
    progress: Progress = _silent
    log: Log = _silent
    counters: Counters = field(default_factory=Counters)
    _loaded: LoadedModel | None = None
    _digests: dict[str, str] = field(default_factory=dict)
    _structure: ModelStructure | None = None
    _by_head: bool | None = None
    _provider: Provider | None = None
    _windows: dict[int, WindowSet] = field(default_factory=dict)
    _given: dict[int, WindowSet] = field(default_factory=dict)
    _batches: dict[tuple[int, Arm], list[Batch]] = field(default_factory=dict)
    _losses: dict[int, Losses] = field(default_factory=dict)

    @property
    def baseline(self) -> LoadedModel:
        """The baseline, loaded on first use and kept."""
        if self._loaded is None:
            with in_force(self.plan):
                self._loaded = self.adapter.load(
                    self.pair.baseline, device=self.plan.device, dtype=self.plan.dtype
                )
            self.adopt(self._loaded)
            self.counters.baseline_loads += 1
            self.log("baseline_load", pair=self.pair.name)
        return self._loaded

    def adopt(self, loaded: LoadedModel) -> None:
        """Take ``loaded`` as the resident baseline and read its identity and structure."""
        self._loaded = loaded
        self._digests = tensor_digests(loaded.model)
        self._structure = read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread)
        self._by_head = None

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
    def provider(self) -> Provider:
        """The data provider, read once."""
        if self._provider is None:
            self._provider = get_provider(self.plan.source.provider, self.plan.source)
        return self._provider

    def windows(self, draw: int) -> WindowSet:
        """The windows to measure a draw on: ready-made ones, else the provider's."""
        return self._given.get(draw) or self.drawn_windows(draw)

    def drawn_windows(self, draw: int) -> WindowSet:
        """The provider's windows of a draw, tokenised once with the baseline's tokenizer."""
        if draw not in self._windows:
            self._windows[draw] = draw_windows(
                self.provider,
                self.baseline.tokenizer,
                self.plan.windows,
                draw=draw,
                context=self.baseline.context,
            )
        return self._windows[draw]

    def use_windows(self, draw: int, windows: WindowSet) -> None:
        """Measure draw ``draw`` on ready-made windows from now on."""
        in_use = self._given.get(draw) or self._windows.get(draw)
        if windows is not in_use:
            self._forget_draw(draw)
        if windows is self._windows.get(draw):
            self._given.pop(draw, None)
        else:
            self._given[draw] = windows

    def use_drawn_windows(self, draw: int) -> None:
        """Measure draw ``draw`` on the provider's windows again."""
        if self._given.pop(draw, None) is not None:
            self._forget_draw(draw)

    def _forget_draw(self, draw: int) -> None:
        self._losses.pop(draw, None)
        for arm in ARMS:
            self._batches.pop((draw, arm), None)

    def is_given(self, draw: int) -> bool:
        """Whether a draw's windows were given ready-made."""
        return draw in self._given

    def data_digest(self, draw: int) -> str:
        """The digest of a draw's data; of ready-made windows, of what they hold."""
        windows = self.windows(draw)
        return windows.content_digest() if self.is_given(draw) else windows.digest

    def source_digest(self, draw: int) -> str:
        """The digest of where a draw's windows come from; ready-made ones stand for themselves."""
        given = self._given.get(draw)
        return given.content_digest() if given is not None else self.provider.source_digest()

    def batches(self, draw: int, arm: Arm) -> list[Batch]:
        """The padded batches of an arm, on the plan's device."""
        if (draw, arm) not in self._batches:
            self._batches[draw, arm] = make_batches(
                self.windows(draw).arms[arm],
                batch_tokens=self.plan.batch_tokens,
                device=self.baseline.device,
            )
        return self._batches[draw, arm]

    def baseline_losses(self, draw: int) -> Losses:
        """Summed losses per window and arm of the unedited baseline: once per host and draw."""
        if draw not in self._losses:
            self._losses[draw] = cached_losses(
                self.cache, self._baseline_key(draw), lambda: self._baseline_pass(draw)
            )
        return self._losses[draw]

    def _baseline_pass(self, draw: int) -> Losses:
        if not self.unchanged():
            self.drop()
            raise EditError(
                f"{self.pair.name}: the resident baseline was changed before it was measured",
                remedy="change a copy (copy.deepcopy), or use the invarlock_edit fixture",
                code="BASELINE_CHANGED",
            )
        self.counters.baseline_passes += 1
        self.log("baseline_pass", pair=self.pair.name, draw=draw)
        return self._pass(self.baseline, draw, "baseline", self.by_head)

    def _baseline_key(self, draw: int) -> str:
        return digest(
            {
                "tensors": combined_digest(self.digests),
                "config": self.config_digest,
                "attention": str(
                    getattr(self.baseline.model.config, "_attn_implementation", "unknown")
                ),
                "by_head": self.by_head,
                "code": code_digest(),
                "data": self.windows(draw).content_digest(),
                "dtype": self.plan.dtype,
                "threads": self.plan.threads,
                "determinism": self.plan.determinism,
                "batch_tokens": self.plan.batch_tokens,
                "device": device_identity(self.plan.device),
                "versions": library_versions(),
            }
        )

    @property
    def by_head(self) -> bool:
        """Whether the baseline's head reproduces its logits, tried once on one window."""
        if self._by_head is None:
            batches = next(iter(self._batches.values()), None) or self.batches(0, "final")
            self._by_head = head_reproduces_logits(self.baseline.model, batches[0])
        return self._by_head

    def subject_losses(self, subject: Subject, draw: int) -> Losses:
        """Summed losses per window and arm of ``subject``."""
        self.counters.subject_passes += 1
        return self._pass(subject.loaded, draw, "subject", subject.by_head)

    def _pass(self, loaded: LoadedModel, draw: int, stage: str, by_head: bool) -> Losses:
        total = sum(len(windows) for windows in self.windows(draw).arms.values())
        done = 0
        losses: dict[Arm, Any] = {}
        for arm in ARMS:
            losses[arm] = window_nll(
                loaded.model,
                self.batches(draw, arm),
                by_head=by_head,
                progress=partial(self._advance, stage, done, total),
            )
            done += len(losses[arm])
        return losses

    def _advance(self, stage: str, before: int, total: int, done: int) -> None:
        self.progress(stage, before + done, total)

    @contextmanager
    def edited(self, spec: EditSpec) -> Iterator[Subject]:
        """The baseline with ``spec`` applied in place; undone bit for bit on leaving, always.

        Raises:
            EditError: the edit cannot be applied, or not be undone; then the resident model is
                dropped, and reloaded by whoever asks next.
        """
        loaded = self.baseline
        journal = EditJournal(loaded.model, self._digests)
        try:
            coverage = apply_edit(spec, journal)
            yield Subject(
                loaded=loaded,
                digests=self._edited_digests(journal),
                structure=read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread),
                edit=coverage,
                by_head=self.by_head,
            )
        finally:
            try:
                journal.undo()
            except BaseException:
                self.drop()
                raise

    def _edited_digests(self, journal: EditJournal) -> dict[str, str]:
        tensors = model_tensors(journal.model)
        written = {tensors[name].data_ptr() for name in journal.touched}
        return {
            name: tensor_digest(tensor) if tensor.data_ptr() in written else self._digests[name]
            for name, tensor in tensors.items()
        }

    @contextmanager
    def checkpoint(self, reference: str, draw: int) -> Iterator[Subject]:
        """Another checkpoint, loaded for as long as the context lasts."""
        loaded = self.adapter.load(reference, device=self.plan.device, dtype=self.plan.dtype)
        self.counters.subject_loads += 1
        self.log("subject_load", pair=self.pair.name)
        batch = self.batches(draw, "final")[0]
        comparable = loaded.tokenizer_fingerprint == self.baseline.tokenizer_fingerprint
        try:
            yield Subject(
                loaded=loaded,
                digests=tensor_digests(loaded.model),
                structure=read_structure(loaded.model, loaded.tokenizer_fingerprint, loaded.unread),
                edit=None,
                by_head=comparable and head_reproduces_logits(loaded.model, batch),
            )
        finally:
            del loaded
            free_memory()

    @property
    def config_digest(self) -> str:
        """The digest of the baseline's class and of the config keys that change its function."""
        return digest({"class": type(self.baseline.model).__name__, **self.structure.config})

    def unchanged(self) -> bool:
        """Whether the resident baseline is what was loaded: every tensor, configuration, mode."""
        model = self.baseline.model
        now = read_structure(model, self.baseline.tokenizer_fingerprint)
        return (
            not model.training
            and tensor_digests(model) == self._digests
            and now.config == self.structure.config
        )

    def drop(self) -> None:
        """Forget the resident model; the next use loads it afresh."""
        self._loaded = None
        self._by_head = None
        self._batches.clear()
        self._losses.clear()
        self.log("baseline_drop", pair=self.pair.name)
        free_memory()


def free_memory() -> None:
    """Return unreferenced model memory to the system and the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
