"""xdist: which worker runs which scenario, and when. No other file touches xdist."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A worker starts an item only when it knows the next one, so two keep it busy; a third would be
# run after another worker's failure under ``-x``.
IN_FLIGHT = 2
CHECK_SEGMENTS = 4
CALIBRATION = "calibration"
# Modes that keep a scenario together by themselves (by file, by scope) are left to xdist.
DIST_MODES = frozenset({"load", "loadgroup", "worksteal"})


class _Node(Protocol):
    """What a scheduler uses of xdist's ``WorkerController``; a send to a dead one is an OSError."""

    @property
    def gateway(self) -> Any: ...
    @property
    def shutting_down(self) -> bool: ...
    def send_runtest_some(self, indices: Sequence[int]) -> None: ...
    def shutdown(self) -> None: ...


def unit_of(node_id: str) -> str:
    """Name the unit of an item: its scenario, or the item itself where it is not a check."""
    segments = node_id.split("::")
    return "::".join(segments[:3]) if len(segments) >= CHECK_SEGMENTS else node_id


def pair_of(unit: str) -> str:
    """Name the pair of a unit: suite (or file) and model."""
    return "::".join(unit.split("::")[:2])


def is_calibration(node_id: str) -> bool:
    """Whether an item derives a preset, which the other units of its pair wait for."""
    unit = unit_of(node_id)
    return unit == f"{pair_of(unit)}::{CALIBRATION}" and unit != node_id


def calibration_of(unit: str) -> str | None:
    """Name the unit whose preset ``unit`` reads: its pair's calibration, collected or not."""
    wanted = f"{pair_of(unit)}::{CALIBRATION}"
    return wanted if unit.count("::") == CHECK_SEGMENTS - 2 and unit != wanted else None


@dataclass(eq=False, slots=True)
class _Unit:
    # Items to be sent in order; ``in_flight`` more were, all to ``owner``: a unit is never split.
    key: str
    pair: str
    pending: deque[int] = field(default_factory=deque)
    in_flight: int = 0
    owner: _Worker | None = None
    prerequisite: _Unit | None = None

    def only_with(self, worker: _Worker) -> bool:
        return not self.in_flight or self.owner is worker

    def may_go_to(self, worker: _Worker) -> bool:
        # Behind the prerequisite's last item too: a worker cannot start that without a next one.
        before = self.prerequisite
        is_free = before is None or (not before.pending and before.only_with(worker))
        return is_free and self.only_with(worker)


@dataclass(eq=False, slots=True)
class _Worker:
    """A node: the pair it has loaded, the unit it is being sent, the items it has not finished."""

    node: _Node
    ready: bool = False  # has collected, and nothing sent to it has failed
    pair: str = ""
    current: _Unit | None = None
    in_flight: deque[int] = field(default_factory=deque)

    @property
    def accepts(self) -> bool:
        return self.ready and not self.node.shutting_down


class ScenarioScheduling:
    """xdist's ``Scheduling`` protocol, in units of scenarios.

    Invariants:

    1. A unit's items run in collection order on one worker. When that dies, the first it had in
       flight has crashed, started or not; the rest move as a whole, to the front of the queue.
    2. A worker keeps to its pair while that has units it may take. Then it takes the first pair
       in collection order that no worker serves, else the one with most units left per worker.
    3. A worker has at most two items in flight.
    4. A unit is *held* until its prerequisite's items are complete; a crashed item is. Held, it may
       only be queued behind all that is left of the prerequisite, on the same worker.
    5. A unit with items to send is either in ``_waiting`` or some worker's ``current``.
    6. A worker is shut down only when it can be sent nothing and ``_waiting`` is empty.

    A worker with one item while all waiting units are held elsewhere is neither shut down (they
    would find one worker fewer) nor given anything: it starts that item when the prerequisite ends.
    It cannot hang: of the prerequisites that hold waiting units, one is itself not held. Were it
    waiting, that worker would take it; so it is in flight, on a worker that has a next item, is
    shutting down, or takes a unit held by it (4). After a death xdist sends a clone or ends.

    Args:
        n_workers: how many must have collected before anything is sent.
        prerequisite_of: unit to its prerequisite; one that was not collected holds nothing.
    """

    def __init__(
        self,
        n_workers: int,
        prerequisite_of: Callable[[str], str | None] = calibration_of,
        config: pytest.Config | None = None,
    ) -> None:
        self.config = config  # for rerunfailures, which reads it off the scheduler
        self._n_workers = n_workers
        self._prerequisite_of = prerequisite_of
        self._workers: dict[_Node, _Worker] = {}
        self._ids: list[str] = []
        self._ids_from = ""
        self._scheduled = False
        self._units: list[_Unit] = []  # by item index
        self._waiting: OrderedDict[str, deque[_Unit]] = OrderedDict()  # by pair, none empty

    @property
    def nodes(self) -> list[_Node]:
        """Workers that are ready and not removed."""
        return list(self._workers)

    @property
    def collection_is_completed(self) -> bool:
        """Whether ``schedule`` may be called."""
        collected = sum(worker.ready for worker in self._workers.values())
        return self._scheduled or collected >= self._n_workers

    @property
    def tests_finished(self) -> bool:
        """Whether every worker needs only a shutdown to run what it still has."""
        busy = any(w.current or len(w.in_flight) > 1 for w in self._workers.values())
        return self._scheduled and not self._waiting and not busy

    @property
    def has_pending(self) -> bool:
        """Whether any item is not complete."""
        return bool(self._waiting) or any(w.current or w.in_flight for w in self._workers.values())

    def add_node(self, node: _Node) -> None:
        """Accept a worker, which collects next; a replacement arrives after ``schedule``."""
        self._workers[node] = _Worker(node)

    def add_node_collection(self, node: _Node, collection: Sequence[str]) -> None:
        """Accept a worker's node ids; ``pytest.UsageError`` where another worker's differ."""
        if not self._ids_from:
            self._ids, self._ids_from = list(collection), node.gateway.id
        both = zip_longest(self._ids, collection, fillvalue="absent")
        for n, (ours, theirs) in enumerate(both, start=1):
            if ours != theirs:
                raise pytest.UsageError(
                    f"the workers collected different items: item {n} is {ours} on "
                    f"{self._ids_from} and {theirs} on {node.gateway.id}; what is collected must "
                    "depend on nothing but the suite and the options"
                )
        if node in self._workers:  # else xdist told it to finish before it was ready
            self._workers[node].ready = True

    def schedule(self) -> None:
        """Send the first items; called again when a replaced worker has collected."""
        if not self._scheduled:
            self._make_units()
        self._scheduled = True
        self._feed_all()

    def mark_test_complete(self, node: _Node, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        """Take an item off its worker and send what that makes possible, on any worker."""
        worker = self._workers[node]
        worker.in_flight.remove(item_index)
        self._units[item_index].in_flight -= 1
        self._feed_all(first=worker)

    def mark_test_pending(self, item: str) -> None:
        """Run an item again, soon: rerunfailures asks for it after a crash."""
        index = self._ids.index(item)
        unit = self._units[index]
        unit.pending.appendleft(index)
        if all(worker.current is not unit for worker in self._workers.values()):
            self._put_first(unit)
        self._feed_all()

    def remove_pending_tests_from_node(self, node: _Node, indices: Sequence[int]) -> None:
        """Refuse: it answers a ``steal`` command, and none is sent."""
        raise NotImplementedError(f"{node.gateway.id} returned items that nobody asked back")

    def remove_node(self, node: _Node) -> str | None:
        """Forget a worker, requeue what it had not started and return the id it crashed in."""
        worker = self._workers.pop(node)
        crashed = worker.in_flight[0] if worker.in_flight else None
        self._take_back(worker, len(worker.in_flight) - 1)
        if crashed is not None:
            self._units[crashed].in_flight -= 1
        self._feed_all()
        return None if crashed is None else self._ids[crashed]

    def _make_units(self) -> None:
        by_key: dict[str, _Unit] = {}
        for index, node_id in enumerate(self._ids):
            key = unit_of(node_id)
            unit = by_key.setdefault(key, _Unit(key, pair_of(key)))
            unit.pending.append(index)
            self._units.append(unit)
        for unit in by_key.values():
            unit.prerequisite = by_key.get(self._prerequisite_of(unit.key) or "")
            self._waiting.setdefault(unit.pair, deque()).append(unit)
        for unit in by_key.values():
            before_it = [unit]
            while (before := before_it[-1].prerequisite) is not None:
                if before in before_it:
                    raise RuntimeError(f"{before.key} is a prerequisite of itself")
                before_it.append(before)

    def _feed_all(self, first: _Worker | None = None) -> None:
        # The worker just freed keeps its pair; one with a single item needs one more to start it.
        workers = sorted(self._workers.values(), key=lambda w: (w is not first, -len(w.in_flight)))
        for worker in workers:
            if self._scheduled and worker.accepts:
                self._feed(worker)

    def _feed(self, worker: _Worker) -> None:
        indices: list[int] = []
        while len(worker.in_flight) < IN_FLIGHT:
            unit = worker.current or self._take_unit(worker)
            if unit is None:
                break
            indices.append(unit.pending.popleft())
            worker.in_flight.append(indices[-1])
            worker.current = unit if unit.pending else None
            unit.owner = worker
            unit.in_flight += 1
        if indices:
            try:
                worker.node.send_runtest_some(indices)
            except OSError:
                worker.ready = False  # its process is gone, and did not crash in these items
                self._take_back(worker, len(indices))
                return
        if len(worker.in_flight) < IN_FLIGHT and not self._waiting:
            worker.node.shutdown()

    def _take_unit(self, worker: _Worker) -> _Unit | None:
        serving = Counter(w.pair for w in self._workers.values() if w.accepts)
        best, most = None, 0.0
        for pair in chain([worker.pair], self._waiting):
            units = self._waiting.get(pair, ())
            unit = next((unit for unit in units if unit.may_go_to(worker)), None)
            if unit is not None and (pair == worker.pair or not serving[pair]):
                best = unit
                break
            if unit is not None and len(units) / serving[pair] > most:
                best, most = unit, len(units) / serving[pair]
        if best is not None:
            worker.pair = best.pair
            self._waiting[best.pair].remove(best)
            if not self._waiting[best.pair]:
                del self._waiting[best.pair]
        return best

    def _take_back(self, worker: _Worker, n_items: int) -> None:
        """Requeue the last ``n_items`` in flight on ``worker`` and the rest of its unit."""
        units = [worker.current] if worker.current else []
        worker.current = None
        for index in [worker.in_flight.pop() for _ in range(n_items)]:
            units.append(self._units[index])
            units[-1].pending.appendleft(index)
            units[-1].in_flight -= 1
        for unit in units:  # the last first, so that the first ends in front
            self._put_first(unit)

    def _put_first(self, unit: _Unit) -> None:
        units = self._waiting.setdefault(unit.pair, deque())
        if unit not in units:
            units.appendleft(unit)
        self._waiting.move_to_end(unit.pair, last=False)


class DistributionHooks:
    """Gives xdist our scheduler where a suite is active and ``--dist`` shares the items out."""

    def __init__(self, is_active: Callable[[], bool]) -> None:
        self._is_active = is_active

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> ScenarioScheduling | None:
        """Return our scheduler, or None to leave the choice to xdist."""
        if config.getoption("dist") not in DIST_MODES or not self._is_active():
            return None
        from xdist.workermanage import parse_tx_spec_config  # it is what calls this

        return ScenarioScheduling(len(parse_tx_spec_config(config)), config=config)
