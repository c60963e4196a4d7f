"""Who measured: the plugin's own identity, and the versions and machine it ran with."""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "datasets", "numpy", "scipy", "pytest",
    "torchao",
)  # fmt: skip
_TORCH_VERSION = re.compile(r"^__version__ = ['\"]([^'\"]+)['\"]", re.MULTILINE)


@cache
def code_digest() -> str:
    """``sha256:`` over the installed Python files of the plugin and its guards, by name."""
    content = hashlib.sha256()
    for package in ("invarlock_guards", "pytest_invarlock"):
        spec = find_spec(package)
        for folder in sorted(spec.submodule_search_locations or ()) if spec is not None else ():
            root = Path(folder)
            for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
                name = f"{package}/{path.relative_to(root).as_posix()}"
                content.update(f"{name}|".encode() + hashlib.sha256(path.read_bytes()).digest())
    return "sha256:" + content.hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that can change a number, without importing them."""
    versions = {"python": platform.python_version(), "pytest-invarlock": tool_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    versions["torch"] = _torch_build() or versions["torch"]
    return versions


def _torch_build() -> str | None:
    """The version of torch with its build (``2.13.0+cu130``), which its metadata may leave out."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    stated = _TORCH_VERSION.search(text)
    return stated[1] if stated else None


def tool_version() -> str:
    """The installed version of this plugin."""
    return version("pytest-invarlock")


def keyed_host(salt: bytes) -> str:
    """Which host of the run this is, without its name: HMAC-SHA-256 under the salt, 16 digits."""
    return hmac.new(salt, platform.node().encode(), hashlib.sha256).hexdigest()[:16]


def machine() -> dict[str, str | int | None]:
    """The kind of machine; no host or user names."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
    }
