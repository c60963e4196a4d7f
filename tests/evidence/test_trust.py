"""Whom a verifier trusts: pinned fingerprints and trust stores, names, expiry, thresholds."""

from __future__ import annotations

import base64
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.findings import Stage
from pytest_invarlock.evidence.keys import fingerprint, public_pem
from pytest_invarlock.evidence.trust import load_trust

from .attacks_signed import (
    PRIVATE_PEM,
    RSA_PEM,
    WEAK_PEM,
    pack_key,
    resign_and_claim_the_keyid,
    sign_twice,
)
from .synthetic import ENVELOPE, OTHER, errors


def store(tmp_path: Path, text: str, suffix: str = ".yaml") -> Path:
    path = tmp_path / f"store{suffix}"
    path.write_text(text)
    return path


def test_a_store_of_fingerprints_or_keys_is_enough(pack: Any, tmp_path: Path) -> None:
    pem = json.dumps(public_pem(pack.key.public_key()).decode())
    other = fingerprint(OTHER.public_key())
    for text in (
        f"keys:\n- name: ci\n  fingerprint: {pack.fingerprint}\n",
        f"keys:\n- name: old\n  fingerprint: {other}\n- name: ci\n  pem: {pem}\n",
        json.dumps({"keys": [{"fingerprint": pack.fingerprint}], "threshold": 1}),
    ):
        suffix = ".json" if text.startswith("{") else ".yaml"
        path = store(tmp_path, text, suffix)
        assert pack.verify(expected_fingerprints=(), trust_store=path).ok
    only_other = store(tmp_path, f"keys: [{{fingerprint: {other}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=only_other)
    assert (errors(report), report.exit_status) == (["UNTRUSTED_KEY"], 5)


def test_a_known_key_needs_nothing_from_the_pack(pack: Any, tmp_path: Path) -> None:
    pack_key(WEAK_PEM)(pack)
    pem = json.dumps(public_pem(pack.key.public_key()).decode())
    path = store(tmp_path, f"keys: [{{name: ci, pem: {pem}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=path)
    assert errors(report) == ["DIGEST_MISMATCH"]
    resign_and_claim_the_keyid(pack)
    report = pack.verify(expected_fingerprints=(), trust_store=path)
    assert errors(report) == ["BAD_SIGNATURE"]


def test_pin_and_store_must_both_hold(pack: Any, tmp_path: Path) -> None:
    other = fingerprint(OTHER.public_key())
    both = store(tmp_path, f"keys: [{{fingerprint: {other}}}, {{fingerprint: {pack.fingerprint}}}]")
    assert pack.verify(trust_store=both).ok
    assert errors(pack.verify(trust_store=both, expected_fingerprints=(other,))) == [
        "UNTRUSTED_KEY"
    ]
    only_other = store(tmp_path, f"keys: [{{fingerprint: {other}}}]")
    assert pack.verify(trust_store=only_other).exit_status == 2


def test_an_expired_key_is_not_trusted(pack: Any, tmp_path: Path) -> None:
    text = f"keys: [{{name: ci, fingerprint: {pack.fingerprint}, not_after: 2026-12-31}}]"
    path = store(tmp_path, text)
    last = dt.datetime(2026, 12, 31, 23, 59, tzinfo=dt.UTC)
    options: dict[str, Any] = {"expected_fingerprints": (), "trust_store": path}
    assert pack.verify(**options, now=last).ok
    report = pack.verify(**options, now=last + dt.timedelta(minutes=2))
    assert (errors(report), report.exit_status) == (["KEY_EXPIRED"], 5)


def test_a_threshold_counts_keys(pack: Any, tmp_path: Path) -> None:
    """Row 9: the same signature twice is one key."""
    other = json.dumps(public_pem(OTHER.public_key()).decode())
    path = store(
        tmp_path, f"threshold: 2\nkeys: [{{fingerprint: {pack.fingerprint}}}, {{pem: {other}}}]"
    )
    options: dict[str, Any] = {
        "expected_fingerprints": (),
        "trust_store": path,
        "dsse_lenient": True,
    }
    assert errors(pack.verify(**options)) == ["TOO_FEW_SIGNATURES"]
    sign_twice(pack)
    assert errors(pack.verify(**options)) == ["TOO_FEW_SIGNATURES"]
    envelope = pack.json(ENVELOPE)
    body = base64.b64decode(envelope["payload"])
    second = dsse.sign(body, dsse.IN_TOTO_PAYLOAD_TYPE, OTHER)["signatures"]
    pack.write_envelope({**envelope, "signatures": envelope["signatures"][:1] + second})
    assert pack.verify(**options).ok


HEX = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "TRUST_STORE"),
        ("keys: []", "TRUST_STORE"),
        ("keys: x", "TRUST_STORE"),
        ("[1]", "TRUST_STORE"),
        ("keys: [", "TRUST_STORE"),
        ("keys: [{name: x}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}', scopes: x}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nkeys: []", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: 0", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: -1", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: 2", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}]\nthreshold: true", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}'}}, {{fingerprint: '{HEX}'}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX[:-1]}'}}]", "TRUST_STORE"),
        (f"keys: [{{fingerprint: '{HEX}', not_after: soon}}]", "TRUST_STORE"),
        (f"keys: [{{pem: {json.dumps(RSA_PEM)}}}]", "KEY_TYPE"),
        (f"keys: [{{pem: {json.dumps(PRIVATE_PEM)}}}]", "KEY_IS_PRIVATE"),
        (f"keys: [{{pem: {json.dumps(WEAK_PEM)}}}]", "KEY_WEAK"),
        ("keys: [{pem: x}]", "KEY_MALFORMED"),
    ],
)
def test_an_unusable_store_is_a_usage_error(
    pack: Any, tmp_path: Path, text: str, code: str
) -> None:
    """Rows 10, 31 and 32."""
    report = pack.verify(trust_store=store(tmp_path, text), expected_fingerprints=())
    assert (errors(report), report.exit_status) == ([code], 2)
    assert list(report.reached) == [Stage.USAGE]


def test_a_missing_store_and_a_bad_fingerprint(pack: Any, tmp_path: Path) -> None:
    report = pack.verify(trust_store=tmp_path / "absent.yaml")
    assert (errors(report), report.exit_status) == (["TRUST_STORE_MISSING"], 3)
    for text in ("", "abc", pack.fingerprint.upper(), pack.fingerprint + "\n"):
        report = pack.verify(expected_fingerprints=(text,))
        assert (errors(report), report.exit_status) == (["BAD_FINGERPRINT"], 2)


def test_names_say_who_signed(pack: Any, tmp_path: Path) -> None:
    path = store(tmp_path, f"keys: [{{name: release CI, fingerprint: {pack.fingerprint}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=path)
    assert report.reached[Stage.SIGNATURE] == f"signed by {pack.fingerprint} (release CI)"
    unnamed = store(tmp_path, f"keys: [{{fingerprint: {pack.fingerprint}}}]")
    report = pack.verify(expected_fingerprints=(), trust_store=unnamed)
    assert report.reached[Stage.SIGNATURE].endswith(f"({pack.fingerprint})")


def test_one_key_under_two_names_is_one_key(pack: Any, tmp_path: Path) -> None:
    """A threshold of 2 is of two public keys, whatever names and forms they are given in."""
    pem = json.dumps(public_pem(pack.key.public_key()).decode())
    text = f"threshold: 2\nkeys: [{{name: a, fingerprint: {pack.fingerprint}}}, {{name: b, pem: {pem}}}]"
    report = pack.verify(expected_fingerprints=(), trust_store=store(tmp_path, text))
    assert (errors(report), report.exit_status) == (["TRUST_STORE"], 2)


def test_a_key_may_never_expire(pack: Any, tmp_path: Path) -> None:
    store = tmp_path / "store.yaml"
    store.write_text(f"keys: [{{fingerprint: {pack.fingerprint}, not_after: 9999-12-31}}]")
    assert pack.verify(expected_fingerprints=(), trust_store=store).exit_status == 0


def test_expired_keys_do_not_count_towards_a_threshold(pack: Any, tmp_path: Path) -> None:
    other = json.dumps(public_pem(OTHER.public_key()).decode())
    keys = f"[{{fingerprint: {pack.fingerprint}}}, {{pem: {other}, not_after: 2026-01-01}}]"
    path = store(tmp_path, f"threshold: 2\nkeys: {keys}")
    now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    trust = load_trust((), path, now)
    assert (list(trust.names), trust.expired) == (
        [pack.fingerprint],
        {fingerprint(OTHER.public_key())},
    )
    envelope = pack.json(ENVELOPE)
    body = base64.b64decode(envelope["payload"])
    second = dsse.sign(body, dsse.IN_TOTO_PAYLOAD_TYPE, OTHER)["signatures"]
    pack.write_envelope({**envelope, "signatures": envelope["signatures"] + second})
    options: dict[str, Any] = {
        "expected_fingerprints": (),
        "trust_store": path,
        "dsse_lenient": True,
    }
    assert errors(pack.verify(**options, now=now)) == ["TOO_FEW_SIGNATURES"]
    assert pack.verify(**options, now=dt.datetime(2025, 6, 1, tzinfo=dt.UTC)).ok
