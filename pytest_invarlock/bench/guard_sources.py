"""Where guards of others come from: installed packages, or the caller of the Python API."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pytest_invarlock.bench.guard_answer import INTERRUPTIONS, guard_problem, told
from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.guard_names import registered_guard
from pytest_invarlock.registered import code_digest

if TYPE_CHECKING:
    from pytest_invarlock.plan import ForeignGuard


class GuardSource(Protocol):
    """Where guards come from."""

    def identity(self, guard: ForeignGuard) -> dict[str, Any]:
        """Whose code it is: distribution, version, entry_point, code (digest), parameters."""

    def make(self, guard: ForeignGuard) -> Any:
        """A fresh instance; raises GuardError where that cannot be."""


class InstalledGuards:
    """Guards that installed packages register."""

    def identity(self, guard: ForeignGuard) -> dict[str, Any]:
        """From metadata and files alone; raises ConfigError where it is not installed."""
        one = registered_guard(guard.name)
        return {
            "distribution": one.distribution,
            "version": one.version,
            "entry_point": one.value,
            "code": one.code_digest(),
            "parameters": dict(guard.parameters),
        }

    def make(self, guard: ForeignGuard) -> Any:
        """Import it and call it with its parameters; raises GuardError where that fails."""
        one = registered_guard(guard.name)
        try:
            factory = one.load()
        except INTERRUPTIONS:
            raise
        except BaseException as error:
            # A module may skip itself as it is imported, which is no Exception.
            cause = error.cause if isinstance(error, ConfigError) else told(error)
            raise guard_problem(f"guard {guard.name}: {cause}", "GUARD_BROKEN") from error
        made = called(
            f"guard {guard.name}: making it",
            lambda: factory(**copy.deepcopy(dict(guard.parameters))),
        )
        if not callable(getattr(made, "validate", None)):
            raise guard_problem(
                f"guard {guard.name}: {one.value} has no validate()", "GUARD_BROKEN"
            )
        return made


class CallersGuards:
    """Guard objects that a caller of the Python API hands over, by name."""

    def __init__(self, guards: Mapping[str, Any]) -> None:
        self._guards = dict(guards)

    def identity(self, guard: ForeignGuard) -> dict[str, Any]:
        """Its class and the digest of the top-level package or module that defines it."""
        cls = type(self._guards[guard.name])
        return {
            "distribution": None,
            "version": None,
            "entry_point": f"{cls.__module__}:{cls.__qualname__}",
            "code": code_digest(cls.__module__),
            "parameters": {},
        }

    def make(self, guard: ForeignGuard) -> Any:
        """The object itself."""
        return self._guards[guard.name]


def is_reusable(guard: str, instance: Any) -> bool:
    """Whether the class of ``instance`` says ``reusable = True``."""
    found = called(f"guard {guard}: making it", lambda: getattr(type(instance), "reusable", False))
    return found is True


def called(what: str, call: Callable[[], Any]) -> Any:
    """What others' code gives; whatever it raises is a GuardError (GUARD_RAISED) in one line.

    ``pytest.skip`` and ``sys.exit`` too: a guard decides by its answer alone.
    """
    try:
        return call()
    except INTERRUPTIONS:
        raise
    except BaseException as error:
        raise guard_problem(f"{what} raised {told(error)}", "GUARD_RAISED") from error
