"""Small sealed packs, and one whose verdict follows from its records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_invarlock.evidence.manifest import ManifestHeader

from .honest import HonestRun, honest_run
from .synthetic import FILES, HEADER, KEY, Pack, sealed

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _no_flush_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing waits for the disk at every file: most of the time that these tests would take."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.fixture(scope="session")
def key() -> Ed25519PrivateKey:
    return KEY


@pytest.fixture(scope="session")
def other_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@pytest.fixture
def header() -> ManifestHeader:
    return HEADER


@pytest.fixture
def files() -> dict[str, bytes | Path]:
    return dict(FILES)


@pytest.fixture
def make_pack(tmp_path: Path) -> Callable[..., Pack]:
    def make(name: str = "pack", signer: Ed25519PrivateKey | None = KEY, **changes: Any) -> Pack:
        return sealed(tmp_path / name, signer, **changes)

    return make


@pytest.fixture
def pack(make_pack: Callable[..., Pack]) -> Pack:
    return make_pack()


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> HonestRun:
    """The files of a run that was really decided, certified and sealed: nobody changes them."""
    return honest_run(tmp_path_factory.mktemp("honest"))
