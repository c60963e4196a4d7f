"""Make the built-in models and held-out text from the text CPython carries.

Without options it makes everything the package ships: ``python scripts/train_builtin_models.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from builtin_training import cards, corpus, export, heldout, measure, tokenizer, train
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

SHIPPED = Path(__file__).resolve().parents[1] / "pytest_invarlock" / "builtin"
PARTS = ("corpus", *train.BUILDERS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the parts asked for, or with ``--check`` measure those that are there."""
    options = _parser().parse_args(arguments)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    parts = (options.only,) if options.only else PARTS
    split = heldout.split(corpus.documents())
    trained_tokenizer = tokenizer.train(document.text for document in split.train)
    tokens = _stream(trained_tokenizer, split.train)
    _print_corpus(split, trained_tokenizer, len(tokens))
    if not options.check:
        _make(parts, split, trained_tokenizer, tokens, options)
    models = [part for part in parts if part in train.BUILDERS]
    held = [_check(options.out, name, tokens) for name in models]
    return 0 if all(held) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write to")
    parser.add_argument("--steps", type=int, default=2800, help="optimiser steps for each model")
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights and batches")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--only", choices=PARTS, help="make or check this part alone")
    parser.add_argument("--check", action="store_true", help="measure what is there, make nothing")
    return parser


def _make(
    parts: Sequence[str],
    split: heldout.Split,
    trained_tokenizer: Tokenizer,
    tokens: torch.Tensor,
    options: argparse.Namespace,
) -> None:
    recipe = train.Recipe(options.steps, options.seed, options.threads)
    for part in parts:
        if part == "corpus":
            digest = heldout.write(split.heldout, options.out / "text")
            cards.write_text_card(split, digest, options.out / "text")
            continue
        model, seconds = train.train(part, tokens, recipe)
        folder = options.out / part
        tokenizer.write(trained_tokenizer, folder, train.MAX_TOKENS)
        sha256 = export.write(model, folder)
        cut = measure.windows(folder, [document.text for document in split.heldout])
        training = cards.Training(
            name=part,
            recipe=recipe,
            seconds=seconds,
            n_parameters=model.num_parameters(),
            n_train_tokens=len(tokens),
            weights_sha256=sha256,
            model=measure.model_loss(measure.load(folder), cut),
            unigram=measure.unigram_loss(tokens, cut),
            ratios=tuple(measure.edit_ratios(folder, cut)),
        )
        cards.write_model_card(training, folder)


def _stream(trained_tokenizer: Tokenizer, documents: Sequence[corpus.Document]) -> torch.Tensor:
    """All documents as one ``(n_tokens,)`` int64 stream, each closed by end-of-text."""
    encoded = trained_tokenizer.encode_batch([document.text for document in documents])
    ids = [token for each in encoded for token in (*each.ids, tokenizer.END_OF_TEXT_ID)]
    return torch.tensor(ids)


def _print_corpus(split: heldout.Split, trained_tokenizer: Tokenizer, n_train: int) -> None:
    lengths = [len(trained_tokenizer.encode(document.text).ids) for document in split.heldout]
    characters = sum(len(document.text) for document in split.train)
    print(f"train     {len(split.train):4d} documents {characters:9,d} characters ", end="")
    print(f"{n_train:8,d} tokens")
    characters = sum(len(document.text) for document in split.heldout)
    print(f"held out  {len(lengths):4d} documents {characters:9,d} characters ", end="")
    print(f"{sum(lengths):8,d} tokens, {min(lengths)} to {max(lengths)} each")
    print("arms     ", split.arm_counts())


def _check(out: Path, name: str, tokens: torch.Tensor) -> bool:
    """Print one model's perplexities and edit ratios; whether all lie where they should."""
    folder = out / name
    cut = measure.windows(folder, [document.text for document in heldout.read(out / "text")])
    model = measure.model_loss(measure.load(folder), cut)
    unigram = measure.unigram_loss(tokens, cut)
    better = unigram.perplexity / model.perplexity
    print(f"{name}: {model.n_tokens:,} tokens, perplexity {model.perplexity:.2f}, ", end="")
    print(f"unigram {unigram.perplexity:.1f}, {better:.1f} times lower")
    ratios = measure.edit_ratios(folder, cut)
    for each in ratios:
        print(f"  {each.edit:30s} ratio {each.ratio:.4f} {'holds' if each.holds else 'MISSED'}")
    return better >= 5 and all(each.holds for each in ratios)


if __name__ == "__main__":
    raise SystemExit(main())
