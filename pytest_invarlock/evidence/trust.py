"""Whom the caller trusts: pinned fingerprints and trust stores.

A store is YAML or JSON: ``threshold`` (default 1) and ``keys``, a list of ``{name, fingerprint}``
or ``{name, pem}``, each with an optional ``not_after`` date. That is compared with the time of
verification, because the time in a pack is its signer's own claim.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError, EvidenceError
from pytest_invarlock.evidence.keys import fingerprint, parse_public_key
from pytest_invarlock.evidence.strict_json import loads
from pytest_invarlock.policy.yaml_document import parse_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_STORE_BYTES = 2**20
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that may sign: names by fingerprint, and those whose public key is at hand.

    ``expired`` holds fingerprints that a store lists with a ``not_after`` in the past.
    ``threshold`` counts different keys.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    expired: frozenset[str] = frozenset()
    threshold: int = 1

    @property
    def given(self) -> bool:
        """Whether the caller named anyone to trust, if only expired keys."""
        return bool(self.names or self.expired)


def load_trust(
    expected_fingerprints: tuple[str, ...], trust_store: Path | None, now: dt.datetime
) -> Trust:
    """Combine pinned fingerprints and a store; with both given a signer must be in both.

    Raises EvidenceError: BAD_FINGERPRINT, TRUST_STORE, TRUST_STORE_MISSING, or a key's own code.
    """
    for text in expected_fingerprints:
        _check_fingerprint(text, "BAD_FINGERPRINT", "--expected-fingerprint")
    pinned = dict.fromkeys(expected_fingerprints, "--expected-fingerprint")
    if trust_store is None:
        return Trust(names=pinned)
    store = _read_store(trust_store, now)
    if not pinned:
        return store
    both = {text: name for text, name in store.names.items() if text in pinned}
    if not both and not store.expired & set(pinned):
        raise _error(
            "TRUST_STORE", f"{trust_store}: holds none of the expected fingerprints"
        )  # fmt: skip
    keys = {text: key for text, key in store.keys.items() if text in both}
    return Trust(both, keys, store.expired & frozenset(pinned), store.threshold)


def _read_store(path: Path, now: dt.datetime) -> Trust:
    document = _parse(path)
    where = str(path)
    unknown = sorted(set(document) - {"keys", "threshold"})
    if unknown:
        raise _error("TRUST_STORE", f"{where}: unknown key {unknown[0]!a}")
    threshold, entries = document.get("threshold", 1), document.get("keys")
    if type(threshold) is not int or threshold < 1:
        raise _error("TRUST_STORE", f"{where}: threshold must be a whole number from 1")
    if not isinstance(entries, list) or not entries:
        raise _error("TRUST_STORE", f"{where}: keys must be a list with at least one key")
    names: dict[str, str] = {}
    keys: dict[str, Ed25519PublicKey] = {}
    expired: set[str] = set()
    for index, entry in enumerate(entries):
        place = f"{where}: keys[{index}]"
        text, name, key, not_after = _entry(entry, place)
        if text in names or text in expired:
            raise _error("TRUST_STORE", f"{place}: the key {text} stands twice")
        if not_after is not None and not_after < now:
            expired.add(text)
            continue
        names[text] = name
        if key is not None:
            keys[text] = key
    if threshold > len(names) + len(expired):
        raise _error("TRUST_STORE", f"{where}: threshold {threshold} exceeds the number of keys")
    return Trust(names, keys, frozenset(expired), threshold)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STORE_BYTES + 1)
    except OSError as error:
        code = "TRUST_STORE_MISSING" if isinstance(error, FileNotFoundError) else "TRUST_STORE"
        raise _error(code, f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_STORE_BYTES:
        raise _error("TRUST_STORE", f"{path}: is longer than {MAX_STORE_BYTES} bytes")
    try:
        if path.suffix == ".json":
            value = loads(data, max_bytes=MAX_STORE_BYTES, what=str(path))
        else:
            value = parse_yaml(data.decode("utf-8"), name=str(path)).value
    except (ConfigError, EvidenceError) as error:
        raise _error("TRUST_STORE", error.cause) from error
    except UnicodeDecodeError as error:
        raise _error("TRUST_STORE", f"{path}: is not UTF-8 text") from error
    if not isinstance(value, dict):
        raise _error("TRUST_STORE", f"{path}: is not a mapping with keys")
    return value


def _entry(entry: Any, place: str) -> tuple[str, str, Ed25519PublicKey | None, dt.datetime | None]:
    allowed = {"name", "fingerprint", "pem", "not_after"}
    if not isinstance(entry, dict) or not set(entry) <= allowed:
        raise _error("TRUST_STORE", f"{place}: holds other keys than {', '.join(sorted(allowed))}")
    if not all(isinstance(value, str) for value in entry.values()):
        raise _error("TRUST_STORE", f"{place}: every value must be text")
    if ("fingerprint" in entry) == ("pem" in entry):
        raise _error("TRUST_STORE", f"{place}: needs either fingerprint or pem")
    key = parse_public_key(entry["pem"].encode(), place) if "pem" in entry else None
    text: str = fingerprint(key) if key else entry["fingerprint"]
    _check_fingerprint(text, "TRUST_STORE", place)
    not_after = _end_of(entry["not_after"], place) if "not_after" in entry else None
    return text, str(entry.get("name", text)), key, not_after


def parse_time(text: str, code: str, where: str) -> dt.datetime:
    """An ISO 8601 date or time, UTC unless it says otherwise.

    Raises EvidenceError (``code``), naming ``where`` it stands.
    """
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise _error(code, f"{where}: {ascii(text)[:60]} is not an ISO 8601 time") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)


def _end_of(text: str, place: str) -> dt.datetime:
    parsed = parse_time(text, "TRUST_STORE", f"{place}: not_after")
    if len(text) != len("2030-01-01"):
        return parsed
    # A bare date counts to its end, the calendar's last one too.
    last = dt.datetime.max.replace(tzinfo=dt.UTC) - dt.timedelta(days=1)
    return min(parsed, last) + dt.timedelta(days=1)


def _check_fingerprint(text: str, code: str, where: str) -> None:
    if not _FINGERPRINT.fullmatch(text):
        raise _error(
            code, f"{where}: {ascii(text)[:100]} is not sha256: and 64 lower-case hex digits"
        )


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(cause, remedy="see docs/verify-by-hand.md on fingerprints", code=code)
