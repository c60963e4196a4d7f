"""The battery of the guards' evidence on a shipped model and few windows: it runs, and it counts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import SimpleNamespace

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("bench", "benign", "damage", "edits", "finetunes", "models", "page", "tables", "transfer")


@pytest.fixture(scope="module")
def parts() -> Iterator[SimpleNamespace]:
    from types import SimpleNamespace

    sys.path.insert(0, str(BENCHMARKS))
    try:
        loaded = {part: importlib.import_module(f"guards_{part}") for part in PARTS}
        yield SimpleNamespace(**loaded, evidence=importlib.import_module("evidence_guards"))
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def bench(parts: SimpleNamespace) -> Any:
    bench = parts.bench.Bench("builtin:gpt2", metric_windows=6, guard_windows=2)
    # One draw is enough here; each costs a pass of the baseline.
    parts.benign.DRAWS = parts.damage.DRAWS = 1
    bench.windows(0)
    return bench


@pytest.fixture(scope="module")
def rows(parts: SimpleNamespace, bench: Any) -> list[dict[str, Any]]:
    """A row of each benign class, of some damage and of two faults."""
    tuned = parts.finetunes.finetunes(bench.loaded, 1, runs=2, snapshots=(1,))
    benign = parts.benign.Benign(bench, tuned, 1, 1)
    # One of each class, not of each number of bits.
    drawn = {(run.kind, run.name.split()[0]): run for run in map(benign.run, range(60))}
    damage = parts.damage.Damage(bench, 1, 1)
    others = {run.name: run for run in damage.runs(damage.n_cells)}
    faults = [
        run for run, _ in parts.evidence.faults() if run.name in ("nan_injection", "rank_collapse")
    ]
    runs = [*drawn.values(), *(others[name] for name in CHOSEN), *faults]
    primary = {run.key: guard for run, guard in parts.evidence.faults()}
    extra = {"model": "builtin:gpt2", "commit": "none"}
    found = [bench.measure(run) | extra for run in runs]
    for row in found:
        if row["group"] == "fault":
            row["primary"] = primary[row["key"]]
    # As the file of rows holds them.
    return json.loads(json.dumps(found))


CHOSEN = (
    "rows permuted", "zeroed head", "zeroed layer", "swapped layers", "all norm gains",
    "bias scaled", "low rank under int8", "structure",
)  # fmt: skip


def test_benign_classes_are_all_there_and_do_not_alarm(
    parts: SimpleNamespace, rows: list[dict[str, Any]]
) -> None:
    benign = [row for row in rows if row["group"] == "benign"]
    assert {row["kind"] for row in benign} == {
        "cast", "quantize8", "quantize4", "prune", "finetune", "merge", "reparametrized",
    }  # fmt: skip
    assert not [row for row in benign if parts.tables.alarmed(row, row["kind"])]


def test_damage_is_seen_and_named(parts: SimpleNamespace, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["name"] in ("rows permuted", "zeroed head", "zeroed layer", "swapped layers"):
            assert parts.tables.caught(row, "any"), row["name"]
        if row["name"] == "zeroed head":
            named = parts.tables.first_named(row, "any")
            assert parts.tables.is_within(named, row["branch"])


def test_the_model_is_left_as_it_was(bench: Any, rows: list[dict[str, Any]]) -> None:
    from pytest_invarlock.bench.tensor_digest import tensor_digests

    assert rows
    assert tensor_digests(bench.loaded.model) == bench.digests


def test_the_same_number_is_the_same_run(parts: SimpleNamespace, bench: Any) -> None:
    tuned = [[parts.finetunes.Finetune(1e-4, "all", 1, {})]] * 2
    one, other = (parts.benign.Benign(bench, tuned, 3, 1) for _ in "ab")
    assert [one.run(n) for n in range(8)] == [other.run(n) for n in range(8)]
    damage = parts.damage.Damage(bench, 3, 1)
    assert list(damage.runs(70))[:60] == list(damage.runs(60))


def test_the_page(parts: SimpleNamespace, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    model = parts.models.models(tmp_path)[1]
    path = tmp_path / "guards.md"
    claims = parts.page.write_page(
        [model], {model.name: rows}, path, seed=1, command="make", planned=len(rows) + 1
    )
    text = path.read_text(encoding="utf-8")
    for title in (
        "Claims", "Models", "Benign changes", "Largest benign values", "Damage",
        "What one guard alone sees", "Localisation", "The fifteen faults",
    ):  # fmt: skip
        assert f"\n## {title}\n" in text
    assert f"broken off: {len(rows)} of {len(rows) + 1} planned runs" in text
    # A thousand runs are not there, and the page says so.
    assert not claims[0][2]
    assert "**NOT met**: at least 1000 benign runs" in text
    assert (tmp_path / "guards-dose.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_wilson(parts: SimpleNamespace) -> None:
    assert parts.tables.wilson(3, 1000) == pytest.approx((0.001021, 0.008783), abs=2e-6)
    assert parts.tables.wilson(0, 0) == (0.0, 1.0)
    assert parts.tables.told(7, 7) == "7 of 7: 1 [.646, 1]"


def test_rows_that_were_cut_off_are_measured_again(parts: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a"}\n{"key": "b", "na', encoding="utf-8")
    assert parts.evidence.read_rows(path) == [{"key": "a"}]


def test_leaving_a_model_out(parts: SimpleNamespace) -> None:
    row = {"kind": "quantize8", "name": "x", "dose": "", "statistics": {"error": 0.01}}
    rows = [row | {"model": "one"}, row | {"model": "two", "statistics": {"error": 0.05}}]
    lines = parts.transfer.left_out(rows)
    assert lines[2].startswith("| one | 0 of 1")
    assert lines[3].startswith("| two | 1 of 1")


def test_a_blend_is_the_share_of_the_way(parts: SimpleNamespace, bench: Any) -> None:
    from pytest_invarlock.bench.journal import EditJournal

    journal = EditJournal(bench.loaded.model, bench.digests)
    name = "transformer.h.0.mlp.c_fc.weight"
    before = bench.loaded.model.get_parameter(name).detach().clone()
    states = [dict(bench.loaded.model.named_parameters())]
    states[0][name] = before + 2
    try:
        parts.edits.blend(journal, states=states, shares=[0.5])
        after = bench.loaded.model.get_parameter(name).detach()
        torch.testing.assert_close(after, before + 1)
        assert journal.touched == (name,)
    finally:
        journal.undo()


def test_what_was_never_run_is_met_by_no_claim(parts: SimpleNamespace, tmp_path: Path) -> None:
    model = parts.models.models(tmp_path)[0]
    claims = parts.page.write_page(
        [model], {model.name: []}, tmp_path / "g.md", seed=1, command="make", planned=1
    )
    assert not [text for text, _, met in claims if met]


def test_a_killed_expert_is_seen_and_named(parts: SimpleNamespace, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts.models._write(
        parts.models.build_mixtral().eval(), tmp_path, parts.models.SHIPPED / "llama"
    )
    bench = parts.bench.Bench(str(tmp_path), metric_windows=6, guard_windows=2)
    assert bench.has_experts
    run = parts.damage.Damage(bench, 1, 1).run(0, parts.damage.EXPERT_CELLS[2])
    row = bench.measure(run, metric=False)
    assert row["name"] == "killed expert"
    assert parts.tables.caught(row, "any")
    assert parts.tables.is_within(parts.tables.first_named(row, "any"), row["branch"])


def test_the_edge_of_a_negligible_change_is_no_headroom(parts: SimpleNamespace) -> None:
    cast = {"kind": "cast", "name": "cast", "dose": "", "model": "one"}
    tiny = cast | {"statistics": {"edge_of_change": 7.0, "relative_change": 0.0002}}
    lines = parts.transfer.headroom([tiny, tiny | {"model": "two"}], {"two"})
    assert "| strict | edge_of_change | 0.0000 | 0.0000 | 1.2 | one, cast  |" in lines
    large = tiny | {"statistics": {"edge_of_change": 7.0, "relative_change": 0.01}}
    lines = parts.transfer.headroom([tiny, large | {"model": "two"}], {"two"})
    assert "| strict | edge_of_change | 0.0000 | 7.0000 **beyond** | 1.2 | two, cast  |" in lines
