"""The machine and the user's settings: versions, device, key, output folder, old variables."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.doctor.findings import Finding, of_error
from pytest_invarlock.errors import ConfigError, InvarlockError, SigningKeyError
from pytest_invarlock.evidence.keys import load_private_key, user_signing_key_path
from pytest_invarlock.policy.migration import old_variables_set
from pytest_invarlock.policy.settings import SETTINGS, Settings
from pytest_invarlock.provenance import library_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_OUT = "invarlock-out"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a run would find on this machine, and what was found wanting."""

    versions: Mapping[str, str]
    device: str | None
    hub_cache: Mapping[str, Any]
    signing_key: str
    settings: Mapping[str, str]
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """The environment as plain JSON values; findings stand elsewhere."""
        return {
            "versions": dict(self.versions),
            "device": self.device,
            "hub_cache": dict(self.hub_cache),
            "signing_key": self.signing_key,
            "settings": dict(self.settings),
        }


def look_at_environment(
    settings: Settings, variables: Mapping[str, str], *, device: str
) -> Environment:
    """Look at what does not depend on a file; ``device`` is the one asked for."""
    resolved, findings = _device(device)
    key, key_findings = _signing_key(settings.text("signing-key") or "auto")
    findings += key_findings
    findings += _settings_findings(settings)
    findings += _old_variables(variables)
    return Environment(
        versions=library_versions(),
        device=resolved,
        hub_cache=_hub_cache(settings),
        signing_key=key,
        settings={name: made.origin for name, made in settings.made.items()},
        findings=tuple(findings),
    )


def check_output_folder(out: Path) -> list[Finding]:
    """Whether ``out`` can be written; `preflight.outlook` tells whether it has room."""
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    # A file system of no size, such as /proc, takes no files, whatever its permissions say.
    is_writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not is_writable or usage.total == 0:
        return [
            Finding(
                "OUT_UNWRITABLE", "error", f"{out}: cannot be written",
                remedy="give a writable folder", key="out",
            )
        ]  # fmt: skip
    return []


def _device(asked: str) -> tuple[str | None, list[Finding]]:
    if asked == "cpu":
        return "cpu", []
    try:
        from pytest_invarlock.core.determinism import resolve_device
    except (ImportError, OSError) as error:
        return None, [
            Finding(
                "NO_TORCH", "error", f"torch cannot be imported: {error}",
                remedy="install torch for this machine",
            )
        ]  # fmt: skip
    try:
        return resolve_device(asked), []
    except ConfigError as error:
        return None, [of_error(error)]


def _signing_key(chosen: str) -> tuple[str, list[Finding]]:
    """What a pack would be signed with, in a word, and what stands against it."""
    if chosen == "none":
        return "none", [
            Finding(
                "UNSIGNED", "warning", "packs are not signed: nobody can tell who made them",
                remedy="leave out --invarlock-signing-key=none", key="signing-key",
            )
        ]  # fmt: skip
    path = user_signing_key_path() if chosen == "auto" else Path(chosen)
    if chosen == "auto" and not path.exists():
        return "made on first use", [
            Finding(
                "KEY_ON_FIRST_USE", "note", "the first run makes a signing key of your own",
                remedy="or make one with `invarlock evidence-pack keygen FILE`", key="signing-key",
            )
        ]  # fmt: skip
    try:
        load_private_key(path)
    except SigningKeyError as error:
        return "unusable", [of_error(error)]
    return "own" if chosen == "auto" else "file", []


def _settings_findings(settings: Settings) -> list[Finding]:
    """Every setting whose value is none of its own; `Settings.check` tells only the first."""
    findings = []
    for spec in SETTINGS:
        made = settings.made.get(spec.name)
        if made is not None:
            try:
                Settings({spec.name: made}).check()
            except InvarlockError as error:
                findings.append(of_error(error))
    return findings


def _old_variables(variables: Mapping[str, str]) -> list[Finding]:
    """Every variable of the original that is set; never its value, which may be a secret."""
    findings = []
    own = {spec.environment for spec in SETTINGS}
    for name, old in old_variables_set(variables):
        if old.dropped is not None:
            text = f"{name} of the original is set, and is not read"
            findings.append(Finding("OLD_VARIABLE_DROPPED", "warning", text, old.dropped, key=name))
        elif old.setting is not None and name not in own:
            new = "INVARLOCK_" + old.setting.replace("-", "_").upper()
            text = f"{name} of the original is set, and is read as {new}"
            findings.append(Finding("OLD_VARIABLE", "note", text, f"rename it to {new}", key=name))
        else:
            reader = old.honoured or (old.of and f"data provider {old.of}") or "this plugin"
            text = f"{name} is set, and is read by {reader}"
            findings.append(Finding("OLD_VARIABLE", "note", text, key=name))
    return findings


def _hub_cache(settings: Settings) -> dict[str, Any]:
    """The Hub client's cache: whether it is there, how much it holds, whether it may be added to.

    A flag that is neither on nor off is told among the findings, and counts as off here.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    return {
        "exists": folder.is_dir(),
        "models": sum(1 for _ in folder.glob("models--*")),
        "datasets": sum(1 for _ in folder.glob("datasets--*")),
        "network": (settings.text("allow-network") or "").lower() in ("1", "true", "yes", "on"),
    }
