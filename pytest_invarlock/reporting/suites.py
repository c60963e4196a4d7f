"""``--invarlock-list-suites``."""

from __future__ import annotations

import sys


def list_suites() -> int:
    """Print the shipped suites with their descriptions; exit status 0."""
    from pytest_invarlock.policy.suite import shipped_suites, suite_description

    for name in shipped_suites():
        sys.stdout.write(f"{name:<12} {suite_description(name)}\n")
    return 0
