"""Whether a guard that could not be prepared is always an ERROR, or may only warn at the desk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.settings import Settings

SETTING = "guard-prepare-strict"
KEY = "strict_guard_prepare"
LOOSE_PROFILE = "dev"
"""The only profile in which it may be loosened."""
_NO = ("0", "false")


def loosened_by(value: Mapping[str, Any], settings: Settings) -> str | None:
    """Where strictness is asked to be given up: the setting's name, or ``suite file``; else None.

    A setting beats the document, either way.
    """
    text = settings.choice(SETTING, ("0", "1", "false", "true"))
    if text is not None:
        return settings.made[SETTING].origin if text in _NO else None
    return "suite file" if value.get("run", {}).get(KEY) is False else None


def is_strict(value: Mapping[str, Any], settings: Settings, profile: str) -> bool:
    """Whether a guard that could not be prepared is an ERROR in mode ``monitor`` too."""
    return profile != LOOSE_PROFILE or loosened_by(value, settings) is None


def preparation_notes(
    value: Mapping[str, Any], settings: Settings, profile: str
) -> tuple[str, ...]:
    """What user and certificate are told of it."""
    origin = loosened_by(value, settings)
    if origin is None:
        return ()
    where = f"run.{KEY} of the suite file" if origin == "suite file" else origin
    if is_strict(value, settings, profile):
        return (f"{where} is not followed: guards are prepared strictly in profile {profile}",)
    return (
        f"{where}: a monitoring guard that could not be prepared only warns; no release evidence",
    )
