"""Small random models of the architectures that store weights differently, made from config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHITECTURES = (
    "gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gpt_neox", "opt", "phi", "gemma",
    "bloom", "bert", "roberta", "t5", "bart",
)  # fmt: skip
"""The matrix of the project: every edit, fault and control is applied to each and undone."""


def build(kind: str) -> Any:
    import transformers as hf

    small = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    decoder = {
        **small, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "initializer_range": 0.3, "max_position_embeddings": 32,
    }  # fmt: skip
    grouped = {**decoder, "num_key_value_heads": 2}
    side = {
        **small, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "max_position_embeddings": 32, "decoder_start_token_id": 2,
    }  # fmt: skip
    makers: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(**small, n_embd=16, n_layer=2, n_head=2, n_positions=32,
                          initializer_range=0.3)
        ),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**grouped)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**grouped)),
        "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**grouped, head_dim=8)),
        "opt": lambda: hf.OPTForCausalLM(
            hf.OPTConfig(**small, hidden_size=16, ffn_dim=24, num_hidden_layers=2, init_std=0.3,
                         num_attention_heads=4, word_embed_proj_dim=16, max_position_embeddings=32)
        ),
        "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**decoder)),
        "bloom": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(**small, hidden_size=16, n_layer=2, n_head=4, initializer_range=0.3)
        ),
        "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**decoder)),
        "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**grouped, head_dim=4)),
        "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**grouped, num_local_experts=4)),
        "t5": lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4,
                        initializer_factor=2.0, decoder_start_token_id=0)
        ),
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**decoder)),
        "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**side)),
        "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**decoder)),
    }  # fmt: skip
    return makers[kind]()


@pytest.fixture(scope="session")
def architecture() -> Callable[[str], Any]:
    """Makes a model of a kind of `ARCHITECTURES`; equal kinds give equal bits.

    Biases and norm gains are drawn too: a fresh model has them at zero and one, where faults of
    them would change nothing.
    """
    import copy

    import torch

    torch.set_num_threads(1)
    made: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in made:
            with torch.random.fork_rng():
                torch.manual_seed(11)
                model = build(kind).eval().requires_grad_(False)
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter += 0.2 * torch.randn_like(parameter)
            made[kind] = model
        return copy.deepcopy(made[kind])

    return make
