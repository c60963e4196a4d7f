"""The whole road on the shipped models: suite, verdict, certificates, signed pack, foreign tools."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_invarlock.cli import main
from tests.preloaded_python import preloaded_python

CANARY = "zebra-canary-7f3a"
TOKEN = "hf_zebraCanaryToken7f3a"
USER = "zebrauser7f3a"


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("INVARLOCK_", "PYTEST_"))}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        command, cwd=folder, text=True, capture_output=True, timeout=300, check=False,
        env={**inherited, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), **environment},
    )  # fmt: skip


def pytest_command(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *arguments,
    ]


def digests(run_folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_folder)): json.loads(path.read_text())["facts_digest"]
        for path in sorted(run_folder.glob("records/*/*/*.record.json"))
    }


def demo_folder(base: Path) -> Path:
    """Where the demo of all workers runs; ``base`` is one's own folder for temporary files."""
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-demo"


def demo_run(folder: Path) -> str:
    """The demo's output; whoever asks first runs it for all."""
    output = folder / "output.txt"
    with FileLock(f"{folder}.lock"):
        if not output.is_file():
            folder.mkdir()
            result = run(pytest_command("--invarlock-suite=demo", "--junitxml=junit.xml"), folder)
            assert result.returncode == 0, result.stdout
            output.write_text(result.stdout)
    return output.read_text()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and output."""
    folder = demo_folder(tmp_path_factory.getbasetemp())
    return folder, demo_run(folder)


def fingerprint(folder: Path) -> str:
    key = folder / "home/config/pytest-invarlock/signing-key.pem"
    der = subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    return "sha256:" + hashlib.sha256(der).hexdigest()


def test_the_demo_verdicts_are_those_its_file_declares(demo):
    folder, output = demo
    latest = folder / "invarlock-out/latest"
    verdict = json.loads((latest / "final_verdict.json").read_text())
    assert verdict["verdict"] == "PASS"
    outcomes = {(d["model"], d["scenario"]): d["outcome"] for d in verdict["decisions"]}
    for model in ("builtin:llama", "builtin:gpt2"):
        for clean in ("noop", "rtn_8bit_all", "rtn_4bit_ffn"):
            assert outcomes[model, clean] == "PASS"
        for damaged in ("prune_70pct_all", "nan_injection", "scale_explosion"):
            assert outcomes[model, damaged] == "FAIL"
    assert output.rstrip().splitlines()[-1].startswith("=")
    assert "55 passed" in output.rstrip().splitlines()[-1]


def test_one_load_and_one_baseline_pass_a_pair_for_all_scenarios(demo):
    folder, _ = demo
    log = (folder / "invarlock-out/latest/logs/main.log").read_text()
    assert log.count(" baseline_load ") == 2
    assert log.count(" baseline_pass ") == 2
    assert log.count(" record ") == 12
    records = sorted((folder / "invarlock-out/latest/records").glob("*/*/*.record.json"))
    counters = [json.loads(path.read_text())["observations"]["counters"] for path in records]
    assert {c["baseline_loads"] for c in counters} == {1}
    assert {c["baseline_passes"] for c in counters} == {1}
    assert max(c["subject_passes"] for c in counters) == 6


def test_ci_in_the_environment_changes_nothing_of_the_demo(demo):
    folder, _ = demo
    plan = json.loads((folder / "invarlock-out/latest/state/plans/suite.json").read_text())
    assert plan["policies"][0]["profile"] == "dev"
    result = run(pytest_command("--invarlock-suite=demo", "--co"), folder, CI="true")
    assert "tier balanced profile dev" in result.stdout


def test_a_shuffled_session_over_workers_makes_the_same_records_and_verdict(demo):
    """Both at once, on a part, to save runs; the plugin's tests hold each apart on a small suite."""
    folder, _ = demo
    chosen = ("rtn_8bit_all", "prune_70pct_all")
    first = {
        path: digest
        for path, digest in digests(folder / "invarlock-out/latest").items()
        if path.startswith("records/builtin-gpt2/") and path.split("/")[2] in chosen
    }
    assert len(first) == 2
    command = [preloaded_python(), "-m", "pytest", "-p", "no:cacheprovider", "-p", "randomly", "-n2",
               "--randomly-seed=3", "--invarlock-suite=demo", "--invarlock-out=two",
               "--invarlock-model=builtin:gpt2",
               *(f"--invarlock-scenario={name}" for name in chosen)]  # fmt: skip
    result = run(command, folder)
    assert result.returncode == 0, result.stdout
    assert "Using --randomly-seed=3" in result.stdout
    assert digests(folder / "two/latest") == first
    verdict = json.loads((folder / "two/latest/final_verdict.json").read_text())
    assert verdict["verdict"] == "PASS"


def test_the_pack_verifies_with_our_verifier(demo):
    folder, output = demo
    pinned = fingerprint(folder)
    assert f"signed by {pinned} (your new signing key)" in output
    pack = str(folder / "invarlock-out/latest/evidence_pack")
    verify = [sys.executable, "-m", "pytest_invarlock", "verify", pack]
    good = run([*verify, "--expected-fingerprint", pinned], folder)
    assert good.returncode == 0, good.stdout
    assert main(["verify", pack, "--expected-fingerprint", "sha256:" + "0" * 64]) == 5
    assert main(["verify", pack]) == 5


def test_the_pack_verifies_where_torch_cannot_be_imported(demo):
    folder, _ = demo
    blocked = folder / "blocked"
    blocked.mkdir(exist_ok=True)
    for name in ("torch", "transformers", "datasets"):
        (blocked / f"{name}.py").write_text("raise ImportError('blocked')\n")
    pack = str(folder / "invarlock-out/latest/evidence_pack")
    result = run(
        [sys.executable, "-m", "pytest_invarlock", "verify", pack,
         "--expected-fingerprint", fingerprint(folder)],
        folder, PYTHONPATH=str(blocked),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_pack_verifies_with_openssl_and_sha256sum_alone(demo):
    folder, _ = demo
    pack = folder / "invarlock-out/latest/evidence_pack"
    envelope = json.loads((pack / "manifest.signature.json").read_text())
    key = folder / "home/config/pytest-invarlock/signing-key.pem"
    work = folder / "byhand"
    work.mkdir()
    script = f"""
    set -eu
    openssl pkey -in '{key}' -pubout -out trusted.pem
    printf '%s' '{envelope["payload"]}' | base64 -d > body
    {{ printf 'DSSEv1 %d %s %d ' {len(envelope["payloadType"])} '{envelope["payloadType"]}' \
        "$(stat -c %s body)"; cat body; }} > pae
    printf '%s' '{envelope["signatures"][0]["sig"]}' | base64 -d > sig
    openssl pkeyutl -verify -pubin -inkey trusted.pem -rawin -in pae -sigfile sig
    cd '{pack}' && sha256sum --strict --quiet -c checksums.sha256
    """
    result = run(["sh", "-c", script], work)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Signature Verified Successfully" in result.stdout
    body = json.loads((work / "body").read_text())
    named = {subject["name"]: subject["digest"]["sha256"] for subject in body["subject"]}
    present = {str(p.relative_to(pack)) for p in pack.rglob("*") if p.is_file()}
    assert set(named) == present - {"manifest.signature.json"}
    for name, sha256 in named.items():
        assert hashlib.sha256((pack / name).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    ("path", "old", "new", "status"),
    [
        ("results/final_verdict.json", '"PASS"', '"FAIL"', 6),
        ("reports/builtin-llama/noop/run_0/evaluation.report.json", "1.1", "1.2", 6),
        ("metadata/policy.json", "1.1", "9.9", 6),
    ],
)
def test_a_changed_file_is_refused(demo, tmp_path, path, old, new, status):
    folder, _ = demo
    pack = tmp_path / "pack"
    subprocess.run(
        ["cp", "-r", str(folder / "invarlock-out/latest/evidence_pack"), str(pack)], check=True
    )
    text = (pack / path).read_text()
    assert old in text
    (pack / path).write_text(text.replace(old, new, 1))
    assert main(["verify", str(pack), "--expected-fingerprint", fingerprint(folder)]) == status


def test_nothing_that_leaves_holds_text_ids_file_names_or_paths(tmp_path):
    data = tmp_path / f"{CANARY}-file.jsonl"
    rows = [
        {"text": f"Document {i} speaks of {CANARY} and of {' '.join(f'w{j}' for j in range(80))}.",
         "doc": f"{CANARY}-id-{i}"}
        for i in range(120)
    ]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = tmp_path / "own.invarlock.yaml"
    suite.write_text(
        "name: own\nmodels: ['builtin:gpt2']\nprofile: dev\n"
        f"dataset: {{provider: local_jsonl, file: '{data.name}', id_field: doc, seq_len: 48, "
        "preview_n: 20, final_n: 20}\nrun: {threads: 1}\nscenarios:\n"
        "  - {id: noop, strictness: must_pass, edit: {name: noop}}\n"
        "  - {id: explosion, strictness: must_detect, edit: {name: scale_explosion}}\n"
    )
    home = tmp_path / USER
    home.mkdir()
    marker = f"source_commit={'a' * 40}\nsource_uri=https://{USER}:{TOKEN}@example.org/a\n"
    (tmp_path / "GPU_RUN_SOURCE.txt").write_text(marker)
    result = run(
        [preloaded_python(), *pytest_command(str(suite), "--junitxml=junit.xml", "-v", "-rA")[1:]],
        tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "step.md"), HOME=str(home),
        XDG_CONFIG_HOME=str(home / "config"), USER=USER, LOGNAME=USER, HF_TOKEN=TOKEN,
        GIT_CEILING_DIRECTORIES=str(tmp_path.parent),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    latest = (tmp_path / "invarlock-out/latest").resolve()
    leaving = [
        path
        for path in latest.rglob("*")
        if path.is_file() and not {"state", "local"} & set(path.relative_to(latest).parts)
    ]
    assert len(leaving) > 15
    outputs = {
        str(path): path.read_bytes()
        for path in [*leaving, tmp_path / "junit.xml", tmp_path / "step.md"]
    }
    # pytest itself says where its root and its junit file are.
    told = "\n".join([*result.stdout.splitlines(), result.stderr])
    own = re.compile(r"^(rootdir: |-+ generated xml file: ).*$", re.MULTILINE)
    outputs["terminal"] = own.sub("", told).encode()
    planted = [CANARY, TOKEN, USER, str(tmp_path), str(Path.home())]
    for name, content in outputs.items():
        assert not [word for word in planted if word.encode() in content], name
    source = json.loads(outputs[str(latest / "evidence_pack/metadata/source_repo.json")])
    assert source["uri"] == "git+https://example.org/a"
    assert (latest / "evidence_pack/attestations/builtin-gpt2.noop.intoto.json").is_file()
    assert b"bytes" in outputs[str(latest / "evidence_pack/manifest.json")]
