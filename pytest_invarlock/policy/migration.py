"""The original's variables: which are still read, as what, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pytest_invarlock.policy.resources import read_text
from pytest_invarlock.policy.schema_check import check_document
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = "migration.yaml"
_ANY_TYPE = "<TYPE>"


@dataclass(frozen=True, slots=True)
class OldVariable:
    """A variable of the original, and exactly one of: its setting, argument, reader or reason.

    Attributes:
        name: the variable; ``<TYPE>`` at its end stands for any word.
        setting: it is another name of this setting, in the place of the environment.
        ignored: values that count as not made.
        argument: it gives this argument of data provider ``of``.
        of: that provider's kind.
        honoured: who else reads it.
        dropped: why it is not read, and what there is instead.
    """

    name: str
    setting: str | None = None
    ignored: tuple[str, ...] = ()
    argument: str | None = None
    of: str | None = None
    honoured: str | None = None
    dropped: str | None = None

    def matches(self, name: str) -> bool:
        """Whether ``name`` is this variable."""
        head, pattern, _ = self.name.partition(_ANY_TYPE)
        return name.startswith(head) and name != head if pattern else name == self.name


@cache
def old_variables() -> tuple[OldVariable, ...]:
    """Every variable of the original, in the order of the table."""
    document = parse_yaml(read_text(_FILE), name=_FILE)
    check_document(document, "migration")
    return tuple(
        OldVariable(**{**entry, "ignored": tuple(entry.get("ignored", ()))})
        for entry in document.value["variables"]
    )


def old_variables_set(environment: Mapping[str, str]) -> list[tuple[str, OldVariable]]:
    """The variables of the table that are set, with what became of them; for ``doctor``."""
    return [
        (name, next(old for old in old_variables() if old.matches(name)))
        for name in sorted(environment)
        if any(old.matches(name) for old in old_variables())
    ]


def alias_of(setting: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The first other name of a setting that is set, and its value; None where none is."""
    own = "INVARLOCK_" + setting.replace("-", "_").upper()
    for old in old_variables():
        value = environment.get(old.name, "")
        if old.setting == setting and old.name != own and value and value not in old.ignored:
            return old.name, value
    return None


def provider_arguments(
    environment: Mapping[str, str],
) -> dict[str, dict[str, tuple[str | int, str]]]:
    """By kind of provider and argument: what a variable of the original gives, and its name."""
    found: dict[str, dict[str, tuple[str | int, str]]] = {}
    for old in old_variables():
        value = environment.get(old.name, "")
        if old.of is not None and old.argument is not None and value:
            number = old.argument == "max_samples" and value.isdigit()
            given = int(value) if number else value
            found.setdefault(old.of, {})[old.argument] = given, old.name
    return found
