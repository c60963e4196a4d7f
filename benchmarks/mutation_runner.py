"""Run tests on mutants in forked processes: imports and collection are done once.

A mutant within a function is put into the functions already imported (*hot*): each child runs the
tests that called the function, quickest first, until one fails. A mutant of a module's or a class's
own statements, and every one that survived hot, is imported afresh (*cold*) under all tests of its
group. An outcome counts as killed only where a test or an import fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, FrameType, ModuleType

    from mutation_mutants import Mutant

ROOT = Path(__file__).resolve().parents[1]
KILLED, SURVIVED, BROKEN = 41, 42, 43
"""Exit statuses of a child; any other is a signal or a crash."""
PYTEST_ARGS = (
    "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", "--tb=no",
    # A failure's explanation costs more than most tests, and nobody reads it.
    "--assert=plain",
)  # fmt: skip
PROGRESS = os.dup(2)
LIGHT = ("--noconftest", "-p", "no:invarlock")
"""For tests that need neither the plugin nor shared fixtures: without torch a fork is cheap."""
OURS = ("pytest_invarlock", "invarlock_guards", "tests", "conftest", "pytest", "_pytest")


def in_children(
    work: Sequence[Callable[[], int]], jobs: int, said: Callable[[int, str], None]
) -> None:
    """Run each of ``work`` in a forked child; ``said`` is told its number and outcome."""
    running: dict[int, int] = {}
    waiting = iter(enumerate(work))
    while True:
        while len(running) < jobs and (upcoming := next(waiting, None)) is not None:
            number, task = upcoming
            pid = os.fork()
            if pid == 0:
                _child(task)
            running[pid] = number
        if not running:
            return
        pid, status = os.wait()
        said(running.pop(pid), outcome_of(status))


def _child(task: Callable[[], int]) -> None:
    code = BROKEN
    try:
        code = task()
    finally:
        # Whatever was raised: this process is a copy, and must not go on as the first.
        os._exit(code)


def outcome_of(status: int) -> str:
    """A wait status in one word: killed, survived, timeout or broken."""
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        # A crash of the interpreter fails a test run as an assertion does.
        return "timeout" if ended in (signal.SIGXCPU, signal.SIGALRM) else "killed"
    return {KILLED: "killed", SURVIVED: "survived"}.get(os.WEXITSTATUS(status), "broken")


def limited(seconds: float) -> None:
    """End this process after ``seconds`` of its own processor time, or of much more waiting."""
    whole = int(seconds) + 1
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + whole, used + whole + 5))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(30 + 20 * whole)


def quiet() -> None:
    """Send what this process writes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


class FirstFailure:
    """Ends a child at its first failure, before a report of it is made."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        raised = call.excinfo
        if raised is not None and not raised.errisinstance(pytest.skip.Exception):
            os._exit(KILLED)


class HotPlugin:
    """Runs the collected tests once, noting which call what; then each mutant on its tests."""

    def __init__(self, mutants: Sequence[Mutant], jobs: int, report: Path) -> None:
        self.mutants = mutants
        self.jobs = jobs
        self.report = report
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
            os.write(PROGRESS, f"without a mutant: {report.longreprtext}\n".encode())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        callers, seconds = self._baseline(session)
        if self.failed:
            raise pytest.UsageError(f"without a mutant fails {self.failed[0]}")
        everything = sorted(set().union(*callers.values()))
        tasks = [
            self._task(session, None, everything, seconds),
            *(self._task(session, m, _called(callers, m), seconds) for m in self.mutants),
        ]
        outcomes = ["broken"] * len(tasks)
        gc.collect()
        gc.freeze()

        def said(number: int, outcome: str) -> None:
            outcomes[number] = outcome
            _progress(number, len(tasks), outcome)

        in_children(tasks, self.jobs, said)
        if outcomes.pop(0) != "survived":
            raise pytest.UsageError("in another order the tests fail without a mutant")
        ours = tuple(f"{name}." for name in OURS)
        imported = sorted(n for n in sys.modules if n not in OURS and not n.startswith(ours))
        found = {"outcomes": outcomes, "imported": imported, "seconds": sum(seconds)}
        self.report.write_text(json.dumps(found), encoding="utf-8")
        return True

    def _baseline(
        self, session: pytest.Session
    ) -> tuple[dict[tuple[str, str], set[int]], list[float]]:
        """The tests that call each function, by their places; and each test's seconds."""
        callers: dict[tuple[str, str], set[int]] = defaultdict(set)
        files = {str(ROOT / mutant.path) for mutant in self.mutants}
        seconds = []
        for place, item in enumerate(session.items):
            started = time.process_time()
            with _profiled(files, callers, place):
                # The first follows the last: what all tests share stays set up.
                follows = session.items[(place + 1) % len(session.items)]
                item.ihook.pytest_runtest_protocol(item=item, nextitem=follows)
            seconds.append(time.process_time() - started)
        return callers, seconds

    def _task(
        self,
        session: pytest.Session,
        mutant: Mutant | None,
        called: Iterable[int],
        seconds: list[float],
    ) -> Callable[[], int]:
        places = sorted(called, key=lambda place: seconds[place])

        def task() -> int:
            limited(10 + 5 * sum(seconds[place] for place in places))
            quiet()
            session.config.pluginmanager.register(FirstFailure())
            if mutant is not None and not put_in(mutant):
                # Cold decides; so where the module cannot be executed, which raises.
                return SURVIVED
            chosen = [session.items[place] for place in places]
            for item, follows in itertools.zip_longest(chosen, chosen[1:]):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=follows)
            return SURVIVED

        return task


def _called(callers: dict[tuple[str, str], set[int]], mutant: Mutant) -> set[int]:
    return callers.get((str(ROOT / mutant.path), mutant.function or ""), set())


@contextlib.contextmanager
def _profiled(
    files: set[str], callers: dict[tuple[str, str], set[int]], place: int
) -> Iterator[None]:
    names: dict[CodeType, tuple[str, str] | None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in names:
            own = code.co_filename in files
            function = code.co_qualname.partition(".<locals>")[0]
            names[code] = (code.co_filename, function) if own else None
        name = names[code]
        if name is not None:
            callers[name].add(place)

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def put_in(mutant: Mutant) -> bool:
    """Give the imported function the mutant's code; False where that cannot be done."""
    module = importlib.import_module(mutant.module)
    # What is annotated is text there too: the file begins with the future's annotations.
    flags = annotations.compiler_flag
    code = compile(mutant.statement, str(module.__file__), "exec", flags, dont_inherit=True)
    fresh: dict[str, Any] = dict(vars(module))
    exec(code, fresh)
    if mutant.function is None:
        return False
    holder, _, name = mutant.function.rpartition(".")
    if holder:
        old, new = vars(getattr(module, holder)).get(name), vars(fresh[holder]).get(name)
    else:
        old, new = getattr(module, name, None), fresh.get(name)
    old, new = _plain(old), _plain(new)
    if old is None or new is None or old.__code__.co_freevars != new.__code__.co_freevars:
        return False
    old.__code__, old.__defaults__ = new.__code__, new.__defaults__
    old.__kwdefaults__ = new.__kwdefaults__
    return True


def _plain(found: Any) -> FunctionType | None:
    """The function under a descriptor or a cache."""
    for attribute in ("__func__", "fget", "__wrapped__"):
        found = getattr(found, attribute, None) or found
    return found if isinstance(found, FunctionType) else None


class _MutantFinder(importlib.abc.MetaPathFinder):
    """Finds the mutated module where its source is, with the mutant's text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self.mutant.module:
            return None
        loader = _MutantLoader(self.mutant)
        where = str(ROOT / self.mutant.path)
        return importlib.util.spec_from_file_location(fullname, where, loader=loader)


class _MutantLoader(importlib.abc.InspectLoader):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def get_source(self, fullname: str) -> str:
        del fullname
        return self.mutant.source


@dataclass(frozen=True, slots=True)
class HotRun:
    """The outcome of each mutant, the tests' seconds, and the modules of others they import."""

    outcomes: list[str]
    seconds: float
    imported: list[str]


def run_hot(mutants: Sequence[Mutant], arguments: Sequence[str], jobs: int) -> HotRun:
    """Every mutant of a function, put into what is imported.

    Raises:
        RuntimeError: the tests fail without a mutant.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"

        def task() -> int:
            quiet()
            plugin = HotPlugin(mutants, jobs, report)
            whole = [*PYTEST_ARGS, f"--basetemp={folder}/tests", *arguments]
            return SURVIVED if pytest.main(whole, plugins=[plugin]) == 0 else KILLED

        ended: list[str] = []
        in_children([task], 1, lambda _, outcome: ended.append(outcome))
        if ended != ["survived"] or not report.is_file():
            raise RuntimeError(f"without a mutant the tests fail: {' '.join(arguments)}")
        found = json.loads(report.read_text(encoding="utf-8"))
    return HotRun(found["outcomes"], found["seconds"], found["imported"])


def preload(names: Iterable[str]) -> None:
    """Import what the tests import of others, so that no cold child does."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run_cold(
    mutants: Sequence[Mutant], arguments: Sequence[str], jobs: int, seconds: float
) -> list[str]:
    """The outcome of each mutant imported afresh, ``seconds`` at most for each.

    The first of ``mutants`` may be the unchanged module, which must survive.
    """
    outcomes = ["broken"] * len(mutants)
    with tempfile.TemporaryDirectory() as folder:

        def task(mutant: Mutant) -> Callable[[], int]:
            def run() -> int:
                limited(seconds)
                quiet()
                sys.meta_path.insert(0, _MutantFinder(mutant))
                whole = [*PYTEST_ARGS, f"--basetemp={folder}/{os.getpid()}", *arguments]
                try:
                    status = pytest.main(whole, plugins=[FirstFailure()])
                except Exception:  # noqa: BLE001 - the plugin itself imports what is mutated
                    return KILLED
                return SURVIVED if status == pytest.ExitCode.OK else KILLED

            return run

        def said(number: int, outcome: str) -> None:
            outcomes[number] = outcome
            _progress(number, len(mutants), outcome)

        in_children([task(mutant) for mutant in mutants], jobs, said)
    return outcomes


def _progress(number: int, total: int, outcome: str) -> None:
    if number % 100 == 99 or number + 1 == total:
        os.write(PROGRESS, f"  {number + 1} of {total}, this one {outcome}\n".encode())
