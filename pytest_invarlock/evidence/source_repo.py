"""``metadata/source_repo.json``: the state of the user's repository, from git or a marker file.

Nothing of where it lies is kept: no path, no credentials, no address that only this machine knows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.path_names import without_absolute_paths

FORMAT = "invarlock-source-repo-v1"
MARKER = "GPU_RUN_SOURCE.txt"
MARKER_VARIABLE = "INVARLOCK_SOURCE_REPO_MARKER"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MARKED = {
    "source_commit": "commit",
    "source_branch": "branch",
    "source_describe": "describe",
    "source_uri": "uri",
    "source_dirty": "dirty",
}
_SECONDS = 20
_SCP_LIKE = re.compile(r"(?:[^@/:\s]+@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^/\s][^\s]*)")


def read_source_repo(
    root: Path, environment: Mapping[str, str], *, leaving_out: Path | None = None
) -> dict[str, Any] | None:
    """Commit, branch, description, origin and dirty state; None where there is neither.

    Args:
        root: the folder whose repository it is; git is asked first.
        environment: ``INVARLOCK_SOURCE_REPO_MARKER`` names another marker than
            ``GPU_RUN_SOURCE.txt`` in ``root``, for a tree that was copied without its history.
        leaving_out: a folder that does not make the repository dirty: our own output.

    Raises:
        ConfigError: the marker is there and names no commit, or one is named that is not there.
    """
    return _from_git(root, leaving_out) or _from_marker(root, environment)


def _from_git(root: Path, leaving_out: Path | None) -> dict[str, Any] | None:
    # Sessions outside any repository start no process.
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        return None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    top = _git(root, "rev-parse", "--show-toplevel") if commit is not None else None
    if commit is None or top is None or not _COMMIT.fullmatch(commit):
        return None
    aside = _below(leaving_out, Path(top))
    status = _git(
        Path(top),
        "status",
        "--porcelain",
        "--",
        ".",
        *([f":(exclude,literal){aside}"] if aside else []),
    )
    if status is None:
        return None
    branch = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    uri = public_uri(_git(root, "config", "--get", "remote.origin.url") or "")
    return {
        "format": FORMAT,
        "origin": "git",
        "commit": commit,
        "branch": branch,
        "describe": _git(root, "describe", "--tags", "--always", "--dirty"),
        "dirty": bool(status),
        **({} if uri is None else {"uri": uri}),
    }


def _below(folder: Path | None, top: Path) -> str | None:
    if folder is None or not folder.resolve().is_relative_to(top.resolve()):
        return None
    text = folder.resolve().relative_to(top.resolve()).as_posix()
    return None if text == "." else text


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers; None where it cannot, is not installed, or refuses the folder."""
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a folder that the user named
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _from_marker(root: Path, environment: Mapping[str, str]) -> dict[str, Any] | None:
    named = environment.get(MARKER_VARIABLE)
    path = root / (Path(named).expanduser() if named else MARKER)
    if not named and not path.is_file():
        return None
    try:
        stated = _marked(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_marker(path.name, "cannot be read") from error
    commit = stated.get("commit", "")
    if not _COMMIT.fullmatch(commit):
        raise _bad_marker(path.name, "source_commit is not 40 lower-case hex digits")
    dirty = stated.get("dirty", "").lower()
    uri = public_uri(stated.get("uri", ""))
    return {
        "format": FORMAT,
        "origin": "marker",
        "commit": commit,
        "branch": stated.get("branch"),
        "describe": stated.get("describe"),
        "dirty": {"true": True, "1": True, "false": False, "0": False}.get(dirty),
        **({} if uri is None else {"uri": uri}),
    }


def _marked(text: str) -> dict[str, str]:
    """The values of a marker: lines of ``source_commit=…`` or ``source_commit: …``, or JSON."""
    if text.lstrip().startswith("{"):
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        pairs = {key: str(value) for key, value in loaded.items() if value is not None}
    else:
        split = (re.split(r"\s*[=:]\s*", line.strip(), maxsplit=1) for line in text.splitlines())
        pairs = {parts[0]: parts[1] for parts in split if len(parts) == 2 and parts[1]}
    return {_MARKED[key]: value for key, value in pairs.items() if key in _MARKED}


def _bad_marker(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"{name}: {what}",
        remedy="write source_commit=<the commit, 40 hex digits>, or remove the marker",
        code="SOURCE_MARKER",
    )


def public_uri(text: str) -> str | None:
    """``git+https://host/path`` of a remote, without user, password, query or port of a proxy.

    None for a local folder, and for a host without a domain, which only its own network knows.
    """
    text = text.strip().removeprefix("git+")
    scp = _SCP_LIKE.fullmatch(text) if "://" not in text else None
    if scp is not None:
        scheme, host, path = "ssh", scp["host"], "/" + scp["path"]
    else:
        try:
            parts = urlsplit(text)
            scheme, host, path = parts.scheme, parts.hostname or "", parts.path
        except ValueError:
            return None
    if scheme not in ("https", "http", "ssh", "git") or "." not in host.strip(".") or not path:
        return None
    if without_absolute_paths(path.lstrip("/")) != path.lstrip("/") or host.endswith(".local"):
        return None
    return f"git+{scheme}://{host}{path}"
