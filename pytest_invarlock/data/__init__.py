"""Evaluation data: providers of documents, and the windows cut and drawn from them."""

from __future__ import annotations

from pytest_invarlock.data.providers import Provider
from pytest_invarlock.data.registry import get_provider
from pytest_invarlock.data.window_set import Window, WindowSet
from pytest_invarlock.data.windows import draw_windows

__all__ = ["Provider", "Window", "WindowSet", "draw_windows", "get_provider"]
