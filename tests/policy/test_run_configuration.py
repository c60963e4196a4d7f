"""Run configurations: what each block comes to, and how each mistake reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from invarlock_guards.judge.spectral_policy import SpectralPolicy
from invarlock_guards.judge.variance_policy import ProposalRules, VariancePolicy

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.edit_names import kind_of
from pytest_invarlock.policy.run_configuration import names_a_suite
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
model: {id: "builtin:gpt2"}
dataset: {provider: pydoc, seq_len: 64, preview_n: 10, final_n: 10}
"""
SUITE = """\
name: mine
models: ["builtin:gpt2"]
scenarios: [{id: same, strictness: must_pass, edit: {name: noop}}]
"""
EDIT = HEAD + "edit: {name: quant_rtn, plan: {bitwidth: 8}}\n"


def load(folder: Path, text: str, **option: str) -> Suite:
    path = folder / "my config.yaml"
    path.write_text(text, encoding="utf-8")
    made = {f"invarlock_{name}": value for name, value in option.items()}
    return load_suite(str(path), collect_settings(made.get, {}.get, {}), folder)


def refusal(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value


def test_an_edit_is_one_clean_scenario_that_must_pass(tmp_path: Path) -> None:
    suite = load(tmp_path, EDIT)
    ((pair, scenario),) = suite.planned()
    assert (suite.name, pair.baseline, scenario.name) == (
        "my-config", "builtin:gpt2", "quant_rtn",
    )  # fmt: skip
    assert kind_of(scenario) == "quantize8"
    assert suite.expectation(pair, scenario) == Expectation("clean", Strictness.MUST_PASS)
    assert (suite.notes, suite.out, suite.plan.metric) == ((), None, "auto")


def test_a_subject_is_found_beside_the_file(tmp_path: Path) -> None:
    suite = load(tmp_path, HEAD + "subject: ./int8\n")
    ((_, scenario),) = suite.planned()
    assert (scenario.name, scenario.subject) == ("int8", str(tmp_path / "int8"))


def test_settings_beat_the_file(tmp_path: Path) -> None:
    suite = load(tmp_path, EDIT, model="builtin:llama", seq_len="96", device="cpu")
    assert [pair.baseline for pair in suite.pairs] == ["builtin:llama"]
    assert (suite.plan.windows.seq_len, suite.plan.device) == (96, "cpu")


@pytest.mark.parametrize(
    ("blocks", "limit", "catastrophe", "band"),
    [
        ("", 1.10, 2.0, 1.05),
        ("auto: {tier: conservative}\n", 1.05, 2.0, 1.05),
        ("eval: {max_pm_ratio: 1.5, spike_threshold: 3}\n", 1.5, 3.0, 1.05),
        ("primary_metric: {acceptance_range: {min: 0.5, max: 1.2}}\n", 1.2, 2.0, 1.05),
        ("primary_metric: {drift_band: {min: 0.5, max: 1.2}}\n", 1.10, 2.0, 1.2),
        ("primary_metric: {drift_band: {min: 0.8, max: 9}}\n", 1.10, 2.0, 1.25),
    ],
)
def test_limits(tmp_path: Path, blocks: str, limit: float, catastrophe: float, band: float) -> None:
    policy = load(tmp_path, EDIT + blocks).policy
    assert policy.primary_metric.ratio_limit == limit
    assert policy.primary_metric.catastrophic_ratio == catastrophe
    assert policy.drift.band == band


@pytest.mark.parametrize(
    ("block", "metric"),
    [("{loss: {type: mlm}}", "ppl_mlm"), ("{loss: {type: auto}}", "auto"),
     ("{metric: {kind: accuracy}, loss: {type: causal}}", "accuracy"),
     ("{metric: {kind: auto}, loss: {type: seq2seq}}", "ppl_seq2seq")],
)  # fmt: skip
def test_the_loss_says_the_metric(tmp_path: Path, block: str, metric: str) -> None:
    assert load(tmp_path, f"{EDIT}eval: {block}\n").plan.metric == metric


@pytest.mark.parametrize(
    ("block", "note"),
    [
        (
            "guards: {order: [invariants, rmt]}",
            "guards.order leaves out spectral, variance: what the tier demands is run all the same",
        ),
        ("guards: {order: [rmt]}", "guards.order leaves out invariants, spectral, variance"),
        ("guards: {variance: {min_gain: 0.1}}", "guards.variance.min_gain: min_effect_lognll"),
        ("guards: {spectral: {multiple_testing: {m: 4}}}", "guards.spectral.multiple_testing"),
        ("auto: {enabled: false}", "auto.enabled: limits are those of the tier"),
        ("auto: {probes: 3}", "auto.probes: not built in this version"),
        ("auto: {target_pm_ratio: 2.0}", "auto.target_pm_ratio: limits come from"),
        ("context: {snapshot: {}}", "context: not used in this version (snapshot)"),
        ("output: {save_model: true}", "output.save_model: nothing is saved"),
        ("output: {save_report: false}", "output.save_report: reports are written"),
        ("primary_metric: {acceptance_range: {min: 0.9}}", "acceptance_range.min: a better"),
    ],
)
def test_what_is_not_followed_is_noted(tmp_path: Path, block: str, note: str) -> None:
    assert any(note in text for text in load(tmp_path, f"{EDIT}{block}\n").notes)


def test_modes_and_limits_of_guards_are_followed(tmp_path: Path) -> None:
    block = (
        "guards:\n"
        "  order: [invariants, spectral, rmt, variance, invariants]\n"
        "  spectral: {mode: monitor, family_caps: {ffn: {kappa: 2.25}}}\n"
        "  variance: {tap: 'post mlp.c_proj (pre-residual)', min_gain: 0.1, discovery: "
        "{deadband: 0.07}, gating: {sided: two-sided, min_effect_lognll: 0.5}}\n"
    )
    loaded = load(tmp_path, EDIT + block)
    assert loaded.policy.modes["spectral"] == "monitor"
    assert loaded.policy.modes["variance"] == "gate"
    caps = loaded.policy.guards["spectral"]["family_caps"]
    assert SpectralPolicy.from_mapping({"family_caps": caps}).family_caps["ffn"] == 2.25
    variance = VariancePolicy.from_mapping(loaded.policy.guards["variance"])
    assert (variance.tap, variance.deadband) == (("down",), 0.07)
    assert (variance.min_effect_lognll, variance.predictive_one_sided) == (0.5, False)
    assert not [note for note in loaded.notes if "order" in note]


def test_how_rescalings_are_proposed_stands_in_the_plan(tmp_path: Path) -> None:
    plain = load(tmp_path, EDIT)
    block = "guards:\n  variance: {mode: remediate, tap: attn.c_proj, deadband: 0.07}\n"
    asked = load(tmp_path, EDIT + block)
    rules, tier = asked.plan.rescaling, plain.plan.rescaling
    assert rules is not None
    assert tier is not None
    assert (tier.rules, tier.remediate) == (ProposalRules(), False)
    expected = ProposalRules(tap=("o",), deadband=0.07)
    assert (rules.rules, rules.remediate) == (expected, True)
    assert asked.policy.modes["variance"] == "remediate"
    document = asked.plan.document(source=None, data_digest=None)["rescaling"]
    assert document == {**expected.proposal_rules(), "remediate": True}
    without = replace(asked.plan, guards=("invariants",))
    assert "rescaling" not in without.document(source=None, data_digest=None)
    limits = load(tmp_path, EDIT + "guards:\n  variance: {min_effect_lognll: 0.5}\n")
    # What is only demanded changes no measurement.
    assert limits.plan == plain.plan


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("variance: {mode: repair}", "use gate, monitor or remediate"),
        ("rmt: {mode: remediate}", "use gate or monitor"),
        ("invariants: {mode: remediate}", "use gate or monitor"),
    ],
)
def test_variance_alone_can_remediate(tmp_path: Path, block: str, said: str) -> None:
    for text in (EDIT, SUITE):
        error = refusal(tmp_path, f"{text}guards:\n  {block}\n")
        assert "mode" in error.cause
        assert said in f"{error.cause} {error.remedy}"


def test_a_wrong_limit_of_a_guard_names_file_line_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.yaml:5: guards\.variance\.tap: ") as caught:
        load(tmp_path, f"{EDIT}guards:\n  variance: {{tap: x}}\n")
    assert caught.value.code == "GUARD_LIMITS"


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        (HEAD, ":1: nothing is compared with the model", "give edit: {name, plan}, or subject"),
        (HEAD + "edti: {name: noop}\n", ":3: unknown key 'edti'", "did you mean 'edit'?"),
        (HEAD + "edit: {name: quant_rt}\n", ":3: edit.name: no edit is named", "'quant_rtn'"),
        (HEAD + "edit: {name: quant_rtn, plan: {bitwidth: 9}}\n", "edit.plan.bitwidth", "2 to 8"),
        (EDIT + "guards: {spectral: {max_cap: 5}}\n", "'guards.spectral.max_cap'", "'max_caps'"),
        (EDIT + "guards: {order: [spectrl]}\n", ":4: guards.order: no guard", "'spectral'"),
        (EDIT + "auto: {probes: 11}\n", ":4: auto.probes", "use 0 to 10"),
        (EDIT + "eval: {metric: {kind: ppl_mlm}, loss: {type: causal}}\n", "eval.loss.type",
         "use metric ppl_causal"),
        (EDIT + "eval: {max_pm_ratio: 1.2}\nprimary_metric: {ratio_limit: 1.3}\n",
         ":4: eval.max_pm_ratio: 1.2 is another limit than primary_metric.ratio_limit, 1.3",
         "keep one"),
        (EDIT + "primary_metric: {drift_band: {}}\n", ":4: primary_metric.drift_band: empty",
         "give min"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, text: str, cause: str, remedy: str) -> None:
    error = refusal(tmp_path, text)
    assert cause in error.cause
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("text", "ours"),
    [(EDIT, True), ("models: [x]\nscenarios: []\n", True), ("extends: demo\nedit: {}\n", True),
     ("extends: demo\n", False), ("model: gpt-4\ndataset: x\n", False),
     ("jobs: {build: {}}\n", False), ("scenarios: []\n", False), ("- 1\n", False),
     ("a: [\n", False)],
)  # fmt: skip
def test_which_plain_files_are_ours(tmp_path: Path, text: str, ours: bool) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert names_a_suite(path) is ours
