"""What an attacker, or a careless signer, does to the files of a pack and to their lists.

Each takes a sealed `Pack`, changes it, and may return the verify options that belong to the attack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from typing import Any

from pytest_invarlock.evidence.layout import PackFile, checksums_text

from .synthetic import ENVELOPE, REPORT, VERDICT, Pack


def edit_checksums(pack: Pack) -> None:
    """What an attacker does after editing a file: make sha256sum content again."""
    listed = []
    for path in sorted(p for p in pack.path.rglob("*") if p.is_file()):
        data = path.read_bytes()
        name = path.relative_to(pack.path).as_posix()
        listed.append(PackFile(name, len(data), hashlib.sha256(data).hexdigest()))
    (pack.path / "checksums.sha256").write_bytes(checksums_text(listed))


def reseal_body(pack: Pack) -> Any:
    """The statement with digests and sizes of the files as they are now."""
    body = pack.body()
    for subject in body["subject"]:
        data = (pack.path / subject["name"]).read_bytes()
        subject["digest"]["sha256"] = hashlib.sha256(data).hexdigest()
        body["predicate"]["sizes"][subject["name"]] = len(data)
    manifest = (pack.path / "manifest.json").read_bytes()
    body["predicate"]["manifest_digest"] = "sha256:" + hashlib.sha256(manifest).hexdigest()
    return body


def edit_report(pack: Pack) -> None:
    (pack.path / REPORT).write_bytes(b'{"ratio": 0.99}\n')


def flip_a_byte(pack: Pack) -> None:
    path = pack.path / REPORT
    path.write_bytes(path.read_bytes().replace(b"1.01", b"1.00"))


def edit_and_regenerate_checksums(pack: Pack) -> None:
    edit_report(pack)
    edit_checksums(pack)


def add_a_file(name: str, **options: Any) -> Callable[[Pack], dict[str, Any]]:
    def change(pack: Pack) -> dict[str, Any]:
        (pack.path / name).write_bytes(b"{}")
        return options

    return change


def remove(name: str) -> Callable[[Pack], None]:
    return lambda pack: (pack.path / name).unlink()


def remove_a_directory(pack: Pack) -> None:
    shutil.rmtree(pack.path / "reports")


def remove_pack(pack: Pack) -> None:
    shutil.rmtree(pack.path)


def file_instead_of_pack(pack: Pack) -> None:
    shutil.rmtree(pack.path)
    pack.path.write_bytes(b"")


def link_to_a_copy(name: str) -> Callable[[Pack], None]:
    """``name``, a file or directory, is moved out of the pack and replaced by a link to it."""

    def change(pack: Pack) -> None:
        copy = pack.path.parent / "moved"
        shutil.move(pack.path / name, copy)
        (pack.path / name).symlink_to(copy)

    return change


def link_inside(pack: Pack) -> None:
    (pack.path / REPORT).unlink()
    (pack.path / REPORT).symlink_to(pack.path / VERDICT)


def add_a_dangling_link(pack: Pack) -> None:
    (pack.path / "extra").symlink_to("nowhere")


def hard_link(pack: Pack) -> None:
    os.link(pack.path / REPORT, pack.path.parent / "elsewhere")


def replace_by_a_pipe(name: str) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        (pack.path / name).unlink()
        os.mkfifo(pack.path / name)

    return change


def add_a_socket(pack: Pack) -> None:
    # By a relative name: the length of a socket's path is limited.
    with contextlib.chdir(pack.path), socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")


def replace_by_a_directory(pack: Pack) -> None:
    (pack.path / "empty").unlink()
    (pack.path / "empty").mkdir()


def lengthen(pack: Pack) -> None:
    with (pack.path / REPORT).open("ab") as file:
        file.truncate(2**40)


def shorten(pack: Pack) -> None:
    (pack.path / REPORT).write_bytes(b"")


def sign_checksums(change: Callable[[bytes], bytes]) -> Callable[[Pack], None]:
    """The signer's own tool wrote another list: hashes fit, content does not."""

    def changed(pack: Pack) -> None:
        path = pack.path / "checksums.sha256"
        path.write_bytes(change(path.read_bytes()))
        manifest = pack.json("manifest.json")
        manifest["checksums_sha256_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
        write_manifest(pack, manifest)

    return changed


def write_manifest(pack: Pack, manifest: Any) -> None:
    (pack.path / "manifest.json").write_text(json.dumps(manifest))
    pack.resign(reseal_body(pack))


def sign_another_manifest(**changes: Any) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        manifest = pack.json("manifest.json")
        for name, value in changes.items():
            if isinstance(value, dict):
                manifest[name].update(value)
            else:
                manifest[name] = value
        write_manifest(pack, manifest)

    return change


def drop_from_the_manifest(pack: Pack) -> None:
    manifest = pack.json("manifest.json")
    manifest["files"] = [f for f in manifest["files"] if f["path"] != REPORT]
    write_manifest(pack, manifest)


def drop_manifest_subject(pack: Pack) -> None:
    body = pack.body()
    body["subject"] = [s for s in body["subject"] if s["name"] != "manifest.json"]
    del body["predicate"]["sizes"]["manifest.json"]
    pack.resign(body)


def name_the_envelope_a_subject(pack: Pack) -> None:
    body = pack.body()
    body["subject"].append({"name": ENVELOPE, "digest": {"sha256": "0" * 64}})
    body["predicate"]["sizes"][ENVELOPE] = 1
    pack.resign(body)
