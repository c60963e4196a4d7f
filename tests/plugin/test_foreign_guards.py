"""Guards of other packages in a session: a guard that says nothing usable never lets pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_invarlock.cli import main
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, user_signing_key_path
from pytest_invarlock.policy.tiers import load_tier
from tests.plugin.conftest import GUARDED, HEAD, Repository, suite_text

if TYPE_CHECKING:
    from tests.conftest import Installer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FINE = {"passed": True, "action": "continue"}
CODE = """
from pytest_invarlock.core.api import Guard

class Raises(Guard):
    def validate(self, model, adapter, context):
        raise KeyError("no such layer")

class Writes(Guard):
    def validate(self, model, adapter, context):
        model.lm_head.weight.data[0, 0] += 1
        return {"passed": True, "action": "continue"}

class Skips(Guard):
    def validate(self, model, adapter, context):
        import pytest
        pytest.skip("not today")

class Exits(Guard):
    def prepare(self, model, adapter, calib, policy):
        raise SystemExit(0)

    def validate(self, model, adapter, context): ...

class Fails(Guard):
    def validate(self, model, adapter, context):
        return {"passed": False, "action": "abort", "message": "told so",
                "violations": [{"kind": "big", "module": "head", "value": 2, "threshold": 1}]}
"""


def guarded(block: str, head: str = HEAD) -> str:
    return head.replace("scenarios:\n", f"guards: {block}\nscenarios:\n")


def test_each_guard_is_an_item_that_says_what_it_came_to(
    install: Installer, repository: Repository
) -> None:
    install("my-guards", CODE, raises="Raises", gates="Fails", watches="Fails")
    head = guarded("{order: [raises, watches, gates], gates: {mode: gate}}")
    result = repository.run(repository.suite("noop", head=head), "-v")
    result.assert_outcomes(passed=5, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "*::noop::raises FAILED*",
            "*::noop::gates FAILED*",
            "*::noop::watches PASSED*",
            "ERROR: guard raises: validate() raised KeyError: 'no such layer'",
            "FAIL: abort: told so (attested by my-guards 1.2)",
            "*big: head: found 2, allowed 1",
            "*WARN watches: told so (attested by my-guards 1.2)",
        ]
    )
    assert repository.verdict()["verdict"] == "FAIL"


def test_a_guard_that_alters_the_model_fails_by_name_and_is_an_error_itself(
    install: Installer, repository: Repository
) -> None:
    install("my-guards", CODE, writes="Writes")
    name = repository.suite("noop", head=guarded("{order: [writes]}", GUARDED))
    result = repository.run(name, "-q")
    # The guard itself, `guard_overhead`, and the verdict.
    result.assert_outcomes(passed=7, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "ERROR: guard writes: validate() changed the model (a tensor)",
            "FAIL: validate of writes changed the subject: its tensors, what it computes",
        ]
    )
    assert "baseline_drop" in repository.events()


def test_a_guard_that_skips_or_exits_is_an_error_and_the_others_are_judged(
    install: Installer, repository: Repository
) -> None:
    install("my-guards", CODE, skips="Skips", exits="Exits")
    name = repository.suite("noop", head=guarded("{order: [skips, exits]}"))
    result = repository.run(name, "-v")
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "ERROR: guard skips: validate() raised Skipped: not today",
            "ERROR: guard exits: prepare() raised SystemExit: 0",
        ]
    )


def test_the_guide_shows_a_guard_that_works(install: Installer, repository: Repository) -> None:
    page = (EXAMPLES.parent / "docs" / "writing-guards.md").read_text(encoding="utf-8")
    code, toml, block, chain = re.findall(r"```\w+\n(.*?)```", page, re.DOTALL)
    project = tomllib.loads(toml)["project"]
    install(project["name"], code, **project["entry-points"]["invarlock.guards"])
    (repository.path / "own.invarlock.yaml").write_text(suite_text("rtn") + block)
    result = repository.run("own.invarlock.yaml", "-v", "-k", "weight_growth")
    result.assert_outcomes(passed=1, deselected=4)
    lines: dict[str, Any] = {}
    exec(code, lines)
    model = torch.nn.Linear(4, 4).requires_grad_(False)
    with_other = type("Other", (), {"name": "other", "validate": lambda *_: FINE})
    given = {
        "guard": lines["WeightGrowthGuard"](), "other": with_other(), "model": model,
        "batches": [], "apply_the_edit": lambda model: model.weight.mul_(2),
    }  # fmt: skip
    exec(chain, given)
    result = given["result"]
    assert (result.status, result.action) == ("failed", "rollback")
    assert [v.module for v in result.of("weight_growth").violations] == ["weight"]


def test_a_guard_that_is_not_installed_is_a_usage_error(repository: Repository) -> None:
    name = repository.suite("noop", head=guarded("{order: [invariants, nan_check]}"))
    result = repository.run(name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*small.invarlock.yaml:9: guards.order: no guard is named 'nan_check' (install the*"]
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both example packages, installed by pip into a folder of their own."""
    copies, target = tmp_path_factory.mktemp("examples"), tmp_path_factory.mktemp("installed")
    names = ("nan_check_guard", "threshold_guard")
    for name in names:
        # Building in place would leave traces in the checkout.
        shutil.copytree(EXAMPLES / name, copies / name, ignore=shutil.ignore_patterns("*.egg-info"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    places = [copies / name for name in names]
    subprocess.run([*pip, "--target", target, *places], check=True, timeout=120)
    return target


CONFIGURATION = """\
model: {id: "builtin:llama", device: cpu, dtype: float32}
profile: dev
dataset: {provider: pydoc, seq_len: 48, preview_n: 10, final_n: 10}
run: {threads: 1, determinism: strict}
floors: {documents: 8, effective_documents: 4}
bootstrap_replicates: 499
edit: {name: quant_rtn, plan: {bitwidth: 8, group_size: 32}}
guards:
  order: [invariants, nan_check, spectral, threshold, rmt, variance]
  nan_check: {mode: gate, strict: true}
  threshold: {max_magnitude: 100.0, warn_magnitude: 90.0, scope: ffn}
"""


def test_the_example_packages_in_a_whole_run(
    installed: Path,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(installed)
    for name in ("nan_check_guard", "threshold_guard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["plugins", "guards"]) == 0
    assert "nan_check   guard  nan-check-guard 0.1.0  ready" in capsys.readouterr().out
    (repository.path / "config.yaml").write_text(CONFIGURATION)
    result = repository.run("config.yaml", "-v")
    # Beside the tier's: two foreign guards, and the verdict.
    result.assert_outcomes(passed=len(load_tier("balanced").checks) + 3)
    names = [
        line.split(" ")[0].rpartition("::")[2] for line in result.outlines if " PASSED" in line
    ]
    assert names[:6] == ["invariants", "nan_check", "spectral", "threshold", "rmt", "variance"]
    (report,) = repository.latest.glob("reports/*/*/run_0/evaluation.report.json")
    certificate = json.loads(report.read_text())
    entry = certificate["attested"]["nan_check"]
    assert (entry["distribution"], entry["version"]) == ("nan-check-guard", "0.1.0")
    assert entry["entry_point"] == "nan_check_guard:NaNCheckGuard"
    assert entry["parameters"] == {"strict": True}
    assert entry["code"].startswith("sha256:")
    assert entry["answer"]["passed"] is True
    assert "nan-check-guard 0.1.0" in report.with_name("report.md").read_text()
    capsys.readouterr()
    # Not trusted, for no key was named; but all else was looked at, without the guards' code.
    sys.path.remove(str(installed))
    main(["verify", str(repository.latest / "evidence_pack")])
    told = capsys.readouterr().out
    (line,) = (
        line for line in told.splitlines() if line.startswith("GUARD_ATTESTED") and "nan" in line
    )
    assert "nan_check" in line
    assert entry["code"] in line
    assert "NO_TRUSTED_KEY" in told
    assert "SEMANTIC_MISMATCH" not in told
    assert "GUARD_NOT_INSTALLED" not in told
    # Installed, it is not imported either, unless that is asked for.
    sys.path.insert(0, str(installed))
    for name in ("nan_check_guard", "threshold_guard"):
        sys.modules.pop(name, None)
    pack = repository.latest / "evidence_pack"
    signer = fingerprint(load_private_key(user_signing_key_path()).public_key())
    trusting = ["verify", str(pack), "--expected-fingerprint", signer]
    assert main(trusting) == 0
    assert not {"nan_check_guard", "threshold_guard"} & set(sys.modules)
    assert "GUARD_JUDGED" not in capsys.readouterr().out
    assert main([*trusting, "--run-guard-code"]) == 0
    told = capsys.readouterr().out
    assert told.count("GUARD_ATTESTED") == 3
    assert "guard nan_check cannot be re-run" in told
    assert "guard threshold: judge() was run again and gave 1 recorded answers" in told
    code = installed / "threshold_guard.py"
    before = code.read_text()
    try:
        code.write_text(before + "# changed\n")
        assert main([*trusting, "--run-guard-code"]) == 7
    finally:
        code.write_text(before)
    assert "GUARD_OTHER_CODE  guard threshold is not run: code sha256:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nan_check_guard", "threshold_guard"])
def test_an_example_packages_own_tests_pass(
    name: str, installed: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(installed)
    tests = EXAMPLES / name / "tests" / f"test_{name}.py"
    shutil.copy(tests, repository.path)
    result = repository.run(tests.name, "-q")
    assert result.ret == 0, result.stdout.str()
