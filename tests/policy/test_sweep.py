"""A sweep makes of a suite one of its doses; what is no sweep of that suite is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.decision_policy import Strictness
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.policy.settings import Setting, Settings, collect_settings
from pytest_invarlock.policy.suite import Suite, compare_suite, load_suite_file
from pytest_invarlock.policy.sweep import read_sweeps

SUITE = """\
name: small
models: ["builtin:llama", "builtin:gpt2"]
profile: dev
dataset: {provider: pydoc, seq_len: 64, preview_n: 24, final_n: 24}
scenarios:
  - {id: noop, strictness: must_pass, edit: {name: noop}}
  - {id: rtn, strictness: must_pass, kind: quantize8, edit: {name: quant_rtn, plan: {bits: 8, scope: attn}}}
  - id: pruned
    strictness: {default: must_fail, "builtin:gpt2": must_pass}
    kind: finetune
    edit: {name: magnitude_prune, plan: {sparsity: 0.7}}
  - {id: exploded, strictness: must_detect, detectors: {any: [tail]}, edit: {name: scale_explosion}}
  - {id: clean, strictness: must_pass, edit: {name: lowrank_svd, plan: {clean: true, scope: ffn}}}
  - {id: clean_rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {clean: true}}}
  - {id: other, strictness: must_pass, subject: ./checkpoint}
"""
TUNED = """\
{"models": {
  "builtin:llama": {"quant_rtn": {"status": "selected", "bits": 4, "group_size": 16},
                    "lowrank_svd": {"status": "skipped", "reason": "too small"}},
  "builtin:gpt2": {"quant_rtn": {"status": "selected", "bits": 6, "group_size": 64}}
}}
"""


def settings(*sweeps: str, **others: str) -> Settings:
    made = {name: Setting((value,), f"--invarlock-{name}") for name, value in others.items()}
    return Settings({"sweep": Setting(sweeps, "--invarlock-sweep"), **made})


@pytest.fixture
def sweep(tmp_path: Path):
    (tmp_path / "small.invarlock.yaml").write_text(SUITE)

    def load(*sweeps: str, **others: str) -> Suite:
        path = tmp_path / "small.invarlock.yaml"
        return load_suite_file(path, settings(*sweeps, **others), tmp_path)

    return load


def parameters(suite: Suite, name: str, pair: int = 0) -> dict:
    (found,) = (s for s in suite.scenarios_of(suite.pairs[pair]) if s.name == name)
    return dict(found.edit.parameters)


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ("rtnn:bits=3", "has no scenario 'rtnn' (did you mean 'rtn'?)", "UNKNOWN_SCENARIO"),
        ("other:bits=3", "scenario 'other' compares a checkpoint", "NO_DOSE"),
        ("noop:bits=3", "noop has no parameter 'bits' (it takes none)", "UNKNOWN_KEY"),
        (
            "exploded:bits=3",
            "scale_explosion has no parameter 'bits' (its parameters are: factor, layer)",
            "UNKNOWN_KEY",
        ),
        ("rtn:bits=3,9", "rtn:bits=9: quant_rtn: 9 is greater than the maximum of 8", "BAD_VALUE"),
        ("rtn:bits=3.0", "3.0 is not of type 'integer'", "BAD_VALUE"),
        ("rtn:bits=three", "'three' is not of type 'integer'", "BAD_VALUE"),
        ("rtn:bits=~", "rtn:bits=null: quant_rtn: None is not of type 'integer'", "BAD_VALUE"),
        ("exploded:factor=.inf", "inf is not of type 'number'", "BAD_VALUE"),
        ("rtn:bits=", "has no dose", "BAD_VALUE"),
        ("rtn:bits", "is no sweep (write SCENARIO:PARAM=a,b,c)", "BAD_VALUE"),
        ("bits=3", "is no sweep", "BAD_VALUE"),
        (":bits=3", "is no sweep", "BAD_VALUE"),
        ("rtn:=3", "is no sweep", "BAD_VALUE"),
        ("rtn:bits=3,,4", "holds no list of plain values", "BAD_VALUE"),
        ("rtn:bits=3,", "holds no list of plain values", "BAD_VALUE"),
        ("rtn:bits=[3,4]", "holds no list of plain values", "BAD_VALUE"),
        ("rtn:bits=a: 3", "holds no list of plain values", "BAD_VALUE"),
        ("rtn:bits=3] #", "holds no list of plain values", "BAD_VALUE"),
        ("rtn:bits=3,4,3", "dose 3 stands twice", "DUPLICATE_KEY"),
        ("pruned:sparsity=0.1,1e-1", "dose 0.1 stands twice", "DUPLICATE_KEY"),
        ("exploded:factor=2,2.0", "dose 2.0 stands twice", "DUPLICATE_KEY"),
        # Their names would be one.
        ("rtn:layers='0,1',0-1", "dose 0-1 stands twice", "DUPLICATE_KEY"),
        ("clean_rtn:clean=true", "has no parameter 'clean'", "UNKNOWN_KEY"),
    ],
)
def test_what_is_no_sweep_of_the_suite_is_refused(sweep, text, message, code):
    with pytest.raises(ConfigError) as raised:
        sweep(text)
    assert message in str(raised.value)
    assert str(raised.value).startswith("--invarlock-sweep: ")
    assert "\n" not in str(raised.value)
    assert raised.value.code == code


def test_one_parameter_is_swept_once(sweep):
    with pytest.raises(ConfigError, match="rtn:bits stands twice"):
        sweep("rtn:bits=3", "rtn:bits=4")


def test_sweeps_whose_files_would_be_one_are_refused():
    with pytest.raises(ConfigError) as raised:
        read_sweeps(settings("rtn:bits=3", "RTN:bits=4"))
    assert raised.value.code == "NAME_COLLISION"


@pytest.mark.parametrize(("other", "value"), [("scenario", "rtn"), ("tune", "true")])
def test_nothing_else_may_choose_what_is_run(sweep, other, value):
    with pytest.raises(ConfigError, match=f"--invarlock-sweep stands beside --invarlock-{other}"):
        sweep("rtn:bits=3", **{other: value})


def test_a_comparison_of_checkpoints_has_no_dose(tmp_path):
    made = settings("rtn:bits=3", baseline="builtin:llama", subject="builtin:gpt2")
    with pytest.raises(ConfigError) as raised:
        compare_suite(made, tmp_path)
    assert raised.value.code == "NO_DOSE"


def test_a_tune_that_is_off_is_no_other_choice(sweep):
    assert [s.name for s in sweep("rtn:bits=3", tune="false").scenarios] == ["rtn.bits=3"]


def test_the_suite_is_just_the_doses_in_order(sweep):
    suite = sweep("pruned:sparsity=0.5,1e-3,0.2", "rtn:bits=8,3")
    assert [s.name for s in suite.scenarios] == [
        "pruned.sparsity=0.5", "pruned.sparsity=0.001", "pruned.sparsity=0.2",
        "rtn.bits=8", "rtn.bits=3",
    ]  # fmt: skip
    assert len(suite.node_ids()) == 10
    assert all(node_id.endswith("::signal") for node_id in suite.node_ids())
    assert parameters(suite, "pruned.sparsity=0.001") == {"sparsity": 0.001}
    assert parameters(suite, "rtn.bits=3") == {"bits": 3, "scope": "attn"}


def test_every_dose_is_informational_whatever_its_scenario_must_show(sweep):
    suite = sweep("pruned:sparsity=0.2", "exploded:factor=2,9", "clean:rank=4")
    for pair, scenario in suite.planned():
        expected = suite.expectation(pair, scenario)
        assert expected.strictness is Strictness.INFORMATIONAL
        assert (expected.category, expected.detectors_any) == ("stress", ())


def test_values_are_scalars_of_yaml_1_2(sweep):
    suite = sweep("exploded:factor=1e1,0x10", "rtn:per_channel=true,False", "rtn:scope=ffn,'all'")
    values = [dict(s.edit.parameters) for s in suite.scenarios]
    assert [v.get("factor") for v in values[:2]] == [10.0, 16]
    assert [v.get("per_channel") for v in values[2:4]] == [True, False]
    assert [v["scope"] for v in values[4:]] == ["ffn", "all"]
    assert [s.name for s in suite.scenarios[2:4]] == [
        "rtn.per_channel=true",
        "rtn.per_channel=false",
    ]


def test_ids_hold_nothing_that_node_ids_give_a_meaning(sweep):
    suite = sweep('rtn:scope=ffn@layers=0,"attn@layers=0,2-3"')
    assert [s.name for s in suite.scenarios] == [
        "rtn.scope=ffn-layers-0",
        "rtn.scope=attn-layers-0-2-3",
    ]
    assert parameters(suite, "rtn.scope=attn-layers-0-2-3")["scope"] == "attn@layers=0,2-3"
    for node_id in suite.node_ids():
        name = node_id.split("::")[2]
        assert not set("[]@") & set(name)


def test_clean_parameters_are_found_first_and_then_one_is_replaced(sweep, tmp_path):
    (tmp_path / "tuned.json").write_text(TUNED)
    suite = sweep("clean_rtn:group_size=8,128", tuned=str(tmp_path / "tuned.json"))
    assert parameters(suite, "clean_rtn.group_size=8", 0) == {"bitwidth": 4, "group_size": 8}
    assert parameters(suite, "clean_rtn.group_size=8", 1) == {"bitwidth": 6, "group_size": 8}
    assert parameters(suite, "clean_rtn.group_size=128", 1) == {"bitwidth": 6, "group_size": 128}
    # Only what is swept is looked up.
    assert any("quant_rtn of builtin:gpt2" in note for note in suite.notes)
    assert not any("lowrank_svd" in note for note in suite.notes)


def test_a_clean_edit_that_a_model_skips_has_no_dose_of_it(sweep, tmp_path):
    (tmp_path / "tuned.json").write_text(TUNED)
    suite = sweep("clean:rank=4", tuned=str(tmp_path / "tuned.json"))
    skipped, found = (suite.scenarios_of(pair)[0] for pair in suite.pairs)
    assert "lowrank_svd: status is skipped: too small" in skipped.skipped
    assert skipped.name == found.name == "clean.rank=4"
    assert (found.skipped, found.edit.parameters["rank"]) == (None, 4)


def test_a_sweep_says_that_it_certifies_nothing(sweep):
    note = "a sweep certifies nothing: no verdict, no evidence pack"
    assert sweep("rtn:bits=3").notes[-1] == note


def test_a_parameter_replaces_its_other_name(sweep, tmp_path):
    # Beside an energy no rank may stand.
    (tmp_path / "tuned.json").write_text(
        '{"defaults": {"lowrank_svd": {"status": "selected", "energy": 0.9, "scope": "ffn"}}}'
    )
    ranked = sweep("clean:rank=4", tuned=str(tmp_path / "tuned.json"))
    assert parameters(ranked, "clean.rank=4") == {"rank": 4, "scope": "ffn"}
    assert parameters(sweep("rtn:bitwidth=3"), "rtn.bitwidth=3") == {"bitwidth": 3, "scope": "attn"}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        # quantize8 was the edit's own kind: a dose of three bits must not declare eight.
        ("rtn:bits=8,4,3", ["quantize8", "quantize4", "any"]),
        ("pruned:sparsity=0.1,0.9", ["finetune", "finetune"]),
    ],
)
def test_a_kind_that_was_the_edits_own_follows_the_dose(sweep, text, kinds):
    assert [s.kind for s in sweep(text).scenarios] == kinds


def test_a_run_configuration_is_swept_by_the_name_of_its_edit(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        'model: {id: "builtin:gpt2"}\ndataset: {provider: pydoc, seq_len: 64}\n'
        "edit: {name: quant_rtn, plan: {bitwidth: 8, scope: attn}}\n"
    )
    suite = load_suite_file(path, settings("quant_rtn:bitwidth=3,8"), tmp_path)
    assert [(s.name, kind_of(s)) for s in suite.scenarios] == [
        ("quant_rtn.bitwidth=3", "any"),
        ("quant_rtn.bitwidth=8", "quantize8"),
    ]


def test_several_sweeps_are_separated_by_blanks_in_the_environment():
    found = collect_settings(lambda _: None, lambda _: None, {"INVARLOCK_SWEEP": "a:b=1,2 c:d=x"})
    assert [(s.scenario, s.parameter, s.values) for s in read_sweeps(found)] == [
        ("a", "b", (1, 2)),
        ("c", "d", ("x",)),
    ]


def test_without_the_setting_a_suite_is_as_its_file_says(sweep, tmp_path):
    suite = load_suite_file(tmp_path / "small.invarlock.yaml", Settings(), tmp_path)
    assert suite.sweeps == ()
    assert [s.name for s in suite.scenarios][:2] == ["noop", "rtn"]
