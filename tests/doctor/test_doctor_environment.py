"""``invarlock doctor``: settings, old variables, signing key, output folder, device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.policy.resources import schema, strict_validator

from . import suite_text

GOOD = suite_text.GOOD


def found(document: Any, code: str) -> Any:
    (finding,) = [one for one in document["findings"] if one["code"] == code]
    return finding


def codes(document: Any) -> list[str]:
    return [one["code"] for one in document["findings"]]


def test_variables_of_the_original_by_name_and_never_by_value(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACK_SUITE", "demo")
    monkeypatch.setenv("INVARLOCK_TINY_RELAX", "sesame")
    monkeypatch.setenv("INVARLOCK_SEQ_LEN", "96")
    status, document = doctor(GOOD)
    assert status == 0
    old = {one["key"]: one["severity"] for one in document["findings"]
           if one["code"].startswith("OLD_VARIABLE")}  # fmt: skip
    assert old == {
        "INVARLOCK_TINY_RELAX": "warning", "PACK_SUITE": "note", "INVARLOCK_SEQ_LEN": "note",
    }  # fmt: skip
    assert "sesame" not in json.dumps(document)
    assert document["resolution"]["windows"]["seq_len"] == 96
    assert document["environment"]["settings"]["seq-len"] == "INVARLOCK_SEQ_LEN"


def test_settings_out_of_range_are_all_told(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVARLOCK_KIND", "magic")
    monkeypatch.setenv("INVARLOCK_PROGRESS", "loud")
    status, document = doctor(GOOD)
    assert status == 1
    messages = [one["message"] for one in document["findings"] if one["code"] == "BAD_VALUE"]
    assert messages == [
        "INVARLOCK_KIND: 'magic' is not one of its values",
        "INVARLOCK_PROGRESS: 'loud' is not one of its values",
    ]


def test_the_signing_key(doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(doctor(GOOD)[1], "KEY_ON_FIRST_USE")["severity"] == "note"
    monkeypatch.setenv("INVARLOCK_SIGNING_KEY", "none")
    assert found(doctor(GOOD)[1], "UNSIGNED")["severity"] == "warning"
    monkeypatch.setenv("INVARLOCK_SIGNING_KEY", "key.pem")
    status, document = doctor(GOOD)
    assert (status, "KEY_MISSING" in codes(document)) == (1, True)
    from pytest_invarlock.evidence.keys import generate_key

    generate_key(tmp_path / "key.pem")
    assert doctor(GOOD)[1]["environment"]["signing_key"] == "file"
    (tmp_path / "key.pem").chmod(0o644)
    status, document = doctor(GOOD)
    assert (status, document["environment"]["signing_key"]) == (1, "unusable")
    assert "chmod 600" in found(document, "KEY_MODE")["remedy"]


def test_output_folder_and_disk(
    doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INVARLOCK_OUT", "file")
    status, document = doctor(GOOD)
    assert (status, found(document, "OUT_UNWRITABLE")["key"]) == (1, "out")
    monkeypatch.setenv("INVARLOCK_OUT", "out")
    assert doctor(GOOD)[0] == 0
    import pytest_invarlock.doctor.environment as environment

    # 48 windows of 64 tokens, 128 numbers of four bytes, a loss and a first choice each.
    need = 48 * 64 * (128 * 4 + 4 + 8)
    for free, status in ((need - 1, 1), (need, 0)):
        usage = type("Usage", (), {"free": free, "total": 10**12})
        monkeypatch.setattr(environment.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert doctor(GOOD)[0] == status
    # As of /proc, whose permissions let root write.
    usage = type("Usage", (), {"free": 0, "total": 0})
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path, usage=usage: usage)
    status, document = doctor(GOOD)
    assert (status, found(document, "OUT_UNWRITABLE")["key"]) == (1, "out")
    assert "DISK_SPACE" not in codes(document)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(doctor: Any) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    status, document = doctor(GOOD.replace("device: cpu", "device: mps"))
    assert (status, found(document, "NO_DEVICE")["severity"]) == (1, "error")
    assert document["environment"]["device"] is None


def test_the_machine_alone(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("INVARLOCK_DEVICE", "cpu")
    monkeypatch.setenv("PACK_NET", "maybe")
    assert main(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    strict_validator()(schema("doctor")).validate(document)
    assert (document["config"], document["resolution"]) == (None, None)
    assert {"BAD_VALUE", "OLD_VARIABLE"} <= set(codes(document))
    assert document["environment"]["versions"]["torch"]
