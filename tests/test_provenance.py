"""Which build of torch measured is told without importing it, and also where it cannot be read."""

from __future__ import annotations

from importlib.machinery import ModuleSpec

import pytest
import torch

from pytest_invarlock import provenance


def versions() -> dict[str, str]:
    return provenance.library_versions.__wrapped__()


def test_the_build_is_told_though_the_metadata_leave_it_out(monkeypatch):
    monkeypatch.setattr(provenance, "version", lambda name: "1.0")
    assert versions()["torch"] == torch.__version__
    assert versions()["numpy"] == "1.0"


@pytest.mark.parametrize("origin", [None, "elsewhere", "unversioned"])
def test_without_that_file_the_metadata_are_told(origin, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text("cuda = None\n")
    place = {None: None, "elsewhere": "/nowhere/__init__.py"}.get(
        origin, str(tmp_path / "__init__.py")
    )
    spec = ModuleSpec("torch", None, origin=place)
    monkeypatch.setattr(provenance, "find_spec", lambda name: spec)
    monkeypatch.setattr(provenance, "version", lambda name: "1.0")
    assert versions()["torch"] == "1.0"


def test_no_torch_is_absent(monkeypatch):
    def missing(name: str) -> str:
        raise provenance.PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "find_spec", lambda name: None)
    monkeypatch.setattr(provenance, "version", missing)
    monkeypatch.setattr(provenance, "tool_version", lambda: "0")
    assert versions()["torch"] == "absent"
