"""Which parts of a record disagree with windows drawn again, arm by arm."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_invarlock.bench.draws import Draws
from pytest_invarlock.data.window_set import Window, WindowSet
from pytest_invarlock.data_check.differences import Hashes, compared_hashes, differing_parts
from pytest_invarlock.plan import ARMS, DataSource, MeasurementPlan, SequentialPlan, WindowSelection
from pytest_invarlock.records import ArmLosses, Record

from ..evidence.made_runs import made_record

SOURCE = {"provider": "texts", "shareable": False}
N, DOCUMENTS = 260, 130
RULE = SequentialPlan(1.1)
PLAN = MeasurementPlan(DataSource("texts"), WindowSelection(9, 9, N, N), sequential=RULE)
SALT = bytes(32)


def windows(*, choices: bool = False) -> WindowSet:
    """Two windows of each document of an arm, in no order; some predict more tokens than others."""
    generator = np.random.default_rng(0)
    arms: Any = {
        arm: tuple(
            Window(
                np.full(9, number + N * k, np.int32),
                np.arange(1 + number % 7, dtype=np.int32),
                np.full(1 + number % 7, 7 + number, np.int32),
                document=int(document),
                span=(0, 9),
                example=number // 4 if choices else None,
                is_label=choices and number % 4 == 1,
            )
            for number, document in enumerate(generator.permutation(np.arange(N) // 2) + N * k)
        )
        for k, arm in enumerate(ARMS)
    }
    return WindowSet(arms, "sha256:" + "c" * 64, 9, dict.fromkeys(ARMS, DOCUMENTS))


def arm_of(drawn: Any, places: Any) -> ArmLosses:
    """What is recorded of the windows at ``places``."""
    chosen = [drawn[place] for place in places]
    losses = np.ones(len(chosen))
    choices: dict[str, Any] = {}
    if chosen[0].example is not None:
        choices = {
            "examples": np.array([one.example for one in chosen]),
            "labels": np.array([int(one.is_label) for one in chosen]),
        }
    return ArmLosses(
        np.array([one.document for one in chosen]),
        np.array([one.weight for one in chosen]),
        losses,
        losses,
        **choices,
    )


def record_of(drawn: WindowSet, n_blocks: int | None = None) -> Record:
    """A record of ``drawn``; of its first blocks, where a run stopped early."""
    members: Any = {arm: [range(N)] for arm in ARMS}
    if n_blocks is not None:
        members = Draws(PLAN)._members(0, drawn)
    places = {arm: sorted(p for block in members[arm][:n_blocks] for p in block) for arm in ARMS}
    made = made_record("noop")
    plan = dict(made.facts.plan) | {
        "source": SOURCE,
        "data_digest": drawn.digest,
        "sequential": None if n_blocks is None else RULE.document(),
    }
    arms: Any = {arm: arm_of(drawn.arms[arm], places[arm]) for arm in ARMS}
    data = dict(made.facts.data) | {
        "digest": drawn.digest,
        "seq_len": 9,
        "n_documents": {arm: len(np.unique(arms[arm].documents)) for arm in ARMS},
        "n_documents_planned": dict.fromkeys(ARMS, DOCUMENTS),
        "duplicate_fraction": 0.0,
    }
    seen = dict(made.observations) | {"window_hmacs": drawn.keyed_hashes(SALT)}
    return Record(replace(made.facts, plan=plan, data=data, arms=arms), seen)


def parts(record: Record, drawn: WindowSet) -> list[str]:
    return differing_parts(record.facts, SimpleNamespace(windows=drawn, source=SOURCE))  # type: ignore[arg-type]


def with_column(record: Record, arm: Any, name: str, change: Any) -> Record:
    losses = record.facts.arms[arm]
    other = replace(losses, **{name: change(getattr(losses, name))})
    return Record(replace(record.facts, arms={**record.facts.arms, arm: other}))


@pytest.mark.parametrize(
    ("n_blocks", "choices"), [(None, False), (None, True), (1, False), (2, False)]
)
def test_what_was_measured_of_the_same_windows_agrees(n_blocks: Any, choices: bool) -> None:
    drawn = windows(choices=choices)
    record = record_of(drawn, n_blocks)
    assert len(record.facts.arms["final"].tokens) == {None: N, 1: 128, 2: 144}[n_blocks]
    assert parts(record, drawn) == []


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", ["documents", "tokens", "examples", "labels"])
def test_each_column_is_compared(arm: Any, name: str) -> None:
    drawn = windows(choices=True)
    record = with_column(record_of(drawn), arm, name, lambda values: values[::-1])
    assert f"arms.{arm}.{name}" in parts(record, drawn)


@pytest.mark.parametrize("name", ["examples", "labels"])
def test_choices_that_are_left_out_or_made_up_are_found(name: str) -> None:
    drawn, plain = windows(choices=True), windows()
    found = parts(with_column(record_of(drawn), "final", name, lambda _: None), drawn)
    assert found == [f"arms.final.{name}"]
    made_up = np.zeros(N, np.int64)
    found = parts(with_column(record_of(plain), "final", name, lambda _: made_up), plain)
    assert found == [f"arms.final.{name}"]


def test_windows_picked_from_those_drawn_are_no_early_stop() -> None:
    """As many, but not the first: the best for the subject, say."""
    drawn = windows()
    record = record_of(drawn, 1)
    picked = record.facts.arms | {"final": arm_of(drawn.final, range(128))}
    found = parts(Record(replace(record.facts, arms=picked)), drawn)
    assert found == ["arms.final.documents", "arms.final.tokens"]


def test_fewer_windows_without_a_rule_to_stop_are_found() -> None:
    drawn = windows()
    record = record_of(drawn, 1)
    whole = replace(record.facts, plan=dict(record.facts.plan) | {"sequential": None})
    assert "arms.final.documents" in parts(Record(whole), drawn)
    assert "data.n_documents" in parts(Record(whole), drawn)


def test_a_record_without_arms_is_compared_by_its_data() -> None:
    """As of a subject with another tokenizer: its windows were drawn, and not measured."""
    drawn = windows()
    record = record_of(drawn)
    bare = replace(record.facts, arms={})
    assert parts(Record(bare), drawn) == []
    assert parts(Record(bare), replace(drawn, overlap_fraction=0.5)) == ["data.overlap_fraction"]


def test_keyed_hashes_agree_under_one_of_the_salts() -> None:
    drawn = windows()
    record = record_of(drawn)
    other = bytes([1]) * 32
    assert compared_hashes(record, drawn, [other, SALT]) is Hashes.AGREE
    assert compared_hashes(record, drawn, [other]) is Hashes.FOREIGN
    assert compared_hashes(Record(record.facts), drawn, [SALT]) is Hashes.NONE
    swapped = dict(zip(ARMS, reversed(list(drawn.keyed_hashes(SALT).values())), strict=True))
    assert (
        compared_hashes(Record(record.facts, {"window_hmacs": swapped}), drawn, [SALT])
        is Hashes.DIFFER
    )
