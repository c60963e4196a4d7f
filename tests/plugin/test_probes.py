"""Probes beside certificates: written, packed, and derived again by verification."""

from __future__ import annotations

import json

from pytest_invarlock.evidence.findings import ExitStatus
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, user_signing_key_path
from pytest_invarlock.evidence.layout import CONTROL_FILES, SIGNER_KEY
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.pack import seal_pack
from pytest_invarlock.evidence.pack_schemas import check_schemas
from pytest_invarlock.evidence.rederive import rederive_pack
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from tests.plugin.conftest import HEAD

FOLDER = "reports/builtin-llama/skew/run_0"
RMT, VE = f"{FOLDER}/rmt_probe.json", f"{FOLDER}/ve_probe.json"
SKEW = (
    "  - {id: skew, strictness: informational, probes: [variance, rmt], "
    "edit: {name: ve_mlp_scale_skew}}\n"
    "  - {id: noop, strictness: must_pass, edit: {name: noop}}\n"
)


def sealed_again(path, files, header, key):
    seal_pack(path, files, header, key)
    options = VerifyOptions(expected_fingerprints=(fingerprint(key.public_key()),))
    report = verify_pack(path, options, rederive_pack, check_schemas)
    found = {(f.code, f.path) for f in report.findings if f.level == "error"}
    return report.exit_status, found


def test_probes_are_packed_and_have_to_follow_from_their_records(repository, tmp_path):
    path = repository.path / "probes.invarlock.yaml"
    path.write_text(HEAD + SKEW)
    repository.run(path.name)
    pack = repository.latest / "evidence_pack"
    for name in (RMT, VE):
        assert (pack / name).read_bytes() == (repository.latest / name).read_bytes()
    assert json.loads((pack / RMT).read_text())["status"] == "measured"
    assert not list(repository.latest.glob("reports/*/noop/*/*probe.json"))
    told = json.loads((pack / "metadata/scenarios.json").read_text())["scenarios"]
    assert [entry.get("probes") for entry in told] == [["rmt", "variance"], None]
    assert RMT in (pack / "checksums.sha256").read_text()

    read = {
        file.relative_to(pack).as_posix(): file.read_bytes()
        for file in pack.rglob("*")
        if file.is_file()
    }
    header = parse_manifest(read["manifest.json"]).header
    assert {RMT, VE} <= {file.path for file in parse_manifest(read["manifest.json"]).files}
    files = {k: v for k, v in read.items() if k not in CONTROL_FILES and k != SIGNER_KEY}
    key = load_private_key(user_signing_key_path())
    probe = json.loads(files[RMT])
    forged = json.dumps({**probe, "stable": probe["stable"] is not True}).encode()
    elsewhere = RMT.replace("skew", "noop")
    for number, (changed, code, where) in enumerate(
        [
            (files | {RMT: forged}, "SEMANTIC_MISMATCH", RMT),
            ({k: v for k, v in files.items() if k != VE}, "PROBE_MISSING", VE),
            (files | {elsewhere: files[RMT]}, "UNEXPLAINED_FILE", elsewhere),
        ]
    ):
        status, found = sealed_again(tmp_path / f"pack{number}", changed, header, key)
        assert status is ExitStatus.DOES_NOT_FOLLOW
        assert (code, where) in found
    loose = json.dumps({**probe, "more": 1}).encode()
    status, found = sealed_again(tmp_path / "loose", files | {RMT: loose}, header, key)
    assert (status, found) == (ExitStatus.MALFORMED, {("SCHEMA", RMT)})
