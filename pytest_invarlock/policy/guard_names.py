"""Which guards there are, by name: built-in ones, and those that installed packages register."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.decision_policy import KNOWN_CHECKS, KNOWN_GUARDS
from pytest_invarlock.policy.deploy_limits import DEPLOYABLE
from pytest_invarlock.registered import GUARDS, registered

if TYPE_CHECKING:
    from pytest_invarlock.registered import Registered

RESERVED = (*KNOWN_CHECKS, DEPLOYABLE, "detected", "signal", "verdict", "order")
"""Names that mean something else in node ids, policies or the ``guards`` block."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def foreign_guard_names() -> list[str]:
    """The names of installed guards of other packages that can be demanded."""
    return [name for name in registered(GUARDS) if _can_be_demanded(name)]


def registered_guard(name: str) -> Registered:
    """The one registration of another package's guard; nothing of it is imported.

    Raises:
        ConfigError: no installed package registers it (UNKNOWN_GUARD), or two do (GUARD_TWICE).
    """
    found = registered(GUARDS).get(name, ()) if _can_be_demanded(name) else ()
    if not found:
        raise ConfigError(
            f"no guard is named {name!r}",
            remedy=_remedy(name),
            code="UNKNOWN_GUARD",
        )
    if len(found) > 1:
        packages = " and ".join(sorted(str(one.distribution or one.value) for one in found))
        raise ConfigError(
            f"guard {name!r} is registered twice: by {packages}",
            remedy="uninstall one of them",
            code="GUARD_TWICE",
        )
    return found[0]


def _can_be_demanded(name: str) -> bool:
    return name not in RESERVED and NAME.fullmatch(name) is not None


def _remedy(name: str) -> str:
    known = [*KNOWN_GUARDS, *foreign_guard_names()]
    # Closer than of other names: a guard whose package is missing resembles none.
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"install the package that registers it; there are: {', '.join(known)}"
