"""Synthetic text: always the same, varied, of many lengths, and named as what it is."""

from __future__ import annotations

from pytest_invarlock.data import get_provider
from pytest_invarlock.data.synthetic import DEFAULT_DOCUMENTS, synthetic_text


def test_documents_are_the_same_every_time_and_differ_from_each_other() -> None:
    texts = [synthetic_text(n) for n in range(200)]
    assert texts == [synthetic_text(n) for n in range(200)]
    assert len(set(texts)) == 200


def test_sentences_and_lengths_vary() -> None:
    texts = [synthetic_text(n) for n in range(100)]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) < 100 < 200 < max(lengths)
    sentences = [sentence for text in texts for sentence in text.split(". ")]
    assert len(set(sentences)) > 0.99 * len(sentences)


def test_it_is_named_synthetic_in_identity_and_notes() -> None:
    provider = get_provider("synthetic", max_samples=7)
    assert len(provider.documents()) == 7
    assert provider.identity()["provider"] == "synthetic"
    assert "synthetic" in provider.notes[0]
    assert len(get_provider("synthetic").documents()) == DEFAULT_DOCUMENTS


def test_its_digest_follows_the_documents() -> None:
    few, more = get_provider("synthetic", max_samples=3), get_provider("synthetic", max_samples=4)
    assert few.source_digest() != more.source_digest()
    assert few.source_digest() == get_provider("synthetic", max_samples=3).source_digest()
