"""Providers of Hub data sets, read from the Hub client's cache; public by default."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_invarlock.data.hub_cache import HubCache
from pytest_invarlock.data.hub_dataset import HubSplits, find_splits
from pytest_invarlock.data.providers import RowProvider
from pytest_invarlock.data.wikitext import paragraphs
from pytest_invarlock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_invarlock.data.documents import Content, Document
    from pytest_invarlock.data.rows import Row
    from pytest_invarlock.plan import DataSource

WIKITEXT = ("Salesforce/wikitext", "wikitext")
WIKITEXT_CONFIG = "wikitext-2-raw-v1"


class HfTextProvider(RowProvider):
    """A Hub data set with a column of text."""

    kind = "hf_text"
    is_public = True
    default_split = "validation"

    def __init__(self, source: DataSource) -> None:
        super().__init__(source)
        if not source.dataset_name:
            raise ConfigError(
                f"provider {self.kind} has no data set", remedy="give dataset.dataset_name"
            )
        self._found: HubSplits | None = None

    @property
    def splits(self) -> HubSplits:
        """The splits that are read, found once."""
        if self._found is None:
            self._found = self._find(str(self.source.dataset_name), self.source.config_name)
        return self._found

    def files(self) -> Sequence[Path]:
        """The files of all splits that are read."""
        return [path for _, paths in self.splits.files for path in paths]

    def rows(self) -> Iterator[Row]:
        """The rows of all splits that are read."""
        return self.splits.rows()

    def place(self) -> str:
        """The data set's name, configuration and splits."""
        splits = self.splits
        return f"{splits.dataset_name} ({splits.config_name or 'default'}) {splits.split}"

    def read(self, content: Content) -> tuple[list[Document], tuple[str, ...]]:
        """The documents, with a note where another split than the default one is read."""
        documents, notes = super().read(content)
        if self.splits.fallback:
            notes += (
                f"the data set has no split {self.default_split}: "
                f"{self.splits.split} is read instead",
            )
        return documents, notes

    def is_split_fallback(self) -> bool:
        """Whether the default split is absent and another one is read."""
        return self.splits.fallback

    def public_names(self) -> dict[str, str | None]:
        """Name, configuration, split and commit."""
        splits = self.splits
        return {
            "dataset_name": splits.dataset_name,
            "config_name": splits.config_name,
            "split": splits.split,
            "revision": splits.revision,
        }

    def _find(self, dataset_name: str, config_name: str | None) -> HubSplits:
        source = self.source
        return find_splits(
            HubCache(dataset_name, source.revision, source.cache_dir, source.allow_network),
            config_name=config_name,
            split=source.split,
            default_split=self.default_split,
        )


class HfSeq2seqProvider(HfTextProvider):
    """A Hub data set of source-target pairs."""

    kind = "hf_seq2seq"
    contents = ("pairs",)


class HfChoicesProvider(HfTextProvider):
    """A Hub data set of examples with choices and a label."""

    kind = "hf_choices"
    contents = ("choices",)


class WikiText2Provider(HfTextProvider):
    """The paragraphs of WikiText-2 (raw), without empty rows and headings.

    ``id_field: article`` makes documents of whole articles; else each paragraph is one.
    """

    kind = "wikitext2"

    def __init__(self, source: DataSource) -> None:
        super().__init__(replace(source, dataset_name=source.dataset_name or WIKITEXT[0]))

    @property
    def splits(self) -> HubSplits:
        """The splits that are read, under the data set's present or its former name."""
        if self._found is None:
            present, former = WIKITEXT
            try:
                self._found = self._find(present, WIKITEXT_CONFIG)
            except DataError as error:
                if error.code != "DATASET_NOT_CACHED":
                    raise
                self._found = self._former(former, error)
        return self._found

    def _former(self, former: str, present_error: DataError) -> HubSplits:
        try:
            return self._find(former, WIKITEXT_CONFIG)
        except DataError as error:
            # A user knows the data set by its present name.
            raise (present_error if error.code == "DATASET_NOT_CACHED" else error) from error

    def rows(self) -> Iterator[Row]:
        """The paragraphs, with column ``article``."""
        return paragraphs(super().rows(), self.source.text_field)
