"""Configuration, tokenizer and weights of a checkpoint: loaded whole and consistent, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_invarlock.adapters.loaded_model import LoadedModel, context_length
from pytest_invarlock.adapters.model_source import ModelSource, checkpoint_digest
from pytest_invarlock.adapters.readings import CLASS_OF
from pytest_invarlock.adapters.remote_code import runs_own_code
from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint
from pytest_invarlock.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from pytest_invarlock.data.window_set import Reading

PADDED_VOCABULARY_SHARE = 0.05
"""Embeddings are often padded for speed; known models pad by less than two in a hundred rows."""


def load_config(source: ModelSource) -> Any:
    """The checkpoint's configuration, a ``PreTrainedConfig``.

    Raises:
        ModelLoadError: it cannot be used; MODEL_REMOTE_CODE where it needs code of its own.
    """
    trust = runs_own_code(source)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config: Any = AutoConfig.from_pretrained(
            str(source.directory), local_files_only=True, trust_remote_code=trust
        )
    # What transformers raises of values that it cannot use has no common base.
    except (
        ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError,
        StrictDataclassError,
    ) as error:  # fmt: skip
        raise _unusable_config(source, _first_line(error)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    # transformers takes any value; a text or a mapping is gone through as names of no known head.
    if not isinstance(config.architectures or (), list | tuple | str | dict):
        raise _unusable_config(source, "architectures is no list of names")
    return config


def _unusable_config(source: ModelSource, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{source.reference}: its configuration cannot be used: {why}",
        remedy="check config.json",
        code="MODEL_CONFIG",
    )


def load_checkpoint(
    source: ModelSource, config: Any, reading: Reading, *, adapter: str, device: str, dtype: str
) -> LoadedModel:
    """Model and tokenizer of ``source``, in ``eval`` mode and without gradients.

    Args:
        source: as `resolve_model` gives it.
        config: as `load_config` gives it, with a head for ``reading``.
        reading: which head to load.
        adapter: the name to note in the result.
        device: a resolved torch device, such as ``cpu``.
        dtype: a torch dtype name, or ``auto`` for the checkpoint's own.

    Raises:
        ModelLoadError: tokenizer or weights are missing, incomplete or inconsistent.
    """
    tokenizer = load_tokenizer(source)
    model, unread = _load_model(source, config, reading, device=device, dtype=dtype)
    check_vocabulary(source, model, tokenizer)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        context=context_length(model),
        checkpoint_digest=checkpoint_digest(source.directory),
        source=source,
        unread=unread,
        reading=reading,
        adapter=adapter,
    )


def load_tokenizer(source: ModelSource) -> Any:
    """The checkpoint's tokenizer; raises ModelLoadError where it cannot be loaded."""
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return AutoTokenizer.from_pretrained(
            str(source.directory), local_files_only=True, trust_remote_code=runs_own_code(source)
        )
    # The tokenizers library raises a bare Exception of a file that it cannot use.
    except Exception as error:
        raise ModelLoadError(
            f"{source.reference}: its tokenizer cannot be loaded: {_first_line(error)}",
            remedy="put the tokenizer's files beside the weights",
            code="TOKENIZER_MISSING",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _load_model(
    source: ModelSource, config: Any, reading: Reading, *, device: str, dtype: str
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    load: Any = getattr(transformers, CLASS_OF[reading]).from_pretrained
    try:
        model, loading = load(
            str(source.directory),
            config=config,
            dtype=getattr(torch, dtype) if dtype != "auto" else "auto",
            local_files_only=True,
            trust_remote_code=runs_own_code(source),
            use_safetensors=True,
            output_loading_info=True,
        )
    # Nor has what it raises of values that no model can be made of.
    except (
        ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
        ValueError, SafetensorError,
    ) as error:  # fmt: skip
        raise ModelLoadError(
            f"{source.reference}: its weights cannot be loaded: {_first_line(error)}",
            remedy="check that weights and config.json belong together",
            code="MODEL_WEIGHTS",
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    _check_loading(source, loading)
    loaded: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return loaded, tuple(sorted(str(name) for name in loading.get("unexpected_keys") or ()))


def _check_loading(source: ModelSource, loading: Mapping[str, Any]) -> None:
    # transformers fills missing weights with random numbers and only warns.
    for key, word in (("missing_keys", "missing"), ("mismatched_keys", "of another shape")):
        names = sorted(str(name) for name in loading.get(key) or ())
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelLoadError(
                f"{source.reference}: tensor {names[0]}{more} {word} in the checkpoint",
                remedy="check that weights and config.json belong together",
                code="MODEL_WEIGHTS",
            )


def check_vocabulary(source: ModelSource, model: PreTrainedModel, tokenizer: Any) -> None:
    """Raise ModelLoadError where the tokenizer is not one of the model\'s vocabulary."""
    rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    size = len(tokenizer)
    if size > rows or size < rows * (1 - PADDED_VOCABULARY_SHARE):
        raise ModelLoadError(
            f"{source.reference}: the tokenizer has {size} tokens, the model's vocabulary {rows}",
            remedy="put the tokenizer that the model was trained with beside the weights",
            code="TOKENIZER_VOCABULARY",
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
