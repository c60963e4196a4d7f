"""``--invarlock-list-suites``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def list_suites(config: pytest.Config) -> int:
    """Print the shipped suites with their descriptions; exit status 0."""
    del config
    from pytest_invarlock.policy.suite import shipped_suites, suite_description

    for name in shipped_suites():
        sys.stdout.write(f"{name:<12} {suite_description(name)}\n")
    return 0
