"""``metadata/environment.json``: with what a run was measured, and what it was allowed to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_invarlock.evidence.strict_json import canonical
from pytest_invarlock.provenance import library_versions, machine

if TYPE_CHECKING:
    from pytest_invarlock.records import Record

FORMAT = "invarlock-environment-v1"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a session's user allowed: use of the network, and running the code that models bring."""

    allow_network: bool = False
    allow_remote_code: bool = False


def permissions_of(environments: Iterable[Mapping[str, Any]]) -> Permissions:
    """What was allowed in any of several runs, of their environments."""
    blocks = [environment["runtime"] for environment in environments]
    return Permissions(
        allow_network=any(block["allow_network"] for block in blocks),
        allow_remote_code=any(block["allow_remote_code"] for block in blocks),
    )


def environment_document(
    records: Sequence[Record], permissions: Permissions, *, recorded_at: datetime | None = None
) -> dict[str, Any]:
    """The environment of a run as plain JSON values.

    Args:
        records: of the whole run; devices, determinism, versions and machine are those that they
            observed. Of records that observed neither, versions and machine are this process's.
        permissions: what the session was allowed.
        recorded_at: when this was noted; None: now. No container is ever used by this program,
            and it does not look whether it runs in one: ``execution_mode`` is ``host-bypass``.
    """
    stamp = (recorded_at or datetime.now(UTC)).astimezone(UTC)
    return {
        "format": FORMAT,
        "recorded_at": stamp.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": library_versions(),
        "machine": machine(),
        **measured_with(records),
        **observed(records),
        "execution_mode": "host-bypass",
        "runtime": {
            "image_ref": None,
            "image_digest": None,
            "container_execution": False,
            "allow_network": permissions.allow_network,
            "allow_remote_code": permissions.allow_remote_code,
            "allow_third_party_plugins": foreign_guards_asked(records),
        },
    }


def observed(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Each device and each state of the determinism flags (seeds aside) of a run, once."""
    seen = [record.observations for record in records]
    flags = [
        {key: value for key, value in one["determinism"].items() if key != "seed"}
        for one in seen
        if "determinism" in one
    ]
    return {
        "devices": _distinct(one["device"] for one in seen if "device" in one),
        "determinism": _distinct(flags),
    }


def measured_with(records: Sequence[Record]) -> dict[str, Any]:
    """Versions and machine as the first record that observed them has them; empty of none."""
    seen = {}
    for key in ("versions", "machine"):
        found = next((r.observations[key] for r in records if key in r.observations), None)
        if found is not None:
            seen[key] = dict(found)
    return seen


def foreign_guards_asked(records: Iterable[Record]) -> bool:
    """Whether code of another package's guard ran in some measurement."""
    return any(record.facts.attested for record in records)


def _distinct(values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = {canonical(dict(value)): dict(value) for value in values}
    return [found[key] for key in sorted(found)]
