"""What real tokenizers put around a text, kept apart from the text's own ids."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pytest_invarlock.data.special_tokens import affixes_of, token_ids


@pytest.fixture(scope="module")
def bert_like(tokenizer: Any) -> Any:
    """The tests' tokenizer with [CLS] before and [SEP] behind every text, and a mask token."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def test_affixes_are_found_on_both_sides(bert_like: Any, tokenizer: Any) -> None:
    for target in (False, True):
        found = affixes_of(bert_like, target=target)
        assert found.prefix == (bert_like.cls_token_id,)
        assert found.suffix == (bert_like.sep_token_id,)
        assert (
            found.around(token_ids(bert_like, "ka lo", target=target)).tolist()
            == (bert_like("ka lo")["input_ids"])
        )
    assert affixes_of(tokenizer).length == 0


def test_real_tokenizers_draw_masked_and_encoder_decoder_windows(bert_like: Any) -> None:
    from pytest_invarlock.data import get_provider

    counts = {"preview_n": 10, "final_n": 10, "seq_len": 64, "stride": 64}
    provider = get_provider("synthetic", max_samples=60)
    masked = provider.windows(bert_like, **counts, reading="masked", metric="ppl_mlm")
    special = set(bert_like.all_special_ids)
    for window in masked.final:
        assert window.tokens[0] == bert_like.cls_token_id
        assert not special & set(window.targets.tolist())
        assert 0 < window.n_scored < 32
    halves = provider.windows(bert_like, **counts, reading="seq2seq", metric="ppl_seq2seq")
    assert all(window.targets[-1] == bert_like.sep_token_id for window in halves.final)
