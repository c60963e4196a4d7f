"""Parameters of clean edits: tuned for a model, in a file or shipped, else careful defaults.

The file format is the seeds': ``models`` by Hub id or directory name, ``defaults``, or edits at the
top (flat). An edit of a suite file asks for them with ``plan: {clean: true}``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.edit_names import check_edit, check_values, edit_problem
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document, dotted
from pytest_invarlock.policy.yaml_document import YamlDocument, parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.plan import MeasurementPlan
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.yaml_document import KeyPath

CLEAN = "clean"
CLEAN_EDITS = ("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd")
# What a clean edit may still fix itself; everything else is tuned.
_OWN_KEYS = (CLEAN, "scope", "layers", "include")
_DEFAULT = "default"
_NO_PARAMETERS = ("status", "reason", "edit_dir_name")
_OUR_NAMES = {"bits": "bitwidth", "group": "group_size"}
_SKIPPED = "skipped"
SKIPPED_REMEDY = "give parameters there, or leave the scenario out"
# What a seeded split hangs on beside the documents, and what of a source says which these are.
_CUTS = ("convention", "seq_len", "stride")
_SOURCES = ("dataset_name", "config_name", "split", "dedup")


@dataclass(frozen=True, slots=True)
class TunedEdit:
    """A clean edit with its parameters, and where they come from: file, shipped or default.

    ``skipped`` says, naming the file, why there are none: the edit is then as it was, and cannot
    be measured. ``data`` is what the entry says it was tuned on; empty where it does not.
    """

    edit: EditSpec
    source: str
    skipped: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def is_clean(edit: EditSpec) -> bool:
    """Whether the parameters of ``edit`` are still to be looked up."""
    return CLEAN in edit.parameters


def check_clean(edit: EditSpec, document: YamlDocument, path: KeyPath) -> None:
    """Raise ConfigError with file and line where a clean edit says more than it may."""
    if edit.name not in CLEAN_EDITS:
        check_edit(edit, document, path)
    plan = (*path, "plan")
    if edit.parameters[CLEAN] is not True:
        raise ConfigError(
            f"{document.place((*plan, CLEAN))}: {dotted((*plan, CLEAN))}: only true can be given",
            remedy="drop the key, and give parameters",
            code="BAD_VALUE",
        )
    for key in edit.parameters:
        if key not in _OWN_KEYS:
            raise ConfigError(
                f"{document.place((*plan, key))}: {dotted((*plan, key))}: "
                "stands beside clean: true",
                remedy=f"drop one of the two; beside clean: {', '.join(_OWN_KEYS[1:])}",
                code="UNKNOWN_KEY",
            )
    check_values(edit, document, path)


class TunedParameters:
    """Where clean parameters are looked up: ``--invarlock-tuned``, then the shipped files."""

    def __init__(self, settings: Settings) -> None:
        """Read the files; raises ConfigError for one that is malformed."""
        named = settings.text("tuned")
        self._documents: list[tuple[str, YamlDocument]] = []
        if named is not None:
            self._documents.append(("file", _own(named)))
        shipped = [name for name in names("tuned", ".json") if name != _DEFAULT]
        for name in (*shipped, _DEFAULT):
            self._documents.append((_DEFAULT if name == _DEFAULT else "shipped", _shipped(name)))

    def resolved(self, edit: EditSpec, model: str) -> TunedEdit:
        """``edit`` with the parameters of the first file that has an entry for ``model``.

        One with status ``skipped`` has none, and no later file is asked.
        """
        for source, document in self._documents:
            found = _entry(document.value, edit.name, model)
            if found is None:
                continue
            path, entry = found
            if entry["status"] == _SKIPPED:
                reason = entry.get("reason", "no reason is given")
                place = f"{document.place(path)}: {dotted(path)}"
                return TunedEdit(edit, source, f"{place}: status is skipped: {reason}")
            data = _tuning_data(document.value, path)
            return TunedEdit(_with_entry(edit, path, entry, document), source, data=data)
        raise ConfigError(
            f"no clean parameters of {edit.name} for {model}",
            remedy="give them with --invarlock-tuned, or write them into the plan",
            code="NO_TUNED",
        )


def tuned_notes(
    found: Mapping[tuple[str, str], TunedEdit], plan: MeasurementPlan
) -> tuple[str, ...]:
    """What to tell of clean parameters, found by (model, edit), beside what the run measures."""
    notes: list[str] = []
    by_source: dict[str, list[str]] = {}
    for (model, edit), tuned in found.items():
        source = tuned.source if tuned.skipped is None else _SKIPPED
        by_source.setdefault(source, []).append(f"{edit} of {model}")
    for source, what in by_source.items():
        note = f"tuned: {source} ({', '.join(what)})"
        if source == _DEFAULT:
            note += "; --invarlock-tune finds the model's own, --invarlock-tuned=FILE gives them"
        notes.append(note)
    by_difference: dict[str, list[str]] = {}
    for (model, edit), tuned in found.items():
        difference = other_data(tuned.data, plan) if tuned.source == "file" else None
        if difference is not None:
            by_difference.setdefault(difference, []).append(f"{edit} of {model}")
    notes += [f"tuned {text} ({', '.join(what)})" for text, what in by_difference.items()]
    return tuple(notes)


def other_data(data: Mapping[str, Any], plan: MeasurementPlan) -> str | None:
    """How what was tuned on differs from what ``plan`` measures; None where nothing known does.

    Then documents or windows that were tuned on may be among those that verdicts rest on. Only
    what both state is compared: not the content, and of data that is not shareable no name.
    """
    found = data.get("source")
    source: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    pairs: list[tuple[str, Any, Any]] = [("provider", data.get("provider"), plan.source.provider)]
    pairs += [(key, source.get(key), getattr(plan.source, key)) for key in _SOURCES]
    if "max_samples" in source:
        # Without a number all rows are read, which is another choice than any number.
        counts = (_rows(source["max_samples"]), _rows(plan.source.max_samples))
        pairs.append(("max_samples", *counts))
    if data.get("arms") != "provider":
        pairs.append(("seed", data.get("seed"), plan.windows.seed))
    split = _differences(pairs)
    if split:
        return f"on the documents of another split: {split}"
    cut = _differences((key, data.get(key), getattr(plan.windows, key)) for key in _CUTS)
    return f"on windows that are cut otherwise: {cut}" if cut else None


def _rows(max_samples: int | None) -> int | str:
    return "all" if max_samples is None else max_samples


def _differences(pairs: Iterable[tuple[str, Any, Any]]) -> str:
    """The keys whose values are both known and differ, in words."""
    return ", ".join(
        f"{key} {there}, here {here}"
        for key, there, here in pairs
        if there is not None and here is not None and there != here
    )


def _tuning_data(value: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """What `_meta` says an entry of a model was tuned on; empty in files of another origin."""
    found: Any = value.get("_meta", {}).get("evidence") if path[0] == "models" else None
    for key in (*path[1:], "data"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


@cache
def _shipped(name: str) -> YamlDocument:
    return _read(read_text("tuned", f"{name}.json"), f"tuned/{name}.json")


def _own(name: str) -> YamlDocument:
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}",
            remedy="name a readable file of tuned parameters",
            code="UNREADABLE_FILE",
        ) from error
    return _read(text, str(path))


def _read(text: str, name: str) -> YamlDocument:
    # JSON is YAML but for tabs, which can only stand between its tokens.
    document = parse_yaml(text.replace("\t", "  "), name=name)
    check_document(document, "tuned")
    for path, edit in _entries(document.value):
        problem = entry_problem(path[-1], edit)
        if edit.get("status") != _SKIPPED and problem is not None:
            cause, remedy = problem
            raise ConfigError(
                f"{document.place(path)}: {dotted(path)}: {cause}", remedy=remedy, code="BAD_VALUE"
            )
    return document


def _entries(value: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every entry of a file, with its path."""
    groups: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [
        *((("models", name), edits) for name, edits in value.get("models", {}).items()),
        (("defaults",), value.get("defaults", {})),
        ((), value),
    ]
    return [
        ((*path, name), edits[name])
        for path, edits in groups
        for name in CLEAN_EDITS
        if name in edits
    ]


def _entry(
    value: Mapping[str, Any], edit: str, model: str
) -> tuple[tuple[str, ...], Mapping[str, Any]] | None:
    """The entry of an edit: by id, by directory name, flat, default, as in the original.

    First by the name that tuning writes. Only of a local folder is the last name enough: another
    owner's model of that name is another model.
    """
    models = value.get("models", {})
    plain = model.removeprefix("hf:").partition("@")[0]
    names = [model_key(model), model, plain, directory_name(plain)]
    if is_local(model):
        names.append(Path(model).name)
    for name in names:
        if edit in models.get(name, {}):
            return ("models", name, edit), models[name][edit]
    if edit in value:
        return (edit,), value[edit]
    if edit in value.get("defaults", {}):
        return ("defaults", edit), value["defaults"][edit]
    return None


def is_local(model: str) -> bool:
    """Whether a model is a folder: written as a path, or there under its name."""
    if model.startswith(("hf:", "builtin:")):
        return False
    return model.startswith(("/", ".", "~")) or _expanded(model).is_dir()


def model_key(reference: str) -> str:
    """What a file of tuned parameters calls a model: the id without revision, a folder's own name.

    Links are followed, so a folder has one key whatever it is called by, and no path of this
    machine stands in the file.
    """
    if is_local(reference):
        return _expanded(reference).resolve().name
    return reference.removeprefix("hf:").partition("@")[0]


def _expanded(reference: str) -> Path:
    return Path(os.path.expanduser(reference))  # noqa: PTH111  Path's own raises for unknown users


def directory_name(model: str) -> str:
    """The original's folder name of a model: ``Org/Name-1.5`` is ``org__name-15``."""
    name = model.lower().replace("/", "__").replace(" ", "_")
    return "".join(letter for letter in name if letter.isalnum() or letter in "_-")


def _with_entry(
    edit: EditSpec, path: tuple[str, ...], entry: Mapping[str, Any], document: YamlDocument
) -> EditSpec:
    resolved = with_parameters(edit, entry)
    problem = edit_problem(resolved)
    if problem is not None:
        cause, remedy = problem
        raise ConfigError(
            f"{document.place(path)}: {dotted(path)}: {cause}", remedy=remedy, code="BAD_VALUE"
        )
    return resolved


def entry_problem(edit: str, entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong with the parameters of an entry, and the remedy; None where nothing is."""
    return edit_problem(EditSpec(edit, _parameters(entry)))


def with_parameters(edit: EditSpec, entry: Mapping[str, Any]) -> EditSpec:
    """``edit`` with the parameters of an entry instead of ``clean``."""
    own = {key: value for key, value in edit.parameters.items() if key != CLEAN}
    return replace(edit, parameters={**own, **_parameters(entry)})


def _parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's parameters under our names; ``ffn@layer=3`` is a scope and its layers."""
    given = {
        _OUR_NAMES.get(key, key): value for key, value in entry.items() if key not in _NO_PARAMETERS
    }
    scope, at, suffix = str(given.get("scope", "")).partition("@")
    if at:
        word, _, number = suffix.partition("=")
        given["scope"] = scope
        given["layers"] = [int(number)] if word == "layer" else list(range(int(number)))
    return given
