"""Make the built-in models and held-out text from the text CPython carries.

Without options it makes everything the package ships: ``python scripts/train_builtin_models.py``.
The small models of the test-suite are made one at a time: ``--only bert``, ``--only t5``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from builtin_training import (
    bert,
    cards,
    corpus,
    export,
    heldout,
    measure,
    small_cards,
    t5,
    tokenizer,
    train,
)
from transformers.utils.logging import disable_progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builtin_training.small import SmallModel
    from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "pytest_invarlock" / "builtin"
OF_TESTS = ROOT / "tests" / "models"
PARTS = ("corpus", *train.BUILDERS)
SMALL: dict[str, SmallModel] = {"bert": bert.MODEL, "t5": t5.MODEL}
SHIPPED_STEPS = 2800


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the parts asked for, or with ``--check`` measure those that are there."""
    options = _parser().parse_args(arguments)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    split = heldout.split(corpus.documents())
    trained_tokenizer = tokenizer.train(document.text for document in split.train)
    tokens = _stream(trained_tokenizer, split.train)
    _print_corpus(split, trained_tokenizer, len(tokens))
    if options.only in SMALL:
        return 0 if _small(options.only, split, trained_tokenizer, tokens, options) else 1
    parts = (options.only,) if options.only else PARTS
    out = options.out or SHIPPED
    if not options.check:
        _make(parts, split, trained_tokenizer, tokens, options)
    models = [part for part in parts if part in train.BUILDERS]
    held = [_check(out, name, tokens) for name in models]
    return 0 if all(held) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to write to, not where the part belongs")
    parser.add_argument("--steps", type=int, help="optimiser steps for each model, not its own")
    parser.add_argument("--seed", type=int, default=2026, help="seed of weights and batches")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--only", choices=(*PARTS, *SMALL), help="make or check this part alone")
    parser.add_argument("--check", action="store_true", help="measure what is there, make nothing")
    return parser


def _make(
    parts: Sequence[str],
    split: heldout.Split,
    trained_tokenizer: Tokenizer,
    tokens: torch.Tensor,
    options: argparse.Namespace,
) -> None:
    recipe = train.Recipe(options.steps or SHIPPED_STEPS, options.seed, options.threads)
    out = options.out or SHIPPED
    for part in parts:
        if part == "corpus":
            digest = heldout.write(split.heldout, out / "text")
            cards.write_text_card(split, digest, out / "text")
            continue
        model, seconds = train.train(part, tokens, recipe)
        folder = out / part
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


def _small(
    name: str,
    split: heldout.Split,
    trained_tokenizer: Tokenizer,
    tokens: torch.Tensor,
    options: argparse.Namespace,
) -> bool:
    """Make a model of the test-suite, or only check it; whether it is twice as good as counts."""
    small, folder = SMALL[name], (options.out or OF_TESTS) / name
    texts = [document.text for document in split.heldout]
    if options.check:
        return _print_perplexity(name, *small.measure(folder, texts, tokens)) >= 2
    steps = options.steps or small.steps
    recipe = train.Recipe(steps, options.seed, options.threads, small.peak_rate)
    model, seconds = small.train(name, tokens, recipe)
    small.write_tokenizer(trained_tokenizer, folder)
    sha256 = export.write(model, folder)
    measured, unigram = small.measure(folder, texts, tokens)
    training = cards.Training(
        name=name,
        recipe=recipe,
        seconds=seconds,
        n_parameters=model.num_parameters(),
        n_train_tokens=len(tokens),
        weights_sha256=sha256,
        model=measured,
        unigram=unigram,
        ratios=(),
    )
    small_cards.write(small, training, folder)
    return _print_perplexity(name, measured, unigram) >= 2


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
    better = _print_perplexity(name, model, unigram)
    ratios = measure.edit_ratios(folder, cut)
    for each in ratios:
        print(f"  {each.edit:30s} ratio {each.ratio:.4f} {'holds' if each.holds else 'MISSED'}")
    return better >= 5 and all(each.holds for each in ratios)


def _print_perplexity(name: str, model: measure.Loss, unigram: measure.Loss) -> float:
    """Print both perplexities and give how many times lower the model's is."""
    better = unigram.perplexity / model.perplexity
    print(f"{name}: {model.n_tokens:,} tokens, perplexity {model.perplexity:.2f}, ", end="")
    print(f"unigram {unigram.perplexity:.1f}, {better:.1f} times lower")
    return better


if __name__ == "__main__":
    raise SystemExit(main())
