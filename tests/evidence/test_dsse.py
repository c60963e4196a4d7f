"""An envelope counts only where a trusted key signed exactly these bytes of exactly this type."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.keys import fingerprint, keyid

TYPE = dsse.IN_TOTO_PAYLOAD_TYPE
ORDER = 2**252 + 27742317777372353535851937790883648493
BODY = b'{"subject": "\xc3\xbf\xfb??>>"}'


def check(envelope: Any, key: Ed25519PrivateKey, **options: Any) -> dsse.VerifiedPayload:
    data = envelope if isinstance(envelope, bytes) else dsse.envelope_bytes(envelope)
    return dsse.verify(data, [key.public_key()], **options)


def code_of(envelope: Any, key: Ed25519PrivateKey, **options: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        check(envelope, key, **options)
    return caught.value.code


def with_signature(envelope: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(envelope)
    changed["signatures"][0].update(changes)
    return changed


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def envelope(key: Ed25519PrivateKey) -> dict[str, Any]:
    return dsse.sign(BODY, TYPE, key)


def test_pae_is_that_of_the_specification() -> None:
    """DSSE 1.0.2, protocol.md, test vector."""
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert dsse.pae("é", b"\x00\xff ") == b"DSSEv1 2 \xc3\xa9 3 \x00\xff "
    assert dsse.pae("", b"") == b"DSSEv1 0  0 "


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032(
    seed: str, public: str, message: str, signature: str
) -> None:
    """RFC 8032, section 7.1, tests 1 to 3."""
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    assert private.public_key().public_bytes_raw().hex() == public
    assert private.sign(bytes.fromhex(message)).hex() == signature


@pytest.mark.parametrize("strict", [True, False])
def test_what_was_signed_comes_back(
    envelope: dict[str, Any], key: Ed25519PrivateKey, strict: bool
) -> None:
    payload = check(envelope, key, strict=strict)
    assert (payload.body, payload.payload_type) == (BODY, TYPE)
    assert payload.fingerprint == fingerprint(key.public_key())


@pytest.mark.parametrize("strict", [True, False])
def test_another_body_type_or_signature_is_refused(
    envelope: dict[str, Any], key: Ed25519PrivateKey, strict: bool
) -> None:
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    malleated = signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(
        32, "little"
    )
    for changed in (
        {**envelope, "payload": b64(BODY + b" ")},
        {**envelope, "payloadType": "application/json"},
        with_signature(envelope, sig=b64(signature[:63])),
        with_signature(envelope, sig=b64(signature + b"\x00")),
        with_signature(envelope, sig=b64(malleated)),
        with_signature(envelope, sig=""),
    ):
        assert code_of(changed, key, strict=strict) == "BAD_SIGNATURE"


def test_another_key_is_untrusted_whatever_its_keyid_says(
    key: Ed25519PrivateKey, other_key: Ed25519PrivateKey
) -> None:
    foreign = dsse.sign(BODY, TYPE, other_key)
    assert code_of(foreign, key) == "UNTRUSTED_KEY"
    claimed = with_signature(foreign, keyid=keyid(key.public_key()))
    assert code_of(claimed, key) == "BAD_SIGNATURE"
    with pytest.raises(EvidenceError, match="no key that you trust"):
        dsse.verify(dsse.envelope_bytes(foreign), [])


def test_no_signature_is_unsigned(envelope: dict[str, Any], key: Ed25519PrivateKey) -> None:
    assert code_of({**envelope, "signatures": []}, key) == "UNSIGNED"
    assert code_of({**envelope, "signatures": []}, key, strict=False) == "UNSIGNED"
    bare = {name: value for name, value in envelope.items() if name != "signatures"}
    assert code_of(bare, key) == "UNSIGNED"
    assert code_of(bare, key, strict=False) == "UNSIGNED"


def test_payload_types_of_other_uses_are_refused(key: Ed25519PrivateKey) -> None:
    assert code_of(dsse.sign(BODY, "text/plain", key), key) == "WRONG_PAYLOAD_TYPE"
    assert code_of(dsse.sign(BODY, "text/plain", key), key, strict=False) == "WRONG_PAYLOAD_TYPE"


def test_a_threshold_counts_keys_not_signatures(
    envelope: dict[str, Any], key: Ed25519PrivateKey, other_key: Ed25519PrivateKey
) -> None:
    twice = {**envelope, "signatures": envelope["signatures"] * 2}
    both = {
        **envelope,
        "signatures": envelope["signatures"] + dsse.sign(BODY, TYPE, other_key)["signatures"],
    }
    trusted = [key.public_key(), key.public_key(), other_key.public_key()]
    with pytest.raises(EvidenceError) as caught:
        dsse.verify(dsse.envelope_bytes(twice), trusted, strict=False, threshold=2)
    assert caught.value.code == "TOO_FEW_SIGNATURES"
    payload = dsse.verify(dsse.envelope_bytes(both), trusted, strict=False, threshold=2)
    assert len(payload.fingerprints) == 2


def _url_safe(envelope: dict[str, Any]) -> dict[str, Any]:
    text = envelope["payload"].replace("+", "-").replace("/", "_")
    assert text != envelope["payload"]
    return {**envelope, "payload": text}


def _unknown_field(envelope: dict[str, Any]) -> dict[str, Any]:
    return {**envelope, "comment": "x"}


def _unknown_signature_field(envelope: dict[str, Any]) -> dict[str, Any]:
    return with_signature(envelope, cert="x")


def _other_keyid(envelope: dict[str, Any]) -> dict[str, Any]:
    return with_signature(envelope, keyid="release key")


def _no_keyid(envelope: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(envelope)
    del changed["signatures"][0]["keyid"]
    return changed


def _second_signature(envelope: dict[str, Any]) -> dict[str, Any]:
    second = dsse.sign(BODY, TYPE, Ed25519PrivateKey.generate())["signatures"]
    return {**envelope, "signatures": envelope["signatures"] + second}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_url_safe, "BASE64_URLSAFE"),
        (_unknown_field, "ENVELOPE_FIELDS"),
        (_unknown_signature_field, "ENVELOPE_FIELDS"),
        (_no_keyid, "ENVELOPE_FIELDS"),
        (_other_keyid, "KEYID_MISMATCH"),
        (_second_signature, "SIGNATURE_COUNT"),
    ],
)
def test_what_dsse_allows_besides_needs_the_lenient_profile(
    envelope: dict[str, Any], key: Ed25519PrivateKey, change: Any, code: str
) -> None:
    changed = change(envelope)
    assert code_of(changed, key) == code
    assert check(changed, key, strict=False).body == BODY


def test_whitespace_needs_the_lenient_profile(
    envelope: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    data = dsse.envelope_bytes(envelope)
    for changed in (data[:-1], data + b"\n", data.replace(b":", b": ")):
        assert code_of(changed, key) == "ENVELOPE_NOT_CANONICAL"
        assert check(changed, key, strict=False).body == BODY


@pytest.mark.parametrize("strict", [True, False])
def test_a_malformed_envelope_is_refused(
    envelope: dict[str, Any], key: Ed25519PrivateKey, strict: bool
) -> None:
    signature = envelope["signatures"][0]
    cases: list[tuple[Any, str]] = [
        ([], "MALFORMED_ENVELOPE"),
        ({k: v for k, v in envelope.items() if k != "payloadType"}, "MALFORMED_ENVELOPE"),
        ({**envelope, "payload": 1}, "MALFORMED_ENVELOPE"),
        ({**envelope, "signatures": signature}, "MALFORMED_ENVELOPE"),
        ({**envelope, "signatures": [signature["sig"]]}, "MALFORMED_ENVELOPE"),
        ({**envelope, "signatures": [{"keyid": "x"}]}, "MALFORMED_ENVELOPE"),
        ({**envelope, "signatures": [signature] * 17}, "MALFORMED_ENVELOPE"),
        ({**envelope, "payload": "@@@@"}, "BAD_BASE64"),
        ({**envelope, "payload": envelope["payload"] + "\n"}, "BAD_BASE64"),
        ({**envelope, "payload": "é==="}, "BAD_BASE64"),
        (with_signature(envelope, sig=_loose_tail(signature["sig"])), "BAD_BASE64"),
        (b'{"payload":"","payload":""}', "MALFORMED_JSON"),
        (b"\x00", "MALFORMED_JSON"),
        (b"[" * 100_000, "TOO_LARGE"),
    ]
    for changed, code in cases:
        assert code_of(changed, key, strict=strict) == code, changed


def _loose_tail(text: str) -> str:
    """Another base64 text of the same bytes: the last digit's unused bits are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    digits = text.rstrip("=")
    loose = digits[:-1] + alphabet[alphabet.index(digits[-1]) + 1] + "=="
    assert base64.b64decode(loose, validate=True) == base64.b64decode(text)
    return loose


def test_every_single_byte_of_an_envelope_counts(
    envelope: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    data = dsse.envelope_bytes(envelope)
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        assert code_of(changed, key)


def test_the_public_key_of_small_order_would_verify_anything() -> None:
    """Why :mod:`keys` refuses such keys at load: this layer could not tell."""
    weak = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
    forged = {
        "payload": b64(b"anything"),
        "payloadType": TYPE,
        "signatures": [{"keyid": keyid(weak), "sig": b64(b"\x01" + bytes(63))}],
    }
    assert dsse.verify(dsse.envelope_bytes(forged), [weak]).body == b"anything"
