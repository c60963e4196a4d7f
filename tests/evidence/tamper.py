"""The tamper table: what is done to a pack, the code it must give, and the exit status.

One row of 43 may have several lines. The tests run every line, and ``scripts/tamper_table.py``
writes the table into the docs. ``Line.test`` names a test elsewhere for what takes more than a
change to a sealed pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import attacks_on_files as on_files
from . import attacks_on_records as on_records
from . import attacks_signed as signed
from .synthetic import ENVELOPE, REPORT, Pack

HERE = "tests/evidence"
ZEROS = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Line:
    """A line of the table; exactly one of ``tamper``, ``edit`` and ``test`` says how it is run.

    ``tamper`` changes a sealed synthetic pack, and returns options; ``edit`` changes the files of
    an honest run, which its own key then seals; ``test`` is another test's node id.
    """

    row: int
    attack: str
    code: str
    status: int
    tamper: Callable[[Pack], Mapping[str, Any] | None] | None = None
    edit: Callable[[Mapping[str, bytes]], Mapping[str, bytes | None]] | None = None
    test: str | None = None


BAD_PATHS = (
    "../x", "/etc/passwd", "a/../b", "a//b", "./a", "C:\\x", "a\\b", "a\x00b", "a\nb", "",
)  # fmt: skip

TABLE: tuple[Line, ...] = (
    Line(1, "a byte of a certificate flipped", "DIGEST_MISMATCH", 6, on_files.flip_a_byte),
    Line(2, "certificate edited, `checksums.sha256` made anew", "DIGEST_MISMATCH", 6, on_files.edit_and_regenerate_checksums),
    Line(3, "the payload edited to fit as well, signature kept", "BAD_SIGNATURE", 5, signed.edit_checksums_and_payload),
    Line(4, "all signed anew by another key, which the pack holds", "UNTRUSTED_KEY", 5, signed.resign_with_another_key),
    Line(4, "signed by another key, the signer's key file kept", "UNTRUSTED_KEY", 5, signed.resign_but_keep_the_signers_key_file),
    Line(5, "another key's signature under the trusted keyid", "BAD_SIGNATURE", 5, signed.resign_and_claim_the_keyid),
    Line(6, "`signatures` empty", "UNSIGNED", 5, signed.empty_signatures),
    Line(6, "`signatures` absent", "UNSIGNED", 5, signed.no_signatures_field),
    Line(7, "envelope deleted", "UNSIGNED", 5, signed.delete_the_envelope),
    Line(8, "no trusted key given", "NO_TRUSTED_KEY", 5, signed.trust_nobody),
    Line(9, "the same signature twice", "SIGNATURE_COUNT", 5, signed.sign_twice),
    Line(9, "the same, `--dsse-lenient`, towards a threshold of 2", "TOO_FEW_SIGNATURES", 5, signed.sign_twice_for_two),
    Line(10, "trust store with threshold 0", "TRUST_STORE", 2, signed.threshold(0)),
    Line(10, "trust store with threshold -1", "TRUST_STORE", 2, signed.threshold(-1)),
    Line(11, "`payloadType` changed", "BAD_SIGNATURE", 5, signed.change_payload_type),
    Line(11, "another `payloadType`, signed by the trusted key", "WRONG_PAYLOAD_TYPE", 5, signed.sign_another_payload_type),
    Line(12, "another `predicateType`, signed", "WRONG_TYPE", 4, signed.sign_another(predicateType="https://slsa.dev/provenance/v1")),
    Line(12, "another `_type`, signed", "WRONG_TYPE", 4, signed.sign_another(_type="https://in-toto.io/Statement/v0.1")),
    Line(13, "envelope of the signer's other pack", "DIGEST_MISMATCH", 6, signed.replay_another_packs_envelope),
    Line(14, "an older pack, where `--expect-run` names another", "OTHER_RUN", 5, signed.options(expect_run="later")),
    Line(14, "an older pack than `--not-before`", "STALE_PACK", 5, signed.options(not_before="2026-11-21")),
    Line(15, "a file more", "EXTRA_FILE", 6, on_files.add_a_file("reports/extra.json")),
    Line(15, "a hidden file more", "EXTRA_FILE", 6, on_files.add_a_file(".DS_Store")),
    Line(15, "a file more, with `--no-strict`", "EXTRA_FILE", 0, on_files.add_a_file("extra", strict=False)),
    Line(16, "a file less", "MISSING_FILE", 6, on_files.remove(REPORT)),
    Line(16, "a directory less", "MISSING_FILE", 6, on_files.remove_a_directory),
    Line(16, "no `manifest.json`", "MISSING_FILE", 3, on_files.remove("manifest.json")),
    Line(16, "no `checksums.sha256`", "MISSING_FILE", 3, on_files.remove("checksums.sha256")),
    Line(16, "no pack", "MISSING_PACK", 3, on_files.remove_pack),
    Line(17, "a file replaced by a link to a copy outside", "SYMLINK", 6, on_files.link_to_a_copy(REPORT)),
    Line(17, "a file replaced by a link inside", "SYMLINK", 6, on_files.link_inside),
    Line(17, "a directory replaced by a link", "SYMLINK", 6, on_files.link_to_a_copy("reports")),
    Line(17, "the directory of the signer's key, likewise", "SYMLINK", 6, on_files.link_to_a_copy("metadata")),
    Line(17, "the envelope replaced by a link", "SYMLINK", 6, on_files.link_to_a_copy(ENVELOPE)),
    Line(17, "a dangling link more", "SYMLINK", 6, on_files.add_a_dangling_link),
    Line(18, "another hard link to a file: a warning", "HARD_LINK", 0, on_files.hard_link),
    Line(19, "a file replaced by a pipe", "NOT_REGULAR", 6, on_files.replace_by_a_pipe(REPORT)),
    Line(19, "the envelope replaced by a pipe", "NOT_REGULAR", 6, on_files.replace_by_a_pipe(ENVELOPE)),
    Line(19, "a socket more", "NOT_REGULAR", 6, on_files.add_a_socket),
    Line(19, "a file replaced by a directory", "MISSING_FILE", 6, on_files.replace_by_a_directory),
    *(Line(20, f"a subject named {path!a}", "BAD_PATH", 4, signed.rename_subject(path)) for path in BAD_PATHS),
    Line(21, "a subject twice", "DUPLICATE_SUBJECT", 4, signed.repeat_a_subject()),
    Line(21, "a subject twice, with another digest", "DUPLICATE_SUBJECT", 4, signed.repeat_a_subject(sha256="0" * 64)),
    Line(22, "names equal but for letter case", "DUPLICATE_SUBJECT", 4, signed.rename_subject("Manifest.json")),
    Line(22, "a name that Unicode could write in two ways: none is ASCII", "BAD_PATH", 4, signed.rename_subject("caf\u00e9")),
    Line(23, "a subject with sha1 only", "WEAK_DIGEST", 4, signed.digest_of_subject(lambda _: {"sha1": "0" * 40})),
    Line(23, "a subject with md5 only", "WEAK_DIGEST", 4, signed.digest_of_subject(lambda _: {"md5": "0" * 32})),
    Line(24, "upper-case hex", "MALFORMED_DIGEST", 4, signed.digest_of_subject(lambda text: {"sha256": text.upper()})),
    Line(24, "hex cut short", "MALFORMED_DIGEST", 4, signed.digest_of_subject(lambda text: {"sha256": text[:-1]})),
    Line(25, "a key twice in the envelope", "MALFORMED_JSON", 4, signed.repeat_a_key_in_the_envelope),
    Line(25, "a key twice in the statement", "MALFORMED_JSON", 4, signed.repeat_a_key_in_the_body),
    Line(25, "a key twice in a certificate", "MALFORMED_JSON", 4, edit=on_records.repeat_a_key),
    Line(26, "NaN in a certificate", "MALFORMED_JSON", 4, edit=on_records.ratio_of(b"NaN")),
    Line(26, "Infinity in a certificate", "MALFORMED_JSON", 4, edit=on_records.ratio_of(b"Infinity")),
    Line(26, "1e999 in a certificate", "MALFORMED_JSON", 4, edit=on_records.ratio_of(b"1e999")),
    Line(27, "a statement nested a million deep", "TOO_LARGE", 4, signed.sign_bytes(b"[" * 1_000_000)),
    Line(27, "an envelope nested a million deep", "TOO_LARGE", 4, signed.nest_the_envelope),
    Line(27, "an envelope of a terabyte", "TOO_LARGE", 4, signed.endless_envelope),
    Line(27, "an integer of 5000 digits", "TOO_LARGE", 4, signed.sign_bytes(b'{"a":' + b"9" * 5000 + b"}")),
    Line(27, "two million values and more", "TOO_LARGE", 4, signed.sign_bytes(b"[" + b"0," * 2_000_000 + b"0]")),
    Line(27, "a file of which a terabyte is stated", "TOO_LARGE", 4, signed.sign_a_size(2**40)),
    Line(27, "JSON of which a gigabyte is stated", "TOO_LARGE", 4, signed.sign_a_size(2**30, REPORT)),
    Line(28, "a file longer than its signed size", "SIZE_MISMATCH", 6, on_files.lengthen),
    Line(28, "a file shorter than its signed size", "SIZE_MISMATCH", 6, on_files.shorten),
    *(
        Line(29, f"arrays, resealed: {what}", "RECORD_ARRAYS", 7, edit=on_records.arrays(change))
        for what, change in on_records.ARCHIVES.items()
    ),
    Line(30, "signature of 63 bytes", "BAD_SIGNATURE", 5, signed.signature(lambda raw: raw[:63])),
    Line(30, "signature of 65 bytes", "BAD_SIGNATURE", 5, signed.signature(lambda raw: raw + b"\0")),
    Line(30, "signature malleated, S + L", "BAD_SIGNATURE", 5, signed.signature(signed.malleated)),
    Line(31, "trusted key of small order", "KEY_WEAK", 2, signed.trust_key(signed.WEAK_PEM)),
    Line(31, "the pack's key of small order", "KEY_WEAK", 5, signed.pack_key(signed.WEAK_PEM)),
    Line(32, "RSA key in a trust store", "KEY_TYPE", 2, signed.trust_key(signed.RSA_PEM)),
    Line(32, "EC key in a trust store", "KEY_TYPE", 2, signed.trust_key(signed.EC_PEM)),
    Line(32, "X25519 key in a trust store", "KEY_TYPE", 2, signed.trust_key(signed.X25519_PEM)),
    Line(32, "private key in a trust store", "KEY_IS_PRIVATE", 2, signed.trust_key(signed.PRIVATE_PEM)),
    Line(32, "RSA key in the pack", "KEY_TYPE", 5, signed.pack_key(signed.RSA_PEM)),
    Line(32, "private key in the pack", "KEY_IS_PRIVATE", 5, signed.pack_key(signed.PRIVATE_PEM)),
    Line(32, "no key in the pack", "SIGNER_KEY_MISSING", 5, signed.remove_signer_key),
    Line(33, "certificate says what its numbers do not, resealed", "SEMANTIC_MISMATCH", 7, edit=on_records.look_passing),
    Line(33, "further contradictions that the trusted key sealed", "SEMANTIC_MISMATCH", 7, test="tests/plugin/test_resealed_packs.py::test_a_contradiction_is_found_whoever_signed"),
    Line(34, "another policy than `--policy`", "POLICY_MISMATCH", 7, signed.options(expect_policy=ZEROS)),
    Line(34, "another profile than `--profile`", "PROFILE_MISMATCH", 7, signed.options(profile="release")),
    Line(34, "manifest of another policy than was signed", "MANIFEST_MISMATCH", 6, on_files.sign_another_manifest(policy_digest=ZEROS)),
    Line(34, "limit loosened in the policy, resealed", "SEMANTIC_MISMATCH", 7, edit=on_records.loosen_the_limit),
    Line(35, "a planned draw dropped with record, certificate and decision", "COUNT_MISMATCH", 7, edit=on_records.plan_one_more),
    Line(35, "a record and its certificate dropped", "COUNT_MISMATCH", 7, edit=on_records.drop_the_record),
    Line(35, "a decision dropped from the verdict", "COUNT_MISMATCH", 7, edit=on_records.drop_the_decision),
    Line(36, "a file swapped after it was hashed: what was hashed is judged", "-", 0, test=f"{HERE}/test_content.py::test_what_was_hashed_is_what_is_judged"),
    Line(36, "likewise, a file too large to keep", "DIGEST_MISMATCH", 6, test=f"{HERE}/test_content.py::test_a_file_beyond_the_budget_is_hashed_again"),
    Line(37, "certificate rewritten after sealing", "DIGEST_MISMATCH", 6, on_files.edit_report),
    Line(37, "certificate of the run rewritten after sealing: the pack has its own", "-", 0, test=f"{HERE}/test_content.py::test_a_late_worker_does_not_reach_the_pack"),
    Line(38, "`checksums.sha256` with a line of garbage, resealed", "CHECKSUMS_MISMATCH", 6, on_files.sign_checksums(lambda text: text + b"garbage\n")),
    Line(38, "`checksums.sha256` empty, resealed", "CHECKSUMS_MISMATCH", 6, on_files.sign_checksums(lambda _: b"")),
    Line(39, "`checksums.sha256` with another hash, resealed", "CHECKSUMS_MISMATCH", 6, on_files.sign_checksums(lambda text: b"0" * 64 + text[64:])),
    Line(39, "manifest that lists a file less than was signed", "MANIFEST_MISMATCH", 6, on_files.drop_from_the_manifest),
    Line(39, "manifest of another verdict than was signed", "MANIFEST_MISMATCH", 6, on_files.sign_another_manifest(verdict="FAIL")),
    Line(39, "manifest of another run than was signed", "MANIFEST_MISMATCH", 6, on_files.sign_another_manifest(run={"id": "x"})),
    Line(39, "manifest that calls a signed pack unsigned", "MANIFEST_MISMATCH", 6, on_files.sign_another_manifest(signing={"fingerprint": None, "unsigned": True})),
    Line(39, "manifest that is no subject", "MALFORMED_STATEMENT", 4, on_files.drop_manifest_subject),
    Line(39, "envelope that is a subject of itself", "MALFORMED_STATEMENT", 4, on_files.name_the_envelope_a_subject),
    Line(39, "manifest of an unknown verdict", "MANIFEST_SCHEMA", 4, on_files.sign_another_manifest(verdict="GREAT")),
    Line(39, "manifest with a further key", "MANIFEST_SCHEMA", 4, on_files.sign_another_manifest(extra=1)),
    Line(40, "url-safe base64", "BASE64_URLSAFE", 5, signed.url_safe({})),
    Line(40, "url-safe base64, with `--dsse-lenient`", "-", 0, signed.url_safe(signed.LENIENT)),
    Line(40, "unknown field of the envelope", "ENVELOPE_FIELDS", 5, signed.unknown_field({})),
    Line(40, "unknown field, with `--dsse-lenient`", "-", 0, signed.unknown_field(signed.LENIENT)),
    Line(41, "a further signature by an unknown key", "SIGNATURE_COUNT", 5, signed.further_signature({})),
    Line(41, "the same, with `--dsse-lenient`: a warning", "EXTRA_SIGNATURE", 0, signed.further_signature(signed.LENIENT)),
    Line(42, "text, paths and names of the machine in a pack", "-", 0, test="tests/real/test_road.py::test_nothing_that_leaves_holds_text_ids_file_names_or_paths"),
    Line(43, "any byte of a pack with one bit flipped", "any", 4, test=f"{HERE}/test_every_byte.py::test_a_flipped_bit_is_found"),
)  # fmt: skip
