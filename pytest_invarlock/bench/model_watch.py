"""What a model is and computes, read between the turns of guards, which may change none of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from invarlock_guards.measure.invariants import read_config

from pytest_invarlock.bench.baseline_side import vocabulary
from pytest_invarlock.bench.draws import batch_shape
from pytest_invarlock.bench.function_state import FUNCTION_PARTS
from pytest_invarlock.bench.guard_sources import called
from pytest_invarlock.bench.tensor_digest import combined_digest, tensor_digest, tensor_digests
from pytest_invarlock.checks.guard_overhead import CHECK, changed_parts
from pytest_invarlock.data.window_set import first_counted
from pytest_invarlock.errors import GuardError
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.metrics.batches import make_batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.counters import Counters
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.data.window_set import Window
    from pytest_invarlock.metrics.batches import Batch
    from pytest_invarlock.plan import MeasurementPlan

TENSORS, CONFIGURATION, COMPUTES = "a tensor", "its configuration", "what it computes"
UNREADABLE = "it cannot be read any more"
TRIES = 3


@dataclass(frozen=True, slots=True)
class _Outputs:
    """The bits of a model's logits on one window, by digest, and its mean loss on it in nats.

    ``bits`` is the name of an error where there are none; ``loss_nats`` None then, and where it is
    not finite.
    """

    bits: str
    loss_nats: float | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model is, by part in words, and what it computes (None: not comparable)."""

    parts: Mapping[str, Any]
    outputs: _Outputs
    repeatable: bool

    def difference(self, other: ModelState) -> str | None:
        """The first part in which ``other`` differs; None where it is the same, bit for bit."""
        for part, value in self.parts.items():
            if other.parts[part] != value:
                return part
        if self.repeatable and other.outputs.bits != self.outputs.bits:
            return COMPUTES
        return None

    def document(self) -> dict[str, Any]:
        """The state as the record holds it: digests, and the window's loss."""
        bits = self.outputs.bits
        return {
            "tensors": combined_digest(self.parts[TENSORS]),
            "function": digest({part: self.parts[part] for part in FUNCTION_PARTS}),
            "configuration": digest(self.parts[CONFIGURATION]),
            "outputs": f"sha256:{bits}" if self.repeatable and len(bits) == 64 else None,
            "loss_nats": self.outputs.loss_nats,
        }


class ModelWatch:
    """Reads a model once before any guard's turn and once after each: N guards, N + 1 states.

    Args:
        which: whether it is the baseline or the subject.
        model: on the window's device.
        window: of one row, as `proof_window` makes it.
        counters: told of each pass.
        digests: those of its tensors, where they are known.
        steps: where to write the turns down; a list of its own without.
    """

    def __init__(
        self,
        which: Literal["baseline", "subject"],
        model: Any,
        window: Batch,
        counters: Counters,
        *,
        digests: Mapping[str, str] | None = None,
        steps: list[dict[str, Any]] | None = None,
    ) -> None:
        self.model = model
        self.steps: list[dict[str, Any]] = [] if steps is None else steps
        self._which = which
        self._window = window
        self._counters = counters
        # First, for a pass may settle what a module keeps between passes.
        once, again = self._pass(), self._pass()
        self.repeatable = once.bits == again.bits
        self._state = ModelState(_parts(model, digests), once, self.repeatable)

    @property
    def altered_by(self) -> str | None:
        """The guards after whose turn the model was another for the first time."""
        return next((" and ".join(s["guards"]) for s in self.steps if changed_parts(s)), None)

    def step(self, guards: Sequence[str], process: Sequence[str] = ()) -> str | None:
        """Write down that ``guards`` had their turn; what it changed of the model, if anything.

        ``process`` is what they changed beside it, put back since.
        """
        before, after = self._state, self._read()
        what: str | None = UNREADABLE
        if after is not None:
            what, self._state = before.difference(after), after
        self.steps.append(
            {
                "model": self._which,
                "guards": list(guards),
                "before": before.document(),
                "after": None if after is None else after.document(),
                "process": list(process),
            }
        )
        return what

    def _read(self) -> ModelState | None:
        """The state now; None where the model does not let itself be read."""
        before = self._state
        for _ in range(TRIES):
            outputs = self._pass()
            if not self.repeatable or outputs.bits == before.outputs.bits:
                break
        try:
            parts = called("reading the model", lambda: _parts(self.model, None))
        except GuardError:
            return None
        return ModelState(parts, outputs, self.repeatable)

    def _pass(self) -> _Outputs:
        self._counters.watch_passes += 1
        try:
            found: _Outputs = called("a forward pass", lambda: _outputs(self.model, self._window))
        except GuardError as error:
            # A subject of another kind cannot read the baseline's windows: before and after alike.
            return _Outputs(type(error.__cause__).__name__, None)
        return found


def _parts(model: Any, digests: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        TENSORS: tensor_digests(model) if digests is None else dict(digests),
        **{part: read(model) for part, read in FUNCTION_PARTS.items()},
        CONFIGURATION: read_config(model),
    }


def _outputs(model: Any, window: Batch) -> _Outputs:
    # No inference mode: what a module keeps of the pass is then of no use for gradients.
    with torch.no_grad():
        output = model(**window.inputs, **window.options)
    logits = output.logits if hasattr(output, "logits") else output
    there = window.positions < logits.shape[1]
    scored = logits[window.rows[there], window.positions[there]].float()
    targets = window.targets[there].clamp(max=scored.shape[-1] - 1).unsqueeze(-1)
    nll = (scored.logsumexp(-1) - scored.gather(-1, targets).squeeze(-1)).double().cpu().numpy()
    loss = float(nll.mean()) if len(nll) else float("nan")
    return _Outputs(tensor_digest(logits), loss if np.isfinite(loss) else None)


def proof_window(baseline: LoadedModel, windows: WindowSet, plan: MeasurementPlan) -> Batch:
    """The longest of the guards' windows as a batch of one row; of the final arm without any."""
    chosen = guard_windows(windows, plan) or windows.final
    longest = max(range(len(chosen)), key=lambda i: len(chosen[i].tokens))
    shape = batch_shape(baseline, plan.batch_tokens, windows.reading)
    return make_batches(chosen, shape, device=baseline.device, among=[longest])[0]


def guard_windows(windows: WindowSet, plan: MeasurementPlan) -> Sequence[Window]:
    """The windows that guards look at: of documents of neither arm, or else the preview's first."""
    return first_counted(windows.calibration or windows.preview, plan.windows.guard_windows)


def baseline_watch(
    bench: Bench, draw: int, steps: list[dict[str, Any]] | None = None
) -> ModelWatch:
    """A watch of the resident as it was loaded; writes into ``steps`` where they are given."""
    window = proof_window(bench.baseline, bench.windows(draw), bench.plan)
    return ModelWatch(
        "baseline", bench.baseline.model, window, bench.counters, digests=bench.digests, steps=steps
    )


def subject_watch(
    bench: Bench, draw: int, subject: Subject, digests: Mapping[str, str] | None = None
) -> ModelWatch:
    """A watch of a subject that has a model; ``digests`` of its tensors where they are known."""
    window = proof_window(bench.baseline, bench.windows(draw), bench.plan)
    if not subject.in_place:
        window = _readable(window, subject.loaded)
    return ModelWatch("subject", subject.loaded.model, window, bench.counters, digests=digests)


def _readable(window: Batch, loaded: LoadedModel) -> Batch:
    """``window`` within a model's vocabulary and context: a device does not survive others."""
    last = vocabulary(loaded.model) - 1
    inputs = {
        name: value[:, : loaded.context].clamp(max=last) for name, value in window.inputs.items()
    }
    return replace(window, inputs=inputs)


def is_demanded(plan: MeasurementPlan) -> bool:
    """Whether the plan asks for what guards did to the models."""
    return CHECK in plan.guards
