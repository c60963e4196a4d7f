"""The Hub client's cache of data sets: a snapshot of one revision, fetched where allowed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class HubCache:
    """Where a data set is looked for, and whether the Hub may be asked.

    ``cache_dir`` None is the Hub client's own; ``revision`` None the newest one known.
    """

    dataset_name: str
    revision: str | None = None
    cache_dir: str | None = None
    allow_network: bool = False

    def snapshot(self, patterns: Sequence[str]) -> Path:
        """The folder of the revision, with the files of ``patterns`` that the cache holds.

        Its name is the commit. With the network, missing files are fetched first.

        Raises:
            DataError: ``DATASET_NOT_CACHED``, ``DATASET_NOT_FOUND`` or ``DATASET_GATED``.
        """
        if not self.allow_network:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
            os.environ["HF_DATASETS_OFFLINE"] = "1"
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            IncompleteSnapshotError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            folder = snapshot_download(
                self.dataset_name,
                repo_type="dataset",
                revision=self.revision,
                cache_dir=self.cache_dir,
                local_files_only=not self.allow_network,
                allow_patterns=list(patterns),
            )
        except IncompleteSnapshotError as error:
            raise self.not_cached("not all its files are") from error
        except LocalEntryNotFoundError as error:
            raise self.not_cached("it is not") from error
        except GatedRepoError as error:
            raise DataError(
                f"{self.dataset_name}: the Hub serves this data set only to approved accounts",
                remedy="accept its terms on the Hub and log in with `hf auth login`",
                code="DATASET_GATED",
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            at = f"@{self.revision}" if self.revision else ""
            raise DataError(
                f"{self.dataset_name}{at}: the Hub knows no such data set or revision",
                remedy="check dataset_name and revision",
                code="DATASET_NOT_FOUND",
            ) from error
        return Path(folder)

    def not_cached(self, what: str) -> DataError:
        """The error for files that only the network could bring."""
        at = f"@{self.revision}" if self.revision else ""
        network = "could not be reached" if self.allow_network else "is off"
        return DataError(
            f"{self.dataset_name}{at}: {what} in the local Hub cache, and the network {network}",
            remedy="give --invarlock-allow-network, or fetch it first with "
            f"`hf download --repo-type dataset {self.dataset_name}`",
            code="DATASET_NOT_CACHED",
        )
