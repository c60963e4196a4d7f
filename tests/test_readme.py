"""What the README and the docs show is what is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments], capture_output=True, text=True, timeout=60
    )


def test_readme_tells_how_to_install_run_the_demo_and_test() -> None:
    commands = script("readme_commands.py", "--script", "checkout")
    assert commands.returncode == 0, commands.stderr
    lines = commands.stdout.splitlines()
    assert lines[0] == "set -euxo pipefail"
    assert {"make dev-install", "make demo", "make test"} <= set(lines)


def test_readme_examples_come_with_their_files(tmp_path: Path) -> None:
    assert script("readme_commands.py", "--files", tmp_path).returncode == 0
    commands = script("readme_commands.py", "--script", "scratch").stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"test_quality.py", "small.invarlock.yaml"}
    assert all(name in commands for name in names)


@pytest.mark.parametrize(
    "readme",
    [
        "no block at all\n",
        "<!-- ci: checkout -->\n\nsome text\n",
        "<!-- ci: checkout -->\n```python\nprint()\n```\n",
        "<!-- ci: anywhere -->\n```bash\ntrue\n```\n",
    ],
)
def test_a_readme_without_usable_blocks_is_refused(tmp_path: Path, readme: str) -> None:
    (tmp_path / "scripts").mkdir()
    copy = tmp_path / "scripts" / "readme_commands.py"
    copy.write_text((SCRIPTS / copy.name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "README.md").write_text(readme, encoding="utf-8")
    refused = subprocess.run(
        [sys.executable, copy, "--script", "checkout"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("readme_commands: ")


def test_the_settings_table_is_current() -> None:
    checked = script("settings_table.py", "--check")
    assert checked.returncode == 0, checked.stderr
