"""Draws: the windows of each draw of a pair, and the batches they make for its baseline."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.data import WindowSet, draw_windows, get_provider
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.metrics.batches import Batch, BatchShape, make_batches
from pytest_invarlock.plan import ARMS, Arm, Metric, n_tried_windows
from pytest_invarlock.stats.sequential import SequentialRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_invarlock.adapters import LoadedModel
    from pytest_invarlock.data import Provider
    from pytest_invarlock.data.window_set import Reading, Window
    from pytest_invarlock.plan import MeasurementPlan, SequentialPlan

DOCUMENTS_BETWEEN_LOOKS = 8
METRIC_OF: Mapping[Reading, Metric] = {
    "causal": "ppl_causal",
    "masked": "ppl_mlm",
    "seq2seq": "ppl_seq2seq",
}
"""What metric ``auto`` means for each way of reading."""


@dataclass(eq=False, repr=False)
class Draws:
    """The windows that a pair is measured on, draw by draw.

    Windows come from the plan's provider, tokenised once with the baseline's tokenizer, unless
    ready-made ones were given for a draw.
    """

    plan: MeasurementPlan
    _provider: Provider | None = None
    _drawn: dict[int, WindowSet] = field(default_factory=dict)
    _given: dict[int, WindowSet] = field(default_factory=dict)
    _blocks: dict[tuple[int, Arm], list[list[Batch]]] = field(default_factory=dict)

    @property
    def provider(self) -> Provider:
        """The data provider, read once."""
        if self._provider is None:
            self._provider = get_provider(self.plan.source.provider, self.plan.source)
        return self._provider

    def windows(self, draw: int, baseline: LoadedModel) -> WindowSet:
        """The windows to measure a draw on: ready-made ones, else the provider's."""
        return self._given.get(draw) or self.drawn(draw, baseline)

    def drawn(self, draw: int, baseline: LoadedModel) -> WindowSet:
        """The provider's windows of a draw."""
        if draw not in self._drawn:
            self._drawn[draw] = self.drawn_with(
                baseline.tokenizer, draw, baseline.context, baseline.reading
            )
        return self._drawn[draw]

    def drawn_with(
        self, tokenizer: Any, draw: int, context: int | None, reading: Reading
    ) -> WindowSet:
        """The provider's windows of a draw in the tokens of any tokenizer."""
        return draw_windows(
            self.provider,
            tokenizer,
            self.plan.windows,
            draw=draw,
            context=context,
            reading=reading,
            metric=metric_of(self.plan, reading),
            mask_probability=self.plan.mask_probability,
        )

    def use(self, draw: int, windows: WindowSet) -> bool:
        """Measure a draw on ready-made windows from now on; says whether that is a change."""
        changed = windows is not (self._given.get(draw) or self._drawn.get(draw))
        if changed:
            self._forget(draw)
        if windows is self._drawn.get(draw):
            self._given.pop(draw, None)
        else:
            self._given[draw] = windows
        return changed

    def use_drawn(self, draw: int) -> bool:
        """Measure a draw on the provider's windows again; says whether that is a change."""
        if self._given.pop(draw, None) is None:
            return False
        self._forget(draw)
        return True

    def is_given(self, draw: int) -> bool:
        """Whether a draw's windows were given ready-made."""
        return draw in self._given

    def data_digest(self, draw: int, baseline: LoadedModel) -> str:
        """The digest of a draw's data; of ready-made windows, of what they hold."""
        windows = self.windows(draw, baseline)
        return windows.content_digest() if self.is_given(draw) else windows.digest

    def source_identity(self, draw: int) -> dict[str, Any]:
        """What may be said of where a draw's windows come from."""
        if self.is_given(draw):
            return {"provider": "given", "shareable": False}
        return self.provider.identity()

    def blocks(self, draw: int, arm: Arm, baseline: LoadedModel) -> list[list[Batch]]:
        """The batches of an arm, in the blocks after which a sequential plan may stop.

        Without a sequential rule one block holds the whole arm; where rescalings are tried on a
        part of the preview arm, that part is a block: a trial reads the very same batches.
        """
        if (draw, arm) not in self._blocks:
            windows = self.windows(draw, baseline)
            shape = batch_shape(baseline, self.plan.batch_tokens, windows.reading)
            self._blocks[draw, arm] = [
                make_batches(windows.arms[arm], shape, device=baseline.device, among=among)
                for among in self._members(draw, windows)[arm]
            ]
        return self._blocks[draw, arm]

    def n_tried(self, draw: int, windows: WindowSet) -> int:
        """On how many windows of a draw's preview arm, from its first, rescalings are tried."""
        selection = self.plan.windows
        return n_tried_windows(
            len(windows.preview),
            selection.guard_windows,
            lent=self.is_given(draw) or selection.pool != "certification",
            sequential=self.plan.sequential is not None,
        )

    def _members(self, draw: int, windows: WindowSet) -> dict[Arm, list[Sequence[int]]]:
        if self.plan.sequential is None:
            whole: dict[Arm, list[Sequence[int]]] = {
                arm: [range(len(windows.arms[arm]))] for arm in ARMS
            }
            n = self.n_tried(draw, windows)
            if self.plan.rescaling is not None and n < len(windows.preview):
                whole["preview"] = [range(n), range(n, len(windows.preview))]
            return whole
        rule = sequential_rule(self.plan.sequential, windows)
        final = _document_blocks(windows.final, rule.first_look)
        # The preview keeps pace in windows, so that both arms stay equal in count.
        order = by_document(windows.preview)
        edges = np.cumsum([0, *(len(block) for block in final)])
        preview = [order[a:b] for a, b in itertools.pairwise(edges)]
        return {"preview": [p.tolist() for p in preview], "final": [f.tolist() for f in final]}

    def forget_batches(self) -> None:
        """Drop the batches, which lie on the device of a model that is no more."""
        self._blocks.clear()

    def _forget(self, draw: int) -> None:
        for arm in ARMS:
            self._blocks.pop((draw, arm), None)


def metric_of(plan: MeasurementPlan, reading: Reading) -> Metric:
    """The plan's metric, for a model of this reading."""
    return METRIC_OF[reading] if plan.metric == "auto" else plan.metric


def sequential_rule(plan: SequentialPlan, windows: WindowSet) -> SequentialRule:
    """The rule by which measuring ``windows`` may stop early.

    Raises:
        ConfigError: fewer documents are planned than the rule needs, or the windows are choices,
            whose losses are not the metric.
    """
    if windows.final[0].example is not None:
        raise ConfigError(
            "sequential mode judges losses, and metric accuracy judges predictions",
            remedy="leave out --invarlock-sequential",
            code="SEQUENTIAL_ACCURACY",
        )
    return SequentialRule(
        maximum_documents=windows.n_documents["final"],
        first_look=plan.first_look,
        rho=plan.rho,
        alpha=plan.alpha,
    )


def batch_shape(baseline: LoadedModel, batch_tokens: int, reading: Reading) -> BatchShape:
    """How windows become batches for a baseline, and so for all its subjects."""
    config = baseline.model.config
    pad = getattr(config, "pad_token_id", None)
    start = getattr(config, "decoder_start_token_id", None)
    if reading == "seq2seq" and start is None:
        raise ConfigError(
            "the model's configuration names no decoder_start_token_id",
            remedy="add it to config.json",
            code="NO_DECODER_START",
        )
    return BatchShape(reading, batch_tokens, pad if isinstance(pad, int) else 0, start)


def by_document(windows: Sequence[Window]) -> NDArray[np.intp]:
    """Places of the windows, document by document in the order of drawing."""
    return np.argsort([window.document for window in windows], kind="stable")


def _document_blocks(windows: Sequence[Window], first_look: int) -> list[NDArray[np.intp]]:
    order = by_document(windows)
    documents = np.array([windows[i].document for i in order])
    _, starts = np.unique(documents, return_index=True)
    looks = starts[first_look::DOCUMENTS_BETWEEN_LOOKS]
    return [block for block in np.split(order, looks) if len(block)]
