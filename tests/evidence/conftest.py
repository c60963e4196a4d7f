"""Small sealed packs, and the hands that tamper with them."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.findings import VerifyReport
from pytest_invarlock.evidence.keys import fingerprint
from pytest_invarlock.evidence.manifest import ManifestHeader, ToolIdentity
from pytest_invarlock.evidence.pack import SealedPack, seal_pack
from pytest_invarlock.evidence.verify import VerifyOptions, verify_pack
from pytest_invarlock.plan import PlannedScenario

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST = "sha256:" + "ab" * 32
REPORT = "reports/tiny/clean/run_0/evaluation.report.json"
FILES: dict[str, bytes | Path] = {
    REPORT: b'{"ratio": 1.01}\n',
    "records/tiny/clean/run_0.record.json": b"{}\n",
    "records/tiny/clean/run_0.npz": bytes(range(256)),
    "results/final_verdict.json": b'{"verdict": "PASS"}\n',
    "metadata/environment.json": b"{}\n",
    "metadata/scenarios.json": b"[]\n",
    "metadata/policy.json": b"{}\n",
    "empty": b"",
}
HEADER = ManifestHeader(
    run_id="demo-20261120T120000Z",
    suite="demo",
    started_at="2026-11-20T12:00:00Z",
    finished_at="2026-11-20T12:00:30Z",
    created_at="2026-11-20T12:00:31Z",
    tool=ToolIdentity("pytest-invarlock", "0.1.0", DIGEST),
    verdict="PASS",
    planned=(PlannedScenario("tiny", "clean", 1), PlannedScenario("tiny", "broken", 2)),
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
        return json.loads(base64.b64decode(self.json("manifest.signature.json")["payload"]))

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
        (self.path / "manifest.signature.json").write_bytes(dsse.envelope_bytes(envelope))

    def verify(self, **changes: Any) -> VerifyReport:
        """Verify with the right fingerprint pinned; the semantic stage finds nothing."""
        options = VerifyOptions(
            expected_fingerprints=(self.fingerprint,) if self.key else (),
            allow_unsigned=self.key is None,
        )
        return verify_pack(self.path, dataclasses.replace(options, **changes), lambda _pack: [])


@pytest.fixture(scope="session")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="session")
def other_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


@pytest.fixture
def header() -> ManifestHeader:
    return HEADER


@pytest.fixture
def files() -> dict[str, bytes | Path]:
    return dict(FILES)


@pytest.fixture
def make_pack(tmp_path: Path, key: Ed25519PrivateKey) -> Callable[..., Pack]:
    def make(name: str = "pack", signer: Ed25519PrivateKey | None = key, **changes: Any) -> Pack:
        path = tmp_path / name
        sealed = seal_pack(path, FILES, dataclasses.replace(HEADER, **changes), signer)
        return Pack(path, signer, sealed)

    return make


@pytest.fixture
def pack(make_pack: Callable[..., Pack]) -> Pack:
    return make_pack()
