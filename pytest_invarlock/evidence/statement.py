"""The signed body: an in-toto Statement v1 whose subjects are the files of a pack.

``predicateType`` is a name, not an address: no domain of ours stands behind it. The predicate
repeats what a verifier compares with the manifest, and gives each file's size, so that reading can
stop where the signed size ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.layout import FORMAT, MAX_FILES, PackFile, check_paths, check_sha256
from pytest_invarlock.evidence.limits import MAX_STATEMENT_BYTES
from pytest_invarlock.evidence.strict_json import canonical, loads

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:pytest-invarlock:evidence-pack:v1"
_TEXT_FIELDS = (
    "format",
    "run_id",
    "suite",
    "verdict",
    "plan_digest",
    "policy_digest",
    "manifest_digest",
    "created_at",
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A pack's files, and what the signer says about the run.

    ``files`` holds every file of the pack but the envelope. Digests are ``sha256:<hex>``;
    ``created_at`` is UTC, ``YYYY-MM-DDTHH:MM:SSZ``, by the signer's own clock.
    """

    files: tuple[PackFile, ...]
    run_id: str
    suite: str
    verdict: str
    plan_digest: str
    policy_digest: str
    manifest_digest: str
    created_at: str

    def body(self) -> bytes:
        """The canonical JSON bytes to sign, subjects sorted by path.

        Raises EvidenceError: BAD_PATH, DUPLICATE_SUBJECT, MALFORMED_DIGEST.
        """
        check_paths(file.path for file in self.files)
        for file in self.files:
            check_sha256(file.sha256, file.path)
        ordered = sorted(self.files, key=lambda file: file.path)
        predicate = {name: getattr(self, name) for name in _TEXT_FIELDS if name != "format"}
        return canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": f.path, "digest": {"sha256": f.sha256}} for f in ordered],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "format": FORMAT,
                    **predicate,
                    "sizes": {f.path: f.size_bytes for f in ordered},
                },
            }
        )


def parse_statement(body: bytes) -> Statement:
    """Read verified payload bytes.

    Raises EvidenceError: TOO_LARGE, MALFORMED_JSON; WRONG_TYPE for a statement about another thing;
    MALFORMED_STATEMENT for missing, unknown or ill-typed fields; BAD_PATH, DUPLICATE_SUBJECT,
    WEAK_DIGEST and MALFORMED_DIGEST for its subjects.
    """
    value = _fields(
        loads(body, max_bytes=MAX_STATEMENT_BYTES, what="statement"),
        {"_type", "subject", "predicateType", "predicate"},
        "the statement",
    )
    if value["_type"] != STATEMENT_TYPE or value["predicateType"] != PREDICATE_TYPE:
        raise _error("WRONG_TYPE", "is not an in-toto v1 statement about an evidence pack")
    predicate = _fields(value["predicate"], {*_TEXT_FIELDS, "sizes"}, "the predicate")
    texts = {name: predicate[name] for name in _TEXT_FIELDS}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise _error("MALFORMED_STATEMENT", f"predicate.{name} is not text")
    if texts.pop("format") != FORMAT:
        raise _error("WRONG_TYPE", f"describes another pack format than {FORMAT}")
    return Statement(files=_files(value["subject"], predicate["sizes"]), **texts)


def _files(subjects: Any, sizes: Any) -> tuple[PackFile, ...]:
    if not isinstance(subjects, list) or not 0 < len(subjects) <= MAX_FILES:
        raise _error("MALFORMED_STATEMENT", f"subject is not a list of 1 to {MAX_FILES}")
    hashes = [_subject(subject) for subject in subjects]
    check_paths(path for path, _ in hashes)
    if not isinstance(sizes, dict) or sorted(sizes) != sorted(path for path, _ in hashes):
        raise _error("MALFORMED_STATEMENT", "predicate.sizes does not name the subjects")
    for path, size in sizes.items():
        if type(size) is not int or size < 0:
            raise _error("MALFORMED_STATEMENT", f"the size of {path} is not a count of bytes")
    return tuple(PackFile(path, sizes[path], sha256) for path, sha256 in hashes)


def _subject(subject: Any) -> tuple[str, str]:
    fields = _fields(subject, {"name", "digest"}, "a subject")
    path, digest = fields["name"], fields["digest"]
    if not isinstance(path, str) or not isinstance(digest, dict):
        raise _error("MALFORMED_STATEMENT", "a subject's name or digest has the wrong type")
    if not isinstance(digest.get("sha256"), str):
        raise _error("WEAK_DIGEST", f"subject {ascii(path)[:200]} has no sha256")
    if set(digest) != {"sha256"}:
        raise _error("MALFORMED_STATEMENT", f"subject {ascii(path)[:200]} has further digests")
    check_sha256(digest["sha256"], ascii(path)[:200])
    return path, digest["sha256"]


def _fields(value: Any, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise _error("MALFORMED_STATEMENT", f"{what} has not exactly {', '.join(sorted(names))}")
    return value


def _error(code: str, cause: str) -> EvidenceError:
    return EvidenceError(
        f"statement: {cause}", remedy="take the pack again from its source", code=code
    )
