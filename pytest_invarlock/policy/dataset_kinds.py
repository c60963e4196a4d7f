"""The kinds of data providers and what each is told: names of arguments, meaning of KIND:ARG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest

FILE_ARGUMENTS = ("file", "path", "data_files")
SOURCE_ARGUMENTS = (
    *FILE_ARGUMENTS, "dataset_name", "config_name", "split", "revision", "cache_dir",
    "text_field", "id_field", "src_field", "tgt_field", "source_field", "target_field",
    "label_field", "choices_field", "labels", "max_samples", "dedup", "shareable",
)  # fmt: skip
_ALWAYS = ("max_samples", "dedup", "shareable")
_TEXT = ("text_field", "id_field", *_ALWAYS)
_PAIRS = ("src_field", "tgt_field", "source_field", "target_field", "id_field", *_ALWAYS)
_CHOICES = ("text_field", "label_field", "choices_field", "labels", "id_field", *_ALWAYS)
_HUB = ("dataset_name", "config_name", "split", "revision", "cache_dir")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of provider.

    ``argument`` is what stands behind the colon of KIND:ARG, None where nothing may; ``needs``
    lists arguments of which one must be given.
    """

    arguments: frozenset[str]
    argument: str | None = None
    needs: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "wikitext2": Kind(
        frozenset(("split", "revision", "cache_dir", *_TEXT)), argument="split"
    ),
    "hf_text": Kind(frozenset(_HUB + _TEXT), "dataset_name", ("dataset_name",)),
    "hf_seq2seq": Kind(frozenset(_HUB + _PAIRS), "dataset_name", ("dataset_name",)),
    "hf_choices": Kind(frozenset(_HUB + _CHOICES), "dataset_name", ("dataset_name",)),
    "local_jsonl": Kind(frozenset(FILE_ARGUMENTS + _TEXT), "file", FILE_ARGUMENTS),
    "local_jsonl_pairs": Kind(frozenset(FILE_ARGUMENTS + _PAIRS), "file", FILE_ARGUMENTS),
    "local_jsonl_choices": Kind(frozenset(FILE_ARGUMENTS + _CHOICES), "file", FILE_ARGUMENTS),
    "local_file": Kind(
        frozenset(FILE_ARGUMENTS + _TEXT + _PAIRS + _CHOICES), "file", FILE_ARGUMENTS
    ),
    "synthetic": Kind(frozenset(_ALWAYS)),
    "pydoc": Kind(frozenset(_ALWAYS)),
}  # fmt: skip


def check_kind(kind: str) -> None:
    """Raise ConfigError for an unknown kind of provider, naming the nearest."""
    if kind not in KINDS:
        raise ConfigError(
            f"no data provider is named {kind!r}",
            remedy=nearest(kind, sorted(KINDS), "provider"),
            code="UNKNOWN_PROVIDER",
        )


def check_arguments(kind: str, arguments: Mapping[str, object]) -> None:
    """Raise ConfigError for an argument that the kind does not take, or one that it lacks."""
    known = KINDS[kind]
    for name in arguments:
        if name not in known.arguments:
            raise ConfigError(
                f"dataset.{name}: provider {kind} takes no such argument",
                remedy=nearest(name, sorted(known.arguments), "argument"),
                code="UNKNOWN_ARGUMENT",
            )
    if known.needs and not any(arguments.get(name) for name in known.needs):
        raise ConfigError(
            f"dataset.{known.needs[0]}: provider {kind} needs it",
            remedy="give " + " or ".join(f"dataset.{name}" for name in known.needs),
            code="NO_SOURCE",
        )
