"""The file that a tuning session writes: parts by the workers, merged when the session ends."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.atomic import write_json
from pytest_invarlock.evidence.strict_json import digest
from pytest_invarlock.path_names import slug, without_absolute_paths
from pytest_invarlock.policy.resources import names
from pytest_invarlock.policy.settings import SPECS
from pytest_invarlock.policy.tuned import model_key
from pytest_invarlock.policy.tuning_ladder import tuned_scenarios
from pytest_invarlock.provenance import tool_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.run_directory import RunDirectory

NAME = "tuned_edit_params.json"
SCHEMA = "tuned_edit_params_v1"
NOTES = (
    "The strongest step of each ladder at which every check passed on the tuning arm, whose "
    "documents no verdict rests on. No evidence by itself: run the suite with these parameters."
)
# Settings that say where results go or how they are shown, and those written apart.
_NO_ARGUMENTS = frozenset(
    ("suite", "tier", "profile", "tune", "tuned", "out", "signing-key", "no-pack", "no-html",
     "progress", "list-suites", "resume")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TunedFile:
    """The merged file of one run: where it is, its document, and the options that name its suite.

    ``arguments`` are as they were given: they may hold paths of this machine.
    """

    path: Path
    document: Mapping[str, Any]
    arguments: tuple[str, ...]


def write_part(
    run: RunDirectory,
    session: Mapping[str, Any],
    model: str,
    edit: str,
    entry: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> None:
    """Write what was tuned for one model and edit; each worker writes its own parts.

    ``session`` is the `session_document` of the run.

    Raises EvidenceError where the run's folder cannot be written.
    """
    folder = run.state / "tuning"
    part = {
        "model": model,
        "edit": edit,
        "entry": dict(entry),
        "evidence": dict(evidence),
        "session": dict(session),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{slug(model)}--{slug(edit)}.json", part)
    except OSError as error:
        raise _unwritable(run, error) from error


def session_document(suite: Suite, settings: Settings) -> dict[str, Any]:
    """What is the same for all parts of a run: suite, tier, profile, command, what is planned.

    ``arguments`` stay in the run's state: they are as given, and may hold paths of this machine.
    """
    arguments = suite_arguments(suite, settings)
    return {
        "arguments": arguments,
        "suite": suite.name,
        "suite_reference": _reference(suite),
        "tier": suite.policy.tier,
        "profile": suite.policy.profile,
        "policy_digest": digest(suite.policy.document()),
        "command": shlex.join(["pytest", *map(portable, arguments), "--invarlock-tune"]),
        "planned": [
            {"model": model_key(pair.baseline), "edit": scenario.edit.name}
            for pair in suite.pairs
            for scenario in tuned_scenarios(suite.clean)
            if scenario.edit is not None
        ],
    }


def suite_arguments(suite: Suite, settings: Settings) -> list[str]:
    """The options that load ``suite`` again as it was: every setting made, wherever it was made.

    Profile and tier stand there in any case, as their defaults hang on the machine; a tier that is
    a file the suite file names is left to that.
    """
    made = [
        f"--invarlock-{name}" if SPECS[name].flag else f"--invarlock-{name}={value}"
        for name, setting in settings.made.items()
        if name not in _NO_ARGUMENTS and not (SPECS[name].flag and not settings.flag(name))
        for value in (setting.values if SPECS[name].repeatable else setting.values[-1:])
    ]
    tier = settings.text("tier") or suite.policy.tier
    if "tier" in settings.made or tier in names("tiers", ".yaml"):
        made.append(f"--invarlock-tier={tier}")
    return [
        f"--invarlock-suite={_reference(suite)}",
        *made,
        f"--invarlock-profile={suite.policy.profile}",
    ]


def _reference(suite: Suite) -> str:
    """What names the suite: a shipped name, or its file below the root folder."""
    return suite.name if suite.node_prefix == f"invarlock/{suite.name}" else suite.node_prefix


def portable(argument: str) -> str:
    """An option without the folders of this machine: paths from here, others by their last name."""
    option, equals, value = argument.partition("=")
    kind, colon, rest = value.partition(":")
    if colon and rest.startswith(("/", "~")):
        return f"{option}={kind}:{_portable_path(rest)}"
    if value.startswith(("/", "~")):
        return f"{option}={_portable_path(value)}"
    return f"{option}{equals}{without_absolute_paths(value)}"


def _portable_path(text: str) -> str:
    path = Path(os.path.expanduser(text))  # noqa: PTH111  Path's own raises for unknown users
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def write_tuned_file(run: RunDirectory) -> TunedFile | None:
    """Merge the parts of a run into `NAME`; None where nothing was tuned.

    A file that lacks some of what was planned says so: status ``partial``, and ``missing``.

    Raises EvidenceError where the run's folder cannot be written.
    """
    parts = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((run.state / "tuning").glob("*.json"))
    ]
    if not parts:
        return None
    models: dict[str, dict[str, Any]] = {}
    evidence: dict[str, dict[str, Any]] = {}
    for part in parts:
        models.setdefault(part["model"], {})[part["edit"]] = part["entry"]
        evidence.setdefault(part["model"], {})[part["edit"]] = part["evidence"]
    session = dict(parts[0]["session"])
    arguments = tuple(session.pop("arguments"))
    missing = [
        planned
        for planned in session["planned"]
        if planned["edit"] not in models.get(planned["model"], {})
    ]
    document = {
        "_meta": {
            "schema": SCHEMA,
            "status": "partial" if missing else "complete",
            "missing": missing,
            "generated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "notes": NOTES,
            "tool": f"pytest-invarlock {tool_version()}",
            **session,
            "evidence": evidence,
        },
        "models": models,
    }
    path = run.path / NAME
    try:
        write_json(path, document)
    except OSError as error:
        raise _unwritable(run, error) from error
    return TunedFile(path, document, arguments)


def _unwritable(run: RunDirectory, error: OSError) -> EvidenceError:
    return EvidenceError(
        f"{run.run_id}: cannot be written: {error.strerror}",
        remedy="give a writable folder with --invarlock-out",
        code="OUT_UNWRITABLE",
    )
