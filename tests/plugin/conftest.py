"""Sessions of the plugin in a scratch repository, on the shipped models, with small counts."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

# pytester forgets modules that a session imported; torch cannot be imported twice.
import torch  # noqa: F401
from _pytest.pathlib import make_numbered_dir
from transformers import (  # noqa: F401
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

import pytest_invarlock.builtin
import pytest_invarlock.core.engine
import pytest_invarlock.core.request
import pytest_invarlock.core.runner
import pytest_invarlock.core.tuning
import pytest_invarlock.data_check.comparison
import pytest_invarlock.evidence.run_pack
import pytest_invarlock.evidence.source_repo
import pytest_invarlock.evidence.verify
import pytest_invarlock.lending
import pytest_invarlock.policy.session_settings
import pytest_invarlock.preflight.hub
import pytest_invarlock.preflight.pinning
import pytest_invarlock.readiness
import pytest_invarlock.reporting.dose_response
import pytest_invarlock.reporting.dose_response_files
import pytest_invarlock.reporting.junit
import pytest_invarlock.reporting.terminal
import pytest_invarlock.reporting.tuning
import pytest_invarlock.reporting.verdict_testcase
import pytest_invarlock.run_progress
import pytest_invarlock.run_summary
import pytest_invarlock.tuned_file
import pytest_invarlock.tuning_item  # noqa: F401
from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, user_signing_key_path
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.policy.resources import read_text
from tests.preloaded_python import preloaded_python

HEAD = """\
name: small
models: ["builtin:llama"]
tier: text-only.yaml
profile: dev
dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}
run: {device: cpu, dtype: float32, threads: 1, determinism: strict}
floors: {documents: 8, effective_documents: 4}
bootstrap_replicates: 499
scenarios:
"""
GUARDED = HEAD.replace("tier: text-only.yaml\n", "")
"""The same under the shipped tier, with the guards on weights and activations."""
TEXT_ONLY = (
    read_text("tiers", "balanced.yaml")
    .replace(" spectral, rmt, variance,", "", 1)
    .replace(", guard_overhead]", "]", 1)
    .replace("name: balanced", "name: text-only", 1)
)
"""Tier balanced without them, for sessions that are about something else."""
SCENARIOS = {
    "noop": "  - {id: noop, strictness: must_pass, edit: {name: noop}}\n",
    "rtn": "  - {id: rtn, strictness: must_pass, "
    "edit: {name: quant_rtn, plan: {bitwidth: 8, group_size: 32}}}\n",
    "pruned": "  - {id: pruned, strictness: must_pass, "
    "edit: {name: magnitude_prune, plan: {sparsity: 0.7}}}\n",
    "explosion": "  - {id: explosion, strictness: must_detect, "
    "detectors: {any: [primary_metric]}, edit: {name: scale_explosion}}\n",
    "missed": "  - {id: missed, strictness: must_detect, "
    "detectors: {any: [primary_metric]}, edit: {name: quant_rtn, plan: {bitwidth: 8}}}\n",
    "watched": "  - {id: watched, strictness: informational, "
    "edit: {name: quant_rtn, plan: {bitwidth: 8}}}\n",
    "unchanged": "  - {id: unchanged, strictness: must_pass, "
    "edit: {name: magnitude_prune, plan: {sparsity: 0.0000001}}}\n",
}
SUITE_FILE = "small.invarlock.yaml"


def suite_text(*scenarios: str, head: str = HEAD) -> str:
    return head + "".join(SCENARIOS[name] for name in scenarios)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    # No power is cut here, and a hundred waits for the disk are as long as a small session.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    for name in ("CI", "GITHUB_STEP_SUMMARY", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


class Repository:
    """A scratch repository in which sessions run."""

    # Plugins of the development environment that no session here is about.
    without_foreign = ("-p", "no:randomly", "-p", "no:hypothesispytest")

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        (self.path / "text-only.yaml").write_text(TEXT_ONLY)

    def suite(self, *scenarios: str, head: str = HEAD, name: str = SUITE_FILE) -> str:
        (self.path / name).write_text(suite_text(*scenarios, head=head))
        return name

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess(*self.without_foreign, *arguments)

    def run_apart(self, *arguments: str, timeout: float = 300) -> pytest.RunResult:
        """A session of its own process, and those of its workers."""
        base = f"--basetemp={make_numbered_dir(root=self.path, prefix='runpytest-')}"
        command = (preloaded_python(), "-mpytest", base, *self.without_foreign)
        return self.pytester.run(*command, *arguments, timeout=timeout)

    @property
    def latest(self) -> Path:
        return self.path / "invarlock-out" / "latest"

    @property
    def runs(self) -> list[Path]:
        out = self.path / "invarlock-out"
        found = [p for p in out.glob("*-*Z*") if p.is_dir()] if out.is_dir() else []
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def verdict(self) -> dict:
        return json.loads((self.latest / "final_verdict.json").read_text())

    def digests(self) -> dict[str, str]:
        return {
            str(path.parent.relative_to(self.latest / "records")): json.loads(path.read_text())[
                "facts_digest"
            ]
            for path in sorted((self.latest / "records").glob("*/*/*.record.json"))
        }

    def verify_data(self, suite: str) -> tuple[int, str]:
        """Exit status and output of verifying the latest pack against the data of ``suite``."""
        public = load_private_key(user_signing_key_path()).public_key()
        arguments = [
            "verify", str(self.latest / "evidence_pack"),
            f"--expected-fingerprint={fingerprint(public)}", f"--data={self.path / suite}",
            f"--salt={self.latest / 'state' / 'salt'}",
        ]  # fmt: skip
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            status = main(arguments)
        return status, told.getvalue()

    def events(self) -> list[str]:
        return [
            line.split()[1]
            for log in sorted((self.latest / "logs").glob("*.log"))
            for line in log.read_text().splitlines()
        ]


@pytest.fixture
def repository(pytester: pytest.Pytester) -> Repository:
    return Repository(pytester)


@pytest.fixture(scope="session")
def kept_packs():
    return []


@pytest.fixture
def sealed(repository, kept_packs):
    """A run's pack with its key, as values: made once, as nobody changes them in place."""
    if not kept_packs:
        kept_packs.append(made_pack(repository))
    return kept_packs[0]


def made_pack(repository):
    repository.run(repository.suite("noop", "pruned", head=GUARDED))
    pack = repository.latest / "evidence_pack"
    files = {
        path.relative_to(pack).as_posix(): path.read_bytes()
        for path in pack.rglob("*")
        if path.is_file()
    }
    header = parse_manifest(files["manifest.json"]).header
    kept = {k: v for k, v in files.items() if k not in CONTROL_FILES and k != SIGNER_KEY}
    return kept, header, load_private_key(user_signing_key_path())
