"""A pack of a few kilobytes: sealed and hashed as ours are, with stubs for what its files say."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.findings import VerifyReport
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
from pytest_invarlock.evidence.pack import SealedPack, seal_pack
from pytest_invarlock.evidence.verify import PackCheck, VerifyOptions, verify_pack
from pytest_invarlock.plan import PlannedScenario

DIGEST = "sha256:" + "ab" * 32
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
ENVELOPE = "manifest.signature.json"
PLANNED = (PlannedScenario("tiny", "clean", 1), PlannedScenario("tiny", "broken", 2))
REPORT = "reports/tiny/clean/run_0/evaluation.report.json"
RUNTIME = "reports/tiny/clean/run_0/runtime.manifest.json"
VERDICT = "results/final_verdict.json"
POLICY = "metadata/policy.json"


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def runtime_of(report: bytes) -> bytes:
    """What the verifier looks at of a runtime manifest."""
    return compact(
        {
            "report": {"sha256": hashlib.sha256(report).hexdigest()},
            "runtime": {"allow_remote_code": False, "allow_third_party_plugins": False},
        }
    )


def _files() -> dict[str, bytes | Path]:
    draws = [(one.model, one.scenario, draw) for one in PLANNED for draw in one.runs]
    files: dict[str, bytes | Path] = {
        VERDICT: compact(
            {
                "decisions": [{"model": m, "scenario": s, "draw": d} for m, s, d in draws],
                "verdict": "PASS",
            }
        ),
        "metadata/environment.json": b"{}\n",
        "metadata/scenarios.json": b"[]\n",
        POLICY: compact({"policies": [{"profile": "ci"}]}),
        "empty": b"",
    }
    for model, scenario, draw in draws:
        report = b'{"ratio": 1.01}\n'
        folder = f"reports/{model}/{scenario}/run_{draw}"
        files[f"{folder}/evaluation.report.json"] = report
        files[f"{folder}/runtime.manifest.json"] = runtime_of(report)
        files[f"records/{model}/{scenario}/run_{draw}.record.json"] = b"{}\n"
        files[f"records/{model}/{scenario}/run_{draw}.npz"] = bytes(range(64))
    return files


FILES = _files()
HEADER = ManifestHeader(
    run_id="demo-20261120T120000Z",
    suite="demo",
    started_at="2026-11-20T12:00:00Z",
    finished_at="2026-11-20T12:00:30Z",
    created_at="2026-11-20T12:00:31Z",
    tool=ToolIdentity("pytest-invarlock", "0.1.0", DIGEST),
    verdict="PASS",
    planned=PLANNED,
    plan_digest=DIGEST,
    policy_digest=DIGEST,
)


@dataclass
class Pack:
    """A sealed pack on disk and the key that signed it."""

    path: Path
    key: Ed25519PrivateKey | None
    sealed: SealedPack

    @property
    def fingerprint(self) -> str:
        assert self.key is not None
        return fingerprint(self.key.public_key())

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_bytes())

    def body(self) -> Any:
        return json.loads(base64.b64decode(self.json(ENVELOPE)["payload"]))

    def resign(
        self,
        body: Any,
        key: Ed25519PrivateKey | None = None,
        payload_type: str = dsse.IN_TOTO_PAYLOAD_TYPE,
    ) -> None:
        """Sign ``body`` (an object, or bytes as they are) and put the envelope in place."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        signer = key or self.key
        assert signer is not None
        self.write_envelope(dsse.sign(data, payload_type, signer))

    def write_envelope(self, envelope: Any) -> None:
        (self.path / ENVELOPE).write_bytes(dsse.envelope_bytes(envelope))

    def sibling(self, name: str, **changes: Any) -> Pack:
        """Another pack beside this one, of the same signer."""
        return sealed(self.path.parent / name, self.key, **changes)

    def verify(
        self,
        rederive: PackCheck = lambda _pack: [],
        check_schemas: PackCheck | None = None,
        **changes: Any,
    ) -> VerifyReport:
        """Verify with the right fingerprint pinned; by default the last stage finds nothing."""
        options = VerifyOptions(
            expected_fingerprints=(self.fingerprint,) if self.key else (),
            allow_unsigned=self.key is None,
        )
        options = dataclasses.replace(options, **changes)
        return verify_pack(self.path, options, rederive, check_schemas)


def sealed(
    path: Path,
    key: Ed25519PrivateKey | None = KEY,
    files: dict[str, bytes | Path] | None = None,
    **changes: Any,
) -> Pack:
    """The pack of `FILES`, or of ``files``, with a header changed as asked for."""
    header = dataclasses.replace(HEADER, **changes)
    return Pack(path, key, seal_pack(path, FILES if files is None else files, header, key))


def errors(report: VerifyReport) -> list[str]:
    return [finding.code for finding in report.findings if finding.level == "error"]


def warnings(report: VerifyReport) -> list[tuple[str, str]]:
    return [(f.code, f.path) for f in report.findings if f.level == "warning"]
