"""Run apart by `test_resume`: sessions of a suite, killed at seeded steps and resumed.

One process runs a session and forks one each time; what each came to goes to a file.
A step is a flush to disk, a rename, or a batch of windows; `Step` n is before the n-th of them.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pytest_invarlock.run_progress
from pytest_invarlock.progress import ProgressReporter

FLAGS = ["-q", "-p", "no:randomly", "-p", "no:hypothesispytest", "-p", "no:cacheprovider",
         "-p", "no:xdist", "--invarlock-signing-key=none"]  # fmt: skip
N_KILLS = 10


def forked(action: Callable[[], int], log: Path) -> int:
    """The wait status of a child that does ``action``; what it prints goes to ``log``."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 70
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        status = action()
    except BaseException:  # noqa: BLE001  a child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def session(suite: str, out: str, *flags: str, kill_at: int = 0) -> int:
    """The wait status of a session, which kills itself at step ``kill_at``; its steps in a file."""

    def run() -> int:
        step = 0

        def counted(function: Any) -> Any:
            def call(*arguments: Any, **keywords: Any) -> Any:
                nonlocal step
                step += 1
                if step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)

            return call

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        ProgressReporter.__call__ = counted(ProgressReporter.__call__)  # type: ignore[method-assign]
        status = pytest.main([*FLAGS, suite, f"--invarlock-out={out}", *flags])
        Path(f"{out}.steps").write_text(str(step))
        return int(status)

    return forked(run, Path(f"{out}.log"))


def outcome(out: str) -> dict[str, Any]:
    """What the newest run in ``out`` came to."""
    run = Path(out) / "latest"
    documents = [
        json.loads(path.read_bytes()) for path in sorted(run.glob("records/*/*/*.record.json"))
    ]
    verdict = run / "final_verdict.json"
    return {
        "facts": {d["facts"]["scenario"]: d["facts_digest"] for d in documents},
        "verdict": json.loads(verdict.read_bytes()) if verdict.is_file() else None,
        "sealed": (run / "evidence_pack" / "manifest.json").is_file(),
        "events": [
            line.split()[1] for p in run.glob("logs/*.log") for line in p.read_text().splitlines()
        ],
        "unfinished": [p.name for p in run.rglob("*.tmp")],
        "salt": (run / "state" / "salt").read_text() if (run / "state" / "salt").is_file() else "",
    }


def moments(n_steps: int) -> list[int]:
    """Ten seeded steps, one in each tenth of the session."""
    generator = random.Random(17)
    edges = [1 + n_steps * tenth // N_KILLS for tenth in range(N_KILLS + 1)]
    return [generator.randrange(edges[i], edges[i + 1]) for i in range(N_KILLS)]


def main(suite: str, changed: str) -> None:
    """Write ``results.json``: the whole session, each one killed and resumed, a changed policy."""
    torch.set_num_threads(1)
    # Modules that are written compiled would be steps of the first session alone.
    sys.dont_write_bytecode = True
    # Otherwise the steps of a session would depend on how fast it is.
    pytest_invarlock.run_progress.SECONDS_BETWEEN_WRITES = 1e9
    # What the first session of a process loads and compiles, those that are forked find there.
    pytest.main([*FLAGS, suite, "--invarlock-out=first"])
    gc.collect()
    gc.freeze()
    status = session(suite, "whole")
    results: dict[str, Any] = {"whole": {"status": status, **outcome("whole")}, "killed": []}
    n_steps = int(Path("whole.steps").read_text())
    for number, step in enumerate(moments(n_steps)):
        out = f"killed_{number}"
        killed = session(suite, out, kill_at=step)
        before = outcome(out) if (Path(out) / "latest").exists() else None
        status = session(suite, out, "--invarlock-resume")
        results["killed"].append(
            {"step": step, "killed": killed, "before": before, "status": status, **outcome(out)}
        )
    # The last one's run is whole: another policy decides on the same records.
    status = session(changed, out, f"--invarlock-resume={Path(out, 'latest').resolve().name}")
    results["changed"] = {"status": status, **outcome(out)}
    Path("results.json").write_text(json.dumps(results | {"n_steps": n_steps}))


if __name__ == "__main__":
    main(*sys.argv[1:])
