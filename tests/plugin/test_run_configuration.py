"""The seeds' run configuration: the minimal one of the original runs under a name of one's own."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.plugin.conftest import GUARDED

# The original's minimal configuration, byte for byte.
VERBATIM = """\
model:
  id: "<set-your-model-id>"   # e.g., gpt2
  adapter: "hf_causal"
  device: "cpu"
dataset:
  provider: "wikitext2"
  split: "validation"
  seq_len: 512
  stride: 512
  preview_n: 64
  final_n: 64
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
# All that may differ: which model, and whose data.
MINIMAL = VERBATIM.replace("<set-your-model-id>", "builtin:gpt2").replace("wikitext2", "pydoc")
VERBATIM_SHA256 = "14f4b05eb803a03cddab45629b7c2da1e2f879d903e393a8560995a57ca6f6f9"
CHECKS = (
    "invariants",
    "spectral",
    "rmt",
    "variance",
    "primary_metric",
    "drift",
    "tail",
    "guard_overhead",
)


@pytest.fixture(params=["config.yaml"])
def named(repository, request) -> str:
    (repository.path / request.param).write_text(MINIMAL)
    return request.param


def test_the_configuration_is_the_originals():
    assert hashlib.sha256(VERBATIM.encode()).hexdigest() == VERBATIM_SHA256
    lines = zip(VERBATIM.splitlines(), MINIMAL.splitlines(), strict=True)
    assert [new.split("#")[0].strip() for old, new in lines if old != new] == [
        'id: "builtin:gpt2"', 'provider: "pydoc"',
    ]  # fmt: skip


def test_the_minimal_configuration_runs_as_it_stands(repository, named):
    result = repository.run(named, "-v", "--invarlock-threads=1")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    for check in CHECKS:
        result.stdout.fnmatch_lines([f"{named}::builtin:gpt2::quant_rtn::{check} PASSED*"])
    latest = repository.path / "runs" / "latest"
    assert json.loads((latest / "final_verdict.json").read_text())["verdict"] == "PASS"
    assert not (repository.path / "invarlock-out").exists()
    (certificate,) = latest.glob("reports/*/quant_rtn/run_0/evaluation.report.json")
    told = json.loads(certificate.read_text())
    windows = told["plan"]["windows"]
    assert [windows[key] for key in ("seq_len", "stride", "preview_windows", "final_windows")] == [
        512, 512, 64, 64,
    ]  # fmt: skip
    assert "not built" not in result.stdout.str()
    assert len(told["guards"]["spectral"]["changes"]) > 0
    for guard in ("rmt", "variance"):
        assert told["guards"][guard]["n_branches_compared"] > 0
        assert told["guards"][guard]["n_windows"] == 32
    assert told["guards"]["invariants"]["missing"] == []
    unused = "dataset.split: provider pydoc has no splits: validation is not used"
    assert unused in told["dataset"]["notes"]
    result.stdout.fnmatch_lines([f"*{unused}*"])
    # One item for each check that the tier demands, and the verdict.
    assert len([line for line in result.outlines if " PASSED" in line and "::" in line]) == 9


def test_a_suite_that_names_no_guard_has_those_of_its_tier(repository):
    repository.suite("noop", head=GUARDED)
    assert repository.run("small.invarlock.yaml").ret == pytest.ExitCode.OK
    (certificate,) = repository.latest.glob("reports/*/noop/run_0/evaluation.report.json")
    assert list(json.loads(certificate.read_text())["guards"]) == [
        "guard_overhead", "invariants", "rmt", "spectral", "variance",
    ]  # fmt: skip


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
        ["*config.yaml:32: unknown key 'guards.variance.discovery.deadbnad' (did you mean "
         "'deadband'?)*"]
    )  # fmt: skip


def test_a_foreign_yaml_file_is_left_alone(repository):
    (repository.path / "other.yaml").write_text("jobs: {build: {steps: []}}\n")
    result = repository.run("other.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "invarlock" not in result.stderr.str().replace("invarlock-", "")


def test_a_folder_is_not_searched_for_plain_names(repository, named):
    assert repository.run("--co").ret == pytest.ExitCode.NO_TESTS_COLLECTED
