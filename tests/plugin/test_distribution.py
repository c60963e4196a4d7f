"""The xdist scheduler: with simulated workers, random deaths, and in real sessions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import defaultdict, deque
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.pathlib import make_numbered_dir

from pytest_invarlock.distribution import (
    DIST_MODES,
    DistributionHooks,
    ScenarioScheduling,
    calibration_of,
    pair_of,
    unit_of,
)
from tests.preloaded_python import preloaded_python

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
SHUTDOWN = -1


class FakeNode:
    """A worker as xdist's controller and ``remote.run_one_test`` make it, one step at a time."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.phase = "starting"
        self.torun: deque[int] = deque()
        self.now: int | None = None
        self.next: int | None = None
        self.shutdown_sent = False
        self.down = False  # the controller has seen the channel close
        self.gone = False  # the process has ended
        self.pipe_breaks = False

    def __repr__(self) -> str:
        return self.gateway.id

    @property
    def shutting_down(self) -> bool:
        return self.down or self.shutdown_sent

    def send_runtest_some(self, indices: list[int]) -> None:
        if self.gone and self.pipe_breaks:
            raise OSError("cannot send (already closed?)")
        if not self.shutdown_sent:  # behind the shutdown marker nothing is ever run
            self.torun.extend(indices)

    def shutdown(self) -> None:
        if not self.down:
            self.torun.append(SHUTDOWN)
            self.shutdown_sent = True


class Session:
    """xdist's ``DSession`` with simulated workers; every event and step is a choice of ``rng``."""

    def __init__(
        self,
        ids: list[str],
        n_workers: int,
        *,
        seed: int = 0,
        deaths: int = 0,
        prerequisite_of: Any = calibration_of,
    ) -> None:
        self.ids, self.rng, self.deaths_left = ids, random.Random(seed), deaths
        self.deadly = self.rng.choice([0.02, 0.2])
        self.prerequisite_of = prerequisite_of
        self.sched = ScenarioScheduling(n_workers, prerequisite_of)
        self.shuttingdown = False
        self.events: deque[tuple[str, FakeNode, Any]] = deque()
        self.active: list[FakeNode] = []
        self.all_nodes: list[FakeNode] = []
        self.started: list[tuple[FakeNode, int]] = []
        self.finished: list[int] = []
        self.crashed: list[str] = []
        self.rerun: set[str] = set()
        self.items_of: dict[str, list[int]] = defaultdict(list)
        for index, node_id in enumerate(ids):
            self.items_of[unit_of(node_id)].append(index)
        for _ in range(n_workers):
            self.new_node()

    def new_node(self) -> None:
        node = FakeNode(f"gw{len(self.all_nodes)}")
        self.all_nodes.append(node)
        self.active.append(node)

    # What a worker can do next.

    def can_step(self, node: FakeNode) -> bool:
        if node.gone or node.phase == "ended":
            return False
        if node.phase in ("starting", "collecting", "running"):
            return True
        return bool(node.torun)

    def step(self, node: FakeNode) -> None:
        if node.phase == "starting":
            node.phase = "collecting"
            self.events.append(("ready", node, None))
        elif node.phase == "collecting":
            node.phase = "idle"
            self.events.append(("collected", node, None))
        elif node.phase == "idle":
            if node.now is None:
                node.now = node.torun.popleft()
                if node.now == SHUTDOWN:
                    self.end(node)
            else:
                node.next = node.torun.popleft()
                self.start(node)
        else:
            self.finished.append(node.now)
            self.events.append(("complete", node, node.now))
            node.now, node.next, node.phase = node.next, None, "idle"
            if node.now == SHUTDOWN:
                self.end(node)

    def start(self, node: FakeNode) -> None:
        node.phase = "running"
        self.started.append((node, node.now))
        before = self.prerequisite_of(unit_of(self.ids[node.now]))
        for index in self.items_of.get(before, []):
            done = index in self.finished or self.ids[index] in self.crashed
            assert done, f"{self.ids[node.now]} started before {self.ids[index]} was complete"

    def end(self, node: FakeNode) -> None:
        node.phase, node.gone, node.down = "ended", True, True
        self.events.append(("finished", node, None))

    def kill(self, node: FakeNode) -> None:
        node.gone, node.pipe_breaks = True, self.rng.random() < 0.5

    # What the controller does, as in dsession.py.

    def notice(self, node: FakeNode) -> None:
        node.down = True
        self.events.append(("errordown", node, None))

    def process(self) -> None:
        name, node, value = self.events.popleft()
        getattr(self, f"on_{name}")(node, value)
        if self.sched.tests_finished and not self.shuttingdown:
            self.shuttingdown = True
            for each in self.sched.nodes:
                each.shutdown()
        for each in self.all_nodes:
            held = {each.now, each.next, *each.torun} - {None, SHUTDOWN}
            assert each.gone or len(held) <= 2

    def on_ready(self, node: FakeNode, _: Any) -> None:
        if self.shuttingdown:
            node.shutdown()
        else:
            self.sched.add_node(node)

    def on_collected(self, node: FakeNode, _: Any) -> None:
        if not self.shuttingdown:
            self.sched.add_node_collection(node, self.ids)
            if self.sched.collection_is_completed:
                self.sched.schedule()

    def on_complete(self, node: FakeNode, index: int) -> None:
        self.sched.mark_test_complete(node, index, 0.1)

    def on_finished(self, node: FakeNode, _: Any) -> None:
        if node in self.sched.nodes:
            assert self.sched.remove_node(node) is None
        self.active.remove(node)

    def on_errordown(self, node: FakeNode, _: Any) -> None:
        try:
            crashed = self.sched.remove_node(node)
        except KeyError:
            crashed = None
        if crashed:
            self.crashed.append(crashed)
            if crashed in self.rerun:
                self.sched.mark_test_pending(crashed)
        self.shuttingdown = False
        self.new_node()
        self.active.remove(node)

    def run(self) -> Session:
        while not (self.shuttingdown and not self.active):
            assert self.active, "Unexpectedly no active workers available"
            actions: list[Any] = [
                (self.step, node) for node in self.all_nodes if self.can_step(node)
            ]
            actions += [(self.notice, n) for n in self.all_nodes if n.gone and not n.down]
            actions += [(Session.process, self)] * bool(self.events)
            assert actions, f"deadlock after {len(self.finished)} of {len(self.ids)} items"
            alive = [node for node in self.all_nodes if not node.gone]
            if self.deaths_left and alive and self.rng.random() < self.deadly:
                self.deaths_left -= 1
                self.kill(self.rng.choice(alive))
            else:
                action, argument = self.rng.choice(actions)
                action(argument)
        return self

    def by_worker(self) -> dict[str, list[str]]:
        order: dict[str, list[str]] = defaultdict(list)
        for node, index in self.started:
            order[node.gateway.id].append(self.ids[index])
        return order


def suite(*pairs: str, scenarios: str = "abc", checks: int = 2, calibrated: bool = False) -> list:
    ids = []
    for pair in pairs:
        if calibrated:
            ids.append(f"invarlock/s::{pair}::calibration::preset")
        ids += [f"invarlock/s::{pair}::{s}::c{n}" for s in scenarios for n in range(checks)]
    return ids


def ready(ids: list[str], n_workers: int, **options: Any) -> tuple[ScenarioScheduling, list]:
    """Return a scheduler that has sent its first items, and its workers."""
    sched = ScenarioScheduling(n_workers, **options)
    nodes = [FakeNode(f"gw{number}") for number in range(n_workers)]
    for node in nodes:
        sched.add_node(node)
    for node in nodes:
        assert not sched.collection_is_completed
        sched.add_node_collection(node, ids)
    assert sched.collection_is_completed
    sched.schedule()
    return sched, nodes


def done(sched: ScenarioScheduling, node: FakeNode) -> None:
    sched.mark_test_complete(node, node.torun.popleft())


# --- names ---------------------------------------------------------------------------------------


def test_a_check_belongs_to_its_scenario_and_pair() -> None:
    unit = unit_of("invarlock/smoke::org/model-v0.1::quant_clean::spectral")
    assert unit == "invarlock/smoke::org/model-v0.1::quant_clean"
    assert pair_of(unit) == "invarlock/smoke::org/model-v0.1"
    assert calibration_of(unit) == "invarlock/smoke::org/model-v0.1::calibration"
    assert calibration_of("invarlock/smoke::m::calibration") is None


def test_an_ordinary_test_is_a_unit_of_its_own() -> None:
    assert unit_of("t/test_a.py::test_x") == "t/test_a.py::test_x"
    assert unit_of("t/test_a.py::TestA::test_x") == "t/test_a.py::TestA::test_x"
    assert calibration_of("t/test_a.py::test_x") is None


# --- simulated sessions --------------------------------------------------------------------------


def random_session(seed: int, *, deaths: int) -> Session:
    rng = random.Random(seed)
    units = [
        [f"s::m{pair}::{scenario}::c{n}" for n in range(rng.randint(1, 4))]
        for pair in range(rng.randint(1, 4))
        for scenario in ["calibration"][: rng.randint(0, 1)] + list("abcd"[: rng.randint(1, 4)])
    ]
    units += [[f"test_plain.py::test_{n}"] for n in range(rng.randint(0, 4))]
    if rng.random() < 0.3:
        rng.shuffle(units)
    prerequisite_of = calibration_of
    if rng.random() < 0.4:
        # Any prerequisites without a cycle, also across pairs and in chains.
        names = [unit_of(unit[0]) for unit in units]
        rng.shuffle(names)
        chosen = {
            name: rng.choice(names[:number])
            for number, name in enumerate(names)
            if number and rng.random() < 0.6
        }
        prerequisite_of = chosen.get
    ids = [node_id for unit in units for node_id in unit]
    if rng.random() < 0.05:
        ids = []
    return Session(
        ids, rng.randint(1, 5), seed=seed, deaths=deaths, prerequisite_of=prerequisite_of
    )


@pytest.mark.parametrize("deaths", [0, 1, 6])
def test_random_sessions_end_with_every_item_run_or_crashed_once(deaths: int) -> None:
    for seed in range(600):
        try:
            session = random_session(seed, deaths=deaths).run()
            outcomes = [session.ids[i] for i in session.finished] + session.crashed
            assert sorted(outcomes) == sorted(session.ids)
            check_units(session)
        except Exception as error:
            error.add_note(f"seed {seed}, {deaths} deaths")
            raise


def check_units(session: Session) -> None:
    """Items of a unit in order, on one worker and together, unless that worker died."""
    runs: dict[str, list[tuple[FakeNode, int]]] = defaultdict(list)
    for node, index in session.started:
        runs[unit_of(session.ids[index])].append((node, index))
    for run in runs.values():
        indices = [index for _, index in run]
        assert indices == sorted(indices)
        for (node, _), (following, _) in pairwise(run):
            assert node is following or (node.gone and node.phase != "ended")
    for ids in session.by_worker().values():
        units = [unit_of(node_id) for node_id in ids]
        changes = [u for n, u in enumerate(units) if n == 0 or units[n - 1] != u]
        assert len(changes) == len(set(changes)), "a worker came back to a unit it had left"


@pytest.mark.parametrize("seed", range(10))
def test_a_worker_leaves_its_pair_only_when_that_has_no_units_left(seed: int) -> None:
    ids = suite("m1", "m2", "m3", scenarios="abcde", checks=3)
    session = Session(ids, 3, seed=seed).run()
    for node_ids in session.by_worker().values():
        pairs = [pair_of(node_id) for node_id in node_ids]
        stretches = [p for n, p in enumerate(pairs) if n == 0 or pairs[n - 1] != p]
        assert len(stretches) == len(set(stretches)) <= 3
    firsts = {pair_of(node_ids[0]) for node_ids in session.by_worker().values()}
    assert len(firsts) == len(session.by_worker())


def test_a_crashed_item_asked_for_again_is_run_again() -> None:
    for seed in range(200):
        session = random_session(seed, deaths=2)
        session.rerun = set(session.ids)
        session.run()
        assert sorted(session.finished) == list(range(len(session.ids))), f"seed {seed}"


def test_every_item_that_crashes_its_worker_is_tried_once() -> None:
    session = Session(suite("m1", "m2", calibrated=True), 2, deaths=0)
    begin = session.start

    def start_and_die(node: FakeNode) -> None:
        begin(node)
        session.kill(node)

    session.start = start_and_die  # type: ignore[method-assign]
    session.run()
    assert sorted(session.crashed) == sorted(session.ids)
    assert len(session.started) == len(session.ids)


# --- single decisions ----------------------------------------------------------------------------


def test_no_dependent_is_sent_to_another_worker_before_the_calibration_is_complete() -> None:
    ids = suite("m", checks=1, calibrated=True)
    _sched, (first, second) = ready(ids, 2)
    assert list(first.torun) == [0, 1]  # the first dependent is queued behind: it lets 0 run
    assert list(second.torun) == []
    assert not second.shutting_down
    done(_sched, first)
    assert list(first.torun) == [1, 2]
    assert list(second.torun) == [3, SHUTDOWN]


def test_a_calibration_of_many_items_holds_its_dependents_until_the_last() -> None:
    ids = [f"s::m::calibration::c{n}" for n in range(3)] + suite("m", checks=1)
    ids = [i.replace("invarlock/s", "s") for i in ids]
    sched, (first, second) = ready(ids, 2)
    assert list(first.torun) == [0, 1]
    done(sched, first)
    assert list(first.torun) == [1, 2]
    done(sched, first)
    assert list(first.torun) == [2, 3]
    assert not second.torun
    done(sched, first)
    assert second.torun


def test_a_calibration_collected_last_still_runs_first() -> None:
    ids = [*suite("m", checks=1), "invarlock/s::m::calibration::preset"]
    _sched, (node,) = ready(ids, 1)
    assert list(node.torun) == [3, 0]


def test_a_single_item_waits_for_a_calibration_on_another_worker() -> None:
    ids = [*suite("m", checks=1, scenarios="ab", calibrated=True), "test_a.py::test_x"]
    sched, (first, second) = ready(ids, 2)
    assert (list(first.torun), list(second.torun)) == ([0, 1], [3])
    assert not second.shutting_down
    assert not sched.tests_finished
    done(sched, first)
    assert list(first.torun) == [1, 2]  # its own pair first
    assert list(second.torun) == [3, SHUTDOWN]


def test_the_crash_of_the_calibration_releases_its_dependents() -> None:
    ids = suite("m", checks=1, calibrated=True)
    sched, (first, second) = ready(ids, 2)
    first.down = True
    assert sched.remove_node(first) == ids[0]
    assert list(second.torun) == [1, 2]
    assert sched.has_pending


def test_the_death_of_a_worker_before_it_ran_the_calibration_keeps_the_hold() -> None:
    ids = ["invarlock/s::m::calibration::a", "invarlock/s::m::calibration::b", *suite("m")]
    sched, (first, second, third) = ready(ids, 3)
    first.down = True
    assert sched.remove_node(first) == ids[0]
    assert list(second.torun) == [1, 2]
    assert list(third.torun) == []


def test_a_dead_worker_loses_only_the_item_it_ran() -> None:
    ids = suite("m", scenarios="ab", checks=3)
    sched, (node,) = ready(ids, 1)
    node.down = True
    assert sched.remove_node(node) == ids[0]
    assert not sched.tests_finished
    clone = FakeNode("gw1")
    sched.add_node(clone)
    sched.add_node_collection(clone, ids)
    assert sched.collection_is_completed
    sched.schedule()
    assert list(clone.torun) == [1, 2]


def test_a_worker_that_dies_before_collecting_is_waited_for_again() -> None:
    ids = suite("m")
    sched = ScenarioScheduling(2)
    nodes = [FakeNode("gw0"), FakeNode("gw1"), FakeNode("gw2")]
    sched.add_node(nodes[0])
    sched.add_node(nodes[1])
    sched.add_node_collection(nodes[1], ids)
    assert sched.remove_node(nodes[0]) is None
    assert not sched.collection_is_completed
    assert not sched.tests_finished
    sched.add_node(nodes[2])
    sched.add_node_collection(nodes[2], ids)
    assert sched.collection_is_completed
    with pytest.raises(KeyError):  # what xdist expects for a worker that was never ready
        sched.remove_node(nodes[0])


def test_a_worker_keeps_its_pair_when_another_is_orphaned() -> None:
    ids = suite("m1", "m2", "m3", scenarios="abc", checks=1)
    sched, (first, second) = ready(ids, 2)
    first.down = True
    assert sched.remove_node(first) == ids[0]
    done(sched, second)
    assert list(second.torun) == [4, 5]
    clone = FakeNode("gw2")
    sched.add_node(clone)
    sched.add_node_collection(clone, ids)
    sched.schedule()
    assert list(clone.torun) == [1, 2]


def test_work_of_a_dead_worker_is_in_front_of_pairs_not_begun() -> None:
    ids = suite("m1", "m2", "m3", scenarios="a", checks=2)
    sched, (first, second) = ready(ids, 2)
    first.down = True
    assert sched.remove_node(first) == ids[0]
    done(sched, second)
    assert list(second.torun) == [3, 1]


def test_an_item_goes_to_the_worker_that_needs_it_to_start_another() -> None:
    ids = [*suite("m", scenarios="ab", checks=1, calibrated=True), "test_a.py::test_x"]
    sched = ScenarioScheduling(2)
    late, calibrating, single = nodes = [FakeNode(f"gw{number}") for number in range(3)]
    for node in nodes:
        sched.add_node(node)
    for node in (calibrating, single):
        sched.add_node_collection(node, ids)
    sched.schedule()
    assert list(single.torun) == [3]
    sched.add_node_collection(late, ids)
    calibrating.down = True
    assert sched.remove_node(calibrating) == ids[0]
    assert list(single.torun) == [3, 1]


def test_a_worker_told_to_finish_before_it_was_ready_may_still_collect() -> None:
    # DSession skips add_node while it is shutting down and forgets that when a worker dies.
    sched, (node,) = ready(suite("m"), 1)
    stranger = FakeNode("gw1")
    sched.add_node_collection(stranger, suite("m"))
    assert sched.nodes == [node]


def test_what_could_not_be_sent_is_not_taken_for_crashed() -> None:
    ids = suite("m", scenarios="a", checks=4)
    sched, (node,) = ready(ids, 1)
    done(sched, node)
    node.gone = node.pipe_breaks = True
    done(sched, node)
    assert sched.remove_node(node) == ids[2]  # sent before the pipe broke
    assert [list(unit.pending) for unit in sched._waiting["invarlock/s::m"]] == [[3]]


def test_an_idle_worker_joins_the_pair_with_most_units_per_worker() -> None:
    ids = suite("small", scenarios="abc", checks=2) + suite("big", scenarios="abcdefgh", checks=2)
    _sched, nodes = ready(ids, 3)
    assert [list(node.torun) for node in nodes] == [[0, 1], [6, 7], [8, 9]]


def test_differing_collections_name_the_first_differing_item() -> None:
    sched = ScenarioScheduling(2)
    first, second = FakeNode("gw0"), FakeNode("gw1")
    sched.add_node(first)
    sched.add_node(second)
    sched.add_node_collection(first, ["a::1", "a::2"])
    with pytest.raises(pytest.UsageError, match=r"item 2 is a::2 on gw0 and absent on gw1"):
        sched.add_node_collection(second, ["a::1"])


def test_a_prerequisite_of_itself_is_refused() -> None:
    cycle = {"s::m::a": "s::m::b", "s::m::b": "s::m::a"}
    with pytest.raises(RuntimeError, match="prerequisite of itself"):
        ready(["s::m::c::x", "s::m::a::x", "s::m::b::x"], 1, prerequisite_of=cycle.get)


def test_stolen_items_are_refused_with_a_sentence() -> None:
    sched, (node,) = ready(suite("m"), 1)
    with pytest.raises(NotImplementedError, match="gw0 returned items"):
        sched.remove_pending_tests_from_node(node, [1])


def test_all_members_of_xdists_protocol_are_there() -> None:
    protocol = pytest.importorskip("xdist.scheduler.protocol").Scheduling
    members = {name for name in vars(protocol) if not name.startswith("_")}
    assert len(members) == 11
    assert members <= set(dir(ScenarioScheduling))


def test_importing_the_module_does_not_need_xdist() -> None:
    code = (
        "import sys; sys.modules['xdist'] = None\n"
        "import pytest_invarlock.distribution as d; d.ScenarioScheduling(1)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def scheduler_for(dist: str, *, active: bool = True) -> Any:
    options = {"dist": dist, "tx": ["2*popen", "popen"]}
    config: Any = SimpleNamespace(getoption=options.get, getvalue=options.get)
    return DistributionHooks(lambda: active).pytest_xdist_make_scheduler(config)


@pytest.mark.parametrize("dist", sorted(DIST_MODES))
def test_modes_that_share_items_out_get_our_scheduler(dist: str) -> None:
    scheduler = scheduler_for(dist)
    assert scheduler._n_workers == 3
    assert scheduler.config.getoption("dist") == dist  # rerunfailures reads the attribute


def test_other_modes_and_inactive_sessions_are_left_to_xdist() -> None:
    assert scheduler_for("each") is None
    assert scheduler_for("no") is None
    assert scheduler_for("load", active=False) is None


# --- real sessions -------------------------------------------------------------------------------

CONFTEST = """
import json, os, time
from pathlib import Path
import pytest
from pytest_invarlock.distribution import DistributionHooks

HERE = Path(__file__).parent
PLAN = json.loads((HERE / "plan.json").read_text())

def pytest_configure(config):
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(DistributionHooks(lambda: PLAN["active"]))

@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if isinstance(collector, pytest.Session):
        name = "invarlock/demo"
        report.result.append(Suite.from_parent(collector, path=HERE, name=name, nodeid=name))
    return report

def pytest_collection(session):
    mark = HERE / "died-early"
    if PLAN.get("die_early") and hasattr(session.config, "workerinput") and not mark.exists():
        mark.touch()
        os._exit(9)

class Suite(pytest.Collector):
    def collect(self):
        return [Model.from_parent(self, name=name) for name in PLAN["suite"]]

class Model(pytest.Collector):
    def collect(self):
        return [Scenario.from_parent(self, name=name) for name in PLAN["suite"][self.name]]

class Scenario(pytest.Collector):
    def collect(self):
        names = PLAN["suite"][self.parent.name][self.name]
        if PLAN.get("differ") and os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
            names = [name + "-other" for name in names]
        return [Check.from_parent(self, name=name) for name in names]

def note(what, item):
    line = [what, "::".join(item.nodeid.split("@")[0].split("::")[1:]), worker(), time.time()]
    with open(HERE / "log.jsonl", "a") as stream:
        stream.write(json.dumps(line) + "\\n")

def worker():
    return os.environ.get("PYTEST_XDIST_WORKER", "main")

def pytest_runtest_logreport(report):
    if report.failed and worker() == "main":
        (HERE / "failure-seen").touch()

def await_failure():
    for _ in range(500):
        if (HERE / "failure-seen").exists():
            return
        time.sleep(0.1)
    raise TimeoutError("the controller was told of no failure")

class Check(pytest.Item):
    def runtest(self):
        note("start", self)
        doing = PLAN["does"].get("::".join(self.nodeid.split("@")[0].split("::")[1:]), "")
        time.sleep(PLAN["seconds"].get(self.parent.parent.name, 0.0))
        if self.parent.name == "calibration":
            time.sleep(0.5)
        if doing == "crash":
            os._exit(9)
        if doing == "await failure":
            await_failure()
        if doing == "fail":
            raise ValueError("as planned")
        note("end", self)

    def reportinfo(self):
        return self.config.rootpath / "invarlock/demo", None, self.name
"""


class Log:
    def __init__(self, folder: Path) -> None:
        lines = (folder / "log.jsonl").read_text().splitlines()
        self.lines = [tuple(json.loads(line)) for line in lines]

    def ids(self, what: str) -> list[str]:
        return [node_id for kind, node_id, _, _ in self.lines if kind == what]

    def workers(self) -> dict[str, list[str]]:
        order: dict[str, list[str]] = defaultdict(list)
        for kind, node_id, worker, _ in self.lines:
            if kind == "start":
                order[worker].append(node_id)
        return order

    def time(self, what: str, node_id: str) -> float:
        return next(t for kind, name, _, t in self.lines if (kind, name) == (what, node_id))


@pytest.fixture
def demo(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a session over a planned suite; returns its result and what its items noted."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(CONFTEST)

    def run(models: dict, *arguments: str, active: bool = True, **plan: Any) -> tuple[Any, Any]:
        plan = {"does": {}, "seconds": {}, "active": active, "suite": models} | plan
        (pytester.path / "plan.json").write_text(json.dumps(plan))
        fixed = ("-p", "xdist", "-p", "no:invarlock", "-p", "no:randomly", "-v")
        base = f"--basetemp={make_numbered_dir(root=pytester.path, prefix='runpytest-')}"
        command = (preloaded_python(), "-mpytest", base, *fixed)
        result = pytester.run(*command, *arguments, timeout=60)
        logged = (pytester.path / "log.jsonl").exists()
        return result, Log(pytester.path) if logged else None

    return run


def models(*names: str, scenarios: str = "abc", checks: int = 2) -> dict:
    return {m: {s: [f"c{n}" for n in range(checks)] for s in scenarios} for m in names}


@pytest.mark.parametrize("dist", ["load", "loadgroup"])
def test_session_keeps_scenarios_whole_and_workers_with_their_pair(demo: Any, dist: str) -> None:
    result, log = demo(models("m1", "m2"), "-n2", "--dist", dist, seconds={"m1": 0.02, "m2": 0.02})
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["scheduling tests via ScenarioScheduling"])
    homes: dict[str, set[str]] = defaultdict(set)
    for worker, ids in log.workers().items():
        pairs = [node_id.split("::")[0] for node_id in ids]
        assert sum(a != b for a, b in pairwise(pairs)) <= 1
        for node_id in ids:
            homes[node_id.rpartition("::")[0]].add(worker)
    assert {len(workers) for workers in homes.values()} == {1}
    assert len(log.workers()) == 2


def test_session_survives_crashes_and_runs_everything_else(demo: Any) -> None:
    suite = models("m1", "m2")
    suite["m2"] = {"calibration": ["preset"], **suite["m2"]}
    crashes = {"m1::b::c0": "crash", "m2::calibration::preset": "crash"}
    result, log = demo(suite, "-n2", does=crashes, die_early=True)
    result.assert_outcomes(passed=11, failed=2)
    result.stdout.fnmatch_lines(["*crashed while running 'invarlock/demo::m1::b::c0'*"])
    assert len(log.ids("start")) == len(set(log.ids("start"))) == 13
    assert set(log.ids("start")) - set(log.ids("end")) == set(crashes)
    preset = log.ids("start").index("m2::calibration::preset")
    assert preset < min(n for n, i in enumerate(log.ids("start")) if i.startswith("m2::a"))


def test_session_of_one_worker_continues_in_its_replacement(demo: Any) -> None:
    result, log = demo(models("m"), "-n1", does={"m::b::c1": "crash"})
    result.assert_outcomes(passed=5, failed=1)
    assert log.workers() == {
        "gw0": ["m::a::c0", "m::a::c1", "m::b::c0", "m::b::c1"],
        "gw1": ["m::c::c0", "m::c::c1"],
    }


def test_session_without_restarts_ends_after_a_crash(demo: Any) -> None:
    crash = {"m1::a::c0": "crash"}
    result, log = demo(models("m1"), "-n1", "--max-worker-restart=0", does=crash)
    assert result.ret != 0
    assert log.ids("start") == ["m1::a::c0"]


def test_session_with_x_starts_at_most_one_more_item_per_worker(demo: Any) -> None:
    suite = models("m1", "m2", scenarios="abcdefgh")
    does = {"m1::a::c0": "fail", "m2::a::c0": "await failure"}
    result, log = demo(suite, "-n2", "-x", does=does)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    started = log.ids("start")
    assert [node_id for node_id in started if node_id.startswith("m1")] == ["m1::a::c0"]
    assert "m2::a::c0" in started
    # After the one that ran when the failure was told, at most one is on the worker already.
    assert len([node_id for node_id in started if node_id.startswith("m2")]) <= 2


def test_session_holds_a_pair_until_its_calibration_is_complete(
    demo: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    plan = {"m": {"calibration": ["preset"], **models("m", checks=1, scenarios="abcdefgh")["m"]}}
    result, log = demo(plan, "-n2", seconds={"m": 0.1})
    result.assert_outcomes(passed=10)
    ready_at = log.time("end", "m::calibration::preset")
    dependents = [i for i in log.ids("start") if i != "m::calibration::preset"]
    assert all(log.time("start", node_id) >= ready_at for node_id in dependents)
    assert len(log.workers()) == 2


def test_session_with_differing_collections_ends_with_a_usage_error(demo: Any) -> None:
    result, log = demo(models("m"), "-n2", differ=True)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the workers collected different items: item 1 is *m::a::c0*"])
    result.stderr.no_fnmatch_line("*Traceback*")
    assert log is None


def test_session_without_an_active_suite_is_left_to_xdist(
    demo: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result, _ = demo(models("m"), "-n2", active=False)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["scheduling tests via LoadScheduling"])
