"""Baseline evidence: one process takes it, everybody else reads the same bits."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import torch

from pytest_invarlock.bench.baseline_cache import BaselineEvidence, cached_evidence
from pytest_invarlock.metrics.token_scoring import Scores
from tests.preloaded_python import preloaded_python

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sha256:" + "ab" * 32


def evidence(value: float = 0.1, *, states: bool = True) -> BaselineEvidence:
    def scores() -> Scores:
        return Scores(
            torch.tensor([value, float("nan"), float("inf")]),
            torch.tensor([3, 2, 1]),
            torch.full((3, 2), value, dtype=torch.bfloat16) if states else None,
        )

    return BaselineEvidence({"preview": scores(), "final": scores()}, {"n_windows": 3})


WORKER = """
import sys, time
from pathlib import Path
import torch
from pytest_invarlock.bench.baseline_cache import BaselineEvidence, cached_evidence
from pytest_invarlock.metrics.token_scoring import Scores

folder, name = Path(sys.argv[1]), sys.argv[2]

def compute():
    with (folder / "computed").open("a") as stream:
        stream.write(name + "\\n")
    # Hold the lock until the other process stands before it.
    while not (folder / "both").exists():
        time.sleep(0.01)
    scores = {arm: Scores(torch.full((3,), torch.pi), torch.arange(3)) for arm in ("preview", "final")}
    return BaselineEvidence(scores, {"n_windows": 3})

(folder / ("ready-" + name)).touch()
found = cached_evidence(folder / "cache", "sha256:key", compute)
print(found.scores["final"].nll.numpy().tobytes().hex(), found.noise_floor)
"""


def never() -> BaselineEvidence:
    pytest.fail("computed again")


def equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and torch.equal(
        first.view(torch.uint8), second.view(torch.uint8)
    )


def test_evidence_that_failed_to_compute_is_not_kept(tmp_path: Path) -> None:
    def fails() -> BaselineEvidence:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_evidence(tmp_path, KEY, fails)
    assert not list(tmp_path.glob("*.safetensors"))
    found = cached_evidence(tmp_path, KEY, evidence)
    assert equal(found.scores["final"].nll, evidence().scores["final"].nll)


def test_two_processes_compute_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [preloaded_python(), "-c", WORKER, str(tmp_path), name],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "both").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs[0] == outputs[1] != ""
    assert len((tmp_path / "computed").read_text().split()) == 1


@pytest.mark.parametrize("states", [True, False])
def test_what_is_read_is_bit_for_bit_what_was_computed(tmp_path: Path, states: bool) -> None:
    made = evidence(states=states)
    cached_evidence(tmp_path / "new", KEY, lambda: made)
    found = cached_evidence(tmp_path / "new", KEY, never)
    for arm in ("preview", "final"):
        for name in ("nll", "top1", "states"):
            assert equal(getattr(found.scores[arm], name), getattr(made.scores[arm], name))
    assert found.noise_floor == {"n_windows": 3}


def test_another_key_is_other_evidence(tmp_path: Path) -> None:
    cached_evidence(tmp_path, KEY, evidence)
    found = cached_evidence(tmp_path, "sha256:cd", lambda: evidence(1.0))
    assert found.scores["final"].nll[0] == 1


def test_without_a_folder_nothing_is_kept() -> None:
    calls = []

    def compute() -> BaselineEvidence:
        calls.append(1)
        return evidence()

    cached_evidence(None, KEY, compute)
    cached_evidence(None, KEY, compute)
    assert len(calls) == 2


def test_nothing_but_the_file_and_its_lock_is_left(tmp_path: Path) -> None:
    cached_evidence(tmp_path, KEY, evidence)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".safetensors"]


@pytest.mark.parametrize("damage", [b"", b"12", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_file_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    cached_evidence(tmp_path, KEY, evidence)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(damage)
    cached_evidence(tmp_path, KEY, evidence)
    found = cached_evidence(tmp_path, KEY, never)
    assert equal(found.scores["final"].nll, evidence().scores["final"].nll)
