"""The seeds' run configuration: the minimal one of the original runs under a name of one's own."""

from __future__ import annotations

import json

import pytest

# The original's minimal configuration, but for model and data.
MINIMAL = """\
model:
  id: "builtin:gpt2"   # e.g., gpt2
  adapter: "hf_causal"
  device: "cpu"
dataset:
  provider: "pydoc"
  seq_len: 64
  stride: 64
  preview_n: 24
  final_n: 24
  seed: 42
edit:
  # Optional: built-in quant demo. Omit for Compare & Certify/BYOE.
  name: quant_rtn
  plan:
    bitwidth: 8
    per_channel: true
    scope: attn
eval:
  metric:
    kind: ppl_causal
  loss:
    type: causal
guards:
  order: [invariants, spectral, rmt, variance, invariants]
  spectral: { mode: monitor }
  rmt: { mode: monitor }
  variance:
    tap: "post mlp.c_proj (pre-residual)"
    targets: "edited_modules_only"
    discovery: { deadband: 0.02, min_abs_adjust: 0.012, max_scale_step: 0.03 }
    gating: { sided: one-sided, min_effect_lognll: 9e-4 }
auto:
  enabled: true
  tier: balanced
  probes: 0
output:
  dir: runs
  save_model: false
  save_report: true
"""
CHECKS = ("invariants", "primary_metric", "drift", "tail")


@pytest.fixture(params=["config.yaml"])
def named(repository, request) -> str:
    (repository.path / request.param).write_text(MINIMAL)
    return request.param


def test_the_minimal_configuration_runs_as_it_stands(repository, named):
    result = repository.run(named, "-v", "--invarlock-threads=1")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    for check in CHECKS:
        result.stdout.fnmatch_lines([f"{named}::builtin:gpt2::quant_rtn::{check} PASSED*"])
    latest = repository.path / "runs" / "latest"
    assert json.loads((latest / "final_verdict.json").read_text())["verdict"] == "PASS"
    assert not (repository.path / "invarlock-out").exists()
    (certificate,) = latest.glob("reports/*/quant_rtn/run_0/evaluation.report.json")
    for guard in ("spectral", "rmt", "variance"):
        note = f"guard {guard}: not built in this version"
        assert note in certificate.read_text()
        result.stdout.fnmatch_lines([f"*{note}*"])


def test_the_suite_option_takes_it_and_out_beats_its_folder(repository, named):
    result = repository.run(f"--invarlock-suite={named}", "--co", "-q", "--invarlock-out=elsewhere")
    assert result.ret == pytest.ExitCode.OK
    assert [line for line in result.outlines if "::" in line and line.startswith(named)] == [
        f"{named}::builtin:gpt2::quant_rtn::{check}" for check in CHECKS
    ]
    assert not (repository.path / "runs").exists()


def test_a_node_id_of_it_alone_is_a_command(repository, named):
    result = repository.run(f"{named}::builtin:gpt2::quant_rtn::tail", "--co", "-q")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*1 test collected*"])


def test_an_unknown_key_is_a_usage_error(repository):
    (repository.path / "config.yaml").write_text(MINIMAL.replace("deadband", "deadbnad"))
    result = repository.run("config.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*config.yaml:31: unknown key 'guards.variance.discovery.deadbnad' (did you mean "
         "'deadband'?)*"]
    )  # fmt: skip


def test_a_foreign_yaml_file_is_left_alone(repository):
    (repository.path / "other.yaml").write_text("jobs: {build: {steps: []}}\n")
    result = repository.run("other.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "invarlock" not in result.stderr.str().replace("invarlock-", "")


def test_a_folder_is_not_searched_for_plain_names(repository, named):
    assert repository.run("--co").ret == pytest.ExitCode.NO_TESTS_COLLECTED
