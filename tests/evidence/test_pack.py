"""Under its final name a pack is whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence import pack as pack_module
from pytest_invarlock.evidence.keys import fingerprint, load_public_key
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.plan import PlannedScenario

CONTROL = {"manifest.json", "checksums.sha256", "manifest.signature.json"}


def names_in(path: Path) -> set[str]:
    return {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}


def code_of(*arguments: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        seal_pack(*arguments)
    return caught.value.code


def test_a_failure_at_any_write_leaves_nothing(
    tmp_path, files, header, key, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    calls: list[int] = []
    failures: dict[int, BaseException] = {}

    def counting(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) in failures:
            raise failures[len(calls)]
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    seal_pack(tmp_path / "whole", files, header, key)
    n_syncs = len(calls)
    assert n_syncs > len(files)
    for failure in (KeyboardInterrupt(), OSError(28, "No space left on device")):
        for nth in range(1, n_syncs):  # the last one follows the rename
            calls.clear()
            failures.clear()
            failures[nth] = failure
            with pytest.raises(type(failure)):
                seal_pack(tmp_path / "pack", files, header, key)
            assert sorted(p.name for p in tmp_path.iterdir()) == ["whole"]


def test_ctrl_c_while_signing_leaves_nothing(
    tmp_path, files, header, key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dsse, "sign", interrupt)
    (tmp_path / "pack").mkdir()
    with pytest.raises(KeyboardInterrupt):
        seal_pack(tmp_path / "pack", files, header, key)
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]
    assert not list((tmp_path / "pack").iterdir())


def test_every_file_is_listed_hashed_and_signed(pack, files, header) -> None:
    found = names_in(pack.path)
    assert found == {*files, "metadata/signer.pub.pem", *CONTROL}
    manifest = pack.json("manifest.json")
    assert [f["path"] for f in manifest["files"]] == sorted(found - CONTROL)
    for entry in manifest["files"]:
        data = (pack.path / entry["path"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    subjects = {s["name"]: s["digest"]["sha256"] for s in pack.body()["subject"]}
    assert set(subjects) == found - {"manifest.signature.json"}
    for name, sha256 in subjects.items():
        assert hashlib.sha256((pack.path / name).read_bytes()).hexdigest() == sha256


def test_manifest_says_what_the_header_says(pack, header) -> None:
    data = (pack.path / "manifest.json").read_bytes()
    manifest = parse_manifest(data)
    expected = dataclasses.replace(header, planned=tuple(sorted(header.planned)))
    assert manifest.header == expected
    assert manifest.signer == pack.fingerprint == pack.sealed.fingerprint
    assert pack.sealed.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    signer = load_public_key(pack.path / "metadata/signer.pub.pem")
    assert fingerprint(signer) == pack.fingerprint


def test_equal_inputs_give_equal_bytes(make_pack) -> None:
    one, two = make_pack("one"), make_pack("two")
    assert one.sealed.digest == two.sealed.digest
    for name in names_in(one.path):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_an_unsigned_pack_says_so(make_pack) -> None:
    pack = make_pack(signer=None)
    assert pack.json("manifest.json")["signing"] == {"fingerprint": None, "unsigned": True}
    assert pack.sealed.fingerprint is None
    assert not {"manifest.signature.json", "metadata/signer.pub.pem"} & names_in(pack.path)


def test_regular_files_are_copied_not_linked(tmp_path, files, header, key) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * (3 * 2**20 + 5))
    seal_pack(tmp_path / "pack", {**files, "records/big.bin": source}, header, key)
    copy = tmp_path / "pack/records/big.bin"
    source.write_bytes(b"changed")
    assert copy.stat().st_nlink == 1
    assert copy.stat().st_size == 3 * 2**20 + 5


def test_sources_that_are_no_regular_files_are_refused(tmp_path, files, header, key) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, code in (
        ("link", "NOT_REGULAR"),
        ("pipe", "NOT_REGULAR"),
        ("absent", "UNREADABLE_SOURCE"),
        (".", "NOT_REGULAR"),
    ):
        before = sorted(p.name for p in tmp_path.iterdir())
        sources = {**files, "x": tmp_path / name}
        assert code_of(tmp_path / "pack", sources, header, key) == code
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_existing_destination_is_never_written_over(tmp_path, files, header, key) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "to_empty").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in ("full", "file", "dangling", "to_empty"):
        assert code_of(tmp_path / name, files, header, key) == "PACK_EXISTS"
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    seal_pack(tmp_path / "empty", files, header, key)
    assert (tmp_path / "empty/manifest.json").is_file()


def test_a_file_that_appears_while_sealing_is_kept(
    tmp_path, files, header, key, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pack_module._publish

    def publish(staging: Path, destination: Path) -> None:
        destination.mkdir()
        (destination / "mine").write_bytes(b"mine")
        real(staging, destination)

    monkeypatch.setattr(pack_module, "_publish", publish)
    assert code_of(tmp_path / "pack", files, header, key) == "PACK_EXISTS"
    assert names_in(tmp_path) == {"pack/mine"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("manifest.json", "RESERVED_PATH"),
        ("metadata/signer.pub.pem", "RESERVED_PATH"),
        ("Manifest.json", "DUPLICATE_SUBJECT"),
        ("EMPTY", "DUPLICATE_SUBJECT"),
        ("empty/x", "BAD_PATH"),
        ("../x", "BAD_PATH"),
        ("/x", "BAD_PATH"),
        ("a b", "BAD_PATH"),
    ],
)
def test_paths_that_a_pack_cannot_hold_are_refused(
    tmp_path, files, header, key, path: str, code: str
) -> None:
    assert code_of(tmp_path / "pack", {**files, path: b""}, header, key) == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"verdict": "PASSED"}, "MANIFEST_SCHEMA"),
        ({"plan_digest": "abc"}, "MANIFEST_SCHEMA"),
        ({"plan_digest": "sha256:" + "ab" * 32 + "\n"}, "MANIFEST_SCHEMA"),
        ({"created_at": "2026-11-20 12:00"}, "MANIFEST_SCHEMA"),
        ({"run_id": ""}, "MANIFEST_SCHEMA"),
        ({"run_id": "a\x1b[2J"}, "MANIFEST_SCHEMA"),
        ({"suite": "demo\n"}, "MANIFEST_SCHEMA"),
        ({"planned": ()}, "MANIFEST_SCHEMA"),
        ({"planned": (PlannedScenario("m", "s", 0),)}, "MANIFEST_SCHEMA"),
        ({"planned": (PlannedScenario("m", "s", 2, (3, 3)),)}, "MANIFEST_SCHEMA"),
        ({"references": {"environment": "empty"}}, "MANIFEST_SCHEMA"),
        ({"references": {"environment": "absent"}}, "MANIFEST_REFERENCE"),
    ],
)
def test_a_header_that_breaks_the_schema_is_refused(
    tmp_path, files, header, key, changes: dict[str, Any], code: str
) -> None:
    bad = dataclasses.replace(header, **changes)
    assert code_of(tmp_path / "pack", files, bad, key) == code
    assert not list(tmp_path.iterdir())


def test_the_manifest_reader_refuses_what_the_writer_never_writes(pack) -> None:
    def code(change: Any) -> str:
        manifest = pack.json("manifest.json")
        change(manifest)
        with pytest.raises(EvidenceError) as caught:
            parse_manifest(json.dumps(manifest).encode())
        return caught.value.code

    def set_path(manifest: Any) -> None:
        manifest["files"][-1]["path"] = "zz/../x"

    def add_control(manifest: Any) -> None:
        manifest["files"].append({"path": "manifest.json", "bytes": 1, "sha256": "0" * 64})
        manifest["files"].sort(key=lambda f: f["path"])

    assert code(lambda m: m.update(extra=1)) == "MANIFEST_SCHEMA"
    assert code(lambda m: m["run"].update(dir="/home/x")) == "MANIFEST_SCHEMA"
    assert code(lambda m: m["signing"].update(unsigned=True)) == "MANIFEST_SCHEMA"
    assert code(lambda m: m["files"].reverse()) == "MANIFEST_LISTING"
    assert code(lambda m: m["planned"].reverse()) == "MANIFEST_LISTING"
    assert code(lambda m: m["planned"].append(m["planned"][-1])) == "MANIFEST_LISTING"
    assert code(lambda m: m["planned"][0].update(seeds=[1, 2, 3])) == "MANIFEST_LISTING"
    assert code(add_control) == "MANIFEST_LISTING"
    assert code(lambda m: m["files"].insert(0, m["files"][0])) == "DUPLICATE_SUBJECT"
    assert code(set_path) == "BAD_PATH"
    assert code(lambda m: m["references"]["policy"].update(sha256="0" * 64)) == "MANIFEST_REFERENCE"


def test_permissions_follow_the_umask(tmp_path, files, header, key) -> None:
    old = os.umask(0o022)
    try:
        seal_pack(tmp_path / "pack", files, header, key)
    finally:
        os.umask(old)
    assert (tmp_path / "pack").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "pack/manifest.json").stat().st_mode & 0o777 == 0o644
