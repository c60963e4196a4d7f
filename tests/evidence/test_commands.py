"""``invarlock verify`` and ``invarlock evidence-pack keygen`` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.cli import main
from pytest_invarlock.evidence import verify_text
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.keys import fingerprint, load_private_key, load_public_key

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def rederive(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Synthetic packs hold no records: the last stages find what the test says."""
    module = types.ModuleType("rederive")
    module.findings = []
    module.rederive_pack = lambda pack: module.findings
    monkeypatch.setitem(sys.modules, "pytest_invarlock.evidence.rederive", module)
    monkeypatch.setattr("pytest_invarlock.evidence.pack_schemas.check_schemas", lambda pack: [])
    return module


def test_invalid_evidence_is_named_stage_by_stage(
    pack: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (pack.path / "\x1b[2Jx").write_bytes(b"")
    assert main(["verify", str(pack.path), "--expected-fingerprint", pack.fingerprint]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines[:8]] == ["[ ok ]"] * 4 + ["[FAIL]", "[ ok ]"] + [
        "[ -- ]"
    ] * 2
    assert lines[8] == "EXTRA_FILE  \\x1b[2Jx: is not part of the pack"
    assert lines[9] == "INVALID: this evidence proves nothing (exit 6)"
    assert "\x1b" not in "".join(lines)


def test_a_valid_pack_reads_well(pack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(pack.path), "--expected-fingerprint", pack.fingerprint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[2] == f"[ ok ] signature  signed by {pack.fingerprint} (--expected-fingerprint)"
    assert lines[-1] == f"VALID, verdict PASS, signed by {pack.fingerprint}"


def test_both_spellings_give_the_same(make_pack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pack = make_pack(verdict="FAIL")
    arguments = ["verify", str(pack.path), "--expected-fingerprint", pack.fingerprint]
    assert main(arguments) == 1
    first = capsys.readouterr().out
    assert main(["evidence-pack", *arguments]) == 1
    assert capsys.readouterr().out == first


def test_json_is_one_object(pack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(pack.path), "--json"]) == 5
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "invarlock-verify-v1"
    assert (report["ok"], report["exit_status"]) == (False, 5)
    assert (report["signer"], report["authenticity"]) == (pack.fingerprint, "unpinned")
    assert (report["verdict"], report["pack_digest"]) == ("PASS", pack.sealed.digest)
    assert [f["code"] for f in report["findings"]] == ["NO_TRUSTED_KEY"]
    assert [s["status"] for s in report["stages"]].count("failed") == 1


def test_no_trusted_key_says_what_to_do(pack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(pack.path)]) == 5
    out = capsys.readouterr().out
    assert "--expected-fingerprint" in out
    assert out.splitlines()[-1].startswith(f"NOT TRUSTED: intact, signed by {pack.fingerprint}")


def test_warnings_and_notes_do_not_fail(
    make_pack: Any, rederive: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = make_pack(signer=None)
    rederive.findings.append(
        Finding("GUARD_ATTESTED", Stage.SEMANTICS, "", "third-party guard x 1.0", "note")
    )
    assert main(["verify", str(pack.path), "--allow-unsigned"]) == 0
    out = capsys.readouterr().out
    assert "UNSIGNED  warning: manifest.signature.json: is missing" in out
    assert "GUARD_ATTESTED  note: third-party guard x 1.0" in out
    assert out.splitlines()[-1] == "VALID, verdict PASS, unsigned"


def test_options_reach_the_verification(pack: Any, tmp_path: Path) -> None:
    base = ["verify", str(pack.path), "--expected-fingerprint", pack.fingerprint]
    assert main([*base, "--policy", "sha256:" + "0" * 64]) == 7
    assert main([*base, "--expect-run", "x"]) == 5
    assert main([*base, "--not-before", "2030-01-01"]) == 5
    assert main([*base, "--trust-store", str(tmp_path / "absent")]) == 3
    (pack.path / "extra").write_bytes(b"")
    assert main([*base, "--strict"]) == 6
    assert main([*base, "--no-strict"]) == 0


def test_a_crash_does_not_read_as_a_verdict(
    pack: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python ends with status 1 after a traceback; 1 means "valid, and the verdict is not PASS"."""
    # By the module, not its path: sessions in this process leave the package another one of it.
    monkeypatch.setattr(verify_text, "report_lines", lambda report: {}["absent"])
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(pack.path), "--expected-fingerprint", pack.fingerprint])
    assert caught.value.code == 70
    assert "KeyError: 'absent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["verify"], ["verfy", "x"], ["verify", "x", "--expected-f", "y"]]
)
def test_usage_errors_are_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_keygen_prints_the_fingerprint_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "k.pem"
    assert main(["evidence-pack", "keygen", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == fingerprint(load_private_key(path).public_key())
    assert captured.out.strip() == fingerprint(load_public_key(tmp_path / "k.pub.pem"))
    assert "k.pub.pem" in captured.err
    assert main(["evidence-pack", "keygen", str(path)]) == 2
    assert "KEY_EXISTS" in capsys.readouterr().err
    assert main(["evidence-pack", "keygen", str(tmp_path / "absent" / "k.pem")]) == 2


def test_the_command_line_is_light_until_used() -> None:
    program = (
        "import sys, pytest_invarlock.cli as c\n"
        "c.build_parser()\n"
        "heavy = {'torch', 'numpy', 'cryptography', 'jsonschema', 'yaml', 'pytest'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_verification_imports_neither_torch_nor_pytest_nor_network_clients() -> None:
    program = (
        "import sys\n"
        "import pytest_invarlock.evidence.verify, pytest_invarlock.evidence.pack\n"
        "print(sorted({'torch', 'pytest', 'requests', 'httpx', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_python_m_is_the_same_program() -> None:
    command = [sys.executable, "-m", "pytest_invarlock", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pytest-invarlock ")
