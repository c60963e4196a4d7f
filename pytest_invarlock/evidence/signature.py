"""The signature stage: from an envelope and the caller's trust to verified payload bytes.

The envelope holds no public key. A pack carries its signer's in ``metadata/signer.pub.pem``; that
file is believed only where its fingerprint is one the caller trusts already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.keys import MAX_PEM_BYTES, fingerprint, parse_public_key
from pytest_invarlock.evidence.layout import ENVELOPE, SIGNER_KEY
from pytest_invarlock.evidence.limits import MAX_ENVELOPE_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from pytest_invarlock.evidence.content import Content
    from pytest_invarlock.evidence.pack_directory import PackDirectory
    from pytest_invarlock.evidence.trust import Trust


def check_signature(
    directory: PackDirectory, content: Content, trust: Trust, *, strict: bool
) -> dsse.VerifiedPayload:
    """Verify the envelope of a pack; ``content`` keeps the signer's key for the stages to come.

    Where ``trust`` names nobody, the pack's own key is used: that shows an intact signature, not
    who made it, and the caller must not accept it.

    Raises EvidenceError: SIGNER_KEY_MISSING, UNTRUSTED_KEY, KEY_EXPIRED, the codes of
    :func:`pytest_invarlock.evidence.keys.parse_public_key` and of
    :func:`pytest_invarlock.evidence.dsse.verify`.
    """
    envelope = directory.read(ENVELOPE, MAX_ENVELOPE_BYTES)
    keys = dict(trust.keys)
    if not trust.given or trust.names.keys() - keys.keys() or not keys:
        own = _own_key(directory, content)
        if own is not None and (not trust.given or fingerprint(own) in trust.names):
            keys[fingerprint(own)] = own
        elif own is not None and not keys:
            raise _stranger(fingerprint(own), trust)
    if not keys:
        raise _error("SIGNER_KEY_MISSING", f"{SIGNER_KEY} is missing: no key to verify with")
    threshold = trust.threshold if trust.given else 1
    return dsse.verify(
        envelope, list(keys.values()), strict=strict, threshold=threshold, what=ENVELOPE
    )


def _own_key(directory: PackDirectory, content: Content) -> Ed25519PublicKey | None:
    if not directory.exists(SIGNER_KEY):
        return None
    return parse_public_key(content.first(SIGNER_KEY, MAX_PEM_BYTES), SIGNER_KEY)


def _stranger(text: str, trust: Trust) -> EvidenceError:
    if text in trust.expired:
        return _error("KEY_EXPIRED", f"signed by {text}, which your trust store says has expired")
    return _error("UNTRUSTED_KEY", f"signed by {text}, which you did not name")


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="do not rely on this pack", code=code)
