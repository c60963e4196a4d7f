"""Tiny random models of real architectures, made from their configurations."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

LLAMA = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
GPT2 = {
    "vocab_size": 64, "n_positions": 40, "n_embd": 32, "n_layer": 3, "n_head": 4,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BART = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3,
    "num_decoder_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 12,
}  # fmt: skip
SWITCH = {
    "num_layers": 2, "num_experts": 3, "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}  # fmt: skip

# Kind: the model's class, its configuration's class, and the configuration.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2_cross": ("GPT2LMHeadModel", "GPT2Config", GPT2 | {"add_cross_attention": True}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "mistral": ("MistralForCausalLM", "MistralConfig", LLAMA),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", LLAMA | {"num_local_experts": 3}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", LLAMA),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        LLAMA
        | {
            "num_experts": 4,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "num_experts_per_tok": 2,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 16}),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", LLAMA),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": 40,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "opt_post_norm": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 40,
            "do_layer_norm_before": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", NEOX),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", LLAMA | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", LLAMA | {"head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", LLAMA | {"head_dim": 8}),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
    ),
    "falcon": (
        "FalconForCausalLM",
        "FalconConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "bert": ("BertForMaskedLM", "BertConfig", NEOX),
    "bert_classes": ("BertForSequenceClassification", "BertConfig", NEOX | {"num_labels": 3}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", NEOX),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5_gated": (
        "T5ForConditionalGeneration",
        "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu"},
    ),
    "switch": (
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        T5 | SWITCH,
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2},
    ),
}


@cache
def _model(kind: str) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    model_class, config_class, config = ARCHITECTURES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        # A copy: some configurations change what they are given.
        made = getattr(transformers, config_class)(**dict(config), use_cache=False)
        return getattr(transformers, model_class)(made).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def architecture() -> Any:
    """Gives the model of a kind, one for all tests: put back what you change."""
    return _model


@cache
def _shipped(name: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from pytest_invarlock.adapters.model_source import resolve_model

    torch.set_num_threads(1)
    directory = resolve_model(f"builtin:{name}").directory
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def shipped() -> Any:
    """Gives the shipped model ``llama`` or ``gpt2`` in float32, one for all tests: put it back."""
    return _shipped
