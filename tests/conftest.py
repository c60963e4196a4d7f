"""Shared by the tests: pytester, and small random models with a small real tokenizer."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from pytest_invarlock.data.window_set import Reading, Window

pytest_plugins = ["pytester"]

# Hundreds of interpreters start below: each would compile the package, and perhaps torch, anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Before torch is imported: threads that wait for each other beside other workers burn their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CONTEXT = 128
WHOLE_SUITE = 5000
"""More tests than a part of the suite has."""


class ModelFactory(Protocol):
    def __call__(self, kind: str, **config: Any) -> PreTrainedModel: ...


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, lest a worker end with one alone; last those that the demo is run for."""
    road = "tests/real/test_road.py"
    items.sort(key=lambda i: (i.nodeid.startswith(road), i.get_closest_marker("long") is None))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """The first worker of a whole suite runs the demo beside its first tests."""
    if os.environ.get("PYTEST_XDIST_WORKER") != "gw0" or len(session.items) < WHOLE_SUITE:
        return
    from tests.real.test_road import demo_folder, demo_run

    base = session.config._tmp_path_factory.getbasetemp()
    threading.Thread(target=demo_run, args=(demo_folder(base),)).start()


def pytest_collection_finish() -> None:
    """What was imported and collected stays: no later collection of garbage walks over it.

    Each model that is dropped collects, and imported libraries are a quarter of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """No test leaves gradients off for those that follow in its process."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        pytest.fail("gradients are off after this test")


def random_text(seed: int, words: int) -> str:
    generator = random.Random(seed)
    syllables = ("ka", "lo", "mi", "ne", "ru", "sta", "ver", "on", "qui", "tal")
    return " ".join(
        "".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(words)
    )


class Installer(Protocol):
    def __call__(
        self, name: str, code: str, *, group: str = "invarlock.guards", **entries: str
    ) -> Path: ...


@pytest.fixture
def install(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Puts a one-module distribution on the path, with its metadata, as pip would.

    ``entries`` maps entry-point names to ``module:attribute`` (or just the attribute).
    """
    import sys

    def make(name: str, code: str, *, group: str = "invarlock.guards", **entries: str) -> Path:
        site = tmp_path_factory.mktemp("site")
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(code, encoding="utf-8")
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8"
        )
        lines = [f"{k} = {v if ':' in v else f'{module}:{v}'}" for k, v in entries.items()]
        text = "\n".join([f"[{group}]", *lines]) + "\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return site / f"{module}.py"

    return make


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


def tiny_config(kind: str, vocabulary: int) -> tuple[type[Any], Any]:
    """The class and configuration of a random model of ``kind``, two layers of width 32."""
    import transformers as t

    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    llama = common | {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT, "initializer_range": 0.2, "tie_word_embeddings": False,
    }  # fmt: skip
    if kind == "llama":
        return t.LlamaForCausalLM, t.LlamaConfig(**llama)
    if kind == "gemma2":
        return t.Gemma2ForCausalLM, t.Gemma2Config(
            **llama | {"head_dim": 8, "final_logit_softcapping": 2.0}
        )
    if kind == "bert":
        return t.BertForMaskedLM, t.BertConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=CONTEXT, pad_token_id=0,
            initializer_range=0.2,
        )  # fmt: skip
    if kind == "t5":
        return t.T5ForConditionalGeneration, t.T5Config(
            vocab_size=vocabulary, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=0, initializer_factor=1.0,
        )  # fmt: skip
    return t.GPT2LMHeadModel, t.GPT2Config(
        **common | {
            "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT,
            "initializer_range": 0.2,
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Any) -> ModelFactory:
    """Makes a fresh random model in eval mode; equal arguments give equal bits."""
    import torch

    # Models this small are slower on several threads than on one.
    torch.set_num_threads(1)

    made: dict[str, PreTrainedModel] = {}

    def make(kind: str, **config: Any) -> PreTrainedModel:
        key = repr((kind, config))
        if key not in made:
            made[key] = build(kind, config)
        # A third of the time that drawing it takes.
        return copy.deepcopy(made[key])

    def build(kind: str, config: dict[str, Any]) -> PreTrainedModel:
        cls, configuration = tiny_config(kind, len(tokenizer))
        for key, value in config.items():
            setattr(configuration, key, value)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = cls(configuration)
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
def thin(tmp_path_factory: pytest.TempPathFactory, tiny_model: ModelFactory, tokenizer: Any) -> str:
    """The folder of a llama of one block, for what happens around a model."""
    folder = tmp_path_factory.mktemp("thin")
    tiny_model("llama", num_hidden_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON Lines file of 60 documents, each some windows of 48 tokens long."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [json.dumps({"text": random_text(1000 + n, 70)}) for n in range(60)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def random_windows(reading: Reading = "causal", count: int = 6, seed: int = 0) -> list[Window]:
    """Windows of several lengths; some score only a last part, or a few tokens."""
    import numpy as np

    from pytest_invarlock.data.window_set import Window

    generator = np.random.default_rng(seed)
    made = []
    for n in range(count):
        tokens = generator.integers(1, 300, int(generator.integers(40, 90))).astype(np.int32)
        if reading == "causal":
            made.append(Window.causal(tokens, 1 if n % 3 else len(tokens) // 2, n))
        elif reading == "masked":
            positions = np.flatnonzero(generator.random(len(tokens)) < 0.2).astype(np.int32)
            targets = tokens[positions].copy()
            tokens[positions] = 5
            made.append(Window(tokens, positions, targets, n, (0, len(tokens))))
        else:
            targets = generator.integers(1, 300, 20 + n).astype(np.int32)
            positions = np.arange(len(targets), dtype=np.int32)
            made.append(Window(tokens, positions, targets, n, (0, len(tokens))))
    return made


@pytest.fixture(scope="session")
def windows() -> Callable[..., list[Window]]:
    """Makes windows of random tokens for each way of reading."""
    return random_windows
