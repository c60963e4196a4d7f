"""A certificate on its own: does it fit its schema, and do its numbers and words agree?

That is all a document without its record and without a signature can show: anyone may have written
it, with any numbers that agree with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.findings import ExitStatus, Finding, Stage, VerifyReport
from pytest_invarlock.evidence.plain_text import plain
from pytest_invarlock.evidence.restated import restated_otherwise
from pytest_invarlock.evidence.strict_json import digest, loads
from pytest_invarlock.policy.quick_schema import first_violation

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.evidence.verify import VerifyOptions

FORMAT = "invarlock-verify-certificate-v1"
MAX_BYTES = 64 * 2**20
TOLERANCE = 1e-9
ACCEPTABLE = ("PASS", "WARN")
FLAGS: Mapping[str, str] = {
    "primary_metric_acceptable": "primary_metric",
    "drift_acceptable": "drift",
    "preview_final_drift_acceptable": "drift",
    "tail_acceptable": "tail",
    "invariants_pass": "invariants",
    "spectral_stable": "spectral",
    "rmt_stable": "rmt",
    "variance_acceptable": "variance",
    "guard_overhead_acceptable": "guard_overhead",
}
"""The check that each flag of a certificate is about."""
NOT_SHOWN = (
    "who wrote it: a certificate has no signature, only a pack has",
    "that its numbers follow from measured losses: those stand in the record, which only a pack "
    "holds",
    "that its outcomes follow from its policy: only the policy's digest stands here",
    "that it is the whole run: other scenarios and draws may have failed",
)


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """What was found of one certificate; ``stated`` are its own words, to be relied on by nobody.

    ``report`` holds findings and exit status as of a pack.
    """

    report: VerifyReport
    stated: Mapping[str, Any]

    @property
    def exit_status(self) -> ExitStatus:
        """0 where it is sound and says that the expectation was met, 1 where not met."""
        return self.report.exit_status


def verify_certificate(path: Path, options: VerifyOptions) -> CertificateReport:
    """Check schema and identities of the certificate in the file ``path``.

    A demand that only a signed pack can meet, such as a trusted signer, is a finding.
    """
    findings: list[Finding] = []
    reached: dict[Stage, str] = {}
    try:
        value = _read(path)
    except EvidenceError as error:
        stage = Stage.PRESENCE if error.code == "MISSING_FILE" else Stage.SCHEMA
        findings.append(Finding(error.code, stage, path.name, error.cause))
        return _report(findings, reached, {})
    reached[Stage.PRESENCE] = "the file is there"
    findings += _demands(options)
    reached[Stage.SIGNATURE] = "unsigned"
    broken = first_violation("certificate", value)
    if broken is not None:
        where = "/".join(map(str, broken.absolute_path)) or "certificate"
        text = f"{where}: {broken.message[:300]}"
        findings.append(Finding("SCHEMA", Stage.SCHEMA, path.name, text))
        return _report(findings, reached, {})
    reached[Stage.SCHEMA] = "fits the schema of certificates"
    findings += _of_another(value, options)
    findings += [
        Finding("SEMANTIC_MISMATCH", Stage.SEMANTICS, path.name, f"contradicts itself: {text}")
        for text in _contradictions(value)
    ]
    reached[Stage.SEMANTICS] = "its numbers and words agree; nothing was derived again"
    return _report(findings, reached, value)


def certificate_lines(found: CertificateReport) -> list[str]:
    """What was found, for people."""
    report, stated = found.report, found.stated
    lines = [
        f"{finding.code}  {plain(finding.path)}: {plain(finding.message)}"
        for finding in report.findings
    ]
    if not report.ok:
        status = int(found.exit_status)
        return [*lines, f"INVALID: this certificate proves nothing (exit {status})"]
    decision = stated["decision"]
    met = "expectation met" if decision["expectation_met"] else "expectation NOT met"
    name = plain(f"{stated['model']} {stated['scenario']} run {stated['draw']}")
    return [
        *lines,
        f"schema and identities hold: {name}: {decision['outcome']}, {met}",
        "unsigned, not re-derived. This does not show:",
        *(f"  - {text}" for text in NOT_SHOWN),
    ]


def certificate_object(found: CertificateReport) -> dict[str, Any]:
    """What was found as a JSON object."""
    report, stated = found.report, found.stated
    decision = stated.get("decision", {})
    return {
        "format": FORMAT,
        "ok": report.ok,
        "exit_status": int(found.exit_status),
        "authenticity": "unsigned",
        "rederived": False,
        "outcome": decision.get("outcome"),
        "expectation_met": decision.get("expectation_met"),
        **{
            key: stated.get(key)
            for key in ("model", "scenario", "draw", "run_id", "facts_digest", "policy_digest")
        },
        "not_shown": list(NOT_SHOWN),
        "findings": [
            {
                "code": finding.code,
                "level": finding.level,
                "stage": finding.stage.value,
                "path": plain(finding.path),
                "message": plain(finding.message),
            }
            for finding in report.findings
        ],
    }


def _report(
    findings: list[Finding], reached: dict[Stage, str], stated: Mapping[str, Any]
) -> CertificateReport:
    passes = bool(stated) and stated["decision"]["expectation_met"]
    report = VerifyReport(
        findings=tuple(findings),
        reached=reached,
        # Of one record there is no verdict; this only chooses between exit 0 and 1.
        verdict="PASS" if passes else "FAIL",
        digest=None,
        signer=None,
        trusted=False,
    )
    return CertificateReport(report, stated)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise EvidenceError(
            f"cannot be read: {error.strerror}", remedy="name a certificate", code="MISSING_FILE"
        ) from error
    value = loads(data, max_bytes=MAX_BYTES, what=path.name)
    return value if isinstance(value, dict) else {}


def _demands(options: VerifyOptions) -> Iterator[Finding]:
    """What was asked for and a certificate on its own cannot show."""
    if options.expected_fingerprints or options.trust_store is not None:
        text = "a certificate has no signature: verify the pack that holds it"
        yield Finding("UNSIGNED", Stage.SIGNATURE, "", text)
    if options.not_before is not None:
        text = "a certificate does not say when it was sealed: verify the pack that holds it"
        yield Finding("STALE_PACK", Stage.SIGNATURE, "", text)
    if options.report_assurance == "strict":
        text = "strict assurance needs the record and the runtime manifest: verify the pack"
        yield Finding("REPORT_ASSURANCE", Stage.SEMANTICS, "", text)


def _of_another(value: Mapping[str, Any], options: VerifyOptions) -> Iterator[Finding]:
    profile = value["auto"]["profile"]
    for code, wanted, found in (
        ("OTHER_RUN", options.expect_run, value["run_id"]),
        ("POLICY_MISMATCH", options.expect_policy, value["policy_digest"]),
        ("PROFILE_MISMATCH", options.profile, profile),
    ):
        if wanted not in (None, found):
            yield Finding(code, Stage.SEMANTICS, "", f"says {found!a}")


def _contradictions(value: Mapping[str, Any]) -> Iterator[str]:
    """What of the certificate's own words and numbers does not agree."""
    decision = value["decision"]
    checks = {check["check"]: check for check in decision["checks"]}
    yield from _other_decision(value, len(checks))
    if digest(value["plan"]) != value["plan_digest"]:
        yield "plan_digest is not the digest of the plan"
    if decision["fired"] != [n for n, check in checks.items() if check["outcome"] == "FAIL"]:
        yield "fired does not list the checks that FAIL"
    if decision["expectation_met"] and not _may_be_met(decision, checks):
        yield f"the expectation {decision['strictness']} is said to be met, and the checks differ"
    for flag, stated in value["validation"].items():
        check = checks.get(FLAGS.get(flag, ""))
        if check is None or stated is not (check["outcome"] in ACCEPTABLE):
            yield f"validation.{flag} is not what the decision says"
    different = restated_otherwise(value)
    if different is not None:
        yield f"a section is not what it restates: {different}"
    if value["primary_metric"] is not None:
        yield from _metric(value["primary_metric"])


def _other_decision(value: Mapping[str, Any], n_checks: int) -> Iterator[str]:
    """Whether the decision is on what the certificate is of, and holds ``n_checks`` checks."""
    decision = value["decision"]
    for key in ("model", "scenario", "draw"):
        if decision[key] != value[key]:
            yield f"the decision is on another {key}"
    if decision["metric"] not in (None, value["plan"]["metric"]):
        yield "the decision is on another metric than planned"
    if n_checks < max(len(decision["checks"]), 1):
        yield "the decision lists a check twice, or none"


def _may_be_met(decision: Mapping[str, Any], checks: Mapping[str, Mapping[str, Any]]) -> bool:
    outcomes = [check["outcome"] for check in checks.values()]
    if decision["strictness"] == "must_pass":
        return decision["outcome"] in ACCEPTABLE and all(one in ACCEPTABLE for one in outcomes)
    if decision["strictness"] == "informational":
        return "ERROR" not in outcomes or decision["outcome"] == "FAIL"
    return decision["outcome"] == "FAIL" and bool(decision["fired"])


def _metric(metric: Mapping[str, Any]) -> Iterator[str]:
    """Whether ratio = exp(difference) = subject ÷ baseline, and bounds enclose their points."""
    delta, ratio = metric.get("delta_nats_per_token"), metric.get("ratio")
    if ratio is not None and not _is_exponential(ratio, delta):
        yield "ratio is not the exponential of the mean difference"
    baseline, subject = metric.get("baseline_perplexity"), metric.get("subject_perplexity")
    if ratio is not None and baseline and subject and not _close(ratio, subject / baseline):
        yield "ratio is not that of the two perplexities"
    if not _encloses(metric.get("ratio_lower"), ratio, metric.get("ratio_upper")):
        yield "the interval of the ratio does not hold the ratio"
    for end in ("lower", "upper"):
        bound, exponent = metric.get(f"ratio_{end}"), metric.get(f"delta_{end}_nats_per_token")
        if bound and exponent is not None and not _is_exponential(bound, exponent):
            yield f"ratio_{end} is not the exponential of its difference"
    drop = metric.get("drop_pp")
    if drop is not None:
        before, after = metric.get("accuracy_baseline"), metric.get("accuracy_subject")
        if before is None or after is None or not _close(drop, 100 * (before - after)):
            yield "drop_pp is not the difference of the two accuracies"
        if not _encloses(metric.get("drop_lower_pp"), drop, metric.get("drop_upper_pp")):
            yield "the interval of the drop does not hold the drop"


def _is_exponential(value: float, exponent: float | None) -> bool:
    return exponent is not None and value > 0 and _close(math.log(value), exponent)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _encloses(lower: float | None, point: float | None, upper: float | None) -> bool:
    """Whether the bounds hold the point; None is an infinite one, and rounding is forgiven."""
    if point is None:
        return True
    slack = TOLERANCE * max(abs(point), 1.0)
    return (lower is None or lower <= point + slack) and (upper is None or point <= upper + slack)
