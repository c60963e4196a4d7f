"""Whether statement, manifest, checksums and signer's key of one pack say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.keys import fingerprint, parse_public_key, public_pem
from pytest_invarlock.evidence.layout import (
    CHECKSUMS,
    CONTROL_FILES,
    ENVELOPE,
    MANIFEST,
    SIGNER_KEY,
    PackFile,
    checksums_text,
)

if TYPE_CHECKING:
    from pytest_invarlock.evidence.dsse import VerifiedPayload
    from pytest_invarlock.evidence.statement import Statement
    from pytest_invarlock.evidence.verified import VerifiedPack


def signed_files(statement: Statement) -> dict[str, PackFile]:
    """The files of a signed pack by path.

    Raises EvidenceError (MALFORMED_STATEMENT) unless manifest, checksums and the signer's key are
    subjects and the envelope is not.
    """
    files = {file.path: file for file in statement.files}
    for path in (MANIFEST, CHECKSUMS, SIGNER_KEY):
        if path not in files:
            raise _error("MALFORMED_STATEMENT", f"{path} is no subject of the statement")
    if ENVELOPE in files:
        raise _error("MALFORMED_STATEMENT", "the statement names its own envelope")
    return files


def check_signed(pack: VerifiedPack, statement: Statement, payload: VerifiedPayload) -> None:
    """Raise EvidenceError (MANIFEST_MISMATCH) unless the manifest says what was signed."""
    header = pack.manifest.header
    pem = pack.read(SIGNER_KEY)
    key = parse_public_key(pem, SIGNER_KEY)
    signed_by = fingerprint(key)
    listed = {f for f in statement.files if f.path not in CONTROL_FILES}
    agreement = {
        "files": set(pack.manifest.files) == listed,
        "checksums": pack.manifest.checksums_sha256 == pack.sha256(CHECKSUMS),
        "manifest_digest": statement.manifest_digest == f"sha256:{pack.sha256(MANIFEST)}",
        # Around a PEM block any text may stand, which nothing of the pack explains.
        SIGNER_KEY: pem == public_pem(key),
        "signing.fingerprint": pack.manifest.signer == signed_by,
        "signer": pack.manifest.signer in payload.fingerprints,
        **{
            name: getattr(header, name) == getattr(statement, name)
            for name in (
                "run_id",
                "suite",
                "verdict",
                "plan_digest",
                "policy_digest",
                "created_at",
            )
        },
    }
    differing = [name for name, same in agreement.items() if not same]
    if differing:
        raise _error("MANIFEST_MISMATCH", f"{', '.join(differing)}: differs from what was signed")


def check_checksums(pack: VerifiedPack) -> None:
    """Raise EvidenceError (CHECKSUMS_MISMATCH) unless ``checksums.sha256`` lists the files."""
    expected = checksums_text(pack.manifest.files)
    if pack.read(CHECKSUMS) != expected:
        raise _error("CHECKSUMS_MISMATCH", f"{CHECKSUMS} is not the list of the files' hashes")


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="take the pack again from its source", code=code)
