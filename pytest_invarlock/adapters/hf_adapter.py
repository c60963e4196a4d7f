"""What the adapters for Hugging Face checkpoints share: load, load_model, describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_invarlock.adapters.checkpoint_loading import load_checkpoint, load_config
from pytest_invarlock.adapters.loaded_model import context_length
from pytest_invarlock.adapters.model_source import resolve_model
from pytest_invarlock.adapters.readings import fitting_readings
from pytest_invarlock.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedModel

    from pytest_invarlock.adapters.loaded_model import LoadedModel
    from pytest_invarlock.adapters.model_source import ModelSource
    from pytest_invarlock.data.window_set import Reading

ADAPTER_OF: Mapping[Reading, str] = {
    "causal": "hf_causal",
    "masked": "hf_mlm",
    "seq2seq": "hf_seq2seq",
}
"""The name of the adapter for each reading."""

_KIND: Mapping[Reading, str] = {
    "causal": "a causal language model",
    "masked": "a masked language model",
    "seq2seq": "an encoder-decoder language model",
}


class Adapter(Protocol):
    """Loads models; says of them what measuring needs to know."""

    name: ClassVar[str]

    def load(self, reference: str, *, device: str, dtype: str) -> LoadedModel:
        """Model and tokenizer of ``reference``, as `HF_Adapter.load` gives them."""

    def load_model(self, reference: str, device: str = "auto") -> PreTrainedModel:
        """Just the model, on ``device``."""

    def describe(self, model: torch.nn.Module) -> Mapping[str, Any]:
        """What ``model`` is, for reports: JSON values by name."""


class HF_Adapter:  # noqa: N801  like its subclasses, whose names are kept from the API they replace
    """Loads checkpoints of one reading, as ``config.json`` tells it."""

    name: ClassVar[str]
    reading: ClassVar[Reading]

    def __init__(self, *, allow_network: bool = False, allow_remote_code: bool = False) -> None:
        self._allow_network = allow_network
        self._allow_remote_code = allow_remote_code

    def load(self, reference: str, *, device: str, dtype: str) -> LoadedModel:
        """Load model and tokenizer of ``reference``, in ``eval`` mode and without gradients.

        Args:
            reference: as `resolve_model` takes it.
            device: a resolved torch device, such as ``cpu``.
            dtype: a torch dtype name.

        Raises:
            ModelLoadError: the checkpoint or its tokenizer is missing, incomplete or inconsistent.
            AdapterError: the checkpoint is not of this adapter's reading.
        """
        source = self.source_of(reference)
        config = load_config(source)
        reading = self.reading_of(config, reference)
        return load_checkpoint(
            source, config, reading, adapter=ADAPTER_OF[reading], device=device, dtype=dtype
        )

    def source_of(self, reference: str) -> ModelSource:
        """Where `load` finds ``reference``; raises ModelLoadError as `resolve_model` does."""
        return resolve_model(
            reference, allow_network=self._allow_network, trusted=self._allow_remote_code
        )

    def load_model(self, reference: str, device: str = "auto") -> PreTrainedModel:
        """Load just the model, on ``device``, in float32 on a CPU and its own dtype elsewhere."""
        from pytest_invarlock.core.determinism import resolve_device, resolve_dtype

        resolved = resolve_device(device)
        return self.load(reference, device=resolved, dtype=resolve_dtype("auto", resolved)).model

    def describe(self, model: torch.nn.Module) -> Mapping[str, Any]:
        """Class, parameter count, context and number of layers of ``model``."""
        return {
            "class": type(model).__name__,
            "n_parameters": sum(p.numel() for p in model.parameters()),
            "context": context_length(model),
            "n_layer": getattr(getattr(model, "config", None), "num_hidden_layers", None),
        }

    def reading_of(self, config: Any, reference: str) -> Reading:
        """How a model with ``config`` is read; raises AdapterError where this adapter does not."""
        fitting = fitting_readings(config)
        if self.reading in fitting:
            return self.reading
        other = f"adapter {ADAPTER_OF[fitting[0]]}" if fitting else "another model"
        raise AdapterError(
            f"{reference}: {config.model_type} is not {_KIND[self.reading]}",
            remedy=f"give {_KIND[self.reading]}, or use {other}",
            code=f"NOT_{self.reading.upper()}",
        )
