"""Read YAML under the 1.2 core schema, remembering the line of every key.

YAML 1.1, which PyYAML implements, reads ``9e-4`` as text and ``on``/``no`` as booleans; the core
schema (YAML 1.2.2, section 10.3) does what people mean. Duplicate keys are errors.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_SPECIAL_FLOAT = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")


MAX_VALUES = 200_000
"""Values of one file, each counted as often as aliases repeat it; the shipped have hundreds."""
MAX_DIGITS = 400


class _TagError(yaml.YAMLError):
    """A tag such as ``!!str`` stands on a 1-based line."""

    def __init__(self, tag: str, line: int) -> None:
        super().__init__(tag)
        self.tag = tag.replace("tag:yaml.org,2002:", "!!")
        self.line = line


class _UntaggedLoader(yaml.SafeLoader):
    """Refuses tags: scalars are read by their looks, and a tag would be dropped in silence."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _TagError(tag, event.start_mark.line + 1)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed mapping and the 1-based line on which each key path stands.

    ``origins`` names the file of the paths that another file than ``name`` gave.
    """

    name: str
    value: dict[str, Any]
    lines: Mapping[KeyPath, int]
    origins: Mapping[KeyPath, str] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int:
        """The line of ``path``, or of its nearest recorded parent."""
        return self.lines.get(self._recorded(path), 1)

    def seen_from(self, path: KeyPath) -> YamlDocument:
        """The document under the name of the file that gave ``path``, for errors there."""
        return replace(self, name=self.origins.get(self._recorded(path), self.name))

    def place(self, path: KeyPath) -> str:
        """``file:line`` of ``path``."""
        return f"{self.seen_from(path).name}:{self.line_of(path)}"

    def _recorded(self, path: KeyPath) -> KeyPath:
        while path and path not in self.lines:
            path = path[:-1]
        return path


def load_yaml(path: Path) -> YamlDocument:
    """Read the mapping in the file ``path``; raises ConfigError naming file, line and cause."""
    return parse_yaml(read_yaml(path), name=str(path))


def read_yaml(path: Path) -> str:
    """The text of the file ``path``; raises ConfigError naming file and cause."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}",
            remedy="name a readable YAML file",
            code="UNREADABLE_FILE",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text", remedy="save it as UTF-8") from error


@lru_cache(maxsize=128)
def _composed(text: str) -> yaml.Node | None:
    """The nodes of ``text``, which nobody changes; one process reads a shipped file often."""
    node: yaml.Node | None = yaml.compose(text, Loader=_UntaggedLoader)
    return node


def parse_yaml(text: str, *, name: str) -> YamlDocument:
    """Parse ``text``; ``name`` is what errors call it."""
    try:
        node = _composed(text)
    except _TagError as error:
        raise ConfigError(
            f"{name}:{error.line}: tag {error.tag} is not read",
            remedy="drop it; put what is text in quotes",
            code="YAML_TAG",
        ) from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}: brackets or blocks stand too deep in one another",
            remedy="write it flatter",
            code="BAD_VALUE",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(
            f"{name}:{line}: not valid YAML: {error.problem or error.context}",
            remedy="mend the YAML syntax on that line",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}", remedy="mend the syntax") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{name}: must hold a mapping of keys", remedy="write key: value lines")
    lines: dict[KeyPath, int] = {}
    try:
        return YamlDocument(name, _construct_mapping(node, (), lines, name), lines)
    except RecursionError as error:
        raise ConfigError(
            f"{name}: an alias (*name) stands inside what it names", remedy="write it out"
        ) from error


def _construct(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    if len(lines) > MAX_VALUES:
        # A few nested aliases stand for more values than any memory holds.
        raise ConfigError(
            f"{name}: holds more than {MAX_VALUES} values, those of aliases among them",
            remedy="write less",
            code="TOO_LARGE",
        )
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, path, lines, name)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            lines[(*path, index)] = child.start_mark.line + 1
            items.append(_construct(child, (*path, index), lines, name))
        return items
    line = node.start_mark.line + 1
    try:
        return _scalar(node)
    except ValueError as error:
        raise ConfigError(
            f"{name}:{line}: {str(node.value)[:20]}… has too many digits",
            remedy="write a smaller number",
            code="BAD_VALUE",
        ) from error


def _construct_mapping(
    node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int], name: str
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}:{line}: a key must be a word", remedy="use a plain key")
        key = key_node.value
        if key in result:
            raise ConfigError(
                f"{name}:{line}: key {key!r} stands twice (first on line {lines[(*path, key)]})",
                remedy="keep one of the two",
                code="DUPLICATE_KEY",
            )
        lines[(*path, key)] = line
        result[key] = _construct(value_node, (*path, key), lines, name)
    return result


def _bounded(number: int) -> int:
    """``number``, unless it is larger than what torch and numpy count with."""
    if abs(number) > sys.maxsize:
        raise ValueError("too large")
    return number


def _scalar(node: yaml.Node) -> str | int | float | bool | None:
    text = str(node.value)
    if isinstance(node, yaml.ScalarNode) and node.style in ("'", '"', "|", ">"):
        return text
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        if len(text) > MAX_DIGITS:
            raise ValueError("too many digits")
        return _bounded(int(text, 0) if text[:2] in ("0o", "0x") else int(text))
    if _FLOAT.match(text):
        return float(text)
    if _SPECIAL_FLOAT.match(text):
        if text.lower() == ".nan":
            return math.nan
        return -math.inf if text.startswith("-") else math.inf
    return text
