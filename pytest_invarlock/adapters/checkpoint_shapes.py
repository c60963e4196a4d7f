"""What a checkpoint's configuration makes of it, told without reading a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from invarlock_guards.measure.checkpoint_change import CheckpointDescription

from pytest_invarlock.adapters.checkpoint_loading import (
    load_config,
    load_tokenizer,
)
from pytest_invarlock.adapters.readings import CLASS_OF
from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint
from pytest_invarlock.errors import AdapterError, ModelLoadError

if TYPE_CHECKING:
    from pytest_invarlock.adapters.model_source import ModelSource
    from pytest_invarlock.data.window_set import Reading

NOT_LAID_OUT = "MODEL_LAYOUT"
ReadingOf = Callable[[Any, str], "Reading"]
"""How an adapter reads a configuration, with the reference for its error."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DescribedCheckpoint:
    """A checkpoint for comparing its files, and what of it could not be told.

    ``problems`` are the errors that loading it would end with before any weight is read.
    """

    description: CheckpointDescription
    problems: tuple[ModelLoadError | AdapterError, ...] = ()


def model_shapes(config: Any, reading: Reading) -> Any:
    """A model of ``config`` on torch's ``meta`` device: names, shapes and ties, no numbers."""
    import transformers
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with torch.device("meta"):
            made: Any = getattr(transformers, CLASS_OF[reading])
            return made.from_config(config, trust_remote_code=False)
    finally:
        transformers_logging.set_verbosity(verbosity)


def lay_out_checkpoint(source: ModelSource, reading_of: ReadingOf) -> tuple[Any, Reading]:
    """A model of the configuration of ``source`` on torch's ``meta`` device, and its reading.

    Raises:
        ModelLoadError: the configuration cannot be used (MODEL_CONFIG), or no model be laid out by
            it (MODEL_LAYOUT), though one may load.
        AdapterError: the adapter that ``reading_of`` is of does not read such a model.
    """
    config = load_config(source)
    reading = reading_of(config, source.reference)
    try:
        return model_shapes(config, reading), reading
    # What transformers raises of values that no model can be made of has no common base.
    except (
        ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError,
        ValueError,
    ) as error:  # fmt: skip
        raise ModelLoadError(
            f"{source.reference}: no model can be laid out by its configuration: {error}",
            remedy="check config.json",
            code=NOT_LAID_OUT,
        ) from error


def describe_checkpoint(source: ModelSource, reading_of: ReadingOf) -> DescribedCheckpoint:
    """Configuration, shapes and tokenizer of ``source``, each as far as it can be told."""
    problems: list[ModelLoadError | AdapterError] = []
    model = fingerprint = None
    try:
        fingerprint = tokenizer_fingerprint(load_tokenizer(source))
    except ModelLoadError as error:
        problems.append(error)
    try:
        model, _ = lay_out_checkpoint(source, reading_of)
    except (ModelLoadError, AdapterError) as error:
        problems.append(error)
    values = None if model is None else model.config.to_dict()
    return DescribedCheckpoint(CheckpointDescription(model, values, fingerprint), tuple(problems))
