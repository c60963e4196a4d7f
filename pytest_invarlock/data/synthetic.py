"""Synthetic documents: varied sentences from a seeded generator, for trying things without data."""

from __future__ import annotations

import hashlib

SENTENCE_RANGE = (4, 40)
DEFAULT_DOCUMENTS = 1200

_NOUNS = (
    "harbour", "ledger", "orchard", "signal", "engine", "archive", "river", "merchant", "lantern",
    "committee", "glacier", "workshop", "sparrow", "treaty", "telescope", "bakery", "canal",
    "violin", "surveyor", "meadow", "printer", "ferry", "library", "comet", "gardener", "bridge",
    "market", "pilot", "mill", "compass", "quarry", "teacher", "reservoir", "poem", "lighthouse",
)  # fmt: skip
_ADJECTIVES = (
    "quiet", "narrow", "forgotten", "northern", "careful", "brittle", "copper", "patient", "new",
    "crowded", "shallow", "distant", "wooden", "sudden", "steady", "pale", "foreign", "ordinary",
    "broken", "bright", "seasonal", "heavy", "reluctant", "famous", "empty", "early",
)  # fmt: skip
_VERBS = (
    "measured", "repaired", "followed", "described", "crossed", "sold", "counted", "painted",
    "replaced", "guarded", "ignored", "studied", "carried", "opened", "abandoned", "borrowed",
    "restored", "watched", "named", "divided", "visited", "moved", "defended", "recorded",
)  # fmt: skip
_PLACES = (
    "behind the station", "in the valley", "near the old wall", "at the edge of town", "upstream",
    "below the terrace", "along the coast", "inside the hall", "beyond the second gate",
    "under the stairs", "across the square", "on the eastern slope",
)  # fmt: skip
_TIMES = (
    "in spring", "before noon", "that winter", "every third week", "after the storm", "by dusk",
    "during the fair", "within a year", "at dawn", "for a decade", "on Thursdays", "once",
)  # fmt: skip
_LINKS = ("because", "although", "so that", "while", "and", "but", "until", "whereas")


class _Choices:
    """An endless run of choices, drawn from SHA-256 of a name and a counter."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound`` - 1."""
        self._count += 1
        drawn = hashlib.sha256(f"synthetic|{self._name}|{self._count}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") % bound

    def of(self, words: tuple[str, ...]) -> str:
        """One of ``words``."""
        return words[self.below(len(words))]


def synthetic_text(ordinal: int) -> str:
    """The document of an ordinal: 4 to 40 sentences about some few things; always the same."""
    choices = _Choices(str(ordinal))
    # Few nouns a document, so that what came before helps to predict what follows.
    topics = tuple(choices.of(_NOUNS) for _ in range(5))
    low, high = SENTENCE_RANGE
    return " ".join(_sentence(choices, topics) for _ in range(low + choices.below(high - low + 1)))


def _sentence(choices: _Choices, topics: tuple[str, ...]) -> str:
    text = _clause(choices, topics)
    shape = choices.below(4)
    if shape == 0:
        text = f"{choices.of(_TIMES)}, {text}"
    elif shape == 1:
        text = f"{text} {choices.of(_LINKS)} {_clause(choices, topics)}"
    elif shape == 2:
        text = f"{text} {choices.of(_PLACES)}"
    if choices.below(6) == 0:
        text = f"{text}, {2 + choices.below(97)} in all"
    return text[0].upper() + text[1:] + "."


def _clause(choices: _Choices, topics: tuple[str, ...]) -> str:
    subject, object_ = _phrase(choices, topics), _phrase(choices, topics)
    return f"{subject} {choices.of(_VERBS)} {object_}"


def _phrase(choices: _Choices, topics: tuple[str, ...]) -> str:
    article = ("the", "a", "this", "one")[choices.below(4)]
    adjective = f"{choices.of(_ADJECTIVES)} " if choices.below(2) else ""
    phrase = f"{article} {adjective}{choices.of(topics)}"
    return phrase.replace("a a", "an a").replace("a e", "an e").replace("a o", "an o")
