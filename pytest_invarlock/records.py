"""Record: the facts that were measured, digested and decided on, and the observations beside them.

Facts are the only input of `decide`. Observations (times, memory, host, worker) never enter the
record's digest. Arrays travel in an ``.npz`` beside the JSON; facts hold each array's digest.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.array_archive import bad_arrays, read_members
from pytest_invarlock.evidence.limits import MAX_WINDOWS
from pytest_invarlock.evidence.quick_canonical import quick_canonical
from pytest_invarlock.evidence.strict_json import sha256_text
from pytest_invarlock.plan import ARMS, Arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACTS_FORMAT = "invarlock-facts-v1"
RECORD_FORMAT = "invarlock-record-v1"
LOSS_FIELDS: Mapping[str, str] = {
    "documents": "<i8",
    "tokens": "<i8",
    "baseline_nll": "<f8",
    "subject_nll": "<f8",
}
DIVERGENCE_FIELDS: Mapping[str, str] = {
    "kl_nats": "<f8",
    "top1_same": "<i8",
    "top1_harmful": "<i8",
    "top1_beneficial": "<i8",
}
CHOICE_FIELDS: Mapping[str, str] = {"examples": "<i8", "labels": "<i8"}
ARRAY_FIELDS: Mapping[str, str] = {**LOSS_FIELDS, **DIVERGENCE_FIELDS, **CHOICE_FIELDS}
_ITEM_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ArmLosses:
    """Paired per-window measurements of one arm; every array has shape (n_windows,).

    Always there: ``documents`` int64 ordinals; ``tokens`` int64 predicted tokens;
    ``baseline_nll`` and ``subject_nll`` float64 summed negative log-likelihood over those tokens,
    in nats.

    Where both models' distributions were compared: ``kl_nats`` float64 Σ KL(baseline ‖ subject)
    over the tokens, in nats; ``top1_same`` int64 tokens on which both models' first choices agree;
    ``top1_harmful`` int64 tokens whose first choice was right for the baseline only;
    ``top1_beneficial`` int64 for the subject only.

    For metric ``accuracy`` a window is one choice of an example: ``examples`` int64 ordinals of
    the examples; ``labels`` int64, 1 for the right choice and 0 elsewhere.
    """

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64]
    baseline_nll: NDArray[np.float64]
    subject_nll: NDArray[np.float64]
    kl_nats: NDArray[np.float64] | None = None
    top1_same: NDArray[np.int64] | None = None
    top1_harmful: NDArray[np.int64] | None = None
    top1_beneficial: NDArray[np.int64] | None = None
    examples: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None

    @property
    def window_difference(self) -> NDArray[np.float64]:
        """Loss difference of each window, float64 (n_windows,), nats per token."""
        return (self.subject_nll - self.baseline_nll) / self.tokens

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that were measured, by field name, little-endian."""
        return {
            name: np.ascontiguousarray(getattr(self, name), dtype=dtype)
            for name, dtype in ARRAY_FIELDS.items()
            if getattr(self, name) is not None
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Facts:
    """What was measured about one scenario in one draw.

    ``baseline`` and ``subject`` identify models by digests; ``edit`` says what was applied and to
    how much; ``data`` identifies tokenised data and its sampling; ``guards`` maps guard names to
    their evidence; ``attested`` maps names of other packages' guards to who they are and what they
    answered, which nobody can derive again; ``error`` is the code of a typed error that ended the
    measurement, and then ``arms`` and ``guards`` may be empty.
    """

    model: str
    scenario: str
    draw: int
    kind: str
    plan: Mapping[str, Any]
    baseline: Mapping[str, Any]
    subject: Mapping[str, Any]
    edit: Mapping[str, Any] | None
    data: Mapping[str, Any]
    arms: Mapping[Arm, ArmLosses]
    guards: Mapping[str, Mapping[str, Any]]
    attested: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    divergence: Mapping[str, Any] = field(default_factory=dict)
    noise_floor: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    _digests: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def plan_digest(self) -> str:
        """The digest of what was measured; identity for cache, resume and records."""
        # Asked for several times by every decision; facts do not change.
        return self._digests.get("plan") or self._digests.setdefault("plan", _digest(self.plan))

    def document(self) -> dict[str, Any]:
        """Facts as plain JSON values, arrays by digest."""
        return {
            "format": FACTS_FORMAT,
            "model": self.model,
            "scenario": self.scenario,
            "draw": self.draw,
            "kind": self.kind,
            "plan": dict(self.plan),
            "plan_digest": self.plan_digest,
            "baseline": dict(self.baseline),
            "subject": dict(self.subject),
            "edit": None if self.edit is None else dict(self.edit),
            "data": dict(self.data),
            "arms": {
                arm: {
                    "n_windows": len(losses.tokens),
                    "arrays": {n: array_digest(a) for n, a in losses.arrays().items()},
                }
                for arm, losses in self.arms.items()
            },
            "guards": {name: dict(evidence) for name, evidence in self.guards.items()},
            "attested": {name: dict(entry) for name, entry in self.attested.items()},
            "divergence": dict(self.divergence),
            "noise_floor": dict(self.noise_floor),
            "error": self.error,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the facts: the record's digest."""
        return self._digests.get("facts") or self.stated_digest(self.document())

    def without_measurements(self) -> Facts:
        """The same facts by name, plan, identities and digest, without arrays and evidence.

        All that a verdict over many records asks for, once each of them was decided.
        """
        known = {"plan": self.plan_digest, "facts": self.digest}
        bare = replace(self, arms={}, guards={}, divergence={}, noise_floor={})
        bare._digests.update(known)  # noqa: SLF001 - of the same class
        return bare

    def stated_digest(self, document: Mapping[str, Any]) -> str:
        """The digest, where the `document` of these facts is at hand; it is kept."""
        return self._digests.setdefault("facts", _digest(document))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record:
    """Facts and observations of one scenario in one draw."""

    facts: Facts
    observations: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON form of the record."""
        return {
            "format": RECORD_FORMAT,
            "facts": self.facts.document(),
            "facts_digest": self.facts.digest,
            "observations": dict(self.observations),
        }

    def without_measurements(self) -> Record:
        """The record with `Facts.without_measurements`, and without hashes of windows."""
        seen = {key: value for key, value in self.observations.items() if key != "window_hmacs"}
        return Record(self.facts.without_measurements(), seen)

    def array_bytes(self) -> bytes:
        """The ``.npz`` of the arrays: no compression, no times, so equal facts are equal bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for arm, losses in sorted(self.facts.arms.items()):
                for name, array in losses.arrays().items():
                    content = io.BytesIO()
                    np.lib.format.write_array(content, array, version=(1, 0))
                    archive.writestr(zipfile.ZipInfo(f"{arm}.{name}.npy"), content.getvalue())
        return buffer.getvalue()


def _digest(value: Mapping[str, Any]) -> str:
    """As `strict_json.digest`; what it would refuse, nobody can write or read as a record."""
    try:
        return sha256_text(quick_canonical(value))
    except ValueError as error:
        raise EvidenceError(
            f"facts have no canonical JSON form: {error}",
            remedy="use finite numbers and text",
            code="NOT_CANONICAL",
        ) from error


def array_digest(array: NDArray[Any]) -> str:
    """``sha256:`` of dtype, shape and little-endian bytes of ``array``."""
    head = f"{array.dtype.str}|{'x'.join(map(str, array.shape))}|".encode()
    return "sha256:" + hashlib.sha256(head + array.tobytes()).hexdigest()


def record_from_bytes(document: Mapping[str, Any], arrays: bytes) -> Record:
    """Rebuild a record from its (schema-checked) JSON form and ``.npz`` bytes.

    Raises EvidenceError where arrays are missing, malformed, or do not have the digests that the
    facts state, or where a stated digest does not follow.
    """
    stated = document["facts"]
    facts = Facts(
        model=stated["model"],
        scenario=stated["scenario"],
        draw=stated["draw"],
        kind=stated["kind"],
        plan=stated["plan"],
        baseline=stated["baseline"],
        subject=stated["subject"],
        edit=stated["edit"],
        data=stated["data"],
        arms=_read_arms(stated["arms"], arrays),
        guards=stated["guards"],
        attested=stated["attested"],
        divergence=stated["divergence"],
        noise_floor=stated["noise_floor"],
        error=stated["error"],
    )
    # Where both are alike, what is stated has the digest of the facts.
    if facts.document() != stated or facts.stated_digest(stated) != document["facts_digest"]:
        raise EvidenceError(
            f"record {facts.model}::{facts.scenario} run {facts.draw}: a stated digest does not "
            "follow from the facts and arrays",
            remedy="do not trust this record",
            code="RECORD_DIGEST_MISMATCH",
        )
    return Record(facts, document["observations"])


def _read_arms(stated: Mapping[str, Any], arrays: bytes) -> dict[Arm, ArmLosses]:
    names = {arm: sorted(stated[arm]["arrays"]) for arm in stated}
    for arm, found in names.items():
        missing, unknown = set(LOSS_FIELDS) - set(found), set(found) - set(ARRAY_FIELDS)
        if missing or unknown:
            word = "lacks" if missing else "holds unknown"
            raise bad_arrays(f"the {arm} arm {word} {', '.join(sorted(missing or unknown))}")
    headers = {
        f"{arm}.{name}.npy": _array_header(ARRAY_FIELDS[name], stated[arm]["n_windows"])
        for arm in stated
        for name in names[arm]
    }
    sizes = {
        member: len(header) + _ITEM_BYTES * stated[member.partition(".")[0]]["n_windows"]
        for member, header in headers.items()
    }
    contents = read_members(arrays, sizes)
    return {
        arm: ArmLosses(
            **{
                name: _read_array(contents, headers, f"{arm}.{name}.npy", ARRAY_FIELDS[name])
                for name in names[arm]
            }
        )
        for arm in ARMS
        if arm in stated
    }


@lru_cache(maxsize=64)
def _array_header(dtype: str, length: int) -> bytes:
    if not 0 <= length <= MAX_WINDOWS:
        raise bad_arrays(f"{length} windows are more than {MAX_WINDOWS}")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": (length,)}
    )
    return header.getvalue()


def _read_array(
    contents: Mapping[str, bytes], headers: Mapping[str, bytes], member: str, dtype: str
) -> NDArray[Any]:
    content, header = contents[member], headers[member]
    # What may stand there is known to the byte: nothing of a hostile header is interpreted.
    if not content.startswith(header):
        raise bad_arrays(f"{member} is no array of the shape and dtype that the record states")
    return np.frombuffer(content, dtype=dtype, offset=len(header))
