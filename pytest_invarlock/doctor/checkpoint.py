"""How loading a checkpoint would end: by its configuration, tokenizer and the shape of its model.

The model is laid out without numbers: its tensors have shapes, and no weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.model_source import ModelSource, read_header, weight_files
from pytest_invarlock.errors import AdapterError, EditError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from pytest_invarlock.data.window_set import Reading
    from pytest_invarlock.doctor.models import ModelFiles


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Layout:
    """A checkpoint that can be loaded: how it is read, in which tokens, and its tensors' shapes.

    ``model`` is on torch's ``meta`` device.
    """

    reading: Reading
    tokenizer: Any
    model: torch.nn.Module

    @property
    def context(self) -> int | None:
        """The greatest sequence length in tokens, as a run takes it from the loaded model."""
        from pytest_invarlock.adapters.loaded_model import context_length

        return context_length(self.model)


def lay_out(files: ModelFiles, adapter: str) -> Layout | None:
    """What loading ``files`` with ``adapter`` would give; None for another package's adapter.

    Raises:
        ModelLoadError: configuration, tokenizer or the weights' shapes, as loading would.
        AdapterError: the adapter does not load such a model.
        ImportError: torch or transformers are not there.
    """
    from pytest_invarlock.adapters.checkpoint_loading import (
        check_vocabulary,
        load_config,
        load_tokenizer,
    )
    from pytest_invarlock.adapters.checkpoint_shapes import model_shapes
    from pytest_invarlock.adapters.hf_adapter import HF_Adapter
    from pytest_invarlock.adapters.registry import adapter_named

    made = adapter_named(adapter)
    if files.directory is None or not isinstance(made, HF_Adapter):
        return None
    source = ModelSource(files.reference, files.directory)
    config = load_config(source)
    reading = made.reading_of(config, files.reference)
    tokenizer = load_tokenizer(source)
    model = model_shapes(config, reading)
    if getattr(config, "quantization_config", None) is None:
        _check_embedding(files.reference, files.directory, model)
        check_vocabulary(source, model, tokenizer)
    return Layout(reading, tokenizer, model)


def check_blocks(layout: Layout, parameters: Mapping[str, Any]) -> EditError | None:
    """What an edit would end with whose ``scope`` or ``layers`` name blocks the model lacks."""
    from pytest_invarlock.edits.targets import limited_scope, scoped_matrices

    scope, layers = str(parameters.get("scope", "all")), parameters.get("layers")
    if layers is None and "@" not in scope:
        return None
    try:
        scoped_matrices(layout.model, limited_scope(scope, layers))
    except EditError as error:
        return error
    return None


def _check_embedding(reference: str, directory: Path, model: Any) -> None:
    """Raise ModelLoadError where the stored embedding has another shape than the model's."""
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding) + ".weight"
    expected = list(embedding.weight.shape)
    # A checkpoint of the base model alone leaves its prefix out.
    names = (name, name.removeprefix(f"{model.base_model_prefix}."))
    for file in weight_files(directory):
        header = read_header(file)
        for stored in names:
            shape = header.get(stored, {}).get("shape", expected)
            if shape != expected:
                raise ModelLoadError(
                    f"{reference}: tensor {stored} is {_by(shape)} in the checkpoint, and "
                    f"{_by(expected)} by config.json",
                    remedy="check that weights and config.json belong together",
                    code="MODEL_WEIGHTS",
                )


def _by(shape: list[int]) -> str:
    return " × ".join(str(size) for size in shape)


ERRORS = (ModelLoadError, AdapterError)
"""What `lay_out` raises of a checkpoint that a run could not load."""
