"""What suite subset costs over the forward passes that nobody can save, in one process.

The suite's twenty scenarios, one draw each, without the runs that confirm and deriving no preset,
÷ 21 bare loops over the same windows: one for the baseline and one for each subject. The clock of
the suite starts when its model is loaded and stops when the evidence pack is sealed. The bare loops
run between its items, their time taken off its clock: machines have fast and slow minutes, and both
sides then have the same. Beside the wall's clock stands the processor's.

Usage: python benchmarks/suite_overhead.py [--model builtin:llama] [--every 2] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from overhead import _padded, bare_loop

# As many windows as the suite takes in continuous integration.
SEQ_LEN, WINDOWS, THREADS, BATCH = 128, 200, 1, 64
SUBJECTS, GOAL = 20, 1.6
SUITE = """\
extends: subset
name: overhead
models: ["{model}"]
profile: ci
dataset: {{provider: pydoc, seq_len: {seq_len}, preview_n: {windows}, final_n: {windows}}}
run: {{device: cpu, dtype: float32, threads: {threads}, batch_tokens: {tokens}}}
minimum_signal_fraction: {{stress: 0, error: 0}}
"""


Clocks = tuple[float, float]


def now() -> Clocks:
    """Seconds by the wall's clock and by this process's processor time."""
    return time.perf_counter(), time.process_time()


def since(start: Clocks) -> Clocks:
    """What passed on both clocks."""
    wall, processor = now()
    return wall - start[0], processor - start[1]


class BareLoops:
    """Between the items of a session, after every ``every``-th of them, a bare pass is timed."""

    def __init__(self, model, every: int) -> None:
        self._bench = resident(model)
        self._batches = _padded(self._bench.windows(0))
        self._every, self._items = every, 0
        self.taken: list[Clocks] = []
        self.away = (0.0, 0.0)
        self.loop()

    def loop(self) -> Clocks:
        from pytest_invarlock.core.determinism import in_force

        with in_force(self._bench.plan):
            start = now()
            bare_loop(self._bench.baseline.model, self._batches)
            return since(start)

    def pytest_runtest_logfinish(self) -> None:
        self._items += 1
        if self._items % self._every:
            return
        start = now()
        self.taken.append(self.loop())
        self.away = tuple(before + one for before, one in zip(self.away, since(start), strict=True))


def resident(model: str):
    """The model with its windows, as the suite measures them."""
    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.core.determinism import resolve_plan
    from pytest_invarlock.plan import DataSource, MeasurementPlan, Pair, WindowSelection

    plan = MeasurementPlan(
        DataSource("pydoc"), WindowSelection(SEQ_LEN, SEQ_LEN, WINDOWS, WINDOWS),
        device="cpu", dtype="float32", threads=THREADS, batch_tokens=BATCH * SEQ_LEN,
    )  # fmt: skip
    return Bench(Pair("model", model), resolve_plan(plan))


def session(
    folder: Path, model: str, bare: BareLoops, profiler: cProfile.Profile | None
) -> tuple[Clocks, int]:
    """Seconds from the loaded model to the sealed pack, and how many records were made."""
    import pytest

    from pytest_invarlock.bench.resident import Bench

    suite = folder / "overhead.invarlock.yaml"
    suite.write_text(
        SUITE.format(model=model, seq_len=SEQ_LEN, windows=WINDOWS, threads=THREADS,
                     tokens=BATCH * SEQ_LEN)
    )  # fmt: skip
    out = folder / "out"
    loads: list[Clocks] = []
    adopt = Bench.adopt

    def noted(bench, loaded) -> None:
        adopt(bench, loaded)
        loads.append(now())
        bare.away = (0.0, 0.0)

    # Plugins that only this repository's own tests need are no part of a user's run.
    quiet = ["-q", "--no-summary", "-p", "no:cacheprovider", "-p", "no:randomly",
             "-p", "no:hypothesispytest", "--rootdir", str(folder)]  # fmt: skip
    Bench.adopt = noted
    try:
        with profiler or nullcontext():
            status = pytest.main(
                [*quiet, str(suite), "--invarlock-mode=run-only", "--invarlock-repeats=1",
                 f"--invarlock-out={out}"],
                plugins=[bare],
            )  # fmt: skip
    finally:
        Bench.adopt = adopt
    taken = tuple(all_ - away for all_, away in zip(since(loads[0]), bare.away, strict=True))
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise SystemExit(f"the suite ended with status {status}")
    run = out / "latest"
    n_records = len(list(run.glob("records/*/*/*.record.json")))
    # The baseline's losses are kept in that format too.
    checkpoints = [p for p in folder.rglob("*.safetensors") if p.parent.name != "baseline"]
    print(f"  loads {len(loads)}, records {n_records}, checkpoints written {len(checkpoints)}, "
          f"exit status {int(status)}")  # fmt: skip
    return taken, n_records


def main() -> None:
    """Print the ratio, and with ``--profile`` where the suite's time goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:llama")
    parser.add_argument("--every", type=int, default=2, help="items from bare pass to bare pass")
    parser.add_argument("--profile", action="store_true", help="also where the time goes; slower")
    arguments = parser.parse_args()
    profiler = cProfile.Profile() if arguments.profile else None
    bare = BareLoops(arguments.model, arguments.every)
    print(f"{arguments.model}, suite subset, 2 x {WINDOWS} windows of {SEQ_LEN} tokens, "
          f"{THREADS} thread")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        # A key of one's own is not touched.
        os.environ |= {"XDG_CONFIG_HOME": name, "HF_HUB_OFFLINE": "1"}
        ours, n_records = session(Path(name), arguments.model, bare, profiler)
    if n_records != SUBJECTS:
        raise SystemExit(f"{n_records} records, {SUBJECTS} were planned")
    loops = SUBJECTS + 1
    for clock, name in enumerate(("wall", "processor")):
        one = statistics.fmean(times[clock] for times in bare.taken)
        ratio = ours[clock] / (one * loops)
        print(f"suite subset after load / {loops} bare loops, {name}: {ours[clock]:.2f} s / "
              f"{one * loops:.2f} s = {ratio:.3f}; goal {GOAL:g}: "
              f"{'met' if ratio <= GOAL else 'NOT met'}")  # fmt: skip
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(
            "pytest_invarlock|invarlock_guards", 60
        )


if __name__ == "__main__":
    main()
