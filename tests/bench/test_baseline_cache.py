"""Baseline losses: one process computes them, everybody else reads the same bits."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_invarlock.bench.baseline_cache import Losses, cached_losses

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sha256:" + "ab" * 32
LOSSES: Losses = {
    "preview": np.array([1.5, np.nan, -0.0]),
    "final": np.array([np.inf, 0.1]),
}
WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from pytest_invarlock.bench.baseline_cache import cached_losses

folder, name = Path(sys.argv[1]), sys.argv[2]

def compute():
    with (folder / "computed").open("a") as stream:
        stream.write(name + "\\n")
    # Hold the lock until the other process stands before it.
    while not (folder / "both").exists():
        time.sleep(0.01)
    return {"preview": np.full(3, 0.25), "final": np.full(2, np.pi)}

(folder / ("ready-" + name)).touch()
losses = cached_losses(folder / "cache", "sha256:key", compute)
print(losses["preview"].tobytes().hex(), losses["final"].tobytes().hex())
"""


def never() -> Losses:
    pytest.fail("computed again")


def test_losses_that_failed_to_compute_are_not_kept(tmp_path: Path) -> None:
    def fails() -> Losses:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_losses(tmp_path, KEY, fails)
    assert not list(tmp_path.glob("*.npz"))
    found = cached_losses(tmp_path, KEY, lambda: LOSSES)
    np.testing.assert_array_equal(found["final"], LOSSES["final"])


def test_two_processes_compute_once(tmp_path: Path) -> None:
    import time

    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name],
            stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    while not all((tmp_path / f"ready-{name}").exists() for name in ("one", "two")):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.01)
    (tmp_path / "both").touch()
    printed = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert printed[0] == printed[1] != ""
    assert len((tmp_path / "computed").read_text().splitlines()) == 1


def test_a_second_call_reads_the_same_bits(tmp_path: Path) -> None:
    cached_losses(tmp_path / "new", KEY, lambda: LOSSES)
    found = cached_losses(tmp_path / "new", KEY, never)
    for arm in ("preview", "final"):
        assert found[arm].tobytes() == LOSSES[arm].tobytes()  # type: ignore[index]
        assert found[arm].dtype == np.float64  # type: ignore[index]


def test_another_key_is_computed_anew(tmp_path: Path) -> None:
    cached_losses(tmp_path, KEY, lambda: LOSSES)
    other = {"preview": np.zeros(1), "final": np.ones(1)}
    assert cached_losses(tmp_path, "sha256:cd", lambda: other)["final"][0] == 1


def test_without_a_folder_nothing_is_kept() -> None:
    calls = []

    def compute() -> Losses:
        calls.append(1)
        return LOSSES

    assert cached_losses(None, KEY, compute) is LOSSES
    assert cached_losses(None, KEY, compute) is LOSSES
    assert len(calls) == 2
