"""Tables of a certificate's numbers: which are shown, under which names, with how many digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = tuple[tuple[str, str], ...]
RATIO: Rows = (
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
ACCURACY: Rows = (
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
TAIL: Rows = (
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
DRIFT: Rows = (
    ("ratio_of_ratios", "preview ratio ÷ final ratio"),
    ("band", "band, either way"),
    ("standard_error_nats_per_token", "standard error, nats per token"),
    ("degrees_of_freedom", "degrees of freedom"),
    ("p_value", "p of lying within the band, one-sided"),
    ("equivalence_shown", "shown to lie within the band"),
)
RESCALING: Rows = (
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
NOISE: Rows = (
    ("n_windows", "windows measured again"),
    ("same_batch_nats_per_token", "same batch size, nats per token"),
    ("second_batch_nats_per_token", "second batch size, nats per token"),
    ("second_batch_tokens", "second batch size, tokens"),
    ("largest_window_nats_per_token", "largest of one window, nats per token"),
    ("changed_predictions", "examples whose prediction changed, share"),
)
STRUCTURE: Rows = (
    ("tensors_changed", "tensors changed"),
    ("layers_modified", "blocks they stand in"),
    ("params_changed", "parameters changed"),
    ("params_in_changed_tensors", "parameters in changed tensors"),
)
PAIRING: Rows = (
    ("match_fraction", "windows that the subject's own tokenizer gives alike"),
    ("overlap_fraction", "windows that overlap another"),
    ("duplicate_fraction", "windows that occur twice"),
)


@dataclass(frozen=True, slots=True)
class NumberTable:
    """A table of two columns: names and numbers as text."""

    title: str
    caption: str
    rows: Sequence[tuple[str, str]]


def number_table(
    title: str, caption: str, numbers: Mapping[str, Any] | None, names: Rows
) -> NumberTable | None:
    """What of ``names`` was measured; None where nothing was."""
    rows = [
        (label, number_text(numbers[key]))
        for key, label in names
        if numbers and numbers.get(key) is not None
    ]
    return NumberTable(title, caption, rows) if rows else None


def number_tables(certificate: Mapping[str, Any]) -> list[NumberTable]:
    """The tables of metric, tail, drift, divergence, noise floor and pairing that hold anything."""
    tables = (
        metric_table(certificate["primary_metric"], certificate["convention"]),
        number_table("Tail", "loss differences of the final arm", certificate["tail"], TAIL),
        number_table("Drift", "preview against final arm", certificate["drift"], DRIFT),
        divergence_table(certificate["divergence"]),
        number_table("Noise floor", "the baseline, again", certificate["noise_floor"], NOISE),
        number_table("Pairing", "share", certificate["pairing"], PAIRING),
    )
    return [table for table in tables if table is not None]


def metric_table(metric: Mapping[str, Any] | None, convention: str | None) -> NumberTable | None:
    """The primary metric's numbers."""
    if metric is None:
        return None
    kind = f"{metric['kind']}, windows by convention {convention}"
    rows = ACCURACY if metric["kind"] == "accuracy" else RATIO
    return number_table("Primary metric", kind, metric, rows)


def divergence_table(divergence: Mapping[str, Any]) -> NumberTable | None:
    """How the models' distributions differ on the final arm."""
    final = divergence.get("final", {})
    names = tuple((name, name.replace("_", " ")) for name in sorted(final))
    return number_table("Divergence", "final arm, token by token", final, names)


def number_text(value: float | str) -> str:
    """A number as a reader wants it: four decimals, or three digits where it is small."""
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) >= 1000:
        return str(int(value))
    # Small numbers keep three digits: 0.0000 would say that there was nothing.
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
