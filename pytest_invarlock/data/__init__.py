"""Evaluation data: providers of documents, and the windows cut and drawn from them."""

from __future__ import annotations

from pytest_invarlock.data.providers import Provider, get_provider
from pytest_invarlock.data.windows import WindowSet, draw_windows

__all__ = ["Provider", "WindowSet", "draw_windows", "get_provider"]
