"""Drawing as a record states it: what is taken from the suite, what from the record, what refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.data_check import drawn_again
from pytest_invarlock.data_check.check import check_data
from pytest_invarlock.data_check.comparison import Comparison
from pytest_invarlock.data_check.drawn_again import DrawingAgain
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import DataSource
from pytest_invarlock.policy.settings import Settings
from pytest_invarlock.policy.suite import Suite, load_suite_file
from pytest_invarlock.records import Facts, Record

from ..evidence.made_runs import made_record

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
name: own
models: ["builtin:llama", "somebody/absent"]
dataset: {provider: synthetic}
scenarios:
  - {id: noop, strictness: must_pass, edit: {name: noop}}
"""
COMMIT = "b08601e04326c79dfdd32d625aee71d232d685c3"
LENGTHS = {"seq_len": 40, "stride": 40, "preview_windows": 5, "final_windows": 6}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "own.yaml").write_text(SUITE, encoding="utf-8")
    return load_suite_file(tmp_path / "own.yaml", Settings(), tmp_path)


def facts_of(model: str = "builtin:llama", draw: int = 0, **plan: Any) -> Facts:
    facts = made_record("noop", draw=draw).facts
    stated = dict(facts.plan) | {"windows": dict(facts.plan["windows"]) | LENGTHS} | plan
    return replace(
        facts, model=model, plan=stated, baseline=dict(facts.baseline) | {"adapter": "hf_causal"}
    )


def test_counts_and_lengths_are_the_records(suite: Suite) -> None:
    windows = DrawingAgain(suite).drawn(facts_of()).windows
    assert (len(windows.preview), len(windows.final), windows.seq_len) == (5, 6, 40)


def test_windows_are_no_longer_than_the_models_context(suite: Suite) -> None:
    stated = dict(facts_of().plan["windows"]) | {"convention": "concatenated", "seq_len": 600}
    drawn = DrawingAgain(suite).drawn(facts_of(windows=stated))
    assert drawn.windows.seq_len == 256
    assert any("context of 256 tokens" in note for note in drawn.windows.notes)


def test_each_set_of_windows_is_drawn_once(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    draw = drawn_again.draw_windows

    def counted(*given: Any, **named: Any) -> Any:
        draws.append(named["draw"])
        return draw(*given, **named)

    monkeypatch.setattr(drawn_again, "draw_windows", counted)
    drawing = DrawingAgain(suite)
    for number in (0, 1, 0, 1):
        drawing.drawn(facts_of(draw=number))
    assert draws == [0, 1]


def test_no_weight_is_read(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    assert DrawingAgain(suite).drawn(facts_of())


REFUSED = {
    "no source": ({"source": None}, "ready-made"),
    "tuning arm": ({"windows": {"pool": "tuning"}}, "tuning arm"),
    "no metric": ({"metric": "auto"}, "which metric"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_drawn_again(suite: Suite, case: str) -> None:
    plan, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason) as refusal:
        DrawingAgain(suite).drawn(facts_of(**plan))
    assert refusal.value.code == "DATA_UNCHECKED"


def test_a_plan_of_another_draw_is_not_drawn(suite: Suite) -> None:
    facts = replace(facts_of(), draw=7)
    with pytest.raises(DataError, match="of another draw"):
        DrawingAgain(suite).drawn(facts)


def findings_of(suite: Suite, *facts: Facts) -> list[tuple[str, str]]:
    comparison = Comparison(suite, [bytes(32)])
    for one in facts:
        comparison.add("records/x", Record(one))
    return [(finding.code, finding.message) for finding in comparison.findings()]


@pytest.mark.parametrize(
    ("model", "reason"),
    [("somebody/absent", "MODEL_NOT_CACHED: "), ("m", "the suite names no model 'm'")],
)
def test_a_model_that_is_not_there_is_told_of_every_record(
    suite: Suite, model: str, reason: str
) -> None:
    found = findings_of(suite, facts_of(model), facts_of(model))
    assert [code for code, _ in found] == ["DATA_UNCHECKED"] * 2
    assert all(reason in message for _, message in found)


def test_data_that_cannot_be_read_is_a_finding(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(drawn_again, "get_provider", broken)
    ((code, message),) = findings_of(suite, facts_of())
    assert code == "DATA_UNCHECKED"
    assert message.endswith("PermissionError: [Errno 13] Permission denied")


def test_another_tokenizer_is_named_beside_what_differs(suite: Suite) -> None:
    told = dict(findings_of(suite, facts_of()))
    assert told.keys() == {"DATA_MISMATCH", "DATA_OTHER_SETTINGS", "DATA_WITHOUT_HASHES"}
    assert told["DATA_MISMATCH"].endswith("baseline.tokenizer_fingerprint")


def test_records_that_ended_before_any_window_show_nothing(suite: Suite) -> None:
    ended = replace(facts_of(), data={}, arms={}, error="MADE_UP")
    assert findings_of(suite, ended) == [("DATA_UNCHECKED", "no record of the pack has windows")]


def test_without_torch_nothing_is_checked(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("comparison", "differences", "drawn_again"):
        monkeypatch.delitem(sys.modules, f"pytest_invarlock.data_check.{name}", raising=False)
    for name in ("bench.draws", "metrics.batches"):
        monkeypatch.delitem(sys.modules, f"pytest_invarlock.{name}")
    pack: Any = None
    (finding,) = check_data(pack, suite, [])
    assert (finding.code, finding.level) == ("DATA_UNCHECKED", "error")
    assert "torch cannot be imported" in finding.message


@pytest.mark.parametrize(
    ("stated", "taken"), [(COMMIT, COMMIT), ("main", None), ("../../x", None), (None, None)]
)
def test_the_commit_that_was_measured_is_taken(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, stated: str | None, taken: str | None
) -> None:
    asked: list[Any] = []

    def provider(kind: str, source: DataSource) -> None:
        asked.append(source)
        raise DataError("made up", remedy="")

    def read(reference: str, adapter: str) -> Any:
        asked.append(reference)

    monkeypatch.setattr(drawn_again, "get_provider", provider)
    monkeypatch.setattr(drawn_again, "_read", read)
    facts = facts_of("somebody/absent", source={"provider": "hf_text", "revision": stated})
    facts = replace(facts, baseline=dict(facts.baseline) | {"revision": stated})
    with pytest.raises(DataError, match="made up"):
        DrawingAgain(suite).drawn(facts)
    reference, source = asked
    assert reference == ("somebody/absent" if taken is None else f"hf:somebody/absent@{taken}")
    assert (source.revision, source.allow_network) == (taken, False)
