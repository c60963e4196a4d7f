"""Loading: a checkpoint whose parts do not belong together is refused, never patched with noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from pytest_invarlock.adapters import HF_Causal_Adapter
from pytest_invarlock.adapters.hf_causal import context_length
from pytest_invarlock.errors import AdapterError, InvarlockError, ModelLoadError

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
OTHERS: dict[str, Any] = {
    "bert": lambda n: BertForMaskedLM(BertConfig(vocab_size=n, **SMALL)),
    "distilbert": lambda n: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=n, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    ),
    "t5": lambda n: T5ForConditionalGeneration(
        T5Config(vocab_size=n, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ),
}


@pytest.fixture
def model(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoints["llama"], tmp_path / "model")


def load(directory: Path, dtype: str = "float32") -> Any:
    return HF_Causal_Adapter().load(str(directory), device="cpu", dtype=dtype)


def refusal(directory: Path) -> InvarlockError:
    with pytest.raises((ModelLoadError, AdapterError)) as caught:
        load(directory)
    return caught.value


def with_weights(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_missing_tensor_is_named_and_never_filled_in(model: Path) -> None:
    with_weights(model, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    error = refusal(model)
    assert error.code == "MODEL_WEIGHTS"
    assert "model.layers.1.mlp.up_proj.weight missing in the checkpoint" in error.cause


def test_several_missing_tensors_are_counted(model: Path) -> None:
    with_weights(
        model, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.0" in name]
    )
    assert "and 8 more" in refusal(model).cause


def test_a_tensor_of_another_shape_is_refused(model: Path) -> None:
    with_weights(model, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    error = refusal(model)
    assert error.code == "MODEL_WEIGHTS"


@pytest.mark.parametrize("size", [319, 330])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    model: Path, tokenizer: Any, size: int
) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    extra = [{"id": n, "content": f"<{n}>", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": False} for n in range(len(tokenizer), size + 2)]  # fmt: skip
    pipeline["added_tokens"] += extra
    bigger = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)))
    bigger.save_pretrained(model)
    error = refusal(model)
    assert error.code == "TOKENIZER_VOCABULARY"
    assert f"{len(bigger)} tokens" in error.cause
    assert f"{len(tokenizer)}" in error.cause


def test_a_tokenizer_with_far_fewer_tokens_than_the_model_is_refused(
    tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    tiny_model("llama", vocab_size=1000).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert refusal(tmp_path / "m").code == "TOKENIZER_VOCABULARY"


def test_rows_padded_for_speed_are_accepted(
    tmp_path: Path, tiny_model: Any, tokenizer: Any
) -> None:
    tiny_model("llama", vocab_size=len(tokenizer) + 8).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert len(load(tmp_path / "m").tokenizer) == len(tokenizer)


def test_a_checkpoint_without_a_tokenizer_is_refused(model: Path) -> None:
    for path in model.glob("*token*"):
        path.unlink()
    error = refusal(model)
    assert error.code in ("TOKENIZER_MISSING", "TOKENIZER_VOCABULARY")
    assert "\n" not in str(error)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_tokenizer_is_refused(model: Path, content: str) -> None:
    (model / "tokenizer.json").write_text(content, encoding="utf-8")
    error = refusal(model)
    assert error.code in ("TOKENIZER_MISSING", "TOKENIZER_VOCABULARY")
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_is_not_decoder_only_is_refused(
    kind: str, tmp_path: Path, tokenizer: Any
) -> None:
    OTHERS[kind](len(tokenizer)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    error = refusal(tmp_path / "m")
    assert isinstance(error, AdapterError)
    assert error.code == "NOT_CAUSAL"
    assert kind in error.cause


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "unheard_of"}, {"model_type": 7}, {"hidden_size": "wide"},
        {"hidden_size": 33}, {"architectures": 5}, {"architectures": True}, {"hidden_act": "x"},
        {"num_key_value_heads": 0}, {"text_config": 5}, {"attn_implementation": 5},
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_is_refused_in_one_line(
    model: Path, change: dict[str, Any]
) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    error = refusal(model)
    assert error.code in ("MODEL_CONFIG", "MODEL_WEIGHTS")
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_good_checkpoint_is_loaded_ready_to_measure(
    kind: str, checkpoints: dict[str, Path], tiny_model: Any
) -> None:
    loaded = load(checkpoints[kind])
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.context == 128
    assert loaded.device == torch.device("cpu")
    assert loaded.checkpoint_digest.startswith("sha256:")
    for name, parameter in tiny_model(kind).named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_dtype_is_the_one_asked_for(checkpoints: dict[str, Path], dtype: str) -> None:
    model = load(checkpoints["llama"], dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_the_shipped_way_to_just_a_model(checkpoints: dict[str, Path]) -> None:
    model = HF_Causal_Adapter().load_model(str(checkpoints["gpt2"]), device="cpu")
    description = HF_Causal_Adapter().describe(model)
    assert description["class"] == "GPT2LMHeadModel"
    assert description["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert description["context"] == context_length(model) == 128
    assert context_length(torch.nn.Linear(1, 1)) is None
