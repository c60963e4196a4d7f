"""Text that may come from a stranger's pack, as it may stand on a terminal."""

from __future__ import annotations


def plain(text: str, most: int = 2000) -> str:
    """``text`` without control sequences, of at most ``most`` characters."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return shown if len(text) <= most else f"{shown}…"
