"""``invarlock evidence-pack inspect``: a pack's own words, told as such."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Pack

NOT_VERIFIED = "NOT VERIFIED: this is what the pack says of itself; `invarlock verify` checks it"


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(path: Any, *arguments: str) -> tuple[int, str, str]:
        status = main(["evidence-pack", "inspect", str(path), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_it_says_first_that_nothing_is_verified(inspect: Any, pack: Pack) -> None:
    status, out, _ = inspect(pack.path)
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == NOT_VERIFIED
    assert "verdict  PASS" in lines
    assert f"signer   says {pack.fingerprint}" in lines
    assert f"digest   {pack.sealed.digest}" in lines
    assert "planned  2 scenarios of 1 models, 3 records" in lines
    names = [file["path"] for file in pack.json("manifest.json")["files"]]
    records = sum(name.endswith(".record.json") for name in names)
    reports = sum(name.endswith("evaluation.report.json") for name in names)
    held = f"holds    {records} records, {reports} certificates, {len(names)} files, "
    assert any(line.startswith(held) for line in lines)


def test_json_holds_the_same(inspect: Any, pack: Pack) -> None:
    found = json.loads(inspect(pack.path, "--json")[1])
    assert (found["verified"], found["stated_verdict"]) == (False, "PASS")
    assert found["stated_signer"] == found["packed_key"] == pack.fingerprint
    assert found["folders"]["metadata/"]["files"] == 4
    assert not found["missing"]
    assert not found["unlisted"]


def test_an_unsigned_pack_is_told_as_one(inspect: Any, make_pack: Any) -> None:
    found = make_pack(signer=None)
    assert "signer   unsigned" in inspect(found.path)[1].splitlines()


def test_a_signature_that_is_gone_is_told(inspect: Any, pack: Pack) -> None:
    (pack.path / "manifest.signature.json").unlink()
    assert "but holds no signature" in inspect(pack.path)[1]


def test_a_key_that_was_swapped_is_told(inspect: Any, pack: Pack) -> None:
    (pack.path / "metadata/signer.pub.pem").write_bytes(b"no key")
    assert "and holds another key or none" in inspect(pack.path)[1]


def test_what_lies_there_and_is_not_listed_is_shown_plainly(inspect: Any, pack: Pack) -> None:
    (pack.path / "\x1b[2Jx").write_bytes(b"")
    (pack.path / "empty").unlink()
    (pack.path / "link").symlink_to("/etc/passwd")
    for n in range(12):
        (pack.path / f"more{n}").write_bytes(b"")
    status, out, _ = inspect(pack.path)
    assert status == 0
    assert {"missing: empty", "unlisted: \\x1b[2Jx", "unlisted: 4 more"} <= set(out.splitlines())
    assert "\x1b" not in out
    assert "\x1b" not in inspect(pack.path, "--json")[1]


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 4), (b"{}", 4), (b"[" * 9999, 4), (b"\xff", 4), (b"1" * 9999, 4)]
)
def test_a_manifest_that_is_none_is_malformed(
    inspect: Any, pack: Pack, content: bytes, status: int
) -> None:
    (pack.path / "manifest.json").write_bytes(content)
    assert inspect(pack.path)[0] == status


def test_nothing_outside_is_read(inspect: Any, pack: Pack) -> None:
    target = pack.path.parent / "elsewhere.json"
    (pack.path / "manifest.json").rename(target)
    (pack.path / "manifest.json").symlink_to(target)
    status, _, err = inspect(pack.path)
    assert status == 6
    assert "SYMLINK" in err


def test_a_fifo_for_a_manifest_does_not_hang(inspect: Any, pack: Pack) -> None:
    import os

    (pack.path / "manifest.json").unlink()
    os.mkfifo(pack.path / "manifest.json")
    assert inspect(pack.path)[0] == 6


def test_what_is_not_there_is_missing(inspect: Any, pack: Pack) -> None:
    assert inspect(pack.path / "absent")[0] == 3
    (pack.path / "manifest.json").unlink()
    assert inspect(pack.path)[0] == 3
