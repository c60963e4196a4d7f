"""The output head: its input is caught on the way, and it is trusted only where it is alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers as hf

from pytest_invarlock.adapters.output_head import (
    final_states,
    head_reproduces_logits,
    output_head,
)
from pytest_invarlock.errors import AdapterError

VOCABULARY = 320
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GROUPED = COMMON | {"num_key_value_heads": 2}
GEMMA = GROUPED | {"head_dim": 8}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1,
    "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 64, "init_std": 0.2,
}  # fmt: skip
OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
BLOOM: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4}

ALONE: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GEMMA, final_logit_softcapping=None)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**GROUPED)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**COMMON)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**BLOOM)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**COMMON)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**COMMON | {"pad_token_id": 1})),
    "albert": lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**COMMON, embedding_size=16)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "t5-untied": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, tie_word_embeddings=False)
    ),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
}
NOT_ALONE: dict[str, Callable[[], Any]] = {
    "capped": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GEMMA, final_logit_softcapping=30.0)),
    "scaled": lambda: hf.CohereForCausalLM(hf.CohereConfig(**GROUPED, logit_scale=0.5)),
    "divided": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED, logits_scaling=8.0)),
    "shifted": lambda: shifted(ALONE["bart"]()),
}


def shifted(model: Any) -> Any:
    model.final_logits_bias.fill_(0.25)
    return model


def made(make: Callable[[], Any]) -> Any:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return make().eval()


def inputs_for(model: Any, rows: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (rows, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 9:] = 0
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, VOCABULARY, (rows, 7), generator=generator)
    return inputs


def logits_of(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(**inputs).logits
    return logits


def hooks(model: Any) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("kind", ALONE)
def test_the_head_of_final_states_is_the_logits(kind: str) -> None:
    model = made(ALONE[kind])
    inputs = inputs_for(model)
    before = logits_of(model, inputs)
    assert head_reproduces_logits(model, inputs)
    states = final_states(model, **inputs)
    head = output_head(model)
    assert head is not None
    assert states.shape[:2] == before.shape[:2]
    assert not states.requires_grad
    assert torch.equal(head(states), before)
    rows = states.reshape(-1, states.shape[-1])
    in_chunks = torch.cat([head(chunk) for chunk in rows.split(5)])
    torch.testing.assert_close(in_chunks, before.reshape(len(rows), -1), rtol=1e-5, atol=1e-5)
    assert hooks(model) == 0
    assert torch.equal(logits_of(model, inputs), before)


@pytest.mark.parametrize("kind", NOT_ALONE)
def test_logits_changed_after_the_head_are_noticed(kind: str) -> None:
    model = made(NOT_ALONE[kind])
    assert not head_reproduces_logits(model, inputs_for(model))
    assert hooks(model) == 0


def test_the_dtype_is_the_models() -> None:
    model = made(ALONE["llama"]).to(torch.bfloat16)
    inputs = inputs_for(model)
    assert final_states(model, **inputs).dtype == torch.bfloat16
    assert head_reproduces_logits(model, inputs)


def test_options_that_are_no_tensors_are_handed_on() -> None:
    model = made(ALONE["t5"])
    assert head_reproduces_logits(model, {**inputs_for(model), "use_cache": False})


def test_one_row_is_enough_to_try_the_head() -> None:
    model = made(ALONE["bert"])
    rows = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    assert head_reproduces_logits(model, inputs_for(model))
    assert rows == [1, 1]


def test_losses_that_are_not_numbers_do_not_hide_the_head() -> None:
    model = made(ALONE["gpt2"])
    model.transformer.wte.weight.data[inputs_for(model)["input_ids"][0, 4]] = float("nan")
    assert head_reproduces_logits(model, inputs_for(model))


def test_the_head_is_never_run() -> None:
    model = made(ALONE["bert"])
    head = output_head(model)
    assert head is not None
    ran = []
    head.register_forward_hook(lambda *_: ran.append(1))
    final_states(model, **inputs_for(model))
    assert not ran


def test_an_error_inside_the_model_comes_out_and_leaves_no_hook() -> None:
    model = made(ALONE["llama"])
    inputs = inputs_for(model)
    before = logits_of(model, inputs)
    with pytest.raises(IndexError):
        final_states(model, input_ids=torch.full((1, 4), VOCABULARY))
    with pytest.raises(IndexError):
        head_reproduces_logits(model, {"input_ids": torch.full((1, 4), VOCABULARY)})
    assert hooks(model) == 0
    assert torch.equal(logits_of(model, inputs), before)


def test_hooks_of_others_stay_and_gradients_still_flow_later() -> None:
    model = made(ALONE["gpt2"])
    seen = []
    model.lm_head.register_forward_pre_hook(lambda *_: seen.append(1))
    final_states(model, **inputs_for(model))
    assert (hooks(model), seen) == (1, [])
    model(**inputs_for(model)).logits.sum().backward()
    assert seen == [1]
    assert model.lm_head.weight.grad is not None


def test_nothing_of_the_stopped_pass_stays_in_memory() -> None:
    model = made(ALONE["llama"])
    kept: list[Any] = []
    model.model.layers[0].mlp.register_forward_hook(
        lambda _, __, output: kept.append(weakref.ref(output))
    )
    gc.collect()
    gc.disable()
    try:
        states = final_states(model, **inputs_for(model))
        assert kept[0]() is None
        del states
    finally:
        gc.enable()


class WithoutHead(torch.nn.Module):
    """Not a language model: it names ``head`` as its output embedding, and never calls it so."""

    def __init__(self, head: Any, states: Any = None) -> None:
        super().__init__()
        self.head = head
        self.states = states

    def get_output_embeddings(self) -> Any:
        return self.head

    def forward(self, **_: Any) -> Any:
        if self.states is not None:
            self.head(self.states)
        return hf.modeling_outputs.CausalLMOutput(logits=torch.zeros(1, 4, VOCABULARY))


@pytest.mark.parametrize(
    "model",
    [
        WithoutHead(None),
        WithoutHead(torch.nn.Linear(8, VOCABULARY)),
        WithoutHead(torch.nn.Linear(8, VOCABULARY), torch.zeros(4, 8)),
        WithoutHead(torch.nn.Embedding(VOCABULARY, 8), torch.zeros(1, 4, dtype=torch.int64)),
        WithoutHead(torch.nn.Embedding(VOCABULARY, 8), torch.zeros(1, 4, 2, dtype=torch.int64)),
    ],
    ids=["none", "not called", "flat", "input embedding", "embedding of several streams"],
)
def test_a_model_without_a_head_is_measured_whole(model: Any) -> None:
    inputs = {"input_ids": torch.zeros(1, 4, dtype=torch.int64)}
    assert not head_reproduces_logits(model, inputs)
    with pytest.raises(AdapterError) as caught:
        final_states(model, **inputs)
    assert caught.value.code == "NO_OUTPUT_HEAD"
    assert hooks(model) == 0
