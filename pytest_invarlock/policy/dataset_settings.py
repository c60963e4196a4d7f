"""Where evaluation data comes from and how it is cut: settings over suite file over preset."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import Convention, DataSource
from pytest_invarlock.policy.dataset_kinds import (
    FILE_ARGUMENTS,
    KINDS,
    SOURCE_ARGUMENTS,
    check_arguments,
    check_kind,
)
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.policy.presets import load_preset
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import YamlDocument, load_yaml, parse_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_invarlock.policy.settings import Settings

NAMED_LENGTHS: Mapping[Convention, int] = {"llama.cpp-512": 512, "gptq-2048": 2048}
"""The window length, and step, that a named convention fixes, in tokens."""
DEFAULT_PRESET = "causal"
_MAPPING = re.compile(r"\s*(?:\{|[a-z_]+:\s+\S)")
_WIKITEXT_FOLDERS = ("datasets--Salesforce--wikitext", "datasets--wikitext")


@dataclass(frozen=True, slots=True)
class DatasetLayer:
    """One place that says something of the data: its ``dataset`` block, and where files start.

    ``origin`` is what errors call it.
    """

    dataset: Mapping[str, Any]
    folder: Path
    origin: str


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """The resolved source, the other keys of all ``dataset`` blocks, and notes for the user."""

    source: DataSource
    counts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resolve_dataset(
    layers: Sequence[DatasetLayer], settings: Settings, profile: str
) -> DatasetSettings:
    """Resolve the data of a plan.

    The first layer that names a provider decides the kind; others add arguments unless they name
    another kind. Every other key is taken from the first layer that has it.

    Args:
        layers: suite file, then preset; the command line is put before them.
        settings: ``dataset`` and ``allow-network``.
        profile: dev takes the shipped text where nothing is named and WikiText-2 is not at hand.

    Raises:
        ConfigError: an unknown kind or argument, a conflict, or ``NO_DATASET``.
    """
    on_command_line = _command_line(settings)
    every = [*on_command_line, *layers]
    counts: dict[str, Any] = {}
    for layer in reversed(every):
        counts |= {
            key: value
            for key, value in layer.dataset.items()
            if key != "provider" and key not in SOURCE_ARGUMENTS
        }
    network = settings.flag("allow-network")
    named = [_provider(layer)[0] for layer in every if "provider" in layer.dataset]
    if not named:
        _check_unnamed(every)
        source, notes = _default_source(profile, allow_network=network)
        return DatasetSettings(source, counts, notes)
    arguments: dict[str, Any] = {}
    of_variables, notes = _variables(str(named[0]), settings)
    for layer in reversed([*on_command_line, *of_variables, *layers]):
        kind, given = _provider(layer)
        if kind in (None, named[0]):
            if any(name in given for name in FILE_ARGUMENTS):
                arguments = {k: v for k, v in arguments.items() if k not in FILE_ARGUMENTS}
            arguments |= _located(given, layer.folder)
    kind = str(named[0])
    if "split" in arguments and "split" not in KINDS[kind].arguments:
        # Run configurations of the original name one beside every provider.
        unused = arguments.pop("split")
        notes += (f"dataset.split: provider {kind} has no splits: {unused} is not used",)
    source = data_source(kind, arguments, Path.cwd(), allow_network=network)
    return DatasetSettings(source, counts, notes)


def _variables(kind: str, settings: Settings) -> tuple[list[DatasetLayer], tuple[str, ...]]:
    """What variables of the original say of the provider that was chosen, and a note of it."""
    given = settings.provider_arguments.get(kind, {})
    if not given:
        return [], ()
    for argument, (value, variable) in given.items():
        if argument == "max_samples" and (isinstance(value, str) or value < 1):
            raise ConfigError(
                f"{variable}: {value!r} cannot be used",
                remedy="give a whole number of at least 1",
                code="BAD_VALUE",
            )
    layer = DatasetLayer(
        {argument: value for argument, (value, _) in given.items()}, Path.cwd(), "environment"
    )
    names = ", ".join(given)
    return [layer], (f"dataset: {names} of {kind} are read from variables of the original",)


def _check_unnamed(layers: Sequence[DatasetLayer]) -> None:
    """Arguments of a provider that nobody named would be ignored."""
    for layer in layers:
        for name in layer.dataset:
            if name in SOURCE_ARGUMENTS:
                raise ConfigError(
                    f"{layer.origin}: dataset.{name} is given, and no provider is named",
                    remedy="give dataset.provider as well",
                    code="NO_SOURCE",
                )


def data_source(
    kind: str, arguments: Mapping[str, Any], folder: Path, *, allow_network: bool = False
) -> DataSource:
    """The source of a kind, from arguments named as in a suite file's ``dataset``.

    Relative file names start at ``folder``; ``src_field`` and ``tgt_field`` are other names of
    ``source_field`` and ``target_field``.

    Raises:
        ConfigError: an unknown kind, an argument the kind does not take, or one that it lacks.
    """
    check_kind(kind)
    given = {name: value for name, value in arguments.items() if value is not None}
    check_arguments(kind, given)
    given = _located(given, folder)
    locations: list[str] = []
    for name in FILE_ARGUMENTS:
        value = given.pop(name, ())
        locations += [value] if isinstance(value, str) else list(value)
    for seeds_name, name in (("src_field", "source_field"), ("tgt_field", "target_field")):
        if seeds_name in given:
            given.setdefault(name, given.pop(seeds_name))
    given.pop("src_field", None)
    given.pop("tgt_field", None)
    labels = tuple(str(label) for label in given.pop("labels", ()))
    return DataSource(
        kind, locations=tuple(locations), labels=labels, allow_network=allow_network, **given
    )


def wikitext_is_cached() -> bool:
    """Whether the Hub client's cache holds data files of WikiText, as far as names tell."""
    folder = _hub_cache()
    return any(
        True for name in _WIKITEXT_FOLDERS for _ in folder.glob(f"{name}/snapshots/*/**/*.parquet")
    )


def _hub_cache() -> Path:
    """Where the Hub client keeps its cache, by the variables that it reads itself."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _default_source(profile: str, *, allow_network: bool) -> tuple[DataSource, tuple[str, ...]]:
    if allow_network or wikitext_is_cached():
        dataset = load_preset(DEFAULT_PRESET).dataset
        given = {name: value for name, value in dataset.items() if name in SOURCE_ARGUMENTS}
        source = data_source(dataset["provider"], given, Path(), allow_network=allow_network)
        return source, ()
    if profile != "dev":
        raise ConfigError(
            f"no evaluation data is named, and profile {profile} takes no stand-in for wikitext2, "
            "which is not in the local Hub cache",
            remedy="give --invarlock-dataset=local_jsonl:FILE, pydoc for the shipped text, or "
            "--invarlock-allow-network",
            code="NO_DATASET",
        )
    return DataSource("pydoc"), (
        "no evaluation data is named, and wikitext2 is not in the local Hub cache: using the "
        "shipped text (pydoc); give --invarlock-dataset=local_jsonl:FILE to use your own",
    )


def _provider(layer: DatasetLayer) -> tuple[str | None, dict[str, Any]]:
    """A layer's kind, None where it names none, and arguments: those inside ``provider`` too."""
    provider = layer.dataset.get("provider")
    beside = {name: value for name, value in layer.dataset.items() if name in SOURCE_ARGUMENTS}
    if provider is None:
        return None, beside
    inside = {} if isinstance(provider, str) else dict(provider)
    kind = provider if isinstance(provider, str) else str(inside.pop("kind"))
    for name in inside:
        if name in beside:
            raise ConfigError(
                f"{layer.origin}: dataset.{name} stands both in provider and beside it",
                remedy="keep one of the two",
                code="DUPLICATE_KEY",
            )
    check_kind(kind)
    return kind, beside | inside


def _located(arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments with absolute file names."""
    located = dict(arguments)
    for name in (*FILE_ARGUMENTS, "cache_dir"):
        value = located.get(name)
        if isinstance(value, str):
            located[name] = _absolute(value, folder)
        elif isinstance(value, list | tuple):
            located[name] = [_absolute(part, folder) for part in value]
    return located


def _absolute(name: str, folder: Path) -> str:
    expanded = os.path.expanduser(name)  # noqa: PTH111  Path's own raises for unknown users
    return str((folder / expanded).absolute())


def _command_line(settings: Settings) -> list[DatasetLayer]:
    """What ``--invarlock-dataset`` says: KIND[:ARG], a mapping, or a file that holds one."""
    text = settings.text("dataset")
    if text is None:
        return []
    origin = settings.made["dataset"].origin
    if _MAPPING.match(text):
        return [DatasetLayer(_checked(_parsed(text, origin)), Path.cwd(), origin)]
    kind, colon, argument = text.partition(":")
    if kind not in KINDS and Path(text).suffix in (".yaml", ".yml", ".json"):
        path = Path(_absolute(text, Path.cwd()))
        return [DatasetLayer(_checked(load_yaml(path)), path.parent, origin)]
    if kind not in KINDS:
        raise ConfigError(
            f"{origin}: {text!r} cannot be used: no data provider has that name",
            remedy=nearest(kind, sorted(KINDS), "provider"),
            code="BAD_VALUE",
        )
    needs = KINDS[kind].needs
    if not colon and (not needs or set(needs) & set(settings.provider_arguments.get(kind, {}))):
        return [DatasetLayer({"provider": kind}, Path.cwd(), origin)]
    name = KINDS[kind].argument
    if name is None or not argument:
        wanted = kind if name is None else f"{kind}:{name.upper()}"
        raise settings.wrong("dataset", f"{wanted}, or a mapping")
    return [DatasetLayer({"provider": kind, name: argument}, Path.cwd(), origin)]


def _parsed(text: str, origin: str) -> YamlDocument:
    """An inline mapping; JSON is read as such, for YAML differs from it in corners."""
    try:
        value = json.loads(text)
    except ValueError:
        return parse_yaml(text, name=origin)
    return YamlDocument(origin, value, {})


def _checked(document: YamlDocument) -> dict[str, Any]:
    """The ``dataset`` block in a mapping of its keys, of a provider's, or of a whole preset's."""
    value = document.value
    lines = dict(document.lines)
    if "dataset" not in value:
        shift: tuple[str, ...] = ("dataset",)
        if "kind" in value:
            value = {"provider": value}
            shift = ("dataset", "provider")
        value = {"dataset": value}
        lines = {(*shift, *path): line for path, line in lines.items()}
    check_document(YamlDocument(document.name, value, lines), "preset")
    dataset: dict[str, Any] = value["dataset"]
    return dataset
