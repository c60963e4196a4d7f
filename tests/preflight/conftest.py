"""For the tests of the preflight: suite files, and a Hub and its cache without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.preflight import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEAD = """\
name: small
models: [{models}]
profile: {profile}
dataset: {{provider: {provider}, seq_len: 64, preview_n: 24, final_n: 24}}
run: {{device: cpu, dtype: float32}}
scenarios:
"""
SCENARIO = "  - {id: rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8}}}\n"


def settings(**made: str) -> Settings:
    """Settings made on a command line, ``_`` for ``-``."""
    names = {name.replace("_", "-"): value for name, value in made.items()}
    return Settings({n: Setting((v,), f"--invarlock-{n}") for n, v in names.items()})


@pytest.fixture
def suite_of(tmp_path: Path) -> Callable[..., Suite]:
    """Loads a suite of the given models."""

    def make(
        *models: str,
        profile: str = "dev",
        provider: str = "pydoc",
        scenarios: str = SCENARIO,
        **made: str,
    ) -> Suite:
        head = HEAD.format(models=", ".join(models), profile=profile, provider=provider)
        path = tmp_path / "small.invarlock.yaml"
        path.write_text(head + scenarios)
        return load_suite_file(path, settings(**made), tmp_path)

    return make


@pytest.fixture
def hub_cache(
    tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Lays a model out in a Hub cache of its own, as the Hub client does."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def add(repository: str, commit: str = COMMIT, ref: str = "main") -> Path:
        folder = cache / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        shutil.copytree(checkpoints["llama"], snapshot)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit, encoding="ascii")
        return snapshot

    cache.mkdir()
    return add


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Hub says of each repository; asking for another one fails the test."""
    told: dict[str, Any] = {}

    def ask(repository: str, revision: str | None, repo_type: str) -> hub.HubState:
        answer = told[repository]
        if isinstance(answer, Exception):
            raise answer
        told.setdefault("asked", []).append((repository, revision, repo_type))
        state: hub.HubState = answer
        return state

    monkeypatch.setattr(hub, "ask_hub", ask)
    return told
