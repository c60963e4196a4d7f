"""What a small model of the test-suite consists of; ``bert`` and ``t5`` each fill it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from .measure import Loss


@dataclass(frozen=True)
class SmallModel:
    """An architecture that the package does not ship, trained small for the tests.

    Attributes:
        kind: the architecture in words, for the card.
        task: what it was trained to do, in whole sentences, for the card.
        scoring: which held-out tokens are scored given what, in whole sentences, for the card.
        limit: what it cannot serve for, in whole sentences, for the card.
        steps: optimiser steps unless told otherwise.
        peak_rate: learning rate after the warm-up.
        build: makes the model from torch's generator.
        loss: scalar loss of the model at ``(stream, step, steps)``; it draws the batch.
        write_tokenizer: writes the architecture's tokenizer, derived from the common one.
        measure: loss of the exported model on texts, and of the same tokens under the counts of
            the stream: ``(folder, texts, stream)``.
    """

    kind: str
    task: str
    scoring: str
    limit: str
    steps: int
    peak_rate: float
    build: Callable[[], PreTrainedModel]
    loss: Callable[[PreTrainedModel, torch.Tensor, int, int], torch.Tensor]
    write_tokenizer: Callable[[Tokenizer, Path], None]
    measure: Callable[[Path, Sequence[str], torch.Tensor], tuple[Loss, Loss]]

    def train(
        self, name: str, tokens: torch.Tensor, recipe: train.Recipe
    ) -> tuple[PreTrainedModel, float]:
        """Train it on the stream ``tokens`` ``(n_tokens,)``; as :func:`train.run` returns."""

        def loss_at(model: PreTrainedModel, step: int) -> torch.Tensor:
            return self.loss(model, tokens, step, recipe.steps)

        return train.run(name, self.build, loss_at, recipe)
