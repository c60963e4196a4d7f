"""What a signer can do to the documents and arrays of an honest run before sealing them again.

Each takes the run's files by path and returns those that are changed, None for one left out.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from .honest import ARRAYS, REPORT

Files = Mapping[str, bytes]
Changed = dict[str, bytes | None]
VERDICT = "results/final_verdict.json"
POLICY = "metadata/policy.json"
SCENARIOS = "metadata/scenarios.json"


def edited(path: str, change: Callable[[Any], Any]) -> Callable[[Files], Changed]:
    def make(files: Files) -> Changed:
        value = json.loads(files[path])
        change(value)
        return {path: json.dumps(value).encode()}

    return make


def repeat_a_key(files: Files) -> Changed:
    text = files[REPORT]
    return {REPORT: text.replace(b"{", b'{"convention": "x",', 1)}


def ratio_of(number: bytes) -> Callable[[Files], Changed]:
    def make(files: Files) -> Changed:
        value = json.loads(files[REPORT])
        value["primary_metric"]["ratio"] = "here"
        return {REPORT: json.dumps(value).encode().replace(b'"here"', number)}

    return make


def _look_passing(report: Any) -> None:
    report["primary_metric"]["ratio"] = 0.99
    for check in report["decision"]["checks"]:
        check["outcome"] = "PASS"


look_passing = edited(REPORT, _look_passing)
loosen_the_limit = edited(
    POLICY, lambda value: value["policies"][0]["primary_metric"].update(ratio_limit=1.9)
)
drop_the_decision = edited(VERDICT, lambda value: value["decisions"].clear())


def drop_the_record(files: Files) -> Changed:
    return dict.fromkeys((path for path in files if "/m/s/" in path), None)


def plan_one_more(files: Files) -> Changed:
    """A scenario that was planned, and of which nothing else is left; the manifest has it too."""
    value = json.loads(files[SCENARIOS])
    value["planned"].append({"model": "m", "scenario": "worse", "draws": 1})
    verdict = json.loads(files[VERDICT])
    verdict["planned"] = value["planned"]
    return {SCENARIOS: json.dumps(value).encode(), VERDICT: json.dumps(verdict).encode()}


# --- archives ------------------------------------------------------------------------------------


def arrays(change: Callable[[bytes], bytes]) -> Callable[[Files], Changed]:
    return lambda files: {ARRAYS: change(files[ARRAYS])}


def members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def archive_of(
    content: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, member in content:
            archive.writestr(zipfile.ZipInfo(name), member, method)
        archive.comment = comment
    return buffer.getvalue()


def directory_of(data: bytes) -> int:
    """Where the archive's directory begins."""
    return int(struct.unpack_from("<I", data, len(data) - 6)[0])


def with_entry_at(data: bytes, entry: int, field: int, value: bytes) -> bytes:
    """The archive with bytes at an offset of its ``entry``-th directory entry changed."""
    place = directory_of(data)
    for _ in range(entry):
        n_name, n_extra, n_comment = struct.unpack_from("<3H", data, place + 28)
        place += 46 + n_name + n_extra + n_comment
    return data[: place + field] + value + data[place + field + len(value) :]


def overlapping(data: bytes) -> bytes:
    """The second member is said to begin where the first does."""
    return with_entry_at(data, 1, 42, struct.pack("<I", 0))


def bomb(data: bytes) -> bytes:
    """A member that expands a thousandfold."""
    (name, _), *others = members(data)
    return archive_of([(name, bytes(20_000_000)), *others], zipfile.ZIP_DEFLATED)


def counted_wrong(data: bytes) -> bytes:
    """The end of the directory states 65535 members."""
    return data[:-14] + struct.pack("<HH", 0xFFFF, 0xFFFF) + data[-10:]


def padded(data: bytes) -> bytes:
    """A megabyte that belongs to no member, between the last and the directory."""
    start = directory_of(data)
    hidden = bytes(1_000_000)
    moved = data[:start] + hidden + data[start:]
    return moved[:-6] + struct.pack("<I", start + len(hidden)) + moved[-2:]


def zip64(data: bytes) -> bytes:
    """A second end of the directory, which states other numbers and would be believed."""
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, 2**30, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(data) - 22, 1)
    return data[:-22] + end + locator + data[-22:]


def with_extra(data: bytes) -> bytes:
    """A member with a field of its own in its header: bytes that no array holds."""
    first, *others = members(data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(first[0])
        info.extra = struct.pack("<HH", 0x9999, 4) + b"note"
        archive.writestr(info, first[1])
        for name, member in others:
            archive.writestr(zipfile.ZipInfo(name), member)
    return buffer.getvalue()


ARCHIVES: Mapping[str, Callable[[bytes], bytes]] = {
    "no archive": lambda _: b"PK",
    "cut off": lambda data: data[:-1],
    "a member twice": lambda data: archive_of(members(data)[1:] + members(data)[1:2]),
    "a member more": lambda data: archive_of([*members(data), ("more.npy", b"")]),
    "a member less": lambda data: archive_of(members(data)[:-1]),
    "a member above the archive": lambda data: archive_of(
        [("../" + members(data)[0][0], members(data)[0][1]), *members(data)[1:]]
    ),
    "compressed": lambda data: archive_of(members(data), zipfile.ZIP_DEFLATED),
    "a bomb": bomb,
    "overlapping members": overlapping,
    "encrypted": lambda data: with_entry_at(data, 0, 8, b"\x01\x00"),
    "a comment": lambda data: archive_of(members(data), comment=b"x" * 100),
    "a stated count of members": counted_wrong,
    "bytes between the members": padded,
    "bytes before the members": lambda data: b"x" + data,
    "a field of its own": with_extra,
    "a second directory": zip64,
    "a byte of an array": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    "another header": lambda data: archive_of(
        [(name, member.replace(b"False", b"True ")) for name, member in members(data)]
    ),
}
