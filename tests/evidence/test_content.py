"""Each file is opened once; what was hashed is what is judged; memory does not follow the pack."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.content import Content
from pytest_invarlock.evidence.findings import Finding
from pytest_invarlock.evidence.layout import PackFile
from pytest_invarlock.evidence.pack_directory import PackDirectory
from pytest_invarlock.evidence.strict_json import sha256_text

from .attacks_on_files import flip_a_byte, write_manifest
from .attacks_signed import endless_envelope
from .synthetic import FILES, KEY, REPORT, errors, sealed

MIB = 2**20


def reading(path: str, before: Any) -> Any:
    def rederive(verified: Any) -> list[Finding]:
        before()
        assert verified.read(path) == FILES[path]
        return []

    return rederive


def test_what_was_hashed_is_what_is_judged(pack: Any) -> None:
    """Row 36: a file swapped between the hash and the judgement is not the one that is judged."""
    report = pack.verify(reading(REPORT, lambda: flip_a_byte(pack)))
    assert report.ok


def test_a_file_beyond_the_budget_is_hashed_again(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 36: nothing is kept here, so that every file is read twice."""
    monkeypatch.setattr(Content.__init__, "__defaults__", (0,))
    assert pack.verify(reading(REPORT, lambda: None)).ok
    report = pack.verify(reading(REPORT, lambda: flip_a_byte(pack)))
    assert (errors(report), report.exit_status) == (["DIGEST_MISMATCH"], 6)
    assert report.findings[0].path == REPORT


@pytest.mark.parametrize("signer", [KEY, None])
def test_each_file_is_opened_once_and_never_through_a_link(
    make_pack: Any, signer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack(signer=signer)
    opened: Counter[str] = Counter()
    real = os.open

    def counting(path: Any, flags: int, *rest: Any, **given: Any) -> int:
        if not flags & os.O_DIRECTORY:
            assert flags & os.O_NOFOLLOW
            assert "dir_fd" in given
            inode = os.stat(path, **given, follow_symlinks=False).st_ino  # noqa: PTH116
            opened[str(inode)] += 1
        return real(path, flags, *rest, **given)

    monkeypatch.setattr(os, "open", counting)

    def read_all(verified: Any) -> list[Finding]:
        assert all(isinstance(verified.read(name), bytes) for name in verified.names())
        return []

    assert pack.verify(read_all).ok
    n_files = sum(path.is_file() for path in pack.path.rglob("*"))
    assert (len(opened), set(opened.values())) == (n_files, {1})


def test_a_late_worker_does_not_reach_the_pack(tmp_path: Path) -> None:
    """Row 37: the pack holds a copy, made by the one process that seals."""
    source = tmp_path / "evaluation.report.json"
    source.write_bytes(b'{"ratio": 1.01}\n')
    pack = sealed(tmp_path / "pack", files={**FILES, REPORT: source})
    source.write_bytes(b'{"ratio": 0.50}\n')
    source.unlink()
    assert pack.verify(reading(REPORT, lambda: None)).ok


def file_of(tmp_path: Path, name: str, data: bytes) -> PackFile:
    (tmp_path / name).write_bytes(data)
    return PackFile(name, len(data), sha256_text(data).removeprefix("sha256:"))


def test_no_more_is_kept_than_the_budget(tmp_path: Path) -> None:
    files = [file_of(tmp_path, f"f{index}", bytes([index]) * MIB) for index in range(8)]
    with PackDirectory(tmp_path) as directory:
        content = Content(directory, budget=3 * MIB)
        tracemalloc.start()
        for file in files:
            content.check(file)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 3.5 * MIB
        assert peak < 6 * MIB
        assert [content.read(file)[:1] for file in files] == [bytes([i]) for i in range(8)]
        (tmp_path / "f7").write_bytes(b"x" * MIB)
        with pytest.raises(EvidenceError, match="differs"):
            content.read(files[7])
        assert content.last_read == "f7"


@pytest.mark.parametrize(
    ("name", "size", "code"),
    [("f", 1, "SIZE_MISMATCH"), ("f", 2**40 + 1, "SIZE_MISMATCH"), ("absent", 1, "MISSING_FILE")],
)
def test_a_terabyte_is_refused_unread(tmp_path: Path, name: str, size: int, code: str) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(2**40)
    with PackDirectory(tmp_path) as directory:
        content = Content(directory)
        with pytest.raises(EvidenceError) as caught:
            content.check(PackFile(name, size, "0" * 64))
        assert caught.value.code == code
        with pytest.raises(EvidenceError) as caught:
            content.first("f", MIB)
        assert caught.value.code == "TOO_LARGE"


class Damaged(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def test_an_error_of_the_disk_is_a_finding(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdopen", lambda descriptor, _mode: Damaged(descriptor))
    report = pack.verify()
    assert (errors(report), report.exit_status) == (["UNREADABLE_FILE"], 6)


def test_the_planned_draws_are_counted_before_they_are_listed(pack: Any) -> None:
    manifest = pack.json("manifest.json")
    manifest["planned"] = [
        {"model": f"m{index:03}", "scenario": "s", "draws": 10_000} for index in range(100)
    ]
    write_manifest(pack, manifest)
    report = pack.verify()
    assert (errors(report), report.exit_status) == (["TOO_LARGE"], 4)


def test_what_a_pack_states_does_not_move_the_memory(pack: Any) -> None:
    """An honest pack takes as much as one whose every file is stated a gigabyte, or is one."""

    def peak_of(verify: Any) -> int:
        tracemalloc.start()
        verify()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return int(peak)

    pack.verify()
    honest = peak_of(pack.verify)
    body = pack.body()
    body["predicate"]["sizes"] = dict.fromkeys(body["predicate"]["sizes"], 2**26)
    pack.resign(body)
    for file in pack.path.rglob("*"):
        if file.is_file() and file.name.endswith("npz"):
            with file.open("r+b") as stream:
                stream.truncate(2**36)
    assert peak_of(pack.verify) < honest + MIB
    endless_envelope(pack)
    assert peak_of(pack.verify) < honest + MIB
