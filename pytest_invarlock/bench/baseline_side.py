"""The baseline's side of a comparison, kept where an edit of the resident model cannot reach it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.output_head import head_reproduces_logits, output_head
from pytest_invarlock.metrics.token_scoring import Outputs, Reference, model_outputs

if TYPE_CHECKING:
    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.bench.subject import Subject
    from pytest_invarlock.metrics.batches import Batch
    from pytest_invarlock.metrics.token_scoring import Scores


class BaselineSide:
    """How a baseline's outputs are had while a subject is measured.

    ``by_head`` says whether its head alone turns states into its logits, tried on one window: then
    kept states and a copy of the head give them, else a copy of the whole model beside the subject.
    """

    def __init__(self, baseline: LoadedModel, batch: Batch) -> None:
        self._baseline = baseline
        self.by_head = head_gives_logits(baseline.model, batch)
        self._head: Any = None
        self._twin: Any = None

    def keep(self) -> None:
        """Copy what is needed, before an edit can change it."""
        if self.by_head and self._head is None:
            self._head = copy.deepcopy(output_head(self._baseline.model))
        elif not self.by_head and self._twin is None:
            self._twin = copy.deepcopy(self._baseline.model)

    def reference(self, subject: Subject, scores: Scores) -> Reference:
        """The baseline's outputs for whoever measures ``subject``; none for another vocabulary."""
        model, device = self._baseline.model, self._baseline.device
        if vocabulary(subject.loaded.model) != vocabulary(model):
            return Reference(None)
        states = scores.states
        if states is not None:
            head = self._head if subject.in_place else output_head(model)
            return Reference(lambda _, there: Outputs(states[there].to(device), head))
        beside = self._twin if subject.in_place else model
        return Reference(lambda batch, _: model_outputs(beside, batch, by_head=False))


def head_gives_logits(model: Any, batch: Batch) -> bool:
    """Whether the head of ``model`` reproduces its logits on the first window of ``batch``."""
    return head_reproduces_logits(model, {**batch.first_row(), **batch.options})


def vocabulary(model: Any) -> int:
    """How many logits ``model`` gives for each position."""
    head = output_head(model)
    return int(model.config.vocab_size if head is None else head.get_parameter("weight").shape[0])
