"""The models of the guards' evidence: the shipped two, and further training seeds of each.

Usage: python benchmarks/guards_models.py [--seeds 1 2 3] [--share 1.0] [--threads 1]
                                          [--architectures llama gpt2 mixtral]

Trains what is not there yet into benchmarks/.models, which git ignores. The architecture with
experts is there for the damage that only it can have, and one seed of it is enough. ``--share``
shortens each training (its schedule with it); the page of the evidence states what every model was
trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "pytest_invarlock" / "builtin"
CACHE = Path(__file__).parent / ".models"
ARCHITECTURES = ("llama", "gpt2")
EXPERTS = "mixtral"
FULL_STEPS = 2800
CARD = "training.json"


@dataclass(frozen=True)
class ModelUnderTest:
    """A baseline of the battery.

    Attributes:
        name: ``builtin:llama`` or, of a further seed, ``llama-1``.
        architecture: ``llama``, ``gpt2`` or, with experts, ``mixtral``.
        reference: what an adapter loads.
        training: how it was trained, for the page.
        sha256: of ``model.safetensors``.
    """

    name: str
    architecture: str
    reference: str
    training: str
    sha256: str


def models(cache: Path = CACHE) -> list[ModelUnderTest]:
    """The shipped models, then whatever further seeds lie in ``cache``, in order of names."""
    found = [
        ModelUnderTest(
            f"builtin:{name}",
            name,
            f"builtin:{name}",
            f"shipped: seed 2026, {FULL_STEPS} steps",
            weights_sha256(SHIPPED / name),
        )
        for name in ARCHITECTURES
    ]
    for card in sorted(cache.glob(f"*/{CARD}")):
        told = json.loads(card.read_text(encoding="utf-8"))
        found.append(
            ModelUnderTest(
                card.parent.name,
                told["architecture"],
                str(card.parent),
                f"seed {told['seed']}, {told['steps']} steps, {told['threads']} thread(s), "
                f"{told['seconds']:.0f} s, torch {told['torch']}",
                weights_sha256(card.parent),
            )
        )
    return found


def weights_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def train(
    seeds: Sequence[int],
    share: float = 1.0,
    threads: int = 1,
    cache: Path = CACHE,
    architectures: Sequence[str] = ARCHITECTURES,
) -> None:
    """Train the seeds that ``cache`` lacks, one of each architecture before the next seed.

    The shipped tokenizer and the shipped held-out documents hold for all, so that every model is
    measured on documents that it has not seen.
    """
    sys.path.insert(0, str(ROOT / "scripts"))
    from builtin_training import corpus, heldout, tokenizer
    from builtin_training import train as training
    from tokenizers import Tokenizer

    common = Tokenizer.from_file(str(SHIPPED / "llama" / "tokenizer.json"))
    held = {document.id for document in heldout.read(SHIPPED / "text")}
    texts = [document.text for document in corpus.documents() if document.id not in held]
    ids = [
        token
        for each in common.encode_batch(texts)
        for token in (*each.ids, tokenizer.END_OF_TEXT_ID)
    ]
    stream = torch.tensor(ids)
    steps = max(1, round(FULL_STEPS * share))
    for seed in seeds:
        for name in architectures:
            folder = cache / f"{name}-{seed}"
            if (folder / CARD).exists():
                continue
            recipe = training.Recipe(steps, seed, threads, warmup_steps=min(100, steps // 10))
            builders = {**training.BUILDERS, EXPERTS: build_mixtral}
            model, seconds = training.train(name, stream, recipe, builders)
            _write(model, folder, SHIPPED / "llama")
            card = {
                "architecture": name,
                "seed": seed,
                "steps": steps,
                "threads": threads,
                "seconds": seconds,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
            # Last: a folder without a card is no model.
            (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def build_mixtral() -> PreTrainedModel:
    """Four experts in each of two blocks, two of them at every token; else as the shipped llama."""
    config = transformers.AutoConfig.from_pretrained(SHIPPED / "llama").to_dict()
    kept = ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads")
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(
            **{key: config[key] for key in kept},
            intermediate_size=160,
            num_hidden_layers=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=config["max_position_embeddings"],
            tie_word_embeddings=True,
            bos_token_id=config["bos_token_id"],
            eos_token_id=config["eos_token_id"],
        )
    )


def _write(model: PreTrainedModel, folder: Path, shipped: Path) -> None:
    """In float32, as trained: a cast of it loses something, one of the shipped does not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / name, folder / name)
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=1.0, help="of the shipped models' steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--architectures", nargs="+", default=ARCHITECTURES, choices=(*ARCHITECTURES, EXPERTS)
    )
    options = parser.parse_args()
    train(options.seeds, options.share, options.threads, architectures=tuple(options.architectures))
    for model in models():
        print(model.name, model.training)


if __name__ == "__main__":
    main()
