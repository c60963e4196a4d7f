"""The built-in models know their held-out text, and text and weights are the ones described."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BUILTIN = Path(str(resources.files("pytest_invarlock"))) / "builtin"
MODELS = ("llama", "gpt2")
LEAST_DOCUMENTS = {"final": 80, "preview": 60, "guard_calibration": 40, "tuning": 40}
WINDOW_TOKENS = 128


@dataclass(frozen=True)
class HeldOut:
    id: str
    arm: str
    text: str


def heldout_lines() -> bytes:
    return gzip.decompress((BUILTIN / "text" / "heldout.jsonl.gz").read_bytes())


@pytest.fixture(scope="module")
def documents() -> list[HeldOut]:
    return [HeldOut(**json.loads(line)) for line in heldout_lines().splitlines()]


def encode(name: str, documents: list[HeldOut]) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / name, local_files_only=True)
    texts = [document.text for document in documents]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    return encoded


def first_windows(documents_tokens: list[list[int]]) -> torch.Tensor:
    """One full window from the start of each document, ``(n_documents, WINDOW_TOKENS)`` int64."""
    return torch.tensor([tokens[:WINDOW_TOKENS] for tokens in documents_tokens])


def unigram_perplexity(fitted_on: list[list[int]], windows: torch.Tensor, vocabulary: int) -> float:
    tokens = torch.tensor([token for document in fitted_on for token in document])
    counts = torch.bincount(tokens, minlength=vocabulary).double() + 1
    log_probabilities = (counts / counts.sum()).log()
    return math.exp(-log_probabilities[windows[:, 1:]].mean().item())


@torch.inference_mode()
def model_perplexity(name: str, windows: torch.Tensor) -> float:
    model = AutoModelForCausalLM.from_pretrained(
        BUILTIN / name, dtype=torch.float32, local_files_only=True
    )
    nats = 0.0
    for start in range(0, len(windows), 32):
        batch = windows[start : start + 32]
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        )
        nats += losses.item()
    return math.exp(nats / windows[:, 1:].numel())


@pytest.mark.parametrize("name", MODELS)
def test_model_is_five_times_better_than_token_counts(name: str, documents: list[HeldOut]) -> None:
    encoded = encode(name, documents)
    arms = [document.arm for document in documents]
    other = [tokens for tokens, arm in zip(encoded, arms, strict=True) if arm != "final"]
    final = [tokens for tokens, arm in zip(encoded, arms, strict=True) if arm == "final"]
    windows = first_windows(final)
    settings = json.loads((BUILTIN / name / "config.json").read_text())
    unigram = unigram_perplexity(other, windows, settings["vocab_size"])
    model = model_perplexity(name, windows)
    assert unigram / model >= 5, f"perplexity {model:.1f}, from token counts {unigram:.1f}"


def test_both_models_share_one_tokenizer() -> None:
    files = [(BUILTIN / name / "tokenizer.json").read_bytes() for name in MODELS]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_gives_the_text_back_and_a_full_window_for_every_document(
    name: str, documents: list[HeldOut]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / name, local_files_only=True)
    encoded = encode(name, documents)
    assert min(len(tokens) for tokens in encoded) >= WINDOW_TOKENS
    assert [tokenizer.decode(tokens) for tokens in encoded] == [d.text for d in documents]


def test_heldout_text_has_the_digest_beside_it() -> None:
    stated = (BUILTIN / "text" / "heldout.sha256").read_text().split()[0]
    assert hashlib.sha256(heldout_lines()).hexdigest() == stated
    assert stated in (BUILTIN / "text" / "README.md").read_text()


def test_every_arm_has_enough_documents(documents: list[HeldOut]) -> None:
    counts = Counter(document.arm for document in documents)
    assert counts.keys() == LEAST_DOCUMENTS.keys()
    assert all(counts[arm] >= least for arm, least in LEAST_DOCUMENTS.items()), counts
    assert counts.total() >= 200


def test_no_document_and_no_paragraph_of_substance_is_in_two_places(
    documents: list[HeldOut],
) -> None:
    assert len({document.id for document in documents}) == len(documents)
    paragraphs = Counter(
        flat
        for document in documents
        for paragraph in document.text.split("\n\n")
        if len(flat := " ".join(paragraph.split())) > 30
    )
    assert [text for text, count in paragraphs.items() if count > 1] == []


def test_text_is_ascii(documents: list[HeldOut]) -> None:
    assert all(document.text.isascii() for document in documents)


def test_sizes_stay_small() -> None:
    weights = [(BUILTIN / name / "model.safetensors").stat().st_size for name in MODELS]
    assert sum(weights) <= 6_000_000
    assert (BUILTIN / "text" / "heldout.jsonl.gz").stat().st_size <= 400_000


@pytest.mark.parametrize("name", MODELS)
def test_card_names_the_weights_it_describes(name: str) -> None:
    digest = hashlib.sha256((BUILTIN / name / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (BUILTIN / name / "README.md").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_no_setting_names_a_path(name: str) -> None:
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((BUILTIN / name / file).read_text())
        assert not [v for v in settings.values() if isinstance(v, str) and v.startswith("/")]
        assert "_name_or_path" not in settings
