"""Shared by the tests of ``invarlock doctor``: an environment of their own, and the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.policy.resources import schema, strict_validator


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("INVARLOCK_", "PACK_", "HF_", "RUN", "NET", "TMP", "PYTHONPATH")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Any:
    """Runs the command on a text; gives its status and the one, valid document on stdout."""
    monkeypatch.chdir(tmp_path)

    def run(text: str | None, *arguments: str, name: str = "my.yaml") -> tuple[int, Any]:
        if text is not None:
            (tmp_path / name).write_text(text)
        status = main(["doctor", "--config", name, "--json", *arguments])
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        strict_validator()(schema("doctor")).validate(document)
        assert document["summary"]["status"] == ("ok" if status == 0 else "errors")
        return status, document

    return run
