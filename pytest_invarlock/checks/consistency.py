"""Whether a record contradicts itself: numbers that no measurement could give side by side.

Whoever holds a key can seal any numbers. What stands here follows from how measuring works, so a
record that breaks it was not measured, or not by this package. A key that is absent is compared
with nothing: the record's schema says which have to be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.checks.stated_divergence import divergence_contradiction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pytest_invarlock.records import ArmLosses, Facts

ROUNDING_NATS = 1e-3
"""Losses and divergences are at least 0; their rounding is not, by far less than this a token."""
MOST_DUPLICATES = 0.5
"""Within an arm no piece is drawn twice, so at most one of two windows equals an earlier one."""
SLACK = 1 + 1e-9
WORDS = "lm-eval-word"
SAME_NUMBERS = ("weight_tying_break", "tokenizer_mismatch")
"""Faults of structure alone: untying gives the head its own copy, and not one other number."""
_TOP1 = ("top1_same", "top1_harmful", "top1_beneficial")


def contradiction(facts: Facts) -> str | None:
    """What of a whole record contradicts the rest of it; None where nothing does.

    Losses that are not finite contradict nothing: a destroyed model has them.
    """
    found = (
        identities(facts)
        or applied_edit(facts)
        or _counts(facts)
        or _window_length(facts)
        or _pairing(facts)
        or _noise(facts.noise_floor)
    )
    if found is not None:
        return found
    for arm, losses in facts.arms.items():
        found = _tokens(facts, losses) or _documents(facts, losses) or _signs(facts, losses)
        if found is not None:
            return f"{arm} arm: {found}"
    return divergence_contradiction(facts)


def identities(facts: Facts) -> str | None:
    """Plan and facts name the same draw, data, baseline and checkpoint."""
    plan = facts.plan
    checkpoint = facts.subject.get("checkpoint_digest")
    pairs: dict[str, tuple[Any, Any]] = {
        "draw": (plan.get("draw", facts.draw), facts.draw),
        "data": (plan.get("data_digest"), facts.data.get("digest")),
        "baseline": (plan.get("baseline_tensors"), facts.baseline.get("tensors_digest")),
        "baseline's configuration": (
            plan.get("baseline_config"), facts.baseline.get("config_digest"),
        ),
        "checkpoint": (plan.get("subject", {}).get("checkpoint", checkpoint), checkpoint),
    }  # fmt: skip
    keys = ("draw", "data_digest", "baseline_tensors", "baseline_config", "subject")
    for (name, (planned, found)), key in zip(pairs.items(), keys, strict=True):
        if key in plan and planned != found:
            return f"the plan names another {name} than what was measured"
    masked = plan.get("metric") == "ppl_mlm"
    if "mask_probability" in plan and masked is not (plan["mask_probability"] is not None):
        return "a mask probability stands in the plan of a masked model, and in no other"
    return None


def applied_edit(facts: Facts) -> str | None:
    """What was applied is what was planned, and changed tensors where it says so."""
    planned = facts.plan.get("subject", {})
    edit = facts.edit
    if edit is None:
        return "the planned edit was not applied" if "name" in planned else None
    if planned and {key: edit[key] for key in ("name", "parameters")} != planned:
        return "another edit was applied than planned"
    if (edit["n_parameters_changed"] > 0) is not (edit["n_tensors_changed"] > 0):
        return "the edit's counts of tensors and parameters do not go together"
    if (
        edit["n_parameters_changed"] > edit["n_parameters_touched"]
        or edit["n_tensors_changed"] > edit["n_tensors_touched"]
    ):
        return "the edit changed more than it touched"
    differs = facts.subject.get("tensors_digest") != facts.baseline.get("tensors_digest")
    if edit["name"] not in SAME_NUMBERS and differs is not (edit["n_parameters_changed"] > 0):
        return f"the edit changed {edit['n_parameters_changed']} parameters, the digests disagree"
    return None


def _counts(facts: Facts) -> str | None:
    """Windows, documents and arms are as many as a plan can ask for."""
    planned = facts.data.get("n_documents_planned", {})
    for arm in facts.arms:
        windows = facts.plan["windows"][f"{arm}_windows"]
        documents = planned.get(arm, windows)
        if windows < 1 or documents > windows:
            return f"{documents} documents are said to be planned in {windows} windows ({arm})"
    sizes = {len(losses.tokens) for losses in facts.arms.values()}
    if facts.plan.get("sequential") is not None and len(sizes) > 1:
        return "sequential mode keeps the arms equal, and they are not"
    return None


def _window_length(facts: Facts) -> str | None:
    """Windows are as long as planned, or as long as a note says that the model can read."""
    windows = facts.plan["windows"]
    length = facts.data["seq_len"]
    planned = windows.get("seq_len", length)
    if length == planned or windows["convention"] == WORDS:
        return None
    capped = f"seq_len {planned} capped at the model's context of {length} tokens"
    if length < planned and capped in facts.data.get("notes", ()):
        return None
    return f"windows hold {length} tokens, the plan says {planned}, and no note tells why"


def _pairing(facts: Facts) -> str | None:
    match = facts.data.get("match_fraction", 1.0)
    if match != 1:
        return f"losses of windows of which {100 * match:.1f} % match"
    overlap = facts.data.get("overlap_fraction", 0.0)
    if overlap != 0:
        return f"{100 * overlap:.1f} % of tokens are scored twice, and no sampling does that"
    most = 1.0 if facts.plan["metric"] == "accuracy" else MOST_DUPLICATES
    duplicates = facts.data.get("duplicate_fraction", 0.0)
    if not 0 <= duplicates <= most:
        return f"{100 * duplicates:.1f} % of windows are said to be duplicates"
    return None


def _noise(floor: Mapping[str, Any]) -> str | None:
    if any(not value >= 0 for value in floor.values()):
        return "a negative noise floor"
    largest = floor.get("largest_window_nats_per_token")
    means = [floor.get(f"{size}_batch_nats_per_token", 0.0) for size in ("same", "second")]
    # A weighted mean is at most the largest of its terms.
    if largest is not None and max(means) > largest * SLACK:
        return "the noise of all windows is above that of the noisiest"
    if floor.get("changed_predictions", 0.0) > 1:
        return "more predictions changed than there are"
    return None


def _tokens(facts: Facts, losses: ArmLosses) -> str | None:
    """A window scores at most as many tokens, or words, as it is long."""
    most = facts.data["seq_len"]
    if int(losses.tokens.max(initial=1)) > most:
        return f"a window of at most {most} tokens is said to score {int(losses.tokens.max())}"
    return None


def _documents(facts: Facts, losses: ArmLosses) -> str | None:
    """No document gives more windows (examples) than the plan allows."""
    most = facts.plan["windows"].get("max_windows_per_document")
    source = facts.plan.get("source") or {}
    if most is None or source.get("provider") == "given":
        return None
    documents = losses.documents
    if losses.examples is not None:
        documents = documents[np.unique(losses.examples, return_index=True)[1]]
    largest = int(np.unique(documents, return_counts=True)[1].max(initial=0))
    return (
        f"{largest} windows of one document, at most {most} are drawn" if largest > most else None
    )


def _signs(facts: Facts, losses: ArmLosses) -> str | None:
    """Losses and divergences are at least 0, shares of tokens at most all of them."""
    for name in ("baseline_nll", "subject_nll", "kl_nats"):
        values = getattr(losses, name)
        if values is not None and _below(values, losses.tokens):
            return f"{name} is negative"
    flags = [getattr(losses, name) for name in _TOP1]
    told = [flag for flag in flags if flag is not None]
    if told and len(told) < len(flags):
        return "only some of the first choices' counts are there"
    if not told:
        return None if losses.kl_nats is None else "a divergence without first choices"
    words = facts.plan["windows"]["convention"] == WORDS
    most = facts.data["seq_len"] if words else losses.tokens
    # Counts that add up could overflow: each is held to the limit before.
    if any(((flag < 0) | (flag > most)).any() for flag in told) or (sum(told) > most).any():
        return "first choices of more tokens than there are"
    return None


def _below(values: NDArray[np.float64], tokens: NDArray[np.int64]) -> bool:
    finite = np.isfinite(values)
    return bool((values[finite] < -ROUNDING_NATS * tokens[finite]).any())
