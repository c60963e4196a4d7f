"""The wheel holds every file that the code reads, and nothing that it is not meant to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Import package → its folder in the tree.
SOURCES = {
    "pytest_invarlock": ROOT / "pytest_invarlock",
    "pytest_invarlock.policies": ROOT / "policies",
    "invarlock_guards": ROOT / "guards" / "invarlock_guards",
}
SOURCE_FILES = ("pyproject.toml", "README.md", "LICENSE", "LICENSES", "policies", "guards")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in_tree() -> dict[str, Path]:
    found = {}
    for name, folder in SOURCES.items():
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(folder).parts
            found[".".join((name, *parts))] = init.parent
    return found


def shipped_data() -> set[tuple[str, str]]:
    """(import package, path below it) of every file that is no Python source."""
    homes = {folder: name for name, folder in packages_in_tree().items()}
    found = set()
    for source in SOURCES.values():
        for path in source.rglob("*"):
            if not path.is_file() or path.suffix in (".py", ".pyc") or path.name.startswith("."):
                continue
            home = next(parent for parent in path.parents if parent in homes)
            found.add((homes[home], path.relative_to(home).as_posix()))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy of the sources: building in place would leave traces in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in (*SOURCE_FILES, "pytest_invarlock"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=IGNORED)
        else:
            shutil.copy(source, copy)
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", target, copy),
        ],
        check=True,
        timeout=120,
    )
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_package_list_is_the_tree(pyproject: dict[str, Any]) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages_in_tree())


def test_each_shipped_file_matches_a_package_data_pattern(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]
    missing = [
        f"{package}: {path}"
        for package, path in sorted(shipped_data())
        if not any(
            # `**/` also stands for no folder at all, which fnmatch does not know.
            fnmatch(path, pattern) or fnmatch(path, pattern.removeprefix("**/"))
            for pattern in patterns.get(package, ())
        )
    ]
    assert not missing


def test_the_wheel_holds_every_module_and_every_shipped_file(wheel: zipfile.ZipFile) -> None:
    expected = {f"{name.replace('.', '/')}/{path}" for name, path in shipped_data()}
    for name, folder in packages_in_tree().items():
        expected |= {f"{name.replace('.', '/')}/{path.name}" for path in folder.glob("*.py")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "pytest_invarlock/py.typed",
        "invarlock_guards/py.typed",
        "pytest_invarlock/policies/suites/demo.yaml",
        "pytest_invarlock/policies/tiers/balanced.yaml",
        "pytest_invarlock/policies/profiles/ci.yaml",
        "pytest_invarlock/policies/schemas/record.schema.json",
        "pytest_invarlock/builtin/llama/model.safetensors",
        "pytest_invarlock/builtin/gpt2/model.safetensors",
        "pytest_invarlock/builtin/text/heldout.jsonl.gz",
        "*.dist-info/licenses/LICENSE",
        "*.dist-info/licenses/LICENSES/PSF-2.0.txt",
    ],
)
def test_the_wheel_holds(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert any(fnmatch(name, pattern) for name in wheel.namelist())


def test_pytest_and_the_shell_find_us() -> None:
    (plugin,) = (e for e in entry_points(group="pytest11") if e.name == "invarlock")
    (script,) = (e for e in entry_points(group="console_scripts") if e.name == "invarlock")
    assert plugin.load().__name__ == "pytest_invarlock.plugin"
    assert callable(script.load())


def test_every_module_has_its_layer(pyproject: dict[str, Any]) -> None:
    (contract,) = (c for c in pyproject["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    layers = [
        name.strip() for row in contract["layers"] for name in row.replace("|", ":").split(":")
    ]
    own = ROOT / "pytest_invarlock"
    for path in own.rglob("*.py"):
        parts = path.relative_to(own).with_suffix("").parts
        if parts[-1] == "__init__" or parts[0] == "builtin":
            continue  # nothing is decided there
        name = ".".join(parts)
        assert any(name == layer or name.startswith(f"{layer}.") for layer in layers), name


def test_constraints_pin_every_dependency(pyproject: dict[str, Any]) -> None:
    pins = [
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert all(version and "+" not in version for _, _, version in pins)
    pinned = {name.lower().replace("_", "-") for name, _, _ in pins}
    project = pyproject["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        name = requirement.partition(">=")[0].lower().replace("_", "-")
        assert name in pinned
