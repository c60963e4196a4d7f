"""Parameters of clean edits: tuned for a model, in a file or shipped, else careful defaults.

The file format is the seeds': ``models`` by Hub id or directory name, ``defaults``, or edits at the
top (flat). An edit of a suite file asks for them with ``plan: {clean: true}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.plan import EditSpec
from pytest_invarlock.policy.edit_names import check_edit, edit_problem
from pytest_invarlock.policy.resources import names, read_text
from pytest_invarlock.policy.schema_check import check_document, dotted
from pytest_invarlock.policy.yaml_document import YamlDocument, parse_yaml

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.yaml_document import KeyPath

CLEAN = "clean"
CLEAN_EDITS = ("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd")
# What a clean edit may still fix itself; everything else is tuned.
_OWN_KEYS = (CLEAN, "scope", "layers", "include")
_DEFAULT = "default"
_NO_PARAMETERS = ("status", "reason", "edit_dir_name")
_OUR_NAMES = {"bits": "bitwidth", "group": "group_size"}


@dataclass(frozen=True, slots=True)
class TunedEdit:
    """A clean edit with its parameters, and where they come from: file, shipped or default."""

    edit: EditSpec
    source: str


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
            document = _read(read_text("tuned", f"{name}.json"), f"tuned/{name}.json")
            self._documents.append((_DEFAULT if name == _DEFAULT else "shipped", document))

    def resolved(self, edit: EditSpec, model: str) -> TunedEdit:
        """``edit`` with the parameters of the first file that has some for ``model``.

        An entry with status ``skipped`` gives ``noop``.
        """
        for source, document in self._documents:
            found = _entry(document.value, edit.name, model)
            if found is not None:
                return TunedEdit(_with_entry(edit, *found, document), source)
        raise ConfigError(
            f"no clean parameters of {edit.name} for {model}",
            remedy="give them with --invarlock-tuned, or write them into the plan",
            code="NO_TUNED",
        )


def tuned_notes(found: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
    """What to tell of clean parameters, from (model, edit) to where they come from."""
    notes: list[str] = []
    by_source: dict[str, list[str]] = {}
    for (model, edit), source in found.items():
        by_source.setdefault(source, []).append(f"{edit} of {model}")
    for source, what in by_source.items():
        note = f"tuned: {source} ({', '.join(what)})"
        if source == _DEFAULT:
            note += "; --invarlock-tuned=FILE gives the model its own"
        notes.append(note)
    return tuple(notes)


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
        problem = edit_problem(EditSpec(path[-1], _parameters(edit)))
        if edit.get("status") != "skipped" and problem is not None:
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
    """The entry of an edit: by id, by directory name, flat, default, as in the original."""
    models = value.get("models", {})
    plain = model.removeprefix("hf:").partition("@")[0]
    for name in (model, plain, directory_name(plain), Path(plain).name):
        if edit in models.get(name, {}):
            return ("models", name, edit), models[name][edit]
    if edit in value:
        return (edit,), value[edit]
    if edit in value.get("defaults", {}):
        return ("defaults", edit), value["defaults"][edit]
    return None


def directory_name(model: str) -> str:
    """The original's folder name of a model: ``Org/Name-1.5`` is ``org__name-15``."""
    name = model.lower().replace("/", "__").replace(" ", "_")
    return "".join(letter for letter in name if letter.isalnum() or letter in "_-")


def _with_entry(
    edit: EditSpec, path: tuple[str, ...], entry: Mapping[str, Any], document: YamlDocument
) -> EditSpec:
    if entry["status"] == "skipped":
        return EditSpec("noop")
    own = {key: value for key, value in edit.parameters.items() if key != CLEAN}
    resolved = replace(edit, parameters={**own, **_parameters(entry)})
    problem = edit_problem(resolved)
    if problem is not None:
        cause, remedy = problem
        raise ConfigError(
            f"{document.place(path)}: {dotted(path)}: {cause}", remedy=remedy, code="BAD_VALUE"
        )
    return resolved


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
