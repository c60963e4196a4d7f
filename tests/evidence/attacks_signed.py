"""What an attacker does to the envelope, the statement in it, and whom a verifier is told to trust.

Each takes a sealed `Pack`, changes it, and may return the verify options that belong to the attack.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.keys import keyid, public_pem

from .attacks_on_files import edit_checksums, edit_report, reseal_body
from .synthetic import ENVELOPE, OTHER, Pack

Options = dict[str, Any]
LENIENT: Options = {"dsse_lenient": True}
WEAK = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(31))
ORDER = 2**252 + 27742317777372353535851937790883648493


def spki(public: Any) -> str:
    pem: bytes = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


RSA_PEM = spki(rsa.generate_private_key(65537, 2048).public_key())
EC_PEM = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
X25519_PEM = spki(x25519.X25519PrivateKey.generate().public_key())
WEAK_PEM = public_pem(WEAK).decode()
PRIVATE_PEM = OTHER.private_bytes(
    ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()
).decode()


def edit_checksums_and_payload(pack: Pack) -> None:
    edit_report(pack)
    edit_checksums(pack)
    body = json.dumps(reseal_body(pack)).encode()
    pack.write_envelope({**pack.json(ENVELOPE), "payload": base64.b64encode(body).decode()})


def resign_with_another_key(pack: Pack) -> None:
    edit_report(pack)
    (pack.path / "metadata/signer.pub.pem").write_bytes(public_pem(OTHER.public_key()))
    pack.resign(reseal_body(pack), key=OTHER)


def resign_but_keep_the_signers_key_file(pack: Pack) -> None:
    pack.resign(pack.body(), key=OTHER)


def resign_and_claim_the_keyid(pack: Pack) -> None:
    assert pack.key is not None
    pack.resign(pack.body(), key=OTHER)
    envelope = pack.json(ENVELOPE)
    envelope["signatures"][0]["keyid"] = keyid(pack.key.public_key())
    pack.write_envelope(envelope)


def empty_signatures(pack: Pack) -> None:
    pack.write_envelope({**pack.json(ENVELOPE), "signatures": []})


def no_signatures_field(pack: Pack) -> None:
    envelope = pack.json(ENVELOPE)
    del envelope["signatures"]
    pack.write_envelope(envelope)


def delete_the_envelope(pack: Pack) -> None:
    (pack.path / ENVELOPE).unlink()


def trust_nobody(_pack: Pack) -> Options:
    return {"expected_fingerprints": ()}


def sign_twice(pack: Pack) -> None:
    envelope = pack.json(ENVELOPE)
    pack.write_envelope({**envelope, "signatures": envelope["signatures"] * 2})


def store_of(pack: Pack, text: str) -> Options:
    path = pack.path.parent / "store.yaml"
    path.write_text(text)
    return {"expected_fingerprints": (), "trust_store": path}


def sign_twice_for_two(pack: Pack) -> Options:
    sign_twice(pack)
    pem = json.dumps(public_pem(OTHER.public_key()).decode())
    keys = f"[{{fingerprint: {pack.fingerprint}}}, {{pem: {pem}}}]"
    return store_of(pack, f"threshold: 2\nkeys: {keys}\n") | LENIENT


def threshold(number: int) -> Callable[[Pack], Options]:
    return lambda pack: store_of(
        pack, f"threshold: {number}\nkeys: [{{fingerprint: {pack.fingerprint}}}]\n"
    )


def trust_key(pem: str) -> Callable[[Pack], Options]:
    return lambda pack: store_of(pack, f"keys: [{{pem: {json.dumps(pem)}}}]\n")


def pack_key(pem: str) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        (pack.path / "metadata/signer.pub.pem").write_text(pem)

    return change


def remove_signer_key(pack: Pack) -> None:
    (pack.path / "metadata/signer.pub.pem").unlink()


def change_payload_type(pack: Pack) -> None:
    pack.write_envelope({**pack.json(ENVELOPE), "payloadType": "application/json"})


def sign_another_payload_type(pack: Pack) -> None:
    pack.resign(pack.body(), payload_type="application/vnd.other+json")


def sign_another(**changes: Any) -> Callable[[Pack], None]:
    return lambda pack: pack.resign({**pack.body(), **changes})


def replay_another_packs_envelope(pack: Pack) -> None:
    other = pack.sibling("other", run_id="demo-20261119T120000Z")
    shutil.copy(other.path / ENVELOPE, pack.path / ENVELOPE)


def options(**given: Any) -> Callable[[Pack], Options]:
    return lambda _pack: given


def rename_subject(name: str) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        body = pack.body()
        sizes = body["predicate"]["sizes"]
        sizes[name] = sizes.pop(body["subject"][0]["name"])
        body["subject"][0]["name"] = name
        pack.resign(body)

    return change


def repeat_a_subject(**digest: str) -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        body = pack.body()
        again = body["subject"][0]
        again = {**again, "digest": {**again["digest"], **digest}}
        pack.resign({**body, "subject": [*body["subject"], again]})

    return change


def digest_of_subject(change: Callable[[str], dict[str, str]]) -> Callable[[Pack], None]:
    def changed(pack: Pack) -> None:
        body = pack.body()
        body["subject"][0]["digest"] = change(body["subject"][0]["digest"]["sha256"])
        pack.resign(body)

    return changed


def repeat_a_key_in_the_envelope(pack: Pack) -> None:
    path = pack.path / ENVELOPE
    path.write_bytes(path.read_bytes().replace(b'{"payload"', b'{"payload":"","payload"', 1))


def repeat_a_key_in_the_body(pack: Pack) -> None:
    pack.resign(json.dumps(pack.body()).replace('{"_type"', '{"_type": "x", "_type"').encode())


def sign_bytes(data: bytes) -> Callable[[Pack], None]:
    return lambda pack: pack.resign(data)


def nest_the_envelope(pack: Pack) -> None:
    (pack.path / ENVELOPE).write_bytes(b'{"a":' * 1_000_000)


def endless_envelope(pack: Pack) -> None:
    with (pack.path / ENVELOPE).open("r+b") as file:
        file.truncate(2**40)


def sign_a_size(size: int, name: str = "empty") -> Callable[[Pack], None]:
    def change(pack: Pack) -> None:
        body = pack.body()
        body["predicate"]["sizes"][name] = size
        pack.resign(body)

    return change


def signature(change: Callable[[bytes], bytes]) -> Callable[[Pack], None]:
    def changed(pack: Pack) -> None:
        envelope = pack.json(ENVELOPE)
        entry = envelope["signatures"][0]
        entry["sig"] = base64.b64encode(change(base64.b64decode(entry["sig"]))).decode()
        pack.write_envelope(envelope)

    return changed


def malleated(raw: bytes) -> bytes:
    """The same signature with S + L for S: it would verify where S is not checked to be reduced."""
    return raw[:32] + (int.from_bytes(raw[32:], "little") + ORDER).to_bytes(32, "little")


def url_safe(given: Options) -> Callable[[Pack], Options]:
    def change(pack: Pack) -> Options:
        envelope = pack.json(ENVELOPE)
        entry = envelope["signatures"][0]
        assert set("+/") & set(entry["sig"])
        entry["sig"] = entry["sig"].replace("+", "-").replace("/", "_")
        pack.write_envelope(envelope)
        return given

    return change


def unknown_field(given: Options) -> Callable[[Pack], Options]:
    def change(pack: Pack) -> Options:
        pack.write_envelope({**pack.json(ENVELOPE), "comment": "x"})
        return given

    return change


def further_signature(given: Options) -> Callable[[Pack], Options]:
    def change(pack: Pack) -> Options:
        envelope = pack.json(ENVELOPE)
        second = dsse.sign(b"", "x", OTHER)["signatures"]
        pack.write_envelope({**envelope, "signatures": envelope["signatures"] + second})
        return given

    return change
