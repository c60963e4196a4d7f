"""Adapter for decoder-only language models in Hugging Face format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pytest_invarlock.adapters.model_source import ModelSource, checkpoint_digest, resolve_model
from pytest_invarlock.data.tokenizer_fingerprint import tokenizer_fingerprint
from pytest_invarlock.errors import AdapterError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

PADDED_VOCABULARY_SHARE = 0.05
"""Embeddings are often padded for speed; known models pad by less than two in a hundred rows."""


@dataclass(slots=True, eq=False, repr=False)
class LoadedModel:
    """A model in memory with its tokenizer and identity.

    ``context`` is the greatest sequence length in tokens, or None where the architecture has no
    limit; ``checkpoint_digest`` is None for a model that did not come from files; ``unread`` names
    tensors of the checkpoint that the architecture has no place for.
    """

    model: PreTrainedModel
    tokenizer: Any
    tokenizer_fingerprint: str | None
    context: int | None
    checkpoint_digest: str | None
    source: ModelSource | None = None
    unread: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return next(self.model.parameters()).device


class HF_Causal_Adapter:  # noqa: N801  the public name, kept from the API this replaces
    """Loads causal language models; says of them what measuring needs to know."""

    name = "hf_causal"

    def __init__(self, *, allow_network: bool = False) -> None:
        self._allow_network = allow_network

    def load(self, reference: str, *, device: str, dtype: str) -> LoadedModel:
        """Load model and tokenizer of ``reference``, in ``eval`` mode and without gradients.

        Args:
            reference: as `resolve_model` takes it.
            device: a resolved torch device, such as ``cpu``.
            dtype: a torch dtype name.

        Raises:
            ModelLoadError: the checkpoint or its tokenizer is missing, incomplete or inconsistent.
            AdapterError: the checkpoint is not a causal language model.
        """
        source = resolve_model(reference, allow_network=self._allow_network)
        config = _load_config(source)
        tokenizer = _load_tokenizer(source)
        model, unread = _load_model(source, config, device=device, dtype=dtype)
        _check_vocabulary(source, model, tokenizer)
        return LoadedModel(
            model=model,
            tokenizer=tokenizer,
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            context=context_length(model),
            checkpoint_digest=checkpoint_digest(source.directory),
            source=source,
            unread=unread,
        )

    def load_model(self, reference: str, device: str = "auto") -> PreTrainedModel:
        """Load just the model, on ``device``, in float32 on a CPU and its own dtype elsewhere."""
        from pytest_invarlock.core.determinism import resolve_device, resolve_dtype

        resolved = resolve_device(device)
        return self.load(reference, device=resolved, dtype=resolve_dtype("auto", resolved)).model

    def describe(self, model: torch.nn.Module) -> Mapping[str, Any]:
        """Class, parameter count and context of ``model``."""
        return {
            "class": type(model).__name__,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "context": context_length(model),
        }


def context_length(model: torch.nn.Module) -> int | None:
    """The greatest sequence length the configuration allows, in tokens."""
    config = getattr(model, "config", None)
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 1:
            return value
    return None


def _load_tokenizer(source: ModelSource) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(source.directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelLoadError(
            f"{source.reference}: its tokenizer cannot be loaded: {_first_line(error)}",
            remedy="put the tokenizer's files beside the weights",
            code="TOKENIZER_MISSING",
        ) from error


def _load_config(source: ModelSource) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    try:
        config = AutoConfig.from_pretrained(
            str(source.directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelLoadError(
            f"{source.reference}: its configuration cannot be used: {_first_line(error)}",
            remedy="check config.json; models that bring their own code cannot be loaded",
            code="MODEL_CONFIG",
        ) from error
    # Encoders are listed as causal too, but attend both ways unless told to be decoders.
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(
        config, "is_decoder", False
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder:
        raise AdapterError(
            f"{source.reference}: {config.model_type} is not a causal language model",
            remedy="give a decoder-only model",
            code="NOT_CAUSAL",
        )
    return config


def _load_model(
    source: ModelSource, config: Any, *, device: str, dtype: str
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, loading = load(
            str(source.directory),
            config=config,
            dtype=getattr(torch, dtype) if dtype != "auto" else "auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
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


def _check_vocabulary(source: ModelSource, model: PreTrainedModel, tokenizer: Any) -> None:
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
