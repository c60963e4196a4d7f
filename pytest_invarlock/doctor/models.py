"""What a checkpoint's files say before anything is loaded: context, tokenizer, size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from pytest_invarlock.adapters.model_source import resolve_model, weight_files
from pytest_invarlock.doctor.findings import Finding, of_error
from pytest_invarlock.errors import ModelLoadError

if TYPE_CHECKING:
    from pytest_invarlock.policy.yaml_document import KeyPath, YamlDocument

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)
_PARTS = ("text_config", "encoder", "decoder")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
# Tokenizers of bytes or characters have no vocabulary to store.
_WITHOUT_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is known of a model from its files alone; None where they do not tell.

    ``context`` is an upper bound in tokens; ``width`` the size of a hidden state;
    ``weights_bytes`` what the weights take on disk; ``directory``, which is never shown, holds it;
    ``is_usable`` where nothing was found against it.
    """

    reference: str
    revision: str | None = None
    model_type: str | None = None
    architecture: str | None = None
    context: int | None = None
    width: int | None = None
    weights_bytes: int | None = None
    directory: Path | None = None
    is_usable: bool = False

    @property
    def is_there(self) -> bool:
        """Whether the checkpoint is on this machine and whole."""
        return self.weights_bytes is not None


def look_at_model(
    reference: str,
    document: YamlDocument | None,
    path: KeyPath | None,
    *,
    allow_network: bool,
) -> tuple[ModelFiles, list[Finding]]:
    """Find the checkpoint of ``reference`` and read its ``config.json``; nothing is fetched."""
    try:
        source = resolve_model(reference, allow_network=False)
    except ModelLoadError as error:
        if error.code == "MODEL_NOT_CACHED" and allow_network:
            fetched = ModelLoadError(
                f"{reference}: not in the local Hub cache: the run fetches it, and so needs the "
                "network and disk space for it",
                remedy="",
                code="MODEL_TO_FETCH",
            )
            return ModelFiles(reference), [of_error(fetched, document, path, "note")]
        return ModelFiles(reference), [of_error(error, document, path)]
    config = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures")
    is_list = isinstance(architectures, list)
    first = architectures[0] if is_list and architectures else None
    files = ModelFiles(
        reference=reference,
        revision=source.revision,
        model_type=str(config["model_type"]),
        architecture=first if isinstance(first, str) else None,
        context=min(_lengths(config), default=None),
        width=next((config[key] for key in _WIDTHS if _is_count(config.get(key))), None),
        weights_bytes=sum(file.stat().st_size for file in weight_files(source.directory)),
        directory=source.directory,
    )
    # What a run goes through name by name: a text or a mapping gives it names of no known head.
    if architectures and not isinstance(architectures, (list, str, dict)):
        unusable = ModelLoadError(
            f"{reference}: its configuration cannot be used: architectures is no list of names",
            remedy="check config.json",
            code="MODEL_CONFIG",
        )
        return files, [of_error(unusable, document, path)]
    missing = _tokenizer_error(reference, source.directory)
    if missing is not None:
        return files, [of_error(missing, document, path)]
    return replace(files, is_usable=True), []


def _lengths(config: Mapping[str, Any]) -> Iterator[int]:
    # The lengths that relative positions were trained on limit nothing.
    relative = "relative_attention_num_buckets" in config
    for key in _LENGTHS:
        value = config.get(key)
        if _is_count(value) and value > 1 and not (relative and key == "n_positions"):
            yield value
    for part in _PARTS:
        if isinstance(config.get(part), dict):
            yield from _lengths(config[part])


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _tokenizer_error(reference: str, directory: Path) -> ModelLoadError | None:
    if any((directory / name).is_file() for name in _VOCABULARIES):
        return None
    try:
        told = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        kind = told.get("tokenizer_class")
    except (OSError, ValueError, AttributeError, RecursionError):
        kind = None
    if kind in _WITHOUT_VOCABULARY:
        return None
    return ModelLoadError(
        f"{reference}: holds no tokenizer ({_VOCABULARIES[0]} or another vocabulary)",
        remedy="put the tokenizer's files beside the weights",
        code="TOKENIZER_MISSING",
    )
