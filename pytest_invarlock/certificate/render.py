"""A certificate as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_Rows = tuple[tuple[str, str], ...]
_RATIO: _Rows = (
    ("ratio", "perplexity ratio, subject ÷ baseline"),
    ("ratio_upper", "one-sided upper bound"),
    ("ratio_lower", "one-sided lower bound"),
    ("limit", "limit"),
    ("direction", "direction"),
    ("rule", "rule"),
    ("preview_ratio", "ratio on the preview arm"),
    ("baseline_perplexity", "baseline perplexity"),
    ("subject_perplexity", "subject perplexity"),
    ("n_documents", "documents"),
    ("n_documents_maximum", "documents at most (sequential)"),
    ("effective_documents", "effective documents (Kish)"),
    ("n_windows", "windows"),
    ("n_tokens", "predicted tokens"),
    ("document_sd", "standard deviation of document means, nats"),
    ("icc", "intraclass correlation of windows within documents"),
    ("design_effect", "design effect of documents"),
    ("minimum_detectable_ratio", "smallest ratio these documents detect"),
    ("documents_needed", "documents a conclusive answer needs"),
    ("kl_mean_nats", "mean KL(baseline ‖ subject), nats per token"),
    ("top1_agreement", "agreement of first choices, share of tokens"),
    ("flips_harmful", "tokens only the baseline's first choice gets right"),
    ("flips_beneficial", "tokens only the subject's first choice gets right"),
    ("noise_floor_nats_per_token", "noise floor, nats per token"),
)
_ACCURACY: _Rows = (
    ("accuracy_baseline", "accuracy of the baseline"),
    ("accuracy_subject", "accuracy of the subject"),
    ("drop_pp", "drop, percentage points"),
    ("drop_upper_pp", "one-sided upper bound, percentage points"),
    ("drop_lower_pp", "one-sided lower bound, percentage points"),
    ("limit_pp", "limit, percentage points"),
    ("direction", "direction"),
    ("preview_drop_pp", "drop on the preview arm, percentage points"),
    ("harmful", "flips, harmful"),
    ("beneficial", "flips, beneficial"),
    ("mcnemar_p", "McNemar's exact p, two-sided"),
    ("accuracy_baseline_by_token", "accuracy of the baseline by loss per token"),
    ("accuracy_subject_by_token", "accuracy of the subject by loss per token"),
    ("n_examples", "examples"),
    ("n_documents", "documents"),
    ("effective_documents", "effective documents (Kish)"),
    ("design_effect", "design effect of documents"),
    ("examples_needed", "examples a conclusive answer needs"),
    ("noise_floor_pp", "noise floor, percentage points"),
)
_TAIL_PARTS = (
    ("rule", "rule"),
    ("critical_count", "count that fails"),
    ("rate_upper", "upper bound of the share above"),
    ("p95_nats", "95 % quantile, nats"),
    ("p99_nats", "99 % quantile, nats"),
    ("worst_mean_nats", "mean of the worst 5 %, nats"),
)
_TAIL: _Rows = (
    ("threshold_nats", "threshold, nats"),
    *(
        row
        for unit in ("window", "document")
        for row in (
            (f"n_{unit}s", f"{unit}s"),
            (f"n_{unit}s_above", f"{unit}s above the threshold"),
            *((f"{unit}_{key}", f"{unit}s: {label}") for key, label in _TAIL_PARTS),
        )
    ),
    ("quantile_max_nats", "95 % quantile of windows that warns, nats"),
    ("p_value", "p of the count of windows"),
)
_DRIFT: _Rows = (
    ("ratio_of_ratios", "preview ratio ÷ final ratio"),
    ("band", "band, either way"),
    ("standard_error_nats_per_token", "standard error, nats per token"),
    ("degrees_of_freedom", "degrees of freedom"),
    ("p_value", "p of lying within the band, one-sided"),
    ("equivalence_shown", "shown to lie within the band"),
)
_RESCALING: _Rows = (
    ("proposals", "proposals"),
    ("proposals_reason", "why"),
    ("n_eligible", "eligible outputs"),
    ("gain", "gain on the preview arm, nats per token"),
    ("gain_lower", "lower bound"),
    ("gain_upper", "upper bound"),
    ("gain_documents", "documents"),
    ("reading", "reading"),
    ("remediation", "remediation"),
    ("remediation_reason", "why not"),
    ("remediation_gain", "gain on the final arm while it stood, nats per token"),
    ("remediation_gain_lower", "lower bound"),
    ("remediation_gain_upper", "upper bound"),
    ("remediation_ratio", "perplexity ratio while it stood"),
)
_NOISE: _Rows = (
    ("n_windows", "windows measured again"),
    ("same_batch_nats_per_token", "same batch size, nats per token"),
    ("second_batch_nats_per_token", "second batch size, nats per token"),
    ("second_batch_tokens", "second batch size, tokens"),
    ("largest_window_nats_per_token", "largest of one window, nats per token"),
    ("changed_predictions", "examples whose prediction changed, share"),
)
_PAIRING: _Rows = (
    ("match_fraction", "windows that the subject's own tokenizer gives alike"),
    ("overlap_fraction", "windows that overlap another"),
    ("duplicate_fraction", "windows that occur twice"),
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
        *_metric(certificate["primary_metric"], certificate["convention"]),
        *_section("Tail", "loss differences of the final arm", certificate["tail"], _TAIL),
        *_section("Drift", "preview against final arm", certificate["drift"], _DRIFT),
        *_divergence(certificate["divergence"]),
        *_section("Noise floor", "the baseline, again", certificate["noise_floor"], _NOISE),
        *_section("Pairing", "share", certificate["pairing"], _PAIRING),
        *_rescaling(certificate["guards"].get("variance", {}), decision["checks"]),
        *_attested(certificate["attested"]),
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


def _metric(metric: Mapping[str, Any] | None, convention: str | None) -> list[str]:
    if metric is None:
        return []
    kind = f"{metric['kind']}, windows by convention {convention}"
    rows = _ACCURACY if metric["kind"] == "accuracy" else _RATIO
    return _section("Primary metric", kind, metric, rows)


def _divergence(divergence: Mapping[str, Any]) -> list[str]:
    if "not_evaluated" in divergence:
        return ["## Divergence", "", f"Not evaluated: {divergence['not_evaluated']}.", ""]
    final = divergence.get("final", {})
    names = tuple((name, name.replace("_", " ")) for name in sorted(final))
    return _section("Divergence", "final arm, token by token", final, names)


def _section(
    title: str, caption: str, numbers: Mapping[str, Any] | None, names: _Rows
) -> list[str]:
    """A heading and a table of what of ``names`` was measured; nothing where nothing was."""
    rows = [
        f"| {label} | {_number(numbers[key])} |"
        for key, label in names
        if numbers and numbers.get(key) is not None
    ]
    return [f"## {title}", "", f"| {caption} | |", "|---|---|", *rows, ""] if rows else []


def _rescaling(evidence: Mapping[str, Any], checks: list[Mapping[str, Any]]) -> list[str]:
    """What the variance guard proposed; nothing where it looked for nothing, or was not asked."""
    numbers = next((check["numbers"] for check in checks if check["check"] == "variance"), None)
    proposals = evidence.get("proposals")
    if proposals is None or not numbers or "proposals" not in numbers:
        return []
    # In one order, whether read from a file or not.
    scales = {f"`{name}`": scale for name, scale in sorted(proposals["scales"].items())}
    names = tuple((name, f"scale proposed for {name}") for name in scales)
    rules = ", ".join(f"{key} {_listed(v)}" for key, v in sorted(proposals["rules"].items()))
    caption = "reported only: no verdict rests on it"
    made = _section("Rescaling (DD-VE)", caption, {**numbers, **scales}, (*names, *_RESCALING))
    return [*made, f"Proposed by: {rules}.", ""]


def _listed(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _attested(guards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose guards answered: nobody can derive what they said from the numbers."""
    if not guards:
        return []
    rows = [
        f"| {name} | {' '.join(filter(None, (one['distribution'], one['version']))) or 'unknown'} "
        f"| `{one['code'] or 'unknown'}` |"
        for name, one in sorted(guards.items())
    ]
    head = ["## Attested guards", "", "| guard | package | code |", "|---|---|---|"]
    return [*head, *rows, ""]


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


def _number(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) >= 1000:
        return str(int(value))
    # Small numbers keep three digits: 0.0000 would say that there was nothing.
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
