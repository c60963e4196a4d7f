"""Shared by the tests: pytester, and small random models with a small real tokenizer."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

pytest_plugins = ["pytester"]

CONTEXT = 128


class ModelFactory(Protocol):
    def __call__(self, kind: str, **config: Any) -> PreTrainedModel: ...


def random_text(seed: int, words: int) -> str:
    generator = random.Random(seed)
    syllables = ("ka", "lo", "mi", "ne", "ru", "sta", "ver", "on", "qui", "tal")
    return " ".join(
        "".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(words)
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer of 320 tokens, trained here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [random_text(seed, 200) for seed in range(20)],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Any) -> ModelFactory:
    """Makes a fresh random model in eval mode; equal arguments give equal bits."""
    import torch

    # Models this small are slower on several threads than on one.
    torch.set_num_threads(1)

    def make(kind: str, **config: Any) -> PreTrainedModel:
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        common = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model: Any
            if kind == "llama":
                model = LlamaForCausalLM(
                    LlamaConfig(
                        **common | {
                            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                            "num_attention_heads": 4, "num_key_value_heads": 2,
                            "max_position_embeddings": CONTEXT, "initializer_range": 0.2,
                            "tie_word_embeddings": False,
                        } | config
                    )
                )  # fmt: skip
            else:
                model = GPT2LMHeadModel(
                    GPT2Config(
                        **common | {
                            "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT,
                            "initializer_range": 0.2,
                        } | config
                    )
                )  # fmt: skip
        loaded: PreTrainedModel = model.eval().requires_grad_(False)
        return loaded

    return make


@pytest.fixture(scope="session")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelFactory, tokenizer: Any
) -> dict[str, Path]:
    """Checkpoint directories of both architectures; copy one before changing it."""
    folders = {}
    for kind in ("llama", "gpt2"):
        folders[kind] = tmp_path_factory.mktemp("checkpoints") / kind
        tiny_model(kind).save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON Lines file of 60 documents, each some windows of 48 tokens long."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [json.dumps({"text": random_text(1000 + n, 70)}) for n in range(60)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
