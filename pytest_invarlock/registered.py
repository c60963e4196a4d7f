"""What installed packages register with us: entry points, whose they are, the code behind them.

Nothing of a package is imported before `Registered.load`.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

Group = Literal["invarlock.guards", "invarlock.adapters", "invarlock.backends"]
GUARDS: Group = "invarlock.guards"
ADAPTERS: Group = "invarlock.adapters"
BACKENDS: Group = "invarlock.backends"
OWN_DISTRIBUTION = "pytest-invarlock"


@dataclass(frozen=True, slots=True)
class Registered:
    """One entry point: its name, ``module:attribute``, and the distribution it came with.

    Distribution and version are None where no metadata says them.
    """

    name: str
    value: str
    distribution: str | None
    version: str | None
    _entry: EntryPoint = field(repr=False)

    @property
    def is_own(self) -> bool:
        """Whether this package itself registers it."""
        return self.distribution == OWN_DISTRIBUTION

    def load(self) -> Any:
        """Import what it names.

        Raises:
            ConfigError: ``PLUGIN_BROKEN``: another package's code could not be imported.
        """
        try:
            return self._entry.load()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        # A module may exit or skip itself as it is imported, which is no Exception.
        except BaseException as error:
            raise ConfigError(
                f"{self.value} cannot be imported: {one_line(error)}",
                remedy=f"mend or uninstall {self.distribution or 'its package'}",
                code="PLUGIN_BROKEN",
            ) from error

    def code_digest(self) -> str | None:
        """The digest of the code that it names; None where there is none."""
        return code_digest(self._entry.module)


def registered(group: Group) -> dict[str, tuple[Registered, ...]]:
    """What is registered in ``group``, by name; two packages may have taken one name."""
    return dict(_registered(group, _installed()))


Installed = tuple[tuple[str, int | None], ...]


def _installed() -> Installed:
    """Each folder of the path and its time (ns): another once a package came or went."""
    return tuple((folder, _changed_at(Path(folder))) for folder in sys.path)


def _changed_at(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


# Every distribution's metadata is read for it, and each guard of each scenario asks.
@lru_cache(maxsize=8)
def _registered(group: Group, installed: Installed) -> dict[str, tuple[Registered, ...]]:
    del installed
    found: dict[str, dict[tuple[str, str | None], Registered]] = {}
    for entry in entry_points(group=group):
        distribution = None if entry.dist is None else str(entry.dist.name)
        version = None if entry.dist is None else str(entry.dist.version)
        one = Registered(entry.name, entry.value, distribution, version, entry)
        # One distribution may lie on the path twice, as a checkout beside its installation.
        found.setdefault(entry.name, {}).setdefault((entry.value, distribution), one)
    return {name: tuple(found[name].values()) for name in sorted(found)}


def code_digest(module: str) -> str | None:
    """``sha256:`` over the Python files of the top-level package or module of ``module``, by name.

    What that code imports from elsewhere is not in it. None where there is no such file.
    """
    content = hashlib.sha256()
    files = list(_python_files(module.partition(".")[0]))
    for name, path in files:
        content.update(f"{name}|".encode() + hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + content.hexdigest() if files else None


def one_line(error: BaseException) -> str:
    """The kind of ``error`` and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _python_files(module: str) -> Iterator[tuple[str, Path]]:
    try:
        spec = find_spec(module)
    except ValueError:
        # A module that was run rather than imported has none.
        spec = None
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin).name, Path(spec.origin)
        return
    for folder in sorted(spec.submodule_search_locations):
        root = Path(folder)
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            yield f"{module}/{path.relative_to(root).as_posix()}", path
