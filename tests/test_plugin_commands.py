"""``invarlock plugins``: what cannot be imported is shown in its row, and nothing is raised."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.policy.decision_policy import KNOWN_GUARDS
from pytest_invarlock.policy.guard_names import RESERVED, foreign_guard_names

if TYPE_CHECKING:
    from tests.conftest import Installer

ROOT = Path(__file__).resolve().parents[1]
GOOD = '''
class Good:
    """Says yes."""
    name = "good"
    def __init__(self, limit: float = 1.0): ...
    def validate(self, model, adapter, context): ...
class Mute: ...
thing = 3
'''


def plugins(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["plugins", *arguments])
    return status, capsys.readouterr().out


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    _, out = plugins(capsys, *arguments, "--json")
    document = json.loads(out)
    assert document["format"] == "invarlock-plugins-v1"
    return {row["name"]: row for row in document["plugins"]}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import absent_backend", "ModuleNotFoundError: No module named 'absent_backend'"),
        ("def (", "SyntaxError: "),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("import sys; sys.exit(7)", "SystemExit: 7"),
        ("import pytest; pytest.skip('no', allow_module_level=True)", "Skipped: no"),
        ("", "AttributeError: "),
    ],
)
def test_a_broken_import_is_shown_in_its_row(
    code: str, told: str, install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken-guard", code, broken="Guard")
    status, out = plugins(capsys, "guards")
    (line,) = (line for line in out.splitlines() if line.startswith("broken "))
    assert status == 1
    assert f"broken: broken_guard:Guard cannot be imported: {told}" in line
    assert "second" not in out
    assert "invariants" in out
    status, out = plugins(capsys, "guards", "--explain", "broken")
    assert status == 1
    assert f"status       broken: broken_guard:Guard cannot be imported: {told}" in out
    row = rows(capsys, "guards", "--verbose")["broken"]
    assert told in row["error"]
    assert row["entry_point"] == "broken_guard:Guard"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("tail", "Good", "the name 'tail' is taken"),
        ("rmt", "Good", "the name 'rmt' is taken"),
        ("with space", "Good", "cannot stand in a node id"),
        ("mute", "Mute", "has no validate()"),
        ("number", "thing", "is int, not a class"),
    ],
)
def test_what_cannot_be_demanded_says_why(
    name: str, value: str, told: str, install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("odd-guard", GOOD, **{name: value})
    status, out = plugins(capsys, "guards")
    (line,) = (line for line in out.splitlines() if "odd-guard" in line)
    assert status == 1
    assert told in line


def test_a_name_that_two_packages_register_is_nobodys(
    install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("one-guard", GOOD, good="Good")
    install("other-guard", GOOD, good="Good")
    status, out = plugins(capsys, "guards")
    assert status == 1
    assert out.count("broken: two packages register it") == 2


def test_an_installed_guard_stands_beside_the_built_in(
    install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good-guard", GOOD, good="Good")
    assert plugins(capsys, "guards")[0] == 0
    found = rows(capsys, "guards")
    assert list(found) == [*KNOWN_GUARDS, "good"]
    good = found["good"]
    assert (good["kind"], good["origin"], good["status"]) == ("guard", "good-guard 1.2", "ready")
    assert (good["entry_point"], good["error"]) == ("good_guard:Good", None)
    assert good["code"].startswith("sha256:")
    assert {found[name]["origin"] for name in KNOWN_GUARDS} == {"built-in"}
    _, out = plugins(capsys, "guards", "--verbose")
    assert good["code"] in out


def test_explain_tells_what_a_guard_takes(
    install: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    install("good-guard", GOOD, good="Good")
    status, out = plugins(capsys, "--explain", "good")
    assert status == 0
    assert "limit: 'float' = 1.0" in out or "limit: float = 1.0" in out
    assert "Says yes." in out
    assert plugins(capsys, "guards", "--explain", "goood") == (2, "")
    status, out = plugins(capsys, "guards", "--explain", "spectral")
    assert status == 0
    assert "origin       built-in" in out
    install("odd-guard", GOOD + "class Odd(Good):\n    __signature__ = 3\n", odd="Odd")
    status, out = plugins(capsys, "guards", "--explain", "odd")
    assert (status, "takes        what nothing tells" in out) == (0, True)


def test_the_digest_is_of_the_code(install: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    path = install("good-guard", GOOD, good="Good")
    before = rows(capsys, "guards")["good"]["code"]
    path.write_text(GOOD + "# changed\n", encoding="utf-8")
    assert rows(capsys, "guards")["good"]["code"] != before


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("list", {"guard", "adapter", "edit"}), ("guards", {"guard"}),
        ("adapters", {"adapter"}), ("edits", {"edit"}),
    ],
)  # fmt: skip
def test_each_list_holds_its_kind(
    what: str, kinds: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(capsys, what).values()
    assert {row["kind"] for row in found} == kinds
    assert {row["status"] for row in found} == {"ready"}


def test_built_in_guards_register_as_others_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert list(project["entry-points"]["invarlock.guards"]) == list(KNOWN_GUARDS)
    assert set(KNOWN_GUARDS) <= set(RESERVED)
    assert not set(KNOWN_GUARDS) & set(foreign_guard_names())


def test_listing_needs_no_torch_and_says_that_it_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'datasets')))\n"
        "from pytest_invarlock.cli import main; sys.exit(main(['plugins', 'guards']))"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 1, found.stderr
    assert "rmt         guard  built-in  broken: torch is not installed" in found.stdout
