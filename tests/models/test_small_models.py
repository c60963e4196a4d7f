"""The small BERT and T5 of the test-suite load, are what their cards say, and know the text."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

HERE = Path(__file__).parent
BUILTIN = Path(__file__).parents[2] / "pytest_invarlock" / "builtin"
LOADERS = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}
MODELS = tuple(LOADERS)
SPECIAL = {"bert": {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}, "t5": {"<pad>", "</s>"}}
# How many times lower than that of token counts the perplexity is, at least.
LEAST = {"bert": 1.6, "t5": 2.0}
WINDOWS = 32
BERT_TEXT_TOKENS = 126
T5_HALF_TOKENS = 64
MASKED_SHARE = 0.15


@cache
def loaded(name: str) -> tuple[Any, dict[str, Any]]:
    model, info = LOADERS[name].from_pretrained(
        HERE / name, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    return model.eval(), info


@cache
def tokenizer_of(name: str) -> Any:
    folder = BUILTIN / "llama" if name == "llama" else HERE / name
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@cache
def encoded(name: str, arm: str) -> list[list[int]]:
    lines = gzip.decompress((BUILTIN / "text" / "heldout.jsonl.gz").read_bytes()).splitlines()
    texts = [row["text"] for row in map(json.loads, lines) if row["arm"] == arm]
    tokens: list[list[int]] = tokenizer_of(name)(
        texts, add_special_tokens=False, verbose=False
    ).input_ids
    return tokens


def first_windows(name: str, length: int) -> torch.Tensor:
    """The first tokens of ``WINDOWS`` documents of the final arm, ``(WINDOWS, length)`` int64."""
    documents = [tokens for tokens in encoded(name, "final") if len(tokens) >= length]
    return torch.tensor([tokens[:length] for tokens in documents[:WINDOWS]])


def perplexity(nats_each: torch.Tensor) -> float:
    return math.exp(nats_each.mean().item())


def unigram_perplexity(name: str, scored: torch.Tensor) -> float:
    """That of ``scored`` under the token counts of the preview arm, add-one smoothed."""
    tokens = torch.tensor([token for document in encoded(name, "preview") for token in document])
    counts = torch.bincount(tokens, minlength=len(tokenizer_of(name))).double() + 1
    return perplexity(-(counts / counts.sum()).log()[scored])


@torch.inference_mode()
def masked_losses(inputs: torch.Tensor, asked: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Nats of each of the ``truth`` tokens that are ``asked`` for, given the whole ``inputs``."""
    tokenizer, (model, _) = tokenizer_of("bert"), loaded("bert")
    first = torch.full((len(inputs), 1), tokenizer.cls_token_id)
    last = torch.full((len(inputs), 1), tokenizer.sep_token_id)
    logits = model(input_ids=torch.cat([first, inputs, last], dim=1)).logits[:, 1:-1]
    return torch.nn.functional.cross_entropy(logits[asked], truth[asked], reduction="none")


@torch.inference_mode()
def continued_losses(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Nats of every ``target`` token, given ``source`` and ``</s>``."""
    tokenizer, (model, _) = tokenizer_of("t5"), loaded("t5")
    ends = torch.full((len(source), 1), tokenizer.eos_token_id)
    starts = torch.full((len(source), 1), model.config.decoder_start_token_id)
    logits = model(
        input_ids=torch.cat([source, ends], dim=1),
        decoder_input_ids=torch.cat([starts, target[:, :-1]], dim=1),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), target.flatten(), reduction="none"
    )


def bert_windows() -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of text and which of their tokens are asked for."""
    windows = first_windows("bert", BERT_TEXT_TOKENS)
    draw = torch.rand(windows.shape, generator=torch.Generator().manual_seed(7))
    return windows, draw < MASKED_SHARE


def corrupted(windows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Of the asked tokens 80 % masked, 10 % replaced at random and 10 % left, as in training."""
    generator = torch.Generator().manual_seed(8)
    draw = torch.rand(windows.shape, generator=generator)
    random = torch.randint(len(tokenizer_of("llama")), windows.shape, generator=generator)
    masked = windows.masked_fill(asked & (draw < 0.8), tokenizer_of("bert").mask_token_id)
    return torch.where(asked & (draw >= 0.9), random, masked)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_the_file_has_its_place_and_no_place_is_empty(name: str) -> None:
    _, info = loaded(name)
    found = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    assert not any(found.values()), f"the checkpoint does not fit its architecture: {found}"


@pytest.mark.parametrize("name", MODELS)
def test_weights_take_one_to_three_megabytes(name: str) -> None:
    size = (HERE / name / "model.safetensors").stat().st_size
    assert 1_000_000 <= size <= 3_000_000, f"{size:,} bytes"


def test_bert_is_clearly_better_than_token_counts() -> None:
    windows, asked = bert_windows()
    model = perplexity(masked_losses(corrupted(windows, asked), asked, windows))
    unigram = unigram_perplexity("bert", windows[asked])
    assert unigram / model > LEAST["bert"], (
        f"perplexity {model:.1f}, from token counts {unigram:.1f}"
    )


def test_t5_is_twice_as_good_as_token_counts() -> None:
    source, target = first_windows("t5", 2 * T5_HALF_TOKENS).split(T5_HALF_TOKENS, dim=1)
    model = perplexity(continued_losses(source, target))
    unigram = unigram_perplexity("t5", target)
    assert unigram / model > LEAST["t5"], f"perplexity {model:.1f}, from token counts {unigram:.1f}"


def test_bert_fills_a_gap_from_the_text_around_it() -> None:
    windows, asked = bert_windows()
    gaps = windows.masked_fill(asked, tokenizer_of("bert").mask_token_id)
    own = perplexity(masked_losses(gaps, asked, windows))
    other = perplexity(masked_losses(windows.roll(1, dims=0).where(~asked, gaps), asked, windows))
    assert other / own > 1.1, f"perplexity {own:.1f}, in another text's gaps {other:.1f}"


def test_t5_is_a_little_better_for_what_its_encoder_is_given() -> None:
    source, target = first_windows("t5", 2 * T5_HALF_TOKENS).split(T5_HALF_TOKENS, dim=1)
    own = perplexity(continued_losses(source, target))
    other = perplexity(continued_losses(source.roll(1, dims=0), target))
    assert other / own > 1.01, f"perplexity {own:.1f}, after another text's start {other:.1f}"


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_is_the_builtin_one_and_the_special_tokens_of_the_architecture(
    name: str,
) -> None:
    builtin = tokenizer_of("llama").get_vocab()
    own = tokenizer_of(name).get_vocab()
    assert own.keys() - builtin.keys() == SPECIAL[name], "tokens beyond the built-in ones"
    assert {token: own[token] for token in builtin} == builtin, "a built-in token changed its id"


@pytest.mark.parametrize("name", MODELS)
def test_every_token_has_an_embedding_and_hardly_a_row_is_unused(name: str) -> None:
    rows = loaded(name)[0].get_input_embeddings().num_embeddings
    tokens = len(tokenizer_of(name))
    assert 0.95 * rows < tokens <= rows, f"{tokens} tokens for {rows} rows"


def test_bert_tokenizer_frames_a_text_and_gives_it_back() -> None:
    tokenizer = tokenizer_of("bert")
    text = "Return the number of items in a container."
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("[MASK]", add_special_tokens=False).input_ids == [tokenizer.mask_token_id]


def test_t5_tokenizer_closes_a_text_and_gives_it_back() -> None:
    tokenizer = tokenizer_of("t5")
    text = "Return the number of items in a container."
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.eos_token_id) == 1, "one </s> a text"
    assert ids[-1] == tokenizer.eos_token_id, "</s> at the end"
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_models_and_tokenizers_agree_on_special_tokens_and_lengths() -> None:
    bert, t5 = loaded("bert")[0].config, loaded("t5")[0].config
    assert bert.pad_token_id == tokenizer_of("bert").pad_token_id
    assert bert.max_position_embeddings == tokenizer_of("bert").model_max_length >= 128
    assert t5.decoder_start_token_id == t5.pad_token_id == tokenizer_of("t5").pad_token_id
    assert t5.eos_token_id == tokenizer_of("t5").eos_token_id


@pytest.mark.parametrize("name", MODELS)
def test_card_names_the_weights_it_describes_and_a_perplexity_that_fits(name: str) -> None:
    card = (HERE / name / "README.md").read_text(encoding="ascii")
    digest = hashlib.sha256((HERE / name / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card, "the card is of other weights"
    stated = {
        row: float(value)
        for row, value in re.findall(r"\| (held-out|unigram) perplexity.*? \| ([\d.]+) \|", card)
    }
    assert stated["unigram"] / stated["held-out"] > LEAST[name], f"the card states {stated}"


@pytest.mark.parametrize("name", MODELS)
def test_no_setting_names_a_path(name: str) -> None:
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((HERE / name / file).read_text(encoding="ascii"))
        paths = [
            value
            for key, value in settings.items()
            if key == "_name_or_path" or (isinstance(value, str) and value.startswith("/"))
        ]
        assert paths == [], f"{file} names a path"
