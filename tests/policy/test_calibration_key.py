"""The suite key calibration: what it asks for, and how each mistake reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.settings import Setting, Settings
from pytest_invarlock.policy.suite import Suite, load_suite

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
name: mine
models: ["builtin:llama", "builtin:gpt2"]
profile: dev
dataset: {provider: pydoc, seq_len: 64, preview_n: 24, final_n: 24}
scenarios:
  - {id: same, strictness: must_pass, edit: {name: noop}}
  - {id: rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8}}}
  - {id: fp8, strictness: must_pass, edit: {name: fp8_quant, plan: {clean: true}}}
  - {id: cut, strictness: must_fail, detectors: {any: [primary_metric]}, edit: {name: magnitude_prune, plan: {sparsity: 0.9}}}
  - {id: look, strictness: informational, edit: {name: magnitude_prune, plan: {sparsity: 0.1}}}
"""


def load(folder: Path, block: str, **made: str) -> Suite:
    path = folder / "my.invarlock.yaml"
    path.write_text(HEAD + block)
    given = {name: Setting((value,), f"--invarlock-{name}") for name, value in made.items()}
    return load_suite(str(path), Settings(given), folder)


def names(suite: Suite, model: str = "builtin:llama") -> list[str]:
    assert suite.calibration is not None
    return [scenario.name for scenario in suite.calibration.benign[model]]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ("calibration: {runs: 1}", "calibration.runs: 1 is less than the minimum of 2"),
        ("calibration: {held_out: 0}", "calibration.held_out: 0 is less than the minimum of 1"),
        ("calibration: {draws: 3}", "unknown key 'calibration.draws'"),
        ("calibration: {benign: []}", "calibration.benign: []"),
        ("calibration: {benign: [rtm]}", "the suite has no scenario 'rtm'"),
        ("calibration: {benign: [cut]}", "'cut' is to be caught: it is not benign"),
        ("calibration: {benign: [rtn, rtn]}", "calibration.benign[1]: it stands twice"),
        ("calibration: {benign: [{name: noop}]}", "the baseline itself is measured in any case"),
        ("calibration: {benign: [{name: quant_rtm}]}", "no edit is named 'quant_rtm'"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_place(tmp_path: Path, block: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, block)
    assert text in caught.value.cause
    assert "my.invarlock.yaml:1" in caught.value.cause


def test_a_scenario_may_not_take_the_calibrations_name(tmp_path: Path) -> None:
    text = "  - {id: calibration, strictness: must_pass, edit: {name: noop}}\ncalibration: {}\n"
    with pytest.raises(ConfigError, match="a scenario is called 'calibration'"):
        load(tmp_path, text)


def test_without_the_key_nothing_is_calibrated(tmp_path: Path) -> None:
    suite = load(tmp_path, "")
    assert not suite.calibrates
    assert not any("::calibration::" in node for node in suite.node_ids())


def test_edits_that_must_pass_are_benign_unless_others_are_named(tmp_path: Path) -> None:
    suite = load(tmp_path, "calibration: {}")
    assert suite.calibration is not None
    assert (suite.calibration.runs, suite.calibration.held_out) == (5, 1)
    # Clean edits with the parameters of each model, as its scenarios have them.
    for pair in suite.pairs:
        assert names(suite, pair.name) == ["rtn", "fp8"]
        clean = suite.calibration.benign[pair.name][1]
        assert clean.edit is not None
        assert "clean" not in clean.edit.parameters
    named = load(
        tmp_path, "calibration: {benign: [look, {name: dtype_round_trip, plan: {dtype: bfloat16}}]}"
    )
    assert names(named) == ["look", "benign-1-dtype_round_trip"]


def test_where_nothing_must_pass_eight_bits_are_benign(tmp_path: Path) -> None:
    path = tmp_path / "my.invarlock.yaml"
    text = "\n".join(line for line in HEAD.splitlines() if "must_pass" not in line)
    path.write_text(text + "\ncalibration: {}\n")
    suite = load_suite(str(path), Settings(), tmp_path)
    assert names(suite) == ["benign-quant_rtn"]


def test_the_item_is_the_first_of_each_model(tmp_path: Path) -> None:
    ids = load(tmp_path, "calibration: {}").node_ids()
    first = {}
    for node in ids:
        first.setdefault(node.split("::")[1], node)
    assert list(first.values()) == [
        f"my.invarlock.yaml::{model}::calibration::preset"
        for model in ("builtin:llama", "builtin:gpt2")
    ]
    assert len([node for node in ids if "::calibration::" in node]) == 2


@pytest.mark.parametrize("made", [{"tune": "true"}, {"sweep": "look:sparsity=0.1,0.2"}])
def test_searches_and_sweeps_derive_no_preset(tmp_path: Path, made: Any) -> None:
    assert not load(tmp_path, "calibration: {}", **made).calibrates


def test_what_is_benign_hangs_on_no_selection(tmp_path: Path) -> None:
    assert names(load(tmp_path, "calibration: {}", scenario="cut")) == ["rtn", "fp8"]
