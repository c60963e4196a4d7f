"""Write the certificate's schema: its own sections, and what it shows of a record as that has it.

Run it after every change of the facts in ``record.schema.json`` or of a section; ``--check``
compares. What stands in neither (decision, tail, drift) is kept as the file has it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMAS = Path(__file__).resolve().parents[1] / "policies" / "schemas"
CERTIFICATE = SCHEMAS / "certificate.schema.json"
# Where each part of the facts stands in a certificate.
SHOWN: dict[str, tuple[str, ...]] = {
    "plan": ("plan",),
    "data": ("dataset",),
    "baseline": ("identity", "baseline"),
    "subject": ("identity", "subject"),
    "edit": ("edit",),
    "guards": ("guards",),
    "attested": ("attested",),
    "divergence": ("divergence",),
    "noise_floor": ("noise_floor",),
}
Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
TEXT: Schema = {"type": ["string", "null"]}
FLAG: Schema = {"type": "boolean"}
OPEN_FLAG: Schema = {"type": ["boolean", "null"]}
NUMBER: Schema = {"type": ["number", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
OPEN_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
SHARE: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
DIGEST: Schema = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
INTERVAL: Schema = {
    "anyOf": [
        {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
        {"type": "null"},
    ]
}
NUMBERS_AND_TEXTS: Schema = {"type": ["number", "string", "null"]}


def closed(required: Schema, optional: Schema | None = None) -> Schema:
    """An object of just these keys."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": sorted(required),
        "properties": {**required, **(optional or {})},
    }


def each(keys: str, schema: Schema) -> Schema:
    """``schema`` for every one of ``keys``."""
    return dict.fromkeys(keys.split(), schema)


def table(pattern: str, schema: Schema) -> Schema:
    """An object whose keys match ``pattern``."""
    return {
        "type": "object",
        "propertyNames": {"pattern": pattern},
        "additionalProperties": schema,
    }


def nullable(schema: Schema) -> Schema:
    """``schema``, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


FAMILY = "^(ffn|attn|embed|other)$"
LARGEST = table("^largest_[a-z0-9_]+$", NUMBERS_AND_TEXTS)
HEAD: Schema = {
    "evaluated": FLAG,
    "status": {"enum": ["pass", "warn", "fail", "inconclusive", "error", "skipped", None]},
    "passed": OPEN_FLAG,
    "reason": STRING,
    "n_violations": COUNT,
}
VALIDATION = closed(
    {},
    each(
        "primary_metric_acceptable preview_final_drift_acceptable tail_acceptable invariants_pass "
        "spectral_stable rmt_stable variance_acceptable guard_overhead_acceptable",
        FLAG,
    ),
)
METRIC = nullable(
    closed(
        {
            "kind": STRING,
            "unit": {"enum": ["ratio", "percentage points"]},
            **each("preview final preview_final_ratio ratio_vs_baseline", NUMBER),
            **each("ci display_ci", INTERVAL),
            **each("degraded invalid", FLAG),
            "reason": STRING,
        },
        {
            **each(
                "ratio ratio_upper ratio_lower limit preview_ratio delta_nats_per_token "
                "delta_upper_nats_per_token delta_lower_nats_per_token "
                "standard_error_nats_per_token baseline_perplexity subject_perplexity "
                "bca_lower_ratio bca_upper_ratio n_windows n_tokens n_documents "
                "effective_documents document_sd skewness documents_needed n_non_finite "
                "n_baseline_non_finite noise_floor_nats_per_token icc design_effect "
                "minimum_detectable_ratio kl_mean_nats top1_agreement flips flips_harmful "
                "flips_beneficial match_fraction margin noise_floor n_documents_maximum "
                "n_documents_above_tail mean_excess_nats_per_document "
                "half_width_nats_per_document drop_pp drop_upper_pp drop_lower_pp limit_pp "
                "accuracy_baseline accuracy_subject accuracy_baseline_by_token "
                "accuracy_subject_by_token preview_drop_pp preview_accuracy_subject harmful "
                "ties_baseline ties_subject score_units beneficial mcnemar_p p_value "
                "standard_error_pp noise_floor_pp n_examples examples_needed",
                NUMBER,
            ),
            **each("degenerate direction rule", TEXT),
        },
    )
)
CONFIDENCE = closed(
    {
        "label": {"enum": ["High", "Medium", "Low"]},
        "basis": STRING,
        "width": NUMBER,
        "unit": TEXT,
        "unstable": OPEN_FLAG,
    }
)
STRUCTURE = closed(
    each("tensors_changed params_changed params_in_changed_tensors layers_modified", OPEN_COUNT)
)
ARM = closed({"windows_planned": OPEN_COUNT, "windows": COUNT, "documents": OPEN_COUNT,
              "tokens": {"type": "integer"}})  # fmt: skip
COVERAGE = closed({}, each("preview final", ARM))
FLOORS = closed(
    {
        **each("documents effective_documents tokens", NUMBER),
        "guard_windows": {"type": ["integer", "null"]},
        "not_met_by": {"type": "array", "items": STRING},
    }
)
SEEDS = closed({"dataset": OPEN_COUNT, "draw": COUNT, "process": OPEN_COUNT, "resampling": DIGEST})
TOKENIZER = closed(each("baseline subject", nullable(DIGEST)))
FOREIGN = closed({"distribution": TEXT, "version": TEXT, "code": nullable(DIGEST)})
PLUGINS = closed(
    {
        **each("adapter subject_adapter edit", TEXT),
        "guards": {"type": "array", "items": STRING},
        "foreign_guards": table("^[A-Za-z0-9_][A-Za-z0-9_.-]*$", FOREIGN),
    }
)
MODEL = closed({"revision": TEXT, "checkpoint_digest": nullable(DIGEST)})
INVARIANTS = closed(
    {
        **HEAD,
        **each("n_tensors n_parameters", OPEN_COUNT),
        "differences": table("^[a-z0-9_]+$", COUNT),
    }
)
SPECTRAL = closed(
    {
        **HEAD,
        "caps_applied": OPEN_COUNT,
        "caps_exceeded": OPEN_FLAG,
        **each("max_caps modules_checked modules_changed", OPEN_COUNT),
        **each(
            "max_spectral_norm sigma_quantile z_quantile coverage ln_sigma ln_stable_rank "
            "ln_frobenius relative_change edge_of_change canon outer_change",
            NUMBER,
        ),
        **each("scope multiple_testing", TEXT),
        "families": table(FAMILY, closed(each("cap deadband z_max", NUMBER))),
        "violations": {
            "type": "array",
            "items": closed({"type": STRING, "module": STRING, "family": TEXT}),
        },
    }
)
RMT = closed(
    {
        **HEAD,
        **each("stable outliers_within_epsilon", OPEN_FLAG),
        **each("n_branches n_branches_compared n_windows n_newly_dead", OPEN_COUNT),
        **each("outliers outliers_reason", TEXT),
        "outlier_factor": NUMBER,
        "families": table(
            FAMILY,
            closed({"epsilon": NUMBER, **each("outliers_bare outliers_guarded", OPEN_COUNT)}),
        ),
        "largest": LARGEST,
    }
)
VARIANCE = closed(
    {
        **HEAD,
        **each("n_branches n_branches_compared n_windows n_eligible n_proposed", OPEN_COUNT),
        **each("proposals proposals_reason", TEXT),
        "predictive_gate": closed(
            {
                "evaluated": FLAG,
                "mean": NUMBER,
                "delta_ci": INTERVAL,
                "n_documents": OPEN_COUNT,
                "repairable": OPEN_FLAG,
                "reading": TEXT,
            }
        ),
        "remediation": table("^remediation[a-z0-9_]*$", NUMBERS_AND_TEXTS),
        "largest": LARGEST,
    }
)
OVERHEAD = closed(
    {
        **HEAD,
        **each("overhead_ratio loss_before_nats loss_after_nats", NUMBER),
        "n_turns": OPEN_COUNT,
    }
)


def sections(record: Schema) -> Schema:
    """The certificate's own sections, by name; ``record`` is the record's schema."""
    facts = record["properties"]["facts"]["properties"]
    plan = facts["plan"]["properties"]
    observed = record["properties"]["observations"]["properties"]
    return {
        "validation": VALIDATION,
        "primary_metric": METRIC,
        "pairing": closed(each("match_fraction overlap_fraction duplicate_fraction", SHARE)),
        "coverage": COVERAGE,
        "structure": STRUCTURE,
        "invariants": INVARIANTS,
        "spectral": SPECTRAL,
        "rmt": RMT,
        "variance": VARIANCE,
        "guard_overhead": OVERHEAD,
        "confidence": CONFIDENCE,
        "floors": FLOORS,
        "seeds": SEEDS,
        "determinism": closed(
            {
                "requested": nullable(plan["determinism"]),
                "threads": nullable(plan["threads"]),
                "observed": nullable(observed["determinism"]),
            }
        ),
        "environment": closed({}, {key: observed[key] for key in observed if key in _ENVIRONMENT}),
        "tokenizer": TOKENIZER,
        "plugins": PLUGINS,
        "provenance": closed(
            {
                "code": nullable(DIGEST),
                "source": plan["source"],
                "models": closed(each("baseline subject", MODEL)),
                "policy": {"type": "object", "additionalProperties": STRING},
            }
        ),
    }


_ENVIRONMENT = ("versions", "machine", "device")


def current() -> str:
    """The certificate's schema with its own sections, and the parts that records define."""
    record = json.loads((SCHEMAS / "record.schema.json").read_text(encoding="utf-8"))
    certificate: Schema = json.loads(CERTIFICATE.read_text(encoding="utf-8"))
    certificate["properties"] |= sections(record)
    for part, (*outer, last) in SHOWN.items():
        place = certificate
        for key in outer:
            place = place["properties"][key]
        place["properties"][last] = record["properties"]["facts"]["properties"][part]
    certificate["required"] = sorted(certificate["properties"])
    return json.dumps(certificate, indent=2) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, or with ``--check`` compare; exit status 1 where the schema is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    stale = CERTIFICATE.read_text(encoding="utf-8") != current()
    if parser.parse_args(arguments).check:
        if stale:
            print(f"{CERTIFICATE} is stale: run this script", file=sys.stderr)
        return int(stale)
    CERTIFICATE.write_text(current(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
