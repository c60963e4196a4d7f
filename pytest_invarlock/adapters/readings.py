"""Which reading a configuration is made for: told by ``config.json`` alone, never by a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.data.window_set import Reading

_HEADS: Mapping[str, Reading] = {
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForConditionalGeneration": "seq2seq",
}
CLASS_OF: Mapping[Reading, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
"""The class of transformers that makes a model for each reading."""
_OTHER_HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "SentencePrediction")


def fitting_readings(config: Any) -> tuple[Reading, ...]:
    """The readings for which transformers has a head for ``config``, likeliest first.

    An encoder-decoder is never taken apart: it is seq2seq or nothing. A model that attends both
    ways is never causal, whatever its class is called: it would see the token it is to predict.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    kind = type(config)
    if _is_foreign(kind):
        return _declared_readings(config)
    if getattr(config, "is_encoder_decoder", False):
        return ("seq2seq",) if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING else ()
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING
    decoder = getattr(config, "is_decoder", None)
    found: list[Reading] = []
    if masked and not decoder:
        found.append("masked")
    # Encoders are listed as causal too; those that can be decoders say whether they are.
    encoder = (masked and decoder is False) or _attends_both_ways(config)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING and not encoder:
        found.append("causal")
    return tuple(found)


def likeliest_reading(config: Any, reference: str) -> Reading:
    """The one reading of ``config``; its ``architectures`` decide where several fit.

    Raises:
        AdapterError: there is no language-model head for it; ``reference`` is named.
    """
    architectures = [str(name) for name in getattr(config, "architectures", None) or ()]
    fitting = fitting_readings(config)
    if not fitting or (architectures and all(n.endswith(_OTHER_HEADS) for n in architectures)):
        what = f"{config.model_type} ({', '.join(architectures)})" if architectures else ""
        raise AdapterError(
            f"{reference}: {what or config.model_type} has no language-model head to measure",
            remedy="give a causal, masked or encoder-decoder language model",
            code="NO_LM_HEAD",
        )
    declared = [_HEADS[head] for n in architectures for head in _HEADS if n.endswith(head)]
    return next((reading for reading in declared if reading in fitting), fitting[0])


def _attends_both_ways(config: Any) -> bool:
    return (
        getattr(config, "is_causal", None) is False
        or getattr(config, "causal", None) is False
        or getattr(config, "use_bidirectional_attention", None) in (True, "all")
        or getattr(config, "attn_type", None) == "bi"
    )


def _is_foreign(kind: type) -> bool:
    """Whether a configuration's class came with a checkpoint: its code runs only where allowed."""
    return kind.__module__.startswith("transformers_modules.")


def _declared_readings(config: Any) -> tuple[Reading, ...]:
    """The readings for which a checkpoint brings a class of its own, by its ``auto_map``."""
    declared = getattr(config, "auto_map", None) or {}
    return tuple(
        reading for reading, name in CLASS_OF.items() if isinstance(declared.get(name), str)
    )
