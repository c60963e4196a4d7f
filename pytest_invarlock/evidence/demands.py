"""What the caller demands of a sound pack besides: its run, its policy, its age, its assurance.

`VerifyOptions` says what each demand means; a pack that misses one is intact all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.layout import MANIFEST, certificates
from pytest_invarlock.evidence.trust import parse_time

if TYPE_CHECKING:
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.evidence.verify import VerifyOptions

ReportAssurance = Literal["strict", "report", "off"]
RUNTIME_MANIFEST = "runtime.manifest.json"
FOREIGN_CODE = ("allow_remote_code", "allow_third_party_plugins")


def check_options(options: VerifyOptions) -> None:
    """Raise EvidenceError (BAD_TIME, BAD_OPTION) for demands that cannot be understood."""
    if options.not_before is not None:
        parse_time(options.not_before, "BAD_TIME", "--not-before")
    if options.report_assurance not in get_args(ReportAssurance):
        raise EvidenceError(
            f"--report-assurance: {options.report_assurance!a} is no mode",
            remedy=f"choose of {', '.join(get_args(ReportAssurance))}",
            code="BAD_OPTION",
        )


def other_than_demanded(pack: VerifiedPack, options: VerifyOptions) -> list[Finding]:
    """Where a pack is of another run, policy, profile or time than demanded.

    Codes: OTHER_RUN, POLICY_MISMATCH, STALE_PACK, PROFILE_MISMATCH. Raises EvidenceError for a
    policy document that is missing or no JSON.
    """
    header = pack.manifest.header
    findings = []
    if options.expect_run not in (None, header.run_id):
        findings.append(_finding("OTHER_RUN", MANIFEST, f"is of run {header.run_id!a}"))
    if options.expect_policy not in (None, header.policy_digest):
        message = f"was decided under policy {header.policy_digest}"
        findings.append(_finding("POLICY_MISMATCH", MANIFEST, message))
    if options.not_before is not None:
        oldest = parse_time(options.not_before, "BAD_TIME", "--not-before")
        if parse_time(header.created_at, "MANIFEST_SCHEMA", "created_at") < oldest:
            findings.append(_finding("STALE_PACK", MANIFEST, f"was sealed at {header.created_at}"))
    if options.profile is not None:
        path = header.references["policy"]
        profiles = {policy["profile"] for policy in pack.read_json(path)["policies"]}
        if profiles != {options.profile}:
            told = ", ".join(sorted(map(ascii, profiles))) or "none"
            message = f"was decided under profile {told}, and {options.profile!a} is demanded"
            findings.append(_finding("PROFILE_MISMATCH", path, message))
    return findings


def unassured_reports(pack: VerifiedPack, assurance: ReportAssurance) -> list[Finding]:
    """Certificates of which no runtime manifest says where and how they were made.

    ``report`` and ``strict`` demand a ``runtime.manifest.json`` beside each certificate, of that
    certificate; ``strict``, that it rules out foreign code as well, models' own and other packages'
    guards'. The original's demands a pinned container, and we use none. ``off`` looks at none.
    Codes: MISSING_RUNTIME_MANIFEST, RUNTIME_MANIFEST_MISMATCH, RUNTIME_FOREIGN_CODE. Raises
    EvidenceError for one that is no JSON.
    """
    if assurance == "off":
        return []
    findings = []
    names = frozenset(pack.names())
    for report in certificates(names):
        path = f"{report.rpartition('/')[0]}/{RUNTIME_MANIFEST}"
        if path not in names:
            text = "is missing: nothing says how the certificate beside it was made"
            findings.append(_finding("MISSING_RUNTIME_MANIFEST", path, text))
            continue
        document = pack.read_json(path)
        stated = str(document["report"]["sha256"]).removeprefix("sha256:")
        if stated != pack.sha256(report):
            text = "is of another certificate than the one beside it"
            findings.append(_finding("RUNTIME_MANIFEST_MISMATCH", path, text))
        allowed = [name for name in FOREIGN_CODE if document["runtime"][name] is not False]
        if assurance == "strict" and allowed:
            text = f"{' and '.join(allowed)}: --report-assurance=strict takes no foreign code"
            findings.append(_finding("RUNTIME_FOREIGN_CODE", path, text))
    return findings


def _finding(code: str, path: str, message: str) -> Finding:
    return Finding(code, Stage.SEMANTICS, path, message)
