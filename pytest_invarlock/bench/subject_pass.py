"""One pass over a subject, paired with the baseline's: losses, divergence, and where to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytest_invarlock.bench.draws import sequential_rule
from pytest_invarlock.metrics.divergence import divergence_statistics
from pytest_invarlock.metrics.token_scoring import Reference, Scores, compare, window_sums
from pytest_invarlock.plan import ARMS, Arm
from pytest_invarlock.records import ArmLosses
from pytest_invarlock.stats import document_sums
from pytest_invarlock.stats.sequential import SequentialRule, sequential
from pytest_invarlock.stats.tail import document_means

if TYPE_CHECKING:
    from pytest_invarlock.data.window_set import Window, WindowSet
    from pytest_invarlock.metrics.batches import Batch
    from pytest_invarlock.plan import SequentialPlan

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PairedArm:
    """What both models say of the same batches of one arm.

    ``batches`` are those measured so far; the scores are of their tokens, in their order; ``kl``
    float32 (n_tokens,) in nats, or None; ``by_head`` as the subject was scored.
    """

    batches: tuple[Batch, ...]
    baseline: Scores
    subject: Scores
    kl: torch.Tensor | None
    by_head: bool = False

    def losses(self, windows: Sequence[Window]) -> ArmLosses:
        """The record's arrays, of the windows that were measured, in the arm's order."""
        places = np.sort([place for batch in self.batches for place in batch.order])
        chosen = [windows[place] for place in places]
        targets = torch.cat([batch.targets for batch in self.batches]).cpu()
        right = self.baseline.top1 == targets, self.subject.top1 == targets
        by_window = {
            "baseline_nll": self.baseline.nll,
            "subject_nll": self.subject.nll,
            "top1_same": self.baseline.top1 == self.subject.top1,
            "top1_harmful": right[0] & ~right[1],
            "top1_beneficial": ~right[0] & right[1],
        } | ({} if self.kl is None else {"kl_nats": self.kl})
        arrays: dict[str, Any] = {}
        for name, values in by_window.items():
            sums = window_sums(values, self.batches, len(windows))[places]
            arrays[name] = sums.astype(np.int64) if name.startswith("top1") else sums
        if chosen[0].example is not None:
            arrays["examples"] = np.array([window.example for window in chosen], dtype=np.int64)
            arrays["labels"] = np.array([window.is_label for window in chosen], dtype=np.int64)
        return ArmLosses(
            documents=np.array([window.document for window in chosen], dtype=np.int64),
            tokens=np.array([window.weight for window in chosen], dtype=np.int64),
            **arrays,
        )

    def divergence(self) -> dict[str, float | None]:
        """Statistics over the arm's tokens."""
        return divergence_statistics(
            None if self.kl is None else self.kl.double().numpy(),
            self.baseline.nll.double().numpy(),
            self.subject.nll.double().numpy(),
            (self.baseline.top1 == self.subject.top1).numpy(),
        )


@dataclass(eq=False, repr=False)
class SubjectPass:
    """Measures one subject block by block against the baseline's scores.

    ``blocks`` and ``baseline`` by arm, as the baseline was measured; ``reference`` by arm gives
    the baseline's outputs; ``advance`` is told the windows done.
    """

    model: Any
    by_head: bool
    windows: WindowSet
    blocks: Mapping[Arm, Sequence[Sequence[Batch]]]
    baseline: Mapping[Arm, Scores]
    reference: Mapping[Arm, Reference]
    advance: Advance
    _done: int = 0

    def whole(self) -> dict[Arm, PairedArm]:
        """Every planned window of both arms."""
        return {arm: self._run(arm, len(self.blocks[arm])) for arm in ARMS}

    def until_decided(self, plan: SequentialPlan) -> dict[Arm, PairedArm]:
        """Blocks of the final arm until the confidence sequence decides; the preview keeps pace.

        Raises:
            ConfigError: fewer documents are planned than sequential mode needs.
        """
        rule = sequential_rule(plan, self.windows)
        final = self.blocks["final"]
        measured: PairedArm | None = None
        for n in range(1, len(final) + 1):
            measured = self._run("final", n, measured)
            if self._decided(measured, rule, plan.ratio_limit):
                break
        if measured is None:
            raise ValueError("a final arm without windows")
        return {"preview": self._run("preview", n), "final": measured}

    def _decided(self, arm: PairedArm, rule: SequentialRule, ratio_limit: float) -> bool:
        losses = arm.losses(self.windows.final)
        if not np.isfinite(losses.subject_nll).all() or not np.isfinite(losses.baseline_nll).all():
            # No further window can mend that; `decide` says what it means.
            return True
        sums = document_sums(
            losses.baseline_nll, losses.subject_nll, losses.tokens, losses.documents
        )
        found = sequential(
            sums,
            document_means=document_means(losses.window_difference, losses.documents),
            limit_delta=float(np.log(ratio_limit)),
            rule=rule,
        )
        return found.classification != "continue"

    def _run(self, arm: Arm, n_blocks: int, before: PairedArm | None = None) -> PairedArm:
        batches = [batch for block in self.blocks[arm][:n_blocks] for batch in block]
        old = () if before is None else before.batches
        first = sum(len(batch.targets) for batch in old)
        scores, kl = compare(
            self.model,
            batches[len(old) :],
            self.reference[arm],
            by_head=self.by_head,
            first_token=first,
            progress=self._told,
        )
        self._done += sum(len(batch.order) for batch in batches[len(old) :])
        if before is not None:
            scores = Scores(
                torch.cat([before.subject.nll, scores.nll]),
                torch.cat([before.subject.top1, scores.top1]),
            )
            kl = None if kl is None or before.kl is None else torch.cat([before.kl, kl])
        end = len(scores.nll)
        mine = self.baseline[arm]
        baseline = Scores(mine.nll[:end], mine.top1[:end])
        return PairedArm(tuple(batches), baseline, scores, kl, self.by_head)

    def _told(self, done: int) -> None:
        self.advance(self._done + done)
