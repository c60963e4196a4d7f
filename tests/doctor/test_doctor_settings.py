"""``invarlock doctor``: what pytest refuses to start with, by settings and by a file's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

# pytester forgets modules that a session imported; torch cannot be imported twice.
import torch  # noqa: F401
from transformers import AutoConfig, AutoTokenizer  # noqa: F401

import pytest_invarlock.core.engine
import pytest_invarlock.doctor.commands  # noqa: F401

from . import suite_text

GOOD = suite_text.GOOD
CLEAN = GOOD.replace("{name: noop}", "{name: quant_rtn, plan: {clean: true}}")


def pytest_of(pytester: pytest.Pytester, name: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(name, "--co", "-q", "-p", "no:cacheprovider")


@pytest.mark.parametrize(
    ("text", "made", "code"),
    [
        (CLEAN, {"TUNE": "1", "TUNED": "tuned.json"}, "TUNE_AND_GIVEN"),
        (CLEAN, {"TUNE": "1", "SWEEP": "noop:bits=3"}, "TUNE_AND_GIVEN"),
        (GOOD, {"BASELINE": "builtin:llama"}, "CONFIG"),
        (GOOD, {"SUBJECT": "builtin:llama"}, "CONFIG"),
        (GOOD, {"SUITE": "demoo"}, "UNKNOWN_SUITE"),
        (GOOD, {"SCENARIO": "zz"}, "UNKNOWN_SCENARIO"),
        (GOOD, {"TUNE": "1"}, "NOTHING_TO_TUNE"),
    ],
)
def test_settings_that_stop_pytest_are_among_the_findings(
    text: str,
    made: dict[str, str],
    code: str,
    pytester: pytest.Pytester,
    doctor: Any,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    (tmp_path / "tuned.json").write_text('{"models": {}}')
    for name, value in made.items():
        monkeypatch.setenv(f"INVARLOCK_{name}", value)
    status, document = doctor(text)
    stopped = pytest_of(pytester, "my.yaml")
    assert (status, stopped.ret) == (1, 4)
    stderr = stopped.stderr.str()
    assert f"[{code}]" in stderr
    told = [one for one in document["findings"] if one["code"] == code]
    assert told, document["findings"]
    assert all(one["severity"] == "error" for one in told)
    relative = stderr.replace(f"{tmp_path}/", "")
    assert any(one["message"] in relative for one in told)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("my.txt", "NOT_A_SUITE"),
        ("my.json", "NOT_A_SUITE"),
        ("w[x].invarlock.yaml", "FILE_NAME"),
        ("a::b.yaml", "FILE_NAME"),
    ],
)
def test_a_name_that_leads_pytest_to_no_suite_is_an_error(
    name: str, code: str, pytester: pytest.Pytester, doctor: Any, capsys: Any
) -> None:
    from pytest_invarlock.cli import main

    status, document = doctor(GOOD, name=name)
    assert (status, [one["code"] for one in document["findings"] if one["severity"] == "error"]) == (
        1, [code],
    )  # fmt: skip
    assert pytest_of(pytester, name).ret in (4, 5)
    capsys.readouterr()
    assert main(["run", "-c", name]) == 4
    assert code in capsys.readouterr().err


def test_the_machine_alone_tells_them_too(monkeypatch: Any, capsys: Any) -> None:
    from pytest_invarlock.cli import main

    monkeypatch.setenv("INVARLOCK_DEVICE", "cpu")
    monkeypatch.setenv("INVARLOCK_SUITE", "demoo")
    assert main(["doctor"]) == 1
    assert "UNKNOWN_SUITE" in capsys.readouterr().out
