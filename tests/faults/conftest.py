"""The architectures of the edits' tests, and those on which controls are most easily wrong."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
architecture = runpy.run_path(str(TESTS / "edits" / "conftest.py"))["architecture"]
GPT2 = {"vocab_size": 64, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLAMA = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FALCON = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "multi_query": False, "bias": True, "alibi": True, "parallel_attn": False,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip
QWEN3_NEXT = LLAMA | {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
    "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
SWITCH = {
    "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "num_experts": 3, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
}  # fmt: skip
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "falcon_heads": ("FalconForCausalLM", "FalconConfig", FALCON),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", GPT2 | {"rotary_dim": 4}),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT),
    "qwen3_next": ("Qwen3NextForCausalLM", "Qwen3NextConfig", QWEN3_NEXT),
    "switch": ("SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig", SWITCH),
}


@pytest.fixture(scope="session")
def fresh() -> Any:
    """Makes a new model of a kind with its library's own initialisation, or as configured.

    ``drawn`` draws biases and norm gains too, about their initial values; ``configured`` replaces
    configuration keys.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    known = {**runpy.run_path(str(TESTS / "guards" / "conftest.py"))["ARCHITECTURES"], **MORE}

    made: dict[str, Any] = {}

    def make(kind: str, *, drawn: bool = False, **configured: Any) -> Any:
        key = repr((kind, drawn, configured))
        if key not in made:
            made[key] = build(kind, drawn, configured)
        return copy.deepcopy(made[key])

    def build(kind: str, drawn: bool, configured: dict[str, Any]) -> Any:
        model_class, config_class, config = known[kind]
        with torch.random.fork_rng():
            torch.manual_seed(7)
            settings = {**config, **configured, "use_cache": False}
            chosen = getattr(transformers, config_class)(**settings)
            model = getattr(transformers, model_class)(chosen).eval().requires_grad_(False)
            for parameter in model.parameters():
                if drawn and parameter.ndim == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
        return model

    return make
