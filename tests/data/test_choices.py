"""Examples with choices: only the choice is scored, after as much of the context as fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_invarlock.data.choices import ChoiceCutter
from pytest_invarlock.data.documents import Document, Example
from pytest_invarlock.data.windows import draw_windows
from pytest_invarlock.errors import DataError
from pytest_invarlock.plan import ARMS, WindowSelection

BOS, EOS = 1, 2


def example(text: str = "w10 w11 w12", choices: tuple[str, ...] = ("w20 w21", "w30"), label: int = 1) -> Example:  # fmt: skip
    return Example(text, choices, label)


def windows_of(one: Example, tokenizer: Any, reading: Any = "causal", seq_len: int = 64) -> Any:
    cutter = ChoiceCutter([Document(examples=(one,))], tokenizer, seq_len, reading)
    return cutter.cut([0])[0][0].windows, cutter


def test_a_left_to_right_model_reads_context_and_choice_and_is_scored_on_the_choice(
    word_tokenizer: Any,
) -> None:
    windows, cutter = windows_of(example(), word_tokenizer((BOS,), bos=BOS))
    assert [w.tokens.tolist() for w in windows] == [
        [BOS, 10, 11, 12, 20, 21], [BOS, 10, 11, 12, 30]
    ]  # fmt: skip
    assert [w.targets.tolist() for w in windows] == [[20, 21], [30]]
    assert [w.positions.tolist() for w in windows] == [[3, 4], [3]]
    assert [w.is_label for w in windows] == [False, True]
    assert cutter.notes == ()


def test_an_encoder_decoder_reads_the_context_and_says_the_choice(word_tokenizer: Any) -> None:
    windows, _ = windows_of(example(), word_tokenizer(suffix=(EOS,)), "seq2seq")
    assert windows[0].tokens.tolist() == [10, 11, 12, EOS]
    assert windows[0].targets.tolist() == [20, 21, EOS]
    assert windows[0].positions.tolist() == [0, 1, 2]


def test_a_real_tokenizers_choice_is_what_it_adds_to_the_context(tokenizer: Any) -> None:
    windows, cutter = windows_of(example("ka lo mi", ("verqui", " ne"), 0), tokenizer)
    assert [tokenizer.decode(w.targets) for w in windows] == [" verqui", " ne"]
    assert [tokenizer.decode(w.tokens) for w in windows] == ["ka lo mi verqui", "ka lo mi ne"]
    assert cutter.notes == ()


def test_a_choice_that_changes_the_contexts_tokens_is_tokenised_apart() -> None:
    class Merging:
        """Whole texts to one id, apart from blanks: a context is never a beginning."""

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [len(text), 7] if len(text) > 1 else [len(text)]}

    windows, cutter = windows_of(example("abc", ("de", "f"), 0), Merging())
    assert windows[0].tokens.tolist() == [3, 7, 3, 7]
    assert windows[0].targets.tolist() == [3, 7]
    assert cutter.notes == ("2 choices are tokenised apart from their context",)


def test_a_long_context_loses_its_beginning(word_tokenizer: Any, words: Any) -> None:
    long = example(words(100, 50))
    windows, cutter = windows_of(long, word_tokenizer((BOS,)), seq_len=20)
    assert windows[0].tokens.tolist() == [BOS, *range(133, 150), 20, 21]
    assert cutter.notes == ("the contexts of 2 choices lose their beginning to seq_len",)
    windows, cutter = windows_of(long, word_tokenizer(suffix=(EOS,)), "seq2seq", seq_len=20)
    assert windows[0].tokens.tolist() == [*range(131, 150), EOS]
    assert cutter.notes == ("the contexts of 2 choices lose their beginning to seq_len",)


@pytest.mark.parametrize("reading", ["causal", "seq2seq"])
def test_a_choice_that_does_not_fit_is_refused(
    word_tokenizer: Any, words: Any, reading: Any
) -> None:
    with pytest.raises(DataError) as caught:
        windows_of(example(choices=(words(10, 30), "w5")), word_tokenizer(), reading, seq_len=30 - (reading == "seq2seq"))  # fmt: skip
    assert caught.value.code == "CHOICE_LENGTH"


def choice_documents(count: int, examples: int = 1) -> list[Document]:
    return [
        Document(
            examples=tuple(
                example(f"w{1000 * n + 10 * k + 10} w5", ("w20", "w21 w22", "w23"), n % 3)
                for k in range(examples)
            )
        )
        for n in range(count)
    ]


def draw(provider: Any, tokenizer: Any, **changed: Any) -> Any:
    selection = replace(WindowSelection(64, 64, 20, 20), **changed)
    return draw_windows(provider, tokenizer, selection, draw=0, metric="accuracy")


def test_counts_are_of_examples_and_ordinals_unique_over_both_arms(
    word_tokenizer: Any, texts_provider: Any
) -> None:
    windows = draw(texts_provider(choice_documents(80)), word_tokenizer())
    assert {arm: len(windows.arms[arm]) for arm in ARMS} == {"preview": 60, "final": 60}
    numbers = [w.example for arm in ARMS for w in windows.arms[arm]]
    assert numbers == [n for n in range(40) for _ in range(3)]
    for arm in ARMS:
        per = [windows.arms[arm][i : i + 3] for i in range(0, 60, 3)]
        assert all(sum(w.is_label for w in choices) == 1 for choices in per)
        assert all(len({w.document for w in choices}) == 1 for choices in per)
    assert windows.overlap_fraction == windows.duplicate_fraction == 0.0
    assert windows.n_documents == {"preview": 20, "final": 20}


def test_a_documents_examples_are_bounded(word_tokenizer: Any, texts_provider: Any) -> None:
    provider = texts_provider(choice_documents(10, examples=12))
    windows = draw(provider, word_tokenizer(), preview_windows=24, final_windows=32)
    assert windows.n_documents == {"preview": 3, "final": 4}
    with pytest.raises(DataError, match="the final arm holds 32 examples in 4 documents"):
        draw(provider, word_tokenizer(), preview_windows=24, final_windows=33)


def test_the_digest_knows_the_right_answers(word_tokenizer: Any, texts_provider: Any) -> None:
    documents = choice_documents(80)
    changed = [*documents]
    changed[7] = Document(examples=(replace(documents[7].examples[0], label=0),))
    first = draw(texts_provider(documents), word_tokenizer())
    assert first.digest != draw(texts_provider(changed), word_tokenizer()).digest
    assert first.digest == draw(texts_provider(documents), word_tokenizer()).digest
