"""Adapters by name: the built-in ones, and those that other packages register."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.adapters import (
    HF_Auto_Adapter,
    HF_Causal_Adapter,
    HF_MLM_Adapter,
    HF_Seq2Seq_Adapter,
    adapter_named,
    adapter_names,
    registry,
)
from pytest_invarlock.errors import ConfigError

BUILT_IN = {
    "auto": HF_Auto_Adapter,
    "hf_auto": HF_Auto_Adapter,
    "hf_causal": HF_Causal_Adapter,
    "hf_mlm": HF_MLM_Adapter,
    "hf_seq2seq": HF_Seq2Seq_Adapter,
}
PACKAGE = """
class Good:
    name = "good"
    def __init__(self, *, allow_network): self.allow_network = allow_network
    def load(self, reference, *, device, dtype): ...
    def load_model(self, reference, device="auto"): ...
    def describe(self, model): return {}
class NoKeyword:
    pass
class NoLoad:
    def __init__(self, *, allow_network): ...
    def describe(self, model): return {}
"""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that installed packages register the given (name, value) entry points."""
    (tmp_path / "other_adapters.py").write_text(PACKAGE, encoding="utf-8")
    (tmp_path / "broken_adapters.py").write_text("import absent_backend", encoding="utf-8")
    (tmp_path / "garbled_adapters.py").write_text("def (", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def pretend(*entries: tuple[str, str]) -> None:
        points = [EntryPoint(name, value, registry.GROUP) for name, value in entries]
        monkeypatch.setattr(registry, "entry_points", lambda *, group: points)

    return pretend


def refusal(name: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        adapter_named(name)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_adapter_needs_no_metadata(name: str, register: Any) -> None:
    register()
    adapter = adapter_named(name, allow_network=True)
    assert type(adapter) is BUILT_IN[name]
    assert name in ("auto", adapter.name)
    assert adapter._allow_network is True  # type: ignore[attr-defined]
    assert adapter_named(name)._allow_network is False  # type: ignore[attr-defined]


def test_an_unknown_adapter_names_the_nearest(register: Any) -> None:
    register(("third", "other_adapters:Good"))
    error = refusal("hf_casual")
    assert (error.code, error.remedy) == ("UNKNOWN_ADAPTER", "did you mean 'hf_causal'?")
    assert refusal("thrid").remedy == "did you mean 'third'?"
    assert "hf_mlm" in refusal("").remedy


def test_another_package_can_register_an_adapter(register: Any) -> None:
    register(("third", "other_adapters:Good"))
    assert adapter_names() == [*BUILT_IN, "third"]
    adapter: Any = adapter_named("third", allow_network=True)
    assert (adapter.name, adapter.allow_network) == ("good", True)


def test_another_package_cannot_take_a_built_in_name(register: Any) -> None:
    register(("hf_causal", "other_adapters:Good"))
    assert adapter_names() == list(BUILT_IN)
    assert type(adapter_named("hf_causal")) is HF_Causal_Adapter


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("broken_adapters:A", "ModuleNotFoundError: No module named 'absent_backend'"),
        ("absent_package:A", "ModuleNotFoundError"),
        ("garbled_adapters:A", "SyntaxError"),
        ("other_adapters:Absent", "AttributeError"),
        ("other_adapters:NoKeyword", "TypeError"),
        ("other_adapters:NoLoad", "has no load()"),
    ],
)
def test_an_adapter_that_cannot_be_made_is_one_clear_line(
    value: str, told: str, register: Any
) -> None:
    register(("third", value))
    error = refusal("third")
    assert error.code == "ADAPTER_UNUSABLE"
    assert "'third'" in error.cause
    assert value in error.cause
    assert told in error.cause


def test_a_name_registered_twice_is_refused(register: Any) -> None:
    register(("third", "other_adapters:Good"), ("third", "other_adapters:NoLoad"))
    error = refusal("third")
    assert error.code == "ADAPTER_UNUSABLE"
    assert "twice" in error.cause
    register(("third", "other_adapters:Good"), ("third", "other_adapters:Good"))
    assert adapter_named("third").name == "good"


def test_names_are_known_without_torch() -> None:
    code = "import sys, pytest_invarlock.adapters as a; a.adapter_names(); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
