"""What suite subset does beside its subjects: loads, baseline passes, and no checkpoint written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Repository

# Those of the suite's scenarios that change a model each in a way of its own, without the guards on
# weights and activations: no verdict is asked for.
SCENARIOS = ("svd_clean", "shape_mismatch", "missing_tensors", "weight_tying_break")
SUITE = """\
extends: subset
name: counted
tier: text-only.yaml
dataset: {provider: pydoc, seq_len: 64, preview_n: 8, final_n: 8}
models: ["builtin:llama"]
run: {device: cpu, dtype: float32, threads: 1}
floors: {documents: 4, effective_documents: 2, tokens: 100}
bootstrap_replicates: 199
"""
WATCH = """\
import sys
from pathlib import Path

import safetensors.torch
import torch

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def note(path, names=()):
    with open("written", "a") as stream:
        stream.write(f"{Path(str(path)).name} {','.join(names)}\\n")


def opened(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path, _, flags = arguments
        if path.endswith(SUFFIXES) and (flags or 0) & 3:
            note(path)


sys.addaudithook(opened)


def noted(save):
    # Both open their files where no audit hook sees it.
    def saved(tensors, path, *more, **named):
        note(path, tensors)
        return save(tensors, path, *more, **named)

    return saved


safetensors.torch.serialize_file = noted(safetensors.torch.serialize_file)
torch.save = noted(torch.save)
"""
SEEN = """\
import safetensors.torch
import torch


def test_the_watch_sees(tmp_path):
    tensors = {"a": torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "own.safetensors")
    torch.save(tensors, str(tmp_path / "own.pt"))
    (tmp_path / "own.bin").write_bytes(b"")
"""


@pytest.mark.long
def test_suite_subset_loads_once_a_worker_and_writes_no_checkpoint(
    repository: Repository, monkeypatch
) -> None:
    temporary = repository.path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (repository.path / "counted.invarlock.yaml").write_text(SUITE)
    (repository.path / "conftest.py").write_text(WATCH)
    (repository.path / "test_watch.py").write_text(SEEN)
    repository.run_apart(
        "counted.invarlock.yaml", "test_watch.py", "-n2", "-p", "no:cacheprovider", "-q",
        "--invarlock-mode=run-only", "--invarlock-repeats=2", "--invarlock-no-pack",
        *(f"--invarlock-scenario={name}" for name in SCENARIOS),
    )  # fmt: skip
    records = sorted((repository.latest / "records").glob("*/*/*.record.json"))
    draws = [json.loads(path.read_text())["facts"]["draw"] for path in records]
    assert sorted(draws) == [0] * 4 + [1] * 4
    logs = [path.read_text() for path in (repository.latest / "logs").glob("gw*.log")]
    assert [log.count(" baseline_load ") for log in logs] == [1, 1]
    assert sum(log.count(" baseline_pass ") for log in logs) == 2
    written = [line.split(" ") for line in (repository.path / "written").read_text().splitlines()]
    own = sorted(name for name, _ in written if name.startswith("own."))
    assert own == ["own.bin", "own.pt", "own.safetensors"]
    # What the workers of a host share of each draw's baseline: losses, and no weight.
    shared = [names.split(",") for name, names in written if not name.startswith("own.")]
    assert len(shared) == 2
    assert {name.split(".")[1] for names in shared for name in names} <= {"nll", "top1", "states"}
    assert [p.name for p in repository.path.rglob("*.safetensors")] == ["own.safetensors"]
