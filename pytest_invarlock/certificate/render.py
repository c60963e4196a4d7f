"""A certificate as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROWS = (
    ("ratio", "perplexity ratio, subject ÷ baseline"),
    ("ratio_upper", "one-sided upper bound"),
    ("ratio_lower", "one-sided lower bound"),
    ("limit", "limit"),
    ("preview_ratio", "ratio on the preview arm"),
    ("baseline_perplexity", "baseline perplexity"),
    ("subject_perplexity", "subject perplexity"),
    ("n_documents", "documents"),
    ("effective_documents", "effective documents (Kish)"),
    ("n_windows", "windows"),
    ("n_tokens", "predicted tokens"),
    ("document_sd", "standard deviation of document means, nats"),
    ("documents_needed", "documents a conclusive answer needs"),
)


def render_certificate_markdown(certificate: Mapping[str, Any]) -> str:
    """The certificate as a Markdown page: verdict first, then checks, numbers and identities."""
    decision = certificate["decision"]
    met = "as expected" if decision["expectation_met"] else "NOT as expected"
    lines = [
        f"# {certificate['model']} · {certificate['scenario']} · run {certificate['draw']}",
        "",
        f"**{decision['outcome']}** ({decision['strictness'].replace('_', ' ')}: {met})",
        "",
        decision["text"],
        "",
        "| check | outcome | why |",
        "|---|---|---|",
        *(f"| {c['check']} | {c['outcome']} | {c['text']} |" for c in decision["checks"]),
        "",
        *_metric(certificate["primary_metric"]),
        *_violations(decision["checks"]),
        "## Identity",
        "",
        f"- plan `{certificate['plan_digest']}`",
        f"- policy `{certificate['policy_digest']}` (tier {certificate['auto']['tier']}, "
        f"profile {certificate['auto']['profile']})",
        f"- facts `{certificate['facts_digest']}`",
        *(
            f"- {side} tensors `{identity['tensors_digest']}`"
            for side, identity in certificate["identity"].items()
            if identity
        ),
        "",
    ]
    return "\n".join(lines)


def _metric(metric: Mapping[str, Any] | None) -> list[str]:
    if not metric or "ratio" not in metric:
        return []
    rows = [
        f"| {label} | {_number(metric[key])} |"
        for key, label in _ROWS
        if metric.get(key) is not None
    ]
    return ["## Primary metric", "", f"| {metric['kind']} | |", "|---|---|", *rows, ""]


def _violations(checks: list[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {check['check']} | {v['kind']} | {v['module']} | {v['value']} | {v['threshold']} |"
        for check in checks
        for v in check["violations"]
    ]
    if not rows:
        return []
    head = [
        "## Violations",
        "",
        "| guard | kind | module | found | allowed |",
        "|---|---|---|---|---|",
    ]
    return [*head, *rows, ""]


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
