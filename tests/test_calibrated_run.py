"""A narrowed run's presets: derived once by whatever needs one, and never a second time."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.adapters.model_source import checkpoint_digest, resolve_model
from pytest_invarlock.calibrated_run import calibrated_in_run
from pytest_invarlock.core.calibration import calibration_inputs
from pytest_invarlock.decision import Outcome
from pytest_invarlock.errors import DataError, InvarlockError
from pytest_invarlock.policy.calibrated_preset import META
from pytest_invarlock.policy.settings import NEWEST, Settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.resumption import Resumption
from pytest_invarlock.run_directory import RunDirectory
from pytest_invarlock.workbench import Workbench

from .calibration.made import preset

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
name: small
models: ["builtin:llama"]
profile: dev
dataset: {provider: pydoc}
calibration: {runs: 2}
scenarios:
  - {id: a, strictness: must_pass, edit: {name: noop}}
  - {id: b, strictness: must_pass, edit: {name: noop}}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "small.invarlock.yaml"
    path.write_text(SUITE)
    return load_suite_file(path, Settings(), tmp_path)


class Lab:
    """Workbenches of one session on which a calibration ends as it is told to."""

    def __init__(self, suite: Suite, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.suite, self.out = suite, folder / "out"
        (self.pair,) = suite.pairs
        self.outcome: Outcome | Exception = Outcome.PASS
        self.seconds = 0.0
        self.derived: list[Any] = []
        self.told: list[str] = []
        monkeypatch.setattr("pytest_invarlock.core.calibration.calibrate", self._calibrate)
        monkeypatch.setattr(Workbench, "bench", lambda *_: SimpleNamespace())
        # As far as a scenario comes that has limits to be judged by.
        monkeypatch.setattr(Workbench, "_record", lambda *_: pytest.skip("measured"))

    def _calibrate(self, bench: Any, *_: Any, inputs: str, **__: Any) -> Any:
        self.derived.append(bench)
        time.sleep(self.seconds)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        document = preset(self.pair.name, self.outcome)
        document[META]["inputs"] = inputs
        loaded = checkpoint_digest(resolve_model(self.pair.baseline).directory)
        facts = SimpleNamespace(baseline={"checkpoint_digest": loaded})
        held_out = SimpleNamespace(problems=list)
        return SimpleNamespace(document=document, held_out=held_out, facts=facts)

    def workbench(self, worker: str = "gw0", *, day: int = 1, resume: bool = False) -> Workbench:
        """Of the session of a day; one that resumes continues the newest earlier one."""
        return Workbench(
            self.out, f"s{day}", f"202601{day:02}T000000Z", worker, 1,
            allow_network=False, report_progress=lambda _, text: self.told.append(text),
            resumption=Resumption(NEWEST if resume else None, worker, 1, allow_network=False),
        )  # fmt: skip

    def resumed(self, day: int) -> tuple[int, Any, list[str]]:
        """How often a session that resumes derives; its preset; why it took none over."""
        before, bench = len(self.derived), self.workbench(day=day, resume=True)
        preset = calibrated_in_run(bench, self.suite, self.pair, self.item("a")).document
        log = (bench.suite_run(self.suite).path / "logs" / "gw0.log").read_text()
        why = [line.split(": ")[-1] for line in log.splitlines() if "preset_not_taken" in line]
        return len(self.derived) - before, preset, why

    def item(self, scenario: str, *collected: str) -> Any:
        nodes = [SimpleNamespace(nodeid=f"small::m::{scenario}::tail"), *map(node, collected)]
        return SimpleNamespace(nodeid=nodes[0].nodeid, session=SimpleNamespace(items=nodes))

    def ask(self, bench: Workbench, scenario: str = "a", *collected: str) -> str:
        """The code of the error in which a scenario ends, or ``measured``."""
        (found,) = [one for one in self.suite.scenarios if one.name == scenario]
        try:
            bench.measured(self.suite, self.pair, found, item=self.item(scenario, *collected))
        except InvarlockError as error:
            return f"{error.code}: {error.cause}"
        except pytest.skip.Exception as reached:
            return str(reached)
        raise AssertionError("unreachable")


def node(node_id: str) -> Any:
    return SimpleNamespace(nodeid=node_id)


@pytest.fixture
def lab(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(suite, tmp_path, monkeypatch)


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR])
def test_a_preset_that_does_not_hold_judges_nothing_and_is_not_derived_again(
    lab: Lab, outcome: Outcome
) -> None:
    lab.outcome = outcome
    bench = lab.workbench()
    for scenario in ("a", "b", "a"):
        assert lab.ask(bench, scenario).startswith(f"CALIBRATION: {lab.pair.name} has no limits")
    assert len(lab.derived) == 1


def test_what_failed_to_derive_is_told_once_and_tried_again_by_the_item_that_met_it(
    lab: Lab,
) -> None:
    lab.outcome = DataError("too little text", remedy="", code="DATA_TOO_SMALL")
    bench = lab.workbench()
    assert lab.ask(bench, "a") == "DATA_TOO_SMALL: too little text"
    assert lab.ask(bench, "b") == (
        "DATA_TOO_SMALL: the calibration failed, see small::m::a::tail"
    )  # fmt: skip
    assert len(lab.derived) == 1
    lab.outcome = Outcome.PASS
    assert (lab.ask(bench, "a"), lab.ask(bench, "b")) == ("measured", "measured")
    assert len(lab.derived) == 2


def test_where_its_item_was_collected_no_scenario_derives_it(lab: Lab) -> None:
    wanted = lab.suite.calibration_node(lab.pair)
    found = lab.ask(lab.workbench(), "a", wanted)
    assert found.startswith("CALIBRATION: ")
    assert "no preset was derived" in found
    assert not lab.derived
    # That of another model is no stand-in.
    assert lab.ask(lab.workbench(), "a", wanted.replace("llama", "gpt2")) == "measured"


def test_of_several_workers_one_derives_and_the_others_wait(lab: Lab) -> None:
    lab.seconds = 0.5
    benches = [lab.workbench(f"gw{n}") for n in range(3)]
    with ThreadPoolExecutor(len(benches)) as threads:
        found = list(threads.map(lambda one: lab.ask(one, "a"), benches))
    assert found == ["measured"] * 3
    assert len(lab.derived) == 1
    waits = "builtin:llama calibration waits for the worker that derives the preset"
    assert lab.told.count(waits) == 2


def test_the_item_and_a_scenario_read_one_preset(lab: Lab) -> None:
    bench = lab.workbench()
    first = calibrated_in_run(bench, lab.suite, lab.pair, lab.item("a"))
    again = calibrated_in_run(lab.workbench("gw1"), lab.suite, lab.pair, lab.item("b"))
    assert (first.document, first.shown) == (again.document, again.shown)
    assert len(lab.derived) == 1
    calibration = lab.suite.calibration
    assert calibration is not None
    assert first.document[META]["inputs"] == calibration_inputs(
        lab.suite.plan, calibration, lab.pair, lab.suite.policy
    )


def test_a_resumed_run_takes_over_a_preset_of_equal_inputs_and_no_other(lab: Lab) -> None:
    first = calibrated_in_run(lab.workbench(), lab.suite, lab.pair, lab.item("a")).document
    assert lab.resumed(2) == (0, first, [])
    # That run took its preset over itself, and is continued all the same.
    assert lab.resumed(3) == (0, first, [])
    # How long it took is known of the runs that took it over, too.
    runs = map(RunDirectory, sorted(lab.out.glob("small-*")))
    times = [run.calibration_time(lab.pair.name) for run in runs]
    assert times == [times[0]] * 3
    assert times[0] is not None
    for folder in lab.out.glob("small-*/state/preset_requests"):
        (path,) = folder.iterdir()
        stated = json.loads(path.read_text())
        stated["request"]["plan"]["threads"] += 1
        path.write_text(json.dumps(stated))
    derived, _, why = lab.resumed(4)
    assert (derived, why) == (1, ['plan.threads differ"}'] * 3)


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR])
def test_a_preset_that_did_not_hold_is_derived_again_by_a_resumed_run(
    lab: Lab, outcome: Outcome
) -> None:
    lab.outcome = outcome
    calibrated_in_run(lab.workbench(), lab.suite, lab.pair, lab.item("a"))
    derived, _, why = lab.resumed(2)
    assert (derived, len(why)) == (1, 1)
    assert "held-out benign runs" in why[0]


def test_a_preset_that_another_hand_changed_is_not_taken_over(lab: Lab) -> None:
    calibrated_in_run(lab.workbench(), lab.suite, lab.pair, lab.item("a"))
    (path,) = lab.out.glob("small-*/presets/*.json")
    document = json.loads(path.read_text())
    document["description"] = "another"
    path.write_text(json.dumps(document))
    derived, _, why = lab.resumed(2)
    assert (derived, why) == (1, ["the request is another preset's\"}"])
