"""Regenerate docs/measured/guards.md: false alarms and detections of the guards, measured.

Usage: python benchmarks/evidence_guards.py [--seed N] [--benign N] [--damage N] [--jobs N]
                                            [--minutes M] [--models NAME ...] [--page-only]

Counts are for each model; the models are the shipped ones and those that guards_models.py trained.
Rows are appended to benchmarks/.guards/SEED/MODEL.jsonl, so that a run that was broken off goes
on; --page-only writes the page from what is there. Without --seed a fresh one is drawn and printed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch: each worker is to take one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml
from guards_bench import Bench, Run
from guards_benign import Benign
from guards_damage import Damage
from guards_finetunes import finetunes
from guards_models import EXPERTS, ModelUnderTest, models
from guards_page import write_page

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "measured" / "guards.md"
EXPERT_RUNS = 32
ROWS = Path(__file__).parent / ".guards"
FAULTS = ROOT / "policies" / "scenarios" / "faults.yaml"
MEASURED = (
    "guards", "pytest_invarlock", "policies",
    *(f"benchmarks/guards_{part}.py" for part in ("bench", "edits", "benign", "damage")),
    "benchmarks/guards_finetunes.py",
)  # fmt: skip


def faults() -> Iterator[tuple[Run, str]]:
    """The shipped fault scenarios as runs, each with its declared primary guard."""
    for scenario in yaml.safe_load(FAULTS.read_text(encoding="utf-8"))["scenarios"]:
        edit = scenario["edit"]
        yield (
            Run(
                f"fault-{scenario['id']}", "fault", scenario["id"], "", "as shipped", "any", 0,
                ((edit["name"], dict(edit.get("plan", {}))),),
            ),
            scenario["primary_guard"],
        )  # fmt: skip


def runs_of(bench: Bench, model: ModelUnderTest, place: int, options: Any) -> Iterator[Run]:
    """Faults, then benign and damaged runs in turn: a run broken off has some of each.

    Of a model with experts, only the damage that no other model can have.
    """
    if bench.has_experts:
        yield from Damage(bench, options.seed, place).runs(EXPERT_RUNS)
        return
    yield from (run for run, _ in faults())
    cache = ROWS / "finetunes" / f"{model.name.replace(':', '-')}-{model.sha256[:12]}"
    tuned = finetunes(bench.loaded, options.seed, cache=cache.with_suffix(f".{options.seed}.pt"))
    benign = Benign(bench, tuned, options.seed, place)
    damaged = Damage(bench, options.seed, place).runs(options.damage)
    done = 0
    for number in range(options.benign):
        yield benign.run(number)
        while done < (number + 1) * options.damage // max(options.benign, 1):
            yield next(damaged)
            done += 1
    yield from damaged


def measure_model(model: ModelUnderTest, place: int, options: Any, until: float) -> str:
    """Measure what the rows of ``model`` lack, until the clock says ``until``."""
    import torch

    torch.set_num_threads(1)
    path = rows_path(model, options.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    have = {row["key"] for row in read_rows(path)}
    bench = Bench(model.reference)
    commit = checkout()
    primary = {run.key: guard for run, guard in faults()}
    n_new = 0
    with path.open("a", encoding="utf-8") as stream:
        # Ends a line that was cut off.
        stream.write("\n" if path.stat().st_size else "")
        for run in runs_of(bench, model, place, options):
            if time.time() > until:
                return f"{model.name}: out of time after {n_new} new rows"
            if run.key in have:
                continue
            row = bench.measure(run) | {"model": model.name, "commit": commit}
            if run.group == "fault":
                row["primary"] = primary[run.key]
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            n_new += 1
    return f"{model.name}: {n_new} new rows"


def rows_path(model: ModelUnderTest, seed: int) -> Path:
    return ROWS / str(seed) / f"{model.name.replace(':', '-')}-{model.sha256[:12]}.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a line that was cut off is left out, and measured again."""
    if not path.exists():
        return []
    rows = []
    for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def checkout() -> str:
    """The commit, and whether what is measured differs from it; "unknown" outside a checkout."""
    try:
        found, changed = (
            subprocess.run(
                ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", *MEASURED))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{found} with uncommitted changes" if changed else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, help="fixes every draw; fresh by default")
    parser.add_argument("--benign", type=int, default=160, help="runs for each model")
    parser.add_argument("--damage", type=int, default=130, help="runs for each model")
    parser.add_argument("--jobs", type=int, default=1, help="models measured at a time")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop measuring after")
    parser.add_argument("--models", nargs="+", help="measure these alone; the page shows all")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = secrets.randbits(31)
        print(f"seed {options.seed}", flush=True)
    until = time.time() + 60 * options.minutes
    found = models()
    chosen = [m for m in found if not options.models or m.name in options.models]
    if not options.page_only:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            waiting = [
                pool.submit(measure_model, model, place_of(model), options, until)
                for model in chosen
            ]
            for each in waiting:
                print(each.result(), flush=True)
    rows = {model.name: read_rows(rows_path(model, options.seed)) for model in found}
    command = (
        f"python benchmarks/evidence_guards.py --seed {options.seed} "
        f"--benign {options.benign} --damage {options.damage}"
    )
    each = options.benign + options.damage + sum(1 for _ in faults())
    planned = sum(EXPERT_RUNS if model.architecture == EXPERTS else each for model in found)
    claims = write_page(
        found, rows, options.output, seed=options.seed, command=command, planned=planned
    )
    for text, told, met in claims:
        print(f"{'met    ' if met else 'NOT met'} {text}: {told}")


def place_of(model: ModelUnderTest) -> int:
    """A number of the model's own, whatever other models there are."""
    return int.from_bytes(model.name.encode(), "big") % (2**31 - 1)


if __name__ == "__main__":
    sys.exit(main())
