"""The text CPython carries, as documents: help topics, modules' and classes' docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

PARAGRAPH_CHARS = 30
MODULE_CUT_CHARS = 3000
CLASS_CUT_CHARS = 400

LEFT_OUT_FOLDERS = frozenset(
    {
        "__pycache__",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
# Developed outside CPython and copied in, though their files carry no notice that says so.
LEFT_OUT_MODULES = ("importlib.metadata", "importlib.resources", "tomllib", "unittest.mock")

NOTICE = re.compile(
    r"copyright(text)?:?\s+(\(c\)|[12]\d{3}|by\b|disney|cnri)|\(c\) copyright", re.I
)
PSF_NOTICE = re.compile(r"copyright[^\n]*python software foundation", re.I)
CONTRIBUTED = re.compile(r"licensed to (the )?psf under a contributor agreement", re.I)
OWN_TERMS = re.compile(r"permission notice|hereby granted|redistributions of source", re.I)

TYPEWRITER = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "•": "*", " ": " "}
)


@dataclass(frozen=True)
class Document:
    """A unit of text that is held out or trained on as a whole.

    Attributes:
        id: where it is from: ``topic:<name>``, ``module:<name>``, ``class:<module>.<name>`` or
            ``builtin:<module>``.
        text: ASCII text, paragraphs parted by one blank line.
    """

    id: str
    text: str


def documents() -> list[Document]:
    """Every document of this interpreter, ordered, each long paragraph in one of them only.

    A paragraph of more than ``PARAGRAPH_CHARS`` characters stays in the first document that has
    it, so documents share no text of substance however they are later split.
    """
    seen: set[str] = set()
    kept = []
    for document in (*_topics(), *_python_modules(), *_compiled_modules()):
        text = _without_seen_paragraphs(_ascii(document.text), seen)
        if text:
            kept.append(Document(document.id, text))
    return kept


def _topics() -> Iterator[Document]:
    for name in sorted(topics.topics):
        yield Document(f"topic:{name}", topics.topics[name])


def _python_modules() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        if LEFT_OUT_FOLDERS & set(relative.parts) or name.startswith(LEFT_OUT_MODULES):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        if not _has_foreign_notice(source):
            yield from _module_documents(name, ast.parse(source))


def _has_foreign_notice(source: str) -> bool:
    """Whether the file states terms or a copyright holder other than CPython's own."""
    if OWN_TERMS.search(source):
        return True
    foreign = NOTICE.search(PSF_NOTICE.sub("", source))
    return foreign is not None and CONTRIBUTED.search(source) is None


def _module_documents(name: str, tree: ast.Module) -> Iterator[Document]:
    """One document, or in a long module one for each well documented class and one for the rest."""
    whole = _docstrings([tree])
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    cut = [c for c in classes if len(_docstrings([c])) >= CLASS_CUT_CHARS]
    if len(whole) < MODULE_CUT_CHARS or not cut:
        yield Document(f"module:{name}", whole)
        return
    for node in cut:
        yield Document(f"class:{name}.{node.name}", _docstrings([node]))
    rest = [node for node in tree.body if node not in cut]
    own = ast.get_docstring(tree) or ""
    yield Document(f"module:{name}", own + "\n\n" + _docstrings(rest))


def _docstrings(nodes: Iterable[ast.AST]) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        ast.get_docstring(inner)
        for node in nodes
        for inner in ast.walk(node)
        if isinstance(inner, documented)
    ]
    return "\n\n".join(text for text in found if text)


def _compiled_modules() -> Iterator[Document]:
    """Docstrings of the modules written in C; which of them exist depends on the build."""
    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    names = set(sys.builtin_module_names) | {p.name.split(".")[0] for p in folder.glob("*.so")}
    for name in sorted(names):
        if name.startswith(("_test", "_xx", "xx", "_ctypes_test")):
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        yield Document(f"builtin:{name}", "\n\n".join(_member_docs(module)))


def _member_docs(module: ModuleType) -> Iterator[str]:
    yield _doc(module)
    for _, member in sorted(vars(module).items()):
        if inspect.isclass(member):
            yield _doc(member)
            yield from (_doc(method) for _, method in sorted(vars(member).items()))
        elif callable(member):
            yield _doc(member)


def _doc(thing: object) -> str:
    text = getattr(thing, "__doc__", None)
    # An instance shows its class's docstring, which would repeat int's for every constant.
    if not isinstance(text, str) or text == getattr(type(thing), "__doc__", None):
        return ""
    return inspect.cleandoc(text)


def _ascii(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(TYPEWRITER))
    return decomposed.encode("ascii", "ignore").decode("ascii")


def _without_seen_paragraphs(text: str, seen: set[str]) -> str:
    """The text less the long paragraphs in ``seen``, to which it adds its own."""
    kept = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        flat = " ".join(paragraph.split())
        if not flat or flat in seen:
            continue
        if len(flat) > PARAGRAPH_CHARS:
            seen.add(flat)
        kept.append("\n".join(line.rstrip() for line in paragraph.strip("\n").splitlines()))
    return "\n\n".join(kept)
