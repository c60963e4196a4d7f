"""Measure what share of mutants the tests kill; rewrites docs/measured/mutation.md.

mutmut's operators make the mutants; `mutation_runner` says how the tests run on them, since a fresh
process for each, which imports torch, would take days. Modules are taken in groups, each with the
test files that are about it. `mutation_equivalents.yaml` lists mutants that no test can tell from
the code, each with its reason.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import random
import secrets
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

# One thread each: a forked child has none of its parent's threads, and waits for them for ever.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from mutation_mutants import Mutant, mutants_of
from mutation_page import PAGE, UNRUN, GroupRun, Outcome, commit, write_page
from mutation_runner import LIGHT, ROOT, preload, run_cold, run_hot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BLOCK = 60
Key = tuple[str, str, str, str, int]
Found = dict[Key, str]
STORE = Path(__file__).resolve().parent / ".mutation"
GUARDS = "guards/invarlock_guards"
MEASURING = (
    "tests/guards/test_measure_*.py", "tests/guards/test_checkpoint_files.py",
    "tests/guards/test_weight_change.py",
)  # fmt: skip
# Not test_guard_consistency: its fixtures measure models.
DECIDING = ("tests/test_decide*.py", "tests/checks/test_[a-f]*.py", "tests/checks/test_[h-z]*.py")
CHECKING = (*DECIDING, "tests/checks/test_guard_overhead.py")


@dataclass(frozen=True, slots=True)
class Group:
    """Source files, and the tests that are about them; ``sample`` 0 takes every mutant.

    Of a ``light`` group the tests run without the plugin and shared fixtures, so without torch.
    Those named ``first`` see most of what a module's own statements say, and run before all.
    """

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    sample: int = 0
    light: bool = True
    first: tuple[str, ...] = ()


GROUPS = (
    Group(
        "judge",
        (f"{GUARDS}/judge/*.py",),
        ("tests/guards/test_judge_*.py",),
        first=("tests/guards/test_judge_policies.py", "tests/guards/test_judge_invariants.py"),
    ),
    Group("decide", ("pytest_invarlock/decide.py",), (*DECIDING, "tests/guards/test_judge_*.py")),
    Group(
        "checks",
        ("pytest_invarlock/checks/*.py",),
        CHECKING,
        400,
        first=("tests/checks/test_told_*.py", "tests/checks/test_stated_*.py", CHECKING[-1]),
    ),
    # Without the tests that run whole models, of which a mutant would take minutes.
    Group("measure", (f"{GUARDS}/measure/*.py",), MEASURING, 300, light=False),
)  # fmt: skip


def files(patterns: tuple[str, ...]) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts[1:] if relative.parts[0] == "guards" else relative.parts
    return ".".join(parts)


def all_mutants(group: Group, only: str) -> list[Mutant]:
    return [
        mutant
        for path in files(group.sources)
        if only in str(path)
        for mutant in mutants_of(module_of(path), path, str(path.relative_to(ROOT)))
    ]


def measure(
    group: Group, mutants: list[Mutant], jobs: int, hot_only: bool, keep: Callable[[Found], None]
) -> Found:
    """The outcome of each of ``mutants``: hot, and cold where that is not enough.

    ``keep`` is told what is known after each block, so that a run broken off loses one at most.
    """
    tests = [*(LIGHT if group.light else ()), *test_files(group.tests)]
    hot = [mutant for mutant in mutants if mutant.function is not None]
    started = time.monotonic()
    run = run_hot(hot, tests, jobs)
    print(f"{group.name}: hot {time.monotonic() - started:.0f} s", flush=True)
    outcomes = dict(zip((m.key for m in hot), run.outcomes, strict=True))
    keep(outcomes)
    preload(run.imported)
    for named in (group.first, group.tests) if not hot_only else ():
        cold = [m for m in mutants if outcomes.get(m.key) not in ("killed", "timeout")]
        if cold and named:
            arguments = [*(LIGHT if group.light else ()), *test_files(named)]
            for at in range(0, len(cold), BLOCK):
                some = cold[at : at + BLOCK]
                outcomes |= afresh(some, arguments, jobs, 30 + 5 * run.seconds)
                keep(outcomes)
    print(f"{group.name}: hot and cold {time.monotonic() - started:.0f} s", flush=True)
    return outcomes


def afresh(mutants: list[Mutant], arguments: list[str], jobs: int, seconds: float) -> Found:
    """The outcome of each mutant imported afresh, once the tests pass on the unchanged module."""
    whole = (ROOT / mutants[0].path).read_text(encoding="utf-8")
    unchanged = replace(mutants[0], statement=whole, above="", below="")
    first, *rest = run_cold([unchanged, *mutants], arguments, jobs, seconds)
    if first != "survived":
        raise RuntimeError(f"run afresh, the tests fail without a mutant: {' '.join(arguments)}")
    return dict(zip((mutant.key for mutant in mutants), rest, strict=True))


def test_files(patterns: tuple[str, ...]) -> list[str]:
    names = [path.relative_to(ROOT) for path in files(patterns)]
    return [str(name) for name in names if name.name.startswith("test_")]


def group_run(group: Group, seed: int, options: argparse.Namespace) -> GroupRun:
    """Draw, run and store the mutants of ``group``."""
    started = time.monotonic()
    digests = {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in files(group.sources)
    }
    mutants = all_mutants(group, options.only)
    size = 0 if options.full else options.sample or group.sample
    drawn = mutants
    if 0 < size < len(mutants):
        kept = set(random.Random(f"{seed}/{group.name}").sample(range(len(mutants)), size))
        drawn = [mutant for at, mutant in enumerate(mutants) if at in kept]
    before = killed_before(group.name, digests) if options.again else {}
    todo = [mutant for mutant in drawn if mutant.key not in before]
    print(f"{group.name}: {len(todo)} of {len(mutants)} mutants, seed {seed}", flush=True)
    command = (
        f"python benchmarks/evidence_mutation.py --groups {group.name} --seed {seed}"
        + " --full" * (options.full and group.sample > 0)
        + f" --sample {options.sample}" * bool(options.sample)
        + " --again" * options.again
    )

    def made(found: Found) -> GroupRun:
        return GroupRun(
            group.name, len(mutants), seed, commit(), f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            (time.monotonic() - started) / 60,
            tuple(
                before.get(m.key)
                or Outcome(*m.key, m.path, m.line, digests[m.path], found.get(m.key, UNRUN))
                for m in drawn
            ),
            group.tests, command, len(drawn) - len(todo),
        )  # fmt: skip

    run = made(measure(group, todo, options.jobs, options.hot, lambda found: store(made(found))))
    store(run)
    killed = sum(found.killed for found in run.outcomes)
    print(f"{group.name}: {killed} of {len(run.outcomes)} killed", flush=True)
    return run


def killed_before(name: str, digests: Mapping[str, str]) -> dict[Key, Outcome]:
    """What a group's last run, if any, killed in sources that still have these ``digests``."""
    try:
        last = stored(name)
    except FileNotFoundError:
        return {}
    return {
        row.key: row for row in last.outcomes
        if row.killed and digests.get(row.path) == row.digest
    }  # fmt: skip


def store(run: GroupRun) -> None:
    """Keep a run, whole or as far as it came, in place of the group's last one."""
    STORE.mkdir(exist_ok=True)
    new = STORE / f"{run.name}.json.new"
    new.write_text(json.dumps(asdict(run), indent=1), encoding="utf-8")
    new.replace(STORE / f"{run.name}.json")


def stored(name: str) -> GroupRun:
    """The last run of a group; FileNotFoundError where there was none."""
    found = json.loads((STORE / f"{name}.json").read_text(encoding="utf-8"))
    found["outcomes"] = tuple(Outcome(**row) for row in found["outcomes"])
    return GroupRun(**found | {"tests": tuple(found["tests"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, help="of the samples; fresh by default")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--groups", default=",".join(group.name for group in GROUPS))
    parser.add_argument("--full", action="store_true", help="every mutant, no sample")
    parser.add_argument("--sample", type=int, help="how many mutants of each group")
    parser.add_argument("--only", default="", help="part of the source files' paths")
    parser.add_argument("--again", action="store_true", help="not what the last run killed")
    parser.add_argument("--hot", action="store_true", help="nothing afresh: for writing tests")
    parser.add_argument("--page", action="store_true", help="only write the page of the last runs")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))  # As `python -m pytest` has it: some tests import others.
    seed = secrets.randbits(32) if options.seed is None else options.seed
    for group in GROUPS if not options.page else ():
        if group.name in options.groups.split(","):
            group_run(group, seed, options)
    if options.only:
        return
    names = [group.name for group in GROUPS]
    ran = [name for name in names if (STORE / f"{name}.json").is_file()]
    rest = [name for name in names if name not in ran]
    write_page([stored(name) for name in ran], rest, options.output)


if __name__ == "__main__":
    main()
