"""One byte-level BPE for every model, trained on the training text only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

VOCABULARY = 1024
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
CAUSAL_ROLES = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}


def train(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of ``VOCABULARY`` entries, all 256 bytes among them: nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def extended(tokenizer: Tokenizer, special_tokens: Sequence[str]) -> Tokenizer:
    """A copy with ``special_tokens`` appended, so that their ids follow from ``VOCABULARY`` on."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens(list(special_tokens))
    return copy


def write(
    tokenizer: Tokenizer,
    folder: Path,
    max_tokens: int,
    roles: Mapping[str, str] = CAUSAL_ROLES,
) -> None:
    """Write the two files from which ``AutoTokenizer`` loads the tokenizer.

    Args:
        tokenizer: what to write.
        folder: where to; it is made.
        max_tokens: the longest input the model is meant for.
        roles: which special token serves as what, as ``{"mask_token": "[MASK]"}``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **roles,
    }
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="ascii")
