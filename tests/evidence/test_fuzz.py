"""Whatever stands in an envelope, a statement, a certificate or an archive: a finding, no traceback.

The examples are made from sound documents, so that they reach past the first check.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tracemalloc
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence import dsse
from pytest_invarlock.evidence.layout import PackFile
from pytest_invarlock.evidence.manifest import parse_manifest
from pytest_invarlock.evidence.statement import Statement, parse_statement
from pytest_invarlock.records import record_from_bytes

from .honest import ARRAYS, RECORD, REPORT, HonestRun
from .synthetic import DIGEST, ENVELOPE, KEY, Pack, errors, sealed

FUZZ = settings(
    deadline=None,
    max_examples=40,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW = settings(FUZZ, max_examples=15)
MAX_PEAK_BYTES = 64 * 2**20
JUDGED = (RECORD, "metadata/policy.json", "metadata/scenarios.json", "results/final_verdict.json")
ODD = st.sampled_from(
    [
        None, True, -1, 0, 2**53 - 1, 1e308, -0.0, 1.5, "", "x", "../x", "\x00", "sha256:", "0" * 64,
        [], {}, [[]], [None], {"": {}}, {"sha256": "0" * 64}, [1, "a", None] * 50, "\u202e" * 300,
    ]
)  # fmt: skip
JSON = st.recursive(
    ODD | st.text(max_size=8) | st.integers(-(10**20), 10**20) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document, the whole of it first."""
    found = [path]
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:3]) if isinstance(value, list) else items
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def documents(draw: st.DrawFn, sound: bytes) -> bytes:
    """A sound document with some places replaced, dropped or renamed; sometimes its bytes cut up."""
    value = json.loads(sound)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        what = draw(JSON)
        if not path:
            value = what if draw(st.booleans()) else value
            continue
        place = value
        for key in path[:-1]:
            place = place[key]
        how = draw(st.sampled_from(["replace", "drop", "rename", "repeat"]))
        if how == "replace" or not isinstance(place, dict | list):
            place[path[-1]] = what
        elif how == "drop":
            del place[path[-1]]
        elif isinstance(place, dict):
            place[draw(st.text(max_size=4))] = place[path[-1]]
        else:
            place.append(place[path[-1]])
    return draw(damaged(json.dumps(value).encode()) | st.just(json.dumps(value).encode()))


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes with a few stretches replaced by others, of another length too."""
    data = sound
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        data = data[:start] + draw(st.binary(max_size=40)) + data[end:]
    return data


def refused(read: Any, *given_: Any) -> None:
    """``read`` takes it or raises EvidenceError, and nothing else; memory stays small."""
    tracemalloc.start()
    with contextlib.suppress(EvidenceError):
        read(*given_)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_PEAK_BYTES


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return sealed(tmp_path_factory.mktemp("sound") / "pack")


@cache
def sound_body() -> bytes:
    files = (PackFile("a", 3, "ab" * 32), PackFile("b/c.json", 0, "cd" * 32))
    digests = (DIGEST, DIGEST, DIGEST)
    return Statement(files, "run", "demo", "PASS", *digests, "2026-11-20T12:00:00Z").body()


def envelope_of(body: bytes) -> bytes:
    return dsse.envelope_bytes(dsse.sign(body, dsse.IN_TOTO_PAYLOAD_TYPE, KEY))


@given(data=st.binary(max_size=200) | documents(envelope_of(b"{}")) | damaged(envelope_of(b"{}")))
@pytest.mark.parametrize("strict", [True, False])
@FUZZ
def test_any_envelope(data: bytes, strict: bool) -> None:
    def read() -> None:
        payload = dsse.verify(data, [KEY.public_key()], strict=strict)
        # What is taken is what was signed, whatever was done to the envelope around it.
        assert payload.body == b"{}"

    refused(read)


@given(data=st.binary(max_size=200) | documents(sound_body()) | damaged(sound_body()))
@FUZZ
def test_any_signed_statement(data: bytes) -> None:
    refused(parse_statement, data)


@given(data=st.data())
@FEW
def test_any_signed_statement_in_a_pack(sound: Pack, data: st.DataObject) -> None:
    envelope = (sound.path / ENVELOPE).read_bytes()
    body = json.dumps(sound.body()).encode()
    sound.resign(data.draw(documents(body)))
    try:
        report = sound.verify()
    finally:
        (sound.path / ENVELOPE).write_bytes(envelope)
    assert report.exit_status >= 4 or report.digest == sound.sealed.digest


@given(data=st.data())
@FEW
def test_any_manifest(sound: Pack, data: st.DataObject) -> None:
    manifest = (sound.path / "manifest.json").read_bytes()
    refused(parse_manifest, data.draw(documents(manifest) | damaged(manifest)))


def judged(run: HonestRun, path: Path, changed: Mapping[str, bytes]) -> list[str]:
    """Seal the honest files with some changed, and verify: the codes of what was found."""
    shutil.rmtree(path, ignore_errors=True)
    report = run.sealed_with(path, changed)
    assert report.exit_status in (0, 1, 4, 7), report.findings
    return errors(report)


@given(data=st.data())
@FEW
def test_any_certificate(honest: HonestRun, tmp_path: Path, data: st.DataObject) -> None:
    changed = data.draw(documents(honest.files[REPORT]) | damaged(honest.files[REPORT]))
    same = changed == honest.files[REPORT] or _equal(changed, honest.files[REPORT])
    # Equal JSON in other bytes is for the runtime manifest to refuse, where there is one.
    assert judged(honest, tmp_path / "pack", {REPORT: changed}) or same


def _equal(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@given(data=st.data())
@settings(FUZZ, max_examples=25)
def test_any_document_that_verdicts_follow_from(
    honest: HonestRun, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(JUDGED))
    judged(honest, tmp_path / "pack", {name: data.draw(documents(honest.files[name]))})


@given(data=st.data())
@FUZZ
def test_any_archive(honest: HonestRun, data: st.DataObject) -> None:
    document, sound = honest.json(RECORD), honest.files[ARRAYS]
    refused(record_from_bytes, document, data.draw(damaged(sound) | st.binary(max_size=100)))


@given(data=st.data())
@FUZZ
def test_any_directory_of_an_archive(honest: HonestRun, data: st.DataObject) -> None:
    """Damage is aimed at the last bytes, where an archive says what it holds."""
    document, sound = honest.json(RECORD), honest.files[ARRAYS]
    cut = len(sound) - data.draw(st.integers(0, 1000))
    refused(record_from_bytes, document, sound[:cut] + data.draw(damaged(sound[cut:])))


@given(n=st.integers(-(10**20), 10**20) | st.sampled_from([10**6, 10**6 + 1, 2**31, 2**62]))
@FEW
def test_any_number_of_windows(honest: HonestRun, n: int) -> None:
    document = honest.json(RECORD)
    document["facts"]["arms"]["final"]["n_windows"] = n
    refused(record_from_bytes, document, honest.files[ARRAYS])
