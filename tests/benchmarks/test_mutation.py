"""The mutants, the processes that run tests on them, and the page: what survives is said."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("mutmut")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
THING = '''"""A module."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 3


@dataclass(frozen=True, slots=True)
class Thing:
    size: int = 1

    @property
    def fits(self) -> bool:
        return self.size <= LIMIT


def unused(a: int) -> int:
    return (
        a
        + 1
    )
'''
TEST = """
import thing

def test_it():
    assert thing.Thing(3).fits
    assert not thing.Thing(4).fits
    assert thing.LIMIT == 3
"""
RUN = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], "."]
import mutation_runner
from mutation_mutants import mutants_of
mutation_runner.ROOT = Path.cwd()
mutants = mutants_of("thing", Path("thing.py"), "thing.py")
arguments = [*mutation_runner.LIGHT, "-c", "none.ini", "test_thing.py"]
hot = [mutant for mutant in mutants if mutant.function]
run = mutation_runner.run_hot(hot, arguments, 2)
cold = mutation_runner.run_cold(mutants, arguments, 2, 20)
print(json.dumps([
    [[m.before, m.after, o] for m, o in zip(hot, run.outcomes)],
    [[m.before, m.after, o] for m, o in zip(mutants, cold)],
]))
"""


@pytest.fixture(scope="module")
def parts() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(f"mutation_{name}") for name in ("mutants", "page")}
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_mutants_are_the_file_but_for_one_place(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(THING, encoding="utf-8")
    found = parts["mutants"].mutants_of("thing", path, "thing.py")
    assert len({mutant.key for mutant in found}) == len(found)
    changed = {(m.function, m.before, m.after) for m in found}
    assert (None, "LIMIT = 3", "LIMIT = 4") in changed
    assert ("Thing.fits", "return self.size <= LIMIT", "return self.size < LIMIT") in changed
    assert ("unused", "a + 1", "a - 1") in changed
    assert ("unused", "+ 1", "+ 2") in changed
    for mutant in found:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(THING))
        before, after = THING.splitlines(), mutant.source.splitlines()
        differ = [
            n for n, pair in enumerate(zip(before, after, strict=False), 1) if len({*pair}) > 1
        ]
        assert differ[0] == mutant.line


def test_what_tests_see_is_killed_and_nothing_else(tmp_path: Path) -> None:
    for name, text in (("thing.py", THING), ("test_thing.py", TEST), ("none.ini", "[pytest]\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(BENCHMARKS)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hot, cold = json.loads(done.stdout)
    seen = {"return self.size <= LIMIT", "LIMIT = 3"}
    for before, after, outcome in [*hot, *cold]:
        assert outcome == ("killed" if before in seen else "survived"), (before, after)
    assert {before for before, _, _ in cold} == {*seen, "size: int = 1", "+ 1", "a + 1"}


def outcome(parts: Any, after: str, found: str) -> Any:
    return parts["page"].Outcome("m.thing", "f", "x > 1", after, 0, "m/thing.py", 3, "d", found)


@pytest.mark.parametrize(("survivors", "met"), [(1, True), (2, False)])
def test_the_page_says_what_survived_and_why(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int, met: bool
) -> None:
    page = parts["page"]
    listed = tmp_path / "equivalents.yaml"
    listed.write_text("- {module: m.thing, before: 'x > 1', after: 'same', reason: 'no one sees'}")
    monkeypatch.setattr(page, "EQUIVALENTS", listed)
    outcomes = [outcome(parts, "same", "survived")]
    outcomes += [outcome(parts, f"alive {n}", "survived") for n in range(survivors - 1)]
    outcomes.append(outcome(parts, "never", "unrun"))
    outcomes += [outcome(parts, f"dead {n}", "killed") for n in range(18)]
    outcomes += [outcome(parts, "endless", "timeout")]
    run = page.GroupRun("g", 99, 7, "c", "d", 1.0, tuple(outcomes), ("tests/x.py",), "make it", 4)
    page.write_page([run], ["other"], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    said = {line.split(":")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert ("**NOT met**" in said["| g"]) is not met
    assert "| not measured | **NOT met** |" in said["| other"]
    assert f"| m.thing | {20 + survivors} | 18 | 1 | {survivors - 1} | 1 | 1 |" in text
    assert "`` never ``" not in text
    assert "4 of them killed in an earlier run" in text
    assert f"19 of {19 + survivors}" in text
    assert f"of all 19 of {20 + survivors}" in text
    assert f"{20 + survivors} of 99 mutants, drawn with seed 7" in text
    assert ("`` alive 0 ``" in text) is (survivors > 1)
    assert "`` same `` | no one sees |" in text


def test_a_run_again_keeps_the_kills_of_the_same_sources_and_starts_afresh_without_any(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        # The script sets them as it is imported; this has them back afterwards.
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    script = importlib.import_module("evidence_mutation")
    monkeypatch.setattr(script, "STORE", tmp_path / "none")
    assert script.killed_before("g", {"m/thing.py": "d"}) == {}
    dead, slow = outcome(parts, "dead", "killed"), outcome(parts, "slow", "timeout")
    rest = [outcome(parts, found, found) for found in ("survived", "broken", "unrun")]
    rows = (dead, slow, *rest)
    script.store(parts["page"].GroupRun("g", 5, 7, "c", "d", 1.0, rows, ("tests/x.py",), "make"))
    assert script.killed_before("g", {"m/thing.py": "d"}) == {dead.key: dead, slow.key: slow}
    for other in ({"m/thing.py": "changed"}, {}):
        assert script.killed_before("g", other) == {}
