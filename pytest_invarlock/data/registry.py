"""The one registry of data providers, by kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.data.hub_providers import (
    HfChoicesProvider,
    HfSeq2seqProvider,
    HfTextProvider,
    WikiText2Provider,
)
from pytest_invarlock.data.local_providers import (
    LocalFileProvider,
    LocalJsonlChoicesProvider,
    LocalJsonlPairsProvider,
    LocalJsonlProvider,
)
from pytest_invarlock.data.pydoc import PydocProvider
from pytest_invarlock.data.synthetic_provider import SyntheticProvider
from pytest_invarlock.policy.dataset_kinds import check_kind
from pytest_invarlock.policy.dataset_settings import data_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.data.providers import Provider
    from pytest_invarlock.plan import DataSource

PROVIDERS: Mapping[str, type[Provider]] = {
    provider.kind: provider
    for provider in (
        WikiText2Provider, HfTextProvider, HfSeq2seqProvider, HfChoicesProvider,
        LocalJsonlProvider, LocalJsonlPairsProvider, LocalJsonlChoicesProvider, LocalFileProvider,
        SyntheticProvider, PydocProvider,
    )
}  # fmt: skip


def get_provider(kind: str, source: DataSource | None = None, **arguments: Any) -> Provider:
    """The provider of a kind.

    Args:
        kind: ``wikitext2``, ``hf_text``, ``hf_seq2seq``, ``hf_choices``, ``local_jsonl``,
            ``local_jsonl_pairs``, ``local_jsonl_choices``, ``local_file``, ``synthetic``,
            ``pydoc``.
        source: the resolved source of a plan; None makes one of ``arguments``.
        arguments: as in a suite file's ``dataset``: ``file``, ``dataset_name``, ``text_field``, …,
            and ``allow_network``; relative file names start at the working directory.

    Raises:
        ConfigError: an unknown kind or argument, named with the nearest known one.
    """
    check_kind(kind)
    if source is None:
        network = arguments.pop("allow_network", False)
        source = data_source(kind, arguments, Path.cwd(), allow_network=network)
    return PROVIDERS[kind](source)
