"""Mutants of a source file: mutmut's operators, each applied once to a copy of the file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libcst as cst
from libcst._nodes.internal import CodegenState
from libcst.metadata import (
    MetadataWrapper,
    PositionProvider,
    WhitespaceInclusivePositionProvider,
)
from mutmut.mutation.file_mutation import Mutation, MutationVisitor
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module.

    ``function`` is the function or method that holds it, as ``Class.method``; None at the level of
    a module or class. ``before`` and ``after`` are the lines that differ; ``nth`` tells those apart
    that agree in all of this. ``statement`` is the changed top-level statement, which stands in the
    file between ``above`` and ``below``.
    """

    module: str
    path: str
    function: str | None
    line: int
    before: str
    after: str
    nth: int
    statement: str
    above: str
    below: str

    @property
    def source(self) -> str:
        """The whole changed file."""
        return self.above + self.statement + self.below

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What names the mutant whatever its line is."""
        return self.module, self.function or "", self.before, self.after, self.nth


class _Visitor(MutationVisitor):
    """mutmut's, into decorated functions too: it leaves them out because it wraps functions."""

    METADATA_DEPENDENCIES = (*MutationVisitor.METADATA_DEPENDENCIES, PositionProvider)

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef) and node.decorators:
            return False
        return super()._skip_node_and_children(node)


def mutants_of(module: str, path: Path, shown: str) -> list[Mutant]:
    """Every mutant of the file that compiles and differs from the others."""
    code = path.read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(code))
    spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
    visitor = _Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    tree = wrapper.visit(visitor)
    texts = [tree.code_for_node(statement) for statement in tree.body]
    head = code.partition("".join(texts))[0]
    starts = [len(head) + sum(map(len, texts[:at])) for at in range(len(texts) + 1)]
    lines = [0, *(at + 1 for at, letter in enumerate(code) if letter == "\n")]
    holders = {
        id(node): (at, depth) for at, top in enumerate(tree.body) for node, depth in _walk(top)
    }
    found: list[Mutant] = []
    counted: Counter[tuple[str | None, str, str]] = Counter()
    seen = set(enumerate(texts))
    for mutation in visitor.mutations:
        at, depth = holders[id(mutation.original_node)]
        above, below = code[: starts[at]], code[starts[at + 1] :]
        span = spans[mutation.original_node]
        start, end = (lines[mark.line - 1] + mark.column for mark in (span.start, span.end))
        if code[start:end] != _text(mutation.original_node, depth):
            raise ValueError(f"{shown}: {mutation.original_node!r} is not at its place")
        changed = _text(mutation.mutated_node, depth)
        text = code[starts[at] : start] + changed + code[end : starts[at + 1]]
        if (at, text) in seen or not _compiles(text):
            continue
        seen.add((at, text))
        function = _function(tree.body[at], mutation)
        offset, before, after = _difference(texts[at], text)
        nth = counted[function, before, after]
        counted[function, before, after] += 1
        line = above.count("\n") + offset
        found.append(Mutant(module, shown, function, line, before, after, nth, text, above, below))
    return found


def _walk(node: cst.CSTNode, depth: int = 0) -> Iterator[tuple[cst.CSTNode, int]]:
    """The nodes below and how many blocks they are in."""
    yield node, depth
    for child in node.children:
        yield from _walk(child, depth + isinstance(node, cst.IndentedBlock))


def _text(node: cst.CSTNode, depth: int) -> str:
    """The code of a node; within parentheses its further lines are indented as their block is."""
    state = CodegenState(default_indent="    ", default_newline="\n")
    for _ in range(depth):
        state.increase_indent("    ")
    node._codegen(state)  # noqa: SLF001 - what Module.code_for_node does, which knows no blocks
    return "".join(state.tokens)


def _function(top: cst.CSTNode, mutation: Mutation) -> str | None:
    holder = mutation.contained_by_top_level_function
    if not isinstance(holder, cst.FunctionDef):
        return None
    name = holder.name.value
    return f"{top.name.value}.{name}" if isinstance(top, cst.ClassDef) else name


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _difference(code: str, source: str) -> tuple[int, str, str]:
    """The first line that differs, from 1, and the differing lines before and after."""
    old, new = code.splitlines(), source.splitlines()
    start = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    old_part, new_part = old[start : len(old) - end], new[start : len(new) - end]
    before, after = (" ".join(line.strip() for line in part) for part in (old_part, new_part))
    return start + 1, before, after
