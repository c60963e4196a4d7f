"""Edits: changes people make to a model on purpose, applied in place through a journal."""

from __future__ import annotations

from pytest_invarlock.edits.registry import apply_edit

__all__ = ["apply_edit"]
