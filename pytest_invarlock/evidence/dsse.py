"""DSSE 1.0.2 envelopes: Ed25519 over the pre-authentication encoding of the raw payload bytes.

The signature covers bytes, so nothing is re-encoded between verifying and parsing: callers parse
:attr:`VerifiedPayload.body` and never go back to the envelope. This module does not look into the
payload, and knows no trust rules beyond the keys it is given.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.keys import fingerprint, keyid
from pytest_invarlock.evidence.limits import MAX_ENVELOPE_BYTES
from pytest_invarlock.evidence.strict_json import canonical, loads

if TYPE_CHECKING:
    from collections.abc import Collection

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"
# One type only: a signature made for another use of the same key must not count here.
ALLOWED_PAYLOAD_TYPES = frozenset({IN_TOTO_PAYLOAD_TYPE})
MAX_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """The payload bytes that were signed, and by whom.

    ``fingerprints`` names each trusted key with a valid signature once, in envelope order.
    ``ignored`` counts signatures by other keys, which only the lenient profile lets through.
    """

    body: bytes
    payload_type: str
    fingerprints: tuple[str, ...]
    ignored: int = 0

    @property
    def fingerprint(self) -> str:
        """The first verifying key's fingerprint."""
        return self.fingerprints[0]


@dataclass(frozen=True, slots=True)
class _Signature:
    keyid: str
    value: bytes


def pae(payload_type: str, body: bytes) -> bytes:
    """The bytes that are signed: ``DSSEv1 SP len SP type SP len SP body`` (DSSE, protocol.md)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def sign(body: bytes, payload_type: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    """An envelope over ``body`` with one signature, as a JSON object."""
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": payload_type,
        "signatures": [
            {
                "keyid": keyid(key.public_key()),
                "sig": base64.b64encode(key.sign(pae(payload_type, body))).decode(),
            }
        ],
    }


def envelope_bytes(envelope: dict[str, Any]) -> bytes:
    """How an envelope is written: canonical JSON (RFC 8785) and one newline."""
    return canonical(envelope) + b"\n"


def verify(
    envelope: bytes,
    trusted: Collection[Ed25519PublicKey],
    *,
    strict: bool = True,
    threshold: int = 1,
    what: str = "envelope",
) -> VerifiedPayload:
    """Check the signatures of an envelope against ``trusted`` keys.

    Args:
        envelope: the envelope's bytes as read.
        trusted: keys that may sign; authority comes from here alone, keyid is a hint.
        strict: accept only what :func:`sign` and :func:`envelope_bytes` write: one signature,
            keyid derived from its key, no other field, standard base64, canonical bytes. False
            accepts all that DSSE allows: url-safe base64, other fields, missing or foreign keyid,
            further signatures by unknown keys.
        threshold: how many different trusted keys must have signed, counted by public key.
        what: how errors name the envelope.

    Raises:
        EvidenceError: TOO_LARGE, MALFORMED_JSON, MALFORMED_ENVELOPE or BAD_BASE64 for what is no
            DSSE envelope; SIGNATURE_COUNT, ENVELOPE_FIELDS, BASE64_URLSAFE,
            ENVELOPE_NOT_CANONICAL or KEYID_MISMATCH for what only ``strict`` refuses; UNSIGNED,
            UNTRUSTED_KEY, BAD_SIGNATURE, TOO_FEW_SIGNATURES or WRONG_PAYLOAD_TYPE for what was
            signed.
    """
    document = loads(envelope, max_bytes=MAX_ENVELOPE_BYTES, what=what)
    body, payload_type, signatures = _parse(document)
    if strict:
        _check_strict(document, envelope)
    message = pae(payload_type, body)
    signers = {
        fingerprint(key): key
        for signature in signatures
        for key in trusted
        if _signed_by(key, signature, message)
    }
    if not signers:
        raise _not_signed(signatures, trusted)
    if len(signers) < threshold:
        raise _failed("TOO_FEW_SIGNATURES", f"{len(signers)} trusted keys signed, not {threshold}")
    if strict and signatures[0].keyid != keyid(next(iter(signers.values()))):
        raise _failed("KEYID_MISMATCH", "keyid is not that of the key that signed")
    if payload_type not in ALLOWED_PAYLOAD_TYPES:
        raise _failed("WRONG_PAYLOAD_TYPE", f"payload type {ascii(payload_type)[:80]} is not ours")
    return VerifiedPayload(body, payload_type, tuple(signers), len(signatures) - len(signers))


def _parse(document: Any) -> tuple[bytes, str, tuple[_Signature, ...]]:
    """What DSSE itself demands of an envelope; fields it does not know are let be."""
    if isinstance(document, dict) and "signatures" not in document:
        raise _failed("UNSIGNED", "the envelope holds no signatures")
    fields = _object(document, {"payload", "payloadType", "signatures"})
    signatures = fields["signatures"]
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise _failed("MALFORMED_ENVELOPE", f"signatures is not a list of ≤ {MAX_SIGNATURES}")
    if not signatures:
        raise _failed("UNSIGNED", "the envelope holds no signature")
    parsed = []
    for item in signatures:
        entry = _object(item, {"sig"})
        value = _decode(_text(entry, "sig"))
        parsed.append(_Signature(_text(entry, "keyid") if "keyid" in entry else "", value))
    return _decode(_text(fields, "payload")), _text(fields, "payloadType"), tuple(parsed)


def _check_strict(document: dict[str, Any], envelope: bytes) -> None:
    """What :func:`sign` and :func:`envelope_bytes` write, of an envelope that :func:`_parse` took.

    More than one form of the same signed statement would leave bytes that nobody signed.
    """
    signatures = document["signatures"]
    if len(signatures) != 1:
        raise _failed("SIGNATURE_COUNT", f"{len(signatures)} signatures where we write one")
    _check_fields(document, {"payload", "payloadType", "signatures"})
    _check_fields(signatures[0], {"keyid", "sig"})
    if any(digit in text for text in (document["payload"], signatures[0]["sig"]) for digit in "-_"):
        raise _failed("BASE64_URLSAFE", "base64 is of the url-safe alphabet, we write the standard")
    if envelope != envelope_bytes(document):
        raise _failed("ENVELOPE_NOT_CANONICAL", "bytes differ from the canonical form of the JSON")


def _check_fields(value: dict[str, Any], names: set[str]) -> None:
    other = sorted(set(value) ^ names)
    if other:
        word = "lacks" if other[0] in names else "has the further"
        raise _failed("ENVELOPE_FIELDS", f"the envelope {word} field {ascii(other[0])[:80]}")


def _object(value: Any, needed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or not needed <= set(value):
        raise _failed("MALFORMED_ENVELOPE", f"no object with {', '.join(sorted(needed))}")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise _failed("MALFORMED_ENVELOPE", f"{name} is not text")
    return value


def _decode(text: str) -> bytes:
    # DSSE: verifiers must take both alphabets.
    standard = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _failed("BAD_BASE64", f"base64: {error}") from error
    # b64decode ignores the unused bits of the last digit, so that two texts give the same bytes.
    if base64.b64encode(data).decode() != standard:
        raise _failed("BAD_BASE64", "base64 is not the one encoding of its bytes")
    return data


def _signed_by(key: Ed25519PublicKey, signature: _Signature, message: bytes) -> bool:
    try:
        key.verify(signature.value, message)
    except InvalidSignature:
        return False
    return True


def _not_signed(
    signatures: tuple[_Signature, ...], trusted: Collection[Ed25519PublicKey]
) -> EvidenceError:
    known = {keyid(key) for key in trusted}
    if any(signature.keyid in known or not signature.keyid for signature in signatures):
        return _failed("BAD_SIGNATURE", "the signature does not fit the payload")
    return _failed("UNTRUSTED_KEY", "signed by no key that you trust")


def _failed(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="do not rely on this pack", code=code)
