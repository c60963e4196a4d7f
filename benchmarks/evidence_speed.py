"""Two rates that verification rests on, each beside a goal.

1. CPU seconds and peak memory of ``invarlock verify`` on a signed pack of 200 certificates, in a
   process of its own, imports included, compiling not. The pack holds one measured record under 200
   names.
2. The rate at which a checkpoint's files are hashed ÷ the rate of ``sha256sum`` on the same files,
   alternating.

Usage: python benchmarks/evidence_speed.py [--certificates 200] [--megabytes 512] [--pack PACK]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

CPU_GOAL_SECONDS, MEMORY_GOAL_MB, HASH_GOAL = 3.0, 300, 0.8
SUITE = """
name: speed
models: ["builtin:gpt2"]
profile: dev
dataset: {provider: pydoc, seq_len: 64, preview_n: 32, final_n: 32}
run: {device: cpu, dtype: float32, threads: 1}
floors: {documents: 20, effective_documents: 10}
scenarios:
  - {id: rtn_8bit_all, strictness: must_pass,
     edit: {name: quant_rtn, plan: {bitwidth: 8, group_size: 32}}}
"""


def measured_pack(folder: Path) -> Path:
    """A pack with one record of the shipped model, measured here."""
    (folder / "speed.invarlock.yaml").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               "speed.invarlock.yaml", "--invarlock-signing-key=none"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "invarlock-out/latest/evidence_pack"


def copied_pack(source: Path, target: Path, count: int) -> str:
    """Seal a pack of ``count`` records like the first of ``source``; the signer's fingerprint."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_invarlock.evidence.environment import Permissions, environment_document
    from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
    from pytest_invarlock.evidence.pack import seal_pack
    from pytest_invarlock.evidence.pack_files import PackMetadata, pack_files, started_at
    from pytest_invarlock.evidence.rederive import combined_plan_digest
    from pytest_invarlock.plan import PlannedScenario
    from pytest_invarlock.policy.decision_policy import policies_digest
    from pytest_invarlock.records import record_from_bytes

    path = sorted(source.glob("records/*/*/*.record.json"))[-1]
    arrays = path.with_name(path.name.replace(".record.json", ".npz")).read_bytes()
    record = record_from_bytes(json.loads(path.read_bytes()), arrays)
    scenarios = json.loads((source / "metadata/scenarios.json").read_bytes())["scenarios"]
    policies = json.loads((source / "metadata/policy.json").read_bytes())["policies"]
    facts = record.facts
    names = [f"{facts.scenario}_{n:03d}" for n in range(count)]
    told = next(one for one in scenarios if one["scenario"] == facts.scenario)
    policy = next(p for p in policies for e in p["expectations"] if e["scenario"] == facts.scenario)
    expected = next(e for e in policy["expectations"] if e["scenario"] == facts.scenario)
    policies = [policy | {"expectations": [expected | {"scenario": name} for name in names]}]
    records = [replace(record, facts=replace(facts, scenario=name)) for name in names]
    now = datetime.now(UTC)
    metadata = PackMetadata(
        run_id="speed-1",
        suite="speed",
        planned=tuple(PlannedScenario.of_runs(facts.model, name, [facts.draw]) for name in names),
        scenarios=[told | {"scenario": name} for name in names],
        environment=environment_document(records, Permissions(), recorded_at=now),
        signed=True,
    )
    files = pack_files(records, policies, metadata)
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    header = ManifestHeader(
        run_id=metadata.run_id, suite=metadata.suite,
        started_at=started_at(records) or stamp, finished_at=stamp,
        created_at=stamp, tool=ToolIdentity("pytest-invarlock", "0", "sha256:" + "0" * 64),
        verdict=json.loads(files["results/final_verdict.json"])["verdict"],
        planned=metadata.planned, plan_digest=combined_plan_digest(records),
        policy_digest=policies_digest(policies), references=metadata.references(),
    )  # fmt: skip
    sealed = seal_pack(target, files, header, Ed25519PrivateKey.generate())
    assert sealed.fingerprint is not None
    return sealed.fingerprint


def verification(pack: Path, fingerprint: str, bytecode: Path) -> tuple[float, float]:
    """CPU seconds and peak megabytes of one verification in a process of its own."""
    command = [sys.executable, "-m", "pytest_invarlock", "verify", str(pack),
               "--expected-fingerprint", fingerprint]  # fmt: skip
    # An installed package is compiled once; a checkout may forbid that to be kept.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    done = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(done.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"the pack does not verify: exit {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6


def hashing_ratio(folder: Path, megabytes: int, repetitions: int) -> float:
    """Our rate on a checkpoint of equal shards ÷ that of ``sha256sum``, medians."""
    from pytest_invarlock.adapters.model_source import checkpoint_digest

    shards = 4
    block = os.urandom(2**20)
    for n in range(shards):
        with (folder / f"model-{n}.safetensors").open("wb") as out:
            for _ in range(megabytes // shards):
                out.write(block)
    files = sorted(str(path) for path in folder.iterdir())
    ours, theirs = [], []
    for _ in range(repetitions):
        start = time.perf_counter()
        checkpoint_digest(folder)
        middle = time.perf_counter()
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    return statistics.median(theirs) / statistics.median(ours)


def main() -> int:
    """Print both, and whether each goal is met; exit status 1 where one is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificates", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--pack", type=Path, help="take the record of this pack instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.pack or measured_pack(folder)
        pinned = copied_pack(source, folder / "pack", arguments.certificates)
        # The first compiles, and is not counted.
        each = 1 + arguments.repetitions
        runs = [verification(folder / "pack", pinned, folder / "pyc") for _ in range(each)][1:]
        seconds = statistics.median(cpu for cpu, _ in runs)
        memory = max(peak for _, peak in runs)
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        ratio = (
            hashing_ratio(checkpoint, arguments.megabytes, arguments.repetitions)
            if shutil.which("sha256sum")
            else None
        )
    goals = [
        (f"verifying {arguments.certificates} certificates: {seconds:.2f} s of CPU",
         f"goal < {CPU_GOAL_SECONDS:g} s", seconds < CPU_GOAL_SECONDS),
        (f"peak memory: {memory:.0f} MB", f"goal < {MEMORY_GOAL_MB} MB", memory < MEMORY_GOAL_MB),
    ]  # fmt: skip
    if ratio is not None:
        text = f"hashing a checkpoint: {ratio:.2f} of sha256sum's rate"
        goals.append((text, f"goal ≥ {HASH_GOAL:g}", ratio >= HASH_GOAL))
    for text, goal, met in goals:
        print(f"{'ok' if met else 'XX'}  {text} ({goal})")
    return 0 if all(met for _, _, met in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
