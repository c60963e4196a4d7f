"""Regression gates for changed language models, with evidence others can check."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-invarlock")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
