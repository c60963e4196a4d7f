"""Records: facts with one digest, and arrays that nobody can change or poison unseen."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.strict_json import loads, pretty
from pytest_invarlock.records import (
    ARRAY_FIELDS,
    LOSS_FIELDS,
    ArmLosses,
    Facts,
    Record,
    array_digest,
    record_from_bytes,
)

PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)
SHA = "sha256:" + "a" * 64
N = 5


def losses(n: int = N, shift: float = 0.0) -> ArmLosses:
    """An arm that holds every array there is; no metric measures all of them."""
    return ArmLosses(
        documents=np.arange(n, dtype=np.int64),
        tokens=np.full(n, 63, dtype=np.int64),
        baseline_nll=np.linspace(100.0, 120.0, n),
        subject_nll=np.linspace(100.0, 120.0, n) + shift,
        kl_nats=np.linspace(0.0, 2.0, n),
        top1_same=np.full(n, 60, dtype=np.int64),
        top1_harmful=np.full(n, 2, dtype=np.int64),
        top1_beneficial=np.full(n, 1, dtype=np.int64),
        examples=np.arange(n, dtype=np.int64) // 2,
        labels=np.arange(n, dtype=np.int64) % 2,
    )


OPTIONAL = [name for name in ARRAY_FIELDS if name not in LOSS_FIELDS]


def base_losses(n: int = N) -> ArmLosses:
    return replace(losses(n), **dict.fromkeys(OPTIONAL))  # type: ignore[arg-type]


def facts(**change: Any) -> Facts:
    stated: dict[str, Any] = {
        "model": "m", "scenario": "s", "draw": 0, "kind": "any",
        "plan": {"metric": "ppl_causal", "windows": {"seq_len": 64}},
        "baseline": {"tensors_digest": SHA}, "subject": {"tensors_digest": SHA},
        "edit": {"name": "noop", "parameters": {}}, "data": {"seq_len": 64, "notes": ["short"]},
        "arms": {"preview": losses(), "final": losses(7, 0.5)},
        "guards": {"invariants": {"n_tensors": 3}}, "error": None,
    }  # fmt: skip
    return Facts(**stated | change)


def written(record: Record) -> tuple[dict[str, Any], bytes]:
    document = loads(pretty(record.document()), max_bytes=1_000_000)
    return document, record.array_bytes()


def npy(array: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **options)
    return content.getvalue()


def repacked(content: bytes, change: dict[str, bytes | None], method: int = 0) -> bytes:
    """The archive with members replaced, added, or (None) dropped."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in (members | change).items():
            if data is not None:
                archive.writestr(name, data)
    return buffer.getvalue()


def refusal(document: dict[str, Any], content: bytes) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        record_from_bytes(document, content)
    return caught.value


def read_or_refused(document: dict[str, Any], content: bytes) -> Record | EvidenceError:
    try:
        return record_from_bytes(document, content)
    except EvidenceError as error:
        return error


@pytest.mark.parametrize("arm", ["preview", "final"])
@pytest.mark.parametrize("field", ARRAY_FIELDS)
def test_a_changed_array_is_refused(arm: str, field: str) -> None:
    record = Record(facts())
    document, content = written(record)
    array = record.facts.arms[arm].arrays()[field].copy()  # type: ignore[index]
    array[2] += 1
    error = refusal(document, repacked(content, {f"{arm}.{field}.npy": npy(array)}))
    assert error.code == "RECORD_DIGEST_MISMATCH"


def test_a_changed_array_with_its_own_digest_is_refused() -> None:
    document, content = written(Record(facts()))
    array = losses(7).subject_nll
    document["facts"]["arms"]["final"]["arrays"]["subject_nll"] = array_digest(array)
    error = refusal(document, repacked(content, {"final.subject_nll.npy": npy(array)}))
    assert error.code == "RECORD_DIGEST_MISMATCH"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model",), "other"),
        (("scenario",), "other"),
        (("draw",), 1),
        (("kind",), "cast"),
        (("plan", "metric"), "x"),
        (("plan_digest",), SHA),
        (("baseline", "tensors_digest"), "sha256:" + "b" * 64),
        (("subject",), {}),
        (("edit",), None),
        (("data", "notes"), []),
        (("guards", "invariants", "n_tensors"), 4),
        (("error",), "CRASH"),
        (("format",), "invarlock-facts-v2"),
        (("arms", "final", "arrays", "tokens"), SHA),
    ],
)
def test_a_changed_fact_is_refused(path: tuple[str, ...], value: object) -> None:
    document, content = written(Record(facts()))
    place = document["facts"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert refusal(document, content).code == "RECORD_DIGEST_MISMATCH"


def test_a_changed_facts_digest_is_refused() -> None:
    document, content = written(Record(facts()))
    document["facts_digest"] = SHA
    assert refusal(document, content).code == "RECORD_DIGEST_MISMATCH"


def test_an_added_fact_is_refused() -> None:
    document, content = written(Record(facts()))
    document["facts"]["remark"] = "fine"
    assert refusal(document, content).code == "RECORD_DIGEST_MISMATCH"


@pytest.mark.parametrize(
    "change",
    [
        {"final.tokens.npy": None},
        {"final.extra.npy": npy(np.zeros(2))},
        {"../final.tokens.npy": npy(np.zeros(2))},
        {"final.tokens.npy": None, "final.Tokens.npy": npy(np.full(7, 63))},
    ],
    ids=["missing", "extra", "outside", "renamed"],
)
def test_other_members_are_refused(change: dict[str, bytes | None]) -> None:
    document, content = written(Record(facts()))
    error = refusal(document, repacked(content, change))
    assert error.code == "RECORD_ARRAYS"
    assert "other arrays" in error.cause


def test_a_member_that_stands_twice_is_refused() -> None:
    document, content = written(Record(facts()))
    buffer = io.BytesIO(content)
    with (
        zipfile.ZipFile(buffer, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("final.tokens.npy", npy(np.zeros(7, dtype="<i8")))
    assert refusal(document, buffer.getvalue()).code == "RECORD_ARRAYS"


def with_arrays(change: dict[str, bytes | None]) -> tuple[dict[str, Any], bytes]:
    """A record and its archive, both changed alike in the final arm: they agree on the names."""
    document, content = written(Record(facts()))
    stated = document["facts"]["arms"]["final"]["arrays"]
    for name, data in change.items():
        if data is None:
            del stated[name]
        else:
            stated[name] = SHA
    return document, repacked(content, {f"final.{k}.npy": v for k, v in change.items()})


@pytest.mark.parametrize("name", LOSS_FIELDS)
def test_a_record_that_states_and_holds_no_base_array_is_refused(name: str) -> None:
    error = refusal(*with_arrays({name: None}))
    assert error.code == "RECORD_ARRAYS"
    assert name in error.cause


@pytest.mark.parametrize("name", ["weights", "arrays", "__class__", "x.y", "../tokens", ""])
def test_a_record_that_states_and_holds_an_unknown_array_is_refused(name: str) -> None:
    error = refusal(*with_arrays({name: npy(np.zeros(7))}))
    assert error.code == "RECORD_ARRAYS"


@pytest.mark.parametrize("name", OPTIONAL)
def test_dropping_an_optional_array_from_record_and_archive_is_refused(name: str) -> None:
    assert refusal(*with_arrays({name: None})).code == "RECORD_DIGEST_MISMATCH"


def test_arrays_that_were_not_measured_are_absent_and_stay_absent() -> None:
    record = Record(facts(arms={"preview": base_losses(), "final": base_losses(7)}))
    document, content = written(record)
    assert set(document["facts"]["arms"]["final"]["arrays"]) == set(LOSS_FIELDS)
    back = record_from_bytes(document, content)
    assert back.facts.digest == record.facts.digest
    assert set(back.facts.arms["final"].arrays()) == set(LOSS_FIELDS)


def header_only(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "member",
    [
        npy(np.array([object()] * 7), allow_pickle=True),
        npy(np.zeros(6)),
        npy(np.zeros((7, 1))),
        npy(np.zeros(7, dtype="<f4")),
        npy(np.zeros(7, dtype=">f8")),
        npy(np.zeros(7, dtype="<i8")),
        npy(np.zeros(7, dtype=[("a", "<f8")])),
        npy(np.float64(3.0)),
        b"",
        b"\x93NUMPY",
        b"not an array at all",
        npy(np.zeros(7))[:-8],
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000000000000,)}"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        header_only("{'descr': '<f8', 'fortran_order': False}"),
        header_only("{'descr': '<f8', 'fortran_order': False, 'shape': ((((("),
        header_only("((((((((((((((("),
        header_only("{'descr': '|O', 'fortran_order': False, 'shape': (7,)}"),
        header_only("{'descr': ('<f8', 'x', 'y'), 'fortran_order': False, 'shape': (7,)}"),
        header_only("__import__('os').abort()"),
    ],
    ids=[
        "pickled", "short", "two axes", "float32", "big-endian", "integers", "structured", "scalar",
        "empty", "magic only", "text", "cut", "shape beyond memory", "shape beyond int64",
        "negative shape", "no shape", "open bracket", "brackets", "object dtype", "odd dtype", "code",
    ],
)  # fmt: skip
def test_a_member_that_is_another_array_or_none_is_refused(member: bytes) -> None:
    document, content = written(Record(facts()))
    error = refusal(document, repacked(content, {"final.subject_nll.npy": member}))
    assert error.code == "RECORD_ARRAYS"
    assert "final.subject_nll.npy" in error.cause


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_larger_than_stated_is_refused_unread(method: int) -> None:
    document, content = written(Record(facts()))
    error = refusal(
        document, repacked(content, {"preview.baseline_nll.npy": bytes(5_000_000)}, method)
    )
    assert error.code == "RECORD_ARRAYS"
    assert ("another size" if method == zipfile.ZIP_STORED else "compressed") in error.cause


@pytest.mark.parametrize("length", [-1, 10**9])
def test_an_absurd_number_of_windows_is_refused(length: int) -> None:
    document, content = written(Record(facts()))
    document["facts"]["arms"]["final"]["n_windows"] = length
    assert refusal(document, content).code == "RECORD_ARRAYS"


@pytest.mark.parametrize("cut", [0, 1, 30, 0.5, -1, -30])
def test_a_cut_archive_is_refused(cut: float) -> None:
    document, content = written(Record(facts()))
    end = int(len(content) * cut) if 0 < abs(cut) < 1 else int(cut)
    assert refusal(document, content[:end]).code == "RECORD_ARRAYS"


def test_an_encrypted_member_is_refused() -> None:
    document, content = written(Record(facts()))
    marked = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = marked.find(signature)
        while start >= 0:
            marked[start + offset] |= 1
            start = marked.find(signature, start + 4)
    assert refusal(document, bytes(marked)).code == "RECORD_ARRAYS"


def test_damaged_compressed_data_are_refused() -> None:
    document, content = written(Record(facts()))
    packed = bytearray(repacked(content, {}, zipfile.ZIP_DEFLATED))
    first = packed.find(b"PK\x03\x04")
    start = first + 30 + int.from_bytes(packed[first + 26 : first + 28], "little")
    packed[start : start + 4] = b"\xff\xff\xff\xff"
    assert refusal(document, bytes(packed)).code == "RECORD_ARRAYS"


@settings(deadline=None, max_examples=400, database=None, derandomize=True)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_no_changed_byte_of_the_archive_changes_a_fact_unseen(position: int, value: int) -> None:
    record = Record(facts())
    document, content = written(record)
    damaged = bytearray(content)
    damaged[position % len(content)] = value
    read = read_or_refused(document, bytes(damaged))
    if isinstance(read, EvidenceError):
        assert read.code in ("RECORD_ARRAYS", "RECORD_DIGEST_MISMATCH")
    else:
        # Some bytes of a zip archive, such as times, mean nothing to us.
        assert read.facts.digest == record.facts.digest


def test_a_record_survives_json_and_npz() -> None:
    record = Record(facts(), {"host": "h", "seconds": 1.5})
    document, content = written(record)
    back = record_from_bytes(document, content)
    assert back.document() == record.document()
    assert back.array_bytes() == content
    assert back.facts.digest == record.facts.digest
    for name, array in back.facts.arms["final"].arrays().items():
        np.testing.assert_array_equal(array, getattr(record.facts.arms["final"], name))


FLOATS = arrays_of.arrays(np.float64, N, elements=st.floats(allow_nan=True, allow_infinity=True))


@PROPERTY
@given(baseline=FLOATS, subject=FLOATS)
def test_any_losses_survive_bit_for_bit(baseline: Any, subject: Any) -> None:
    arm = replace(losses(), baseline_nll=baseline, subject_nll=subject)
    record = Record(facts(arms={"final": arm}))
    back = record_from_bytes(*written(record)).facts.arms["final"]
    assert back.baseline_nll.tobytes() == baseline.tobytes()
    assert back.subject_nll.tobytes() == subject.tobytes()


def test_equal_facts_are_equal_bytes() -> None:
    first, second = Record(facts()), Record(deepcopy(facts()))
    assert first.array_bytes() == second.array_bytes()
    assert pretty(first.document()) == pretty(second.document())
    turned = facts(arms=dict(reversed(facts().arms.items())))
    assert Record(turned).array_bytes() == first.array_bytes()
    assert turned.digest == first.facts.digest


def test_byte_order_and_strides_of_arrays_leave_no_trace() -> None:
    arm = losses()
    swapped = replace(
        arm,
        subject_nll=arm.subject_nll.astype(">f8"),
        tokens=np.repeat(arm.tokens, 2)[::2],
    )
    assert facts(arms={"final": swapped}).digest == facts(arms={"final": arm}).digest


def test_observations_do_not_change_the_digest() -> None:
    bare, watched = Record(facts()), Record(facts(), {"seconds": 3})
    assert bare.document()["facts_digest"] == watched.document()["facts_digest"]
    document, content = written(watched)
    document["observations"] = {"seconds": 4}
    assert record_from_bytes(document, content).observations == {"seconds": 4}


def test_an_error_record_without_arms_survives() -> None:
    record = Record(facts(arms={}, guards={}, baseline={}, subject={}, edit=None, error="CRASH"))
    back = record_from_bytes(*written(record))
    assert back.facts.error == "CRASH"
    assert back.facts.arms == {}


def test_the_digest_of_an_array_covers_dtype_and_shape() -> None:
    zeros = np.zeros(4, dtype="<i8")
    assert len({array_digest(a) for a in (zeros, zeros.view("<f8"), zeros.reshape(2, 2))}) == 3


def test_observations_that_are_no_numbers_cannot_be_written() -> None:
    with pytest.raises(EvidenceError):
        pretty(Record(facts(), {"seconds": float("nan")}).document())
    assert json.loads(pretty(Record(facts(), {"seconds": 1.0}).document()))["observations"]


def test_without_its_measurements_a_record_keeps_name_digests_and_nothing_large() -> None:
    seen = {"host": "h", "window_hmacs": {"preview": ["x"], "final": ["y"]}}
    record = Record(facts(attested={"theirs": {"answer": None}}), seen)
    bare = record.without_measurements()
    assert (bare.facts.digest, bare.facts.plan_digest) == (
        record.facts.digest, record.facts.plan_digest
    )  # fmt: skip
    assert not bare.facts.arms
    assert not bare.facts.guards
    assert bare.facts.attested == record.facts.attested
    assert bare.observations == {"host": "h"}
    assert record.facts.arms
