"""A checkpoint is taken for what its config.json says, whatever its path is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from pytest_invarlock.adapters import (
    HF_Auto_Adapter,
    HF_Causal_Adapter,
    HF_Causal_Auto_Adapter,
    HF_MLM_Adapter,
    HF_Seq2Seq_Adapter,
)
from pytest_invarlock.adapters.loaded_model import LoadedModel, context_length
from pytest_invarlock.adapters.readings import fitting_readings, likeliest_reading
from pytest_invarlock.errors import AdapterError, InvarlockError, ModelLoadError

SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "n_positions": 512,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
}  # fmt: skip
Make = Callable[[int], Any]

CHECKPOINTS: dict[str, tuple[str, int | None, Make]] = {
    "llama": ("causal", 66, lambda n: hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=n, **SMALL))),
    "opt": (
        "causal",
        64,
        lambda n: hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=n, hidden_size=16, word_embed_proj_dim=16, ffn_dim=16,
                num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64,
            )
        ),
    ),
    "bert": ("masked", 66, lambda n: hf.BertForMaskedLM(hf.BertConfig(vocab_size=n, **SMALL))),
    "bert-pretraining": (
        "masked",
        66,
        lambda n: hf.BertForPreTraining(hf.BertConfig(vocab_size=n, **SMALL)),
    ),
    "bert-decoder": (
        "causal",
        66,
        lambda n: hf.BertLMHeadModel(hf.BertConfig(vocab_size=n, **SMALL, is_decoder=True)),
    ),
    "roberta": (
        "masked",
        64,
        lambda n: hf.RobertaForMaskedLM(hf.RobertaConfig(vocab_size=n, **SMALL)),
    ),
    "t5": (
        "seq2seq",
        None,
        lambda n: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=n, **T5)),
    ),
    "bart": (
        "seq2seq",
        64,
        lambda n: hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=n, **BART)),
    ),
    "bart-decoder": (
        "causal",
        64,
        lambda n: hf.BartForCausalLM(hf.BartConfig(vocab_size=n, **BART)),
    ),
}  # fmt: skip
ADAPTERS = {
    "causal": HF_Causal_Adapter,
    "masked": HF_MLM_Adapter,
    "seq2seq": HF_Seq2Seq_Adapter,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], Path]:
    """Saves a kind of `CHECKPOINTS` once, under a name that tells nothing; returns its folder."""
    folder = tmp_path_factory.mktemp("readings")

    def save(kind: str) -> Path:
        path = folder / f"m{list(CHECKPOINTS).index(kind)}"
        if not path.exists():
            written(CHECKPOINTS[kind][2], path, tokenizer)
        return path

    return save


def written(make: Make, path: Path, tokenizer: Any) -> Path:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        make(len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def load(adapter: Any, path: Path) -> LoadedModel:
    loaded: LoadedModel = adapter().load(str(path), device="cpu", dtype="float32")
    return loaded


def refusal(adapter: Any, path: Path) -> InvarlockError:
    with pytest.raises((AdapterError, ModelLoadError)) as caught:
        load(adapter, path)
    assert "\n" not in str(caught.value)
    return caught.value


def reconfigured(path: Path, **changes: Any) -> Path:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_auto_and_the_adapter_of_its_reading_load_the_same(
    kind: str, saved: Callable[[str], Path]
) -> None:
    reading, context, _ = CHECKPOINTS[kind]
    auto, own = load(HF_Auto_Adapter, saved(kind)), load(ADAPTERS[reading], saved(kind))
    for loaded in (auto, own):
        assert (loaded.reading, loaded.context) == (reading, context)
        assert loaded.adapter == ADAPTERS[reading].name
        assert loaded.attention in ("sdpa", "eager")
        assert not loaded.model.training
    assert type(auto.model) is type(own.model)
    states, expected = auto.model.state_dict(), own.model.state_dict()
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[name], expected[name]) for name in states)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5", "bart", "bert-decoder"])
def test_another_reading_is_refused_and_the_right_adapter_named(
    kind: str, saved: Callable[[str], Path]
) -> None:
    right = CHECKPOINTS[kind][0]
    for reading, adapter in ADAPTERS.items():
        if reading != right:
            error = refusal(adapter, saved(kind))
            assert isinstance(error, AdapterError)
            assert error.code == f"NOT_{reading.upper()}"
            assert f"use adapter {ADAPTERS[right].name}" in error.remedy


@pytest.mark.parametrize("kind", ["roberta", "bart", "opt"])
def test_the_whole_context_can_be_read_and_no_more(kind: str, saved: Callable[[str], Path]) -> None:
    loaded = load(HF_Auto_Adapter, saved(kind))
    assert loaded.context is not None
    ids = torch.full((1, loaded.context), 7)
    loaded.model(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError)):
        loaded.model(input_ids=torch.full((1, loaded.context + 1), 7))


def test_an_encoder_decoder_of_two_models_is_as_long_as_the_shorter() -> None:
    parts = [
        hf.BertConfig(vocab_size=20, **SMALL | {"max_position_embeddings": n}) for n in (40, 30)
    ]
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    assert fitting_readings(config) == ("seq2seq",)
    assert context_length(hf.EncoderDecoderModel(config)) == 30


@pytest.mark.parametrize("name", ["my-bert-t5-gpt", "bert-base-uncased", "t5-awq-8bit"])
def test_a_path_decides_nothing(name: str, tmp_path: Path, tokenizer: Any) -> None:
    path = written(CHECKPOINTS["llama"][2], tmp_path / name, tokenizer)
    loaded = load(HF_Auto_Adapter, path)
    assert (loaded.reading, loaded.adapter) == ("causal", "hf_causal")
    assert type(loaded.model) is hf.LlamaForCausalLM


@pytest.mark.parametrize("adapter", [HF_Auto_Adapter, HF_MLM_Adapter])
def test_a_missing_masked_head_is_never_filled_in(
    adapter: Any, tmp_path: Path, tokenizer: Any
) -> None:
    path = written(
        lambda n: hf.BertModel(hf.BertConfig(vocab_size=n, **SMALL)), tmp_path / "m", tokenizer
    )
    error = refusal(adapter, path)
    assert error.code == "MODEL_WEIGHTS"
    assert "cls.predictions" in error.cause


def test_a_missing_decoder_is_never_filled_in(tmp_path: Path, tokenizer: Any) -> None:
    path = written(
        lambda n: hf.T5EncoderModel(hf.T5Config(vocab_size=n, **T5)), tmp_path / "m", tokenizer
    )
    reconfigured(path, is_encoder_decoder=True)
    error = refusal(HF_Auto_Adapter, path)
    assert error.code == "MODEL_WEIGHTS"
    assert "decoder." in error.cause


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda n: hf.BertForSequenceClassification(hf.BertConfig(vocab_size=n, **SMALL)),
            "bert (BertForSequenceClassification)",
        ),
        (
            lambda n: hf.BartForSequenceClassification(hf.BartConfig(vocab_size=n, **BART)),
            "bart (BartForSequenceClassification)",
        ),
        (
            lambda n: hf.ViTModel(hf.ViTConfig(**SMALL | {"image_size": 16, "patch_size": 8})),
            "vit (ViTModel)",
        ),
    ],
)
def test_a_checkpoint_with_another_head_says_what_it_is(
    make: Make, told: str, tmp_path: Path, tokenizer: Any
) -> None:
    error = refusal(HF_Auto_Adapter, written(make, tmp_path / "m", tokenizer))
    assert error.code == "NO_LM_HEAD"
    assert f"{told} has no language-model head" in error.cause


def test_a_model_without_a_fitting_adapter_is_refused_by_each(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = written(
        lambda n: hf.ViTModel(hf.ViTConfig(**SMALL | {"image_size": 16, "patch_size": 8})),
        tmp_path / "m",
        tokenizer,
    )
    for reading, adapter in ADAPTERS.items():
        error = refusal(adapter, path)
        assert error.code == f"NOT_{reading.upper()}"
        assert "use another model" in error.remedy


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (hf.GPTNeoXConfig(), ("causal",)),
        (hf.RobertaConfig(), ("masked",)),
        (hf.RobertaConfig(is_decoder=True), ("causal",)),
        (hf.PegasusConfig(), ("seq2seq",)),
        (hf.WhisperConfig(), ()),
        (hf.XLMConfig(), ("masked",)),
        (hf.XLMConfig(causal=True), ("masked", "causal")),
        (hf.XLNetConfig(), ()),
        (hf.Gemma2Config(use_bidirectional_attention=True), ()),
        (hf.LlamaConfig(is_causal=False), ()),
        (hf.ViTConfig(), ()),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_the_readings_of_a_configuration(config: Any, expected: tuple[str, ...]) -> None:
    assert fitting_readings(config) == expected


@pytest.mark.parametrize(
    ("config", "architectures", "expected"),
    [
        (hf.XLMConfig(causal=True), ["XLMForMaskedLM"], "masked"),
        (hf.XLMConfig(causal=True), ["XLMWithLMHeadModel"], "causal"),
        (hf.XLMConfig(causal=True), None, "masked"),
        # What a class is called makes no encoder a decoder, and no decoder an encoder-decoder.
        (hf.RobertaConfig(), ["RobertaForCausalLM"], "masked"),
        (hf.Gemma3Config(), ["Gemma3ForConditionalGeneration"], "causal"),
        (hf.GPT2Config(), ["SomethingElse"], "causal"),
    ],
)
def test_architectures_decide_only_between_readings_that_fit(
    config: Any, architectures: list[str] | None, expected: str
) -> None:
    config.architectures = architectures
    assert likeliest_reading(config, "somewhere") == expected


def test_the_alias_is_the_causal_adapter() -> None:
    assert HF_Causal_Auto_Adapter is HF_Causal_Adapter


def test_an_adapter_loads_just_the_model_and_describes_it(saved: Callable[[str], Path]) -> None:
    model = HF_Auto_Adapter().load_model(str(saved("t5")), device="cpu")
    description = HF_Auto_Adapter().describe(model)
    assert description["class"] == "T5ForConditionalGeneration"
    assert description["context"] is None


def test_attention_is_unknown_where_a_model_does_not_tell() -> None:
    loaded = LoadedModel(torch.nn.Linear(1, 1), None, None, None, None)  # type: ignore[arg-type]
    assert (loaded.attention, loaded.reading, loaded.adapter) == ("unknown", "causal", "hf_causal")
