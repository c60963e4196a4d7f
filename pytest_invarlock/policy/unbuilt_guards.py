"""Guards whose configuration is checked, and which this version does not run."""

from __future__ import annotations

from collections.abc import Sequence

NOT_BUILT = ("spectral", "rmt", "variance")
STATUS = "not_built"


def note_of(guard: str) -> str:
    """What a plan notes of a guard that was asked for."""
    return f"guard {guard}: not built in this version"


def unbuilt_guards(notes: Sequence[str]) -> dict[str, dict[str, str]]:
    """The guards that a plan's notes say were asked for, by name, as records state them."""
    return {guard: {"status": STATUS} for guard in NOT_BUILT if note_of(guard) in notes}
