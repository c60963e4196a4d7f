"""The one place that asks the Hub what a repository is at: commit, gate, size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_invarlock.errors import ConfigError

RepoType = Literal["model", "dataset"]
_WEIGHTS = ".safetensors"


class HubUnreachable(Exception):  # noqa: N818  a state of the network, not of ours
    """The Hub did not answer: what is cached decides."""


@dataclass(frozen=True, slots=True)
class HubState:
    """What the Hub says of a repository.

    ``commit`` is what the revision asked for resolves to; ``is_approved`` whether this account may
    read the files of a gated or private one; ``weights_bytes`` what its weight files take, None
    where that is not told.
    """

    commit: str
    gated: bool = False
    private: bool = False
    is_approved: bool = True
    weights_bytes: int | None = None


def ask_hub(repository: str, revision: str | None, repo_type: RepoType) -> HubState:
    """What the Hub says of ``repository`` at ``revision``, None for the newest.

    Raises:
        ConfigError: it knows no such repository or revision, or not for this account
            (HUB_NOT_FOUND).
        HubUnreachable: there is no network, or the Hub client was told to stay offline.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    ask = api.model_info if repo_type == "model" else api.dataset_info
    try:
        info = ask(repository, revision=revision, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        at = f"@{revision}" if revision else ""
        raise ConfigError(
            f"{repository}{at}: the Hub knows no such {repo_type} or revision, or not for this "
            "account",
            remedy="check the id and revision, and log in with `hf auth login` if it is private",
            code="HUB_NOT_FOUND",
        ) from error
    except _broken_off() as error:
        raise HubUnreachable(str(error).partition("\n")[0]) from error
    sizes = [
        file.size for file in info.siblings or () if file.rfilename.endswith(_WEIGHTS) and file.size
    ]
    closed = bool(info.gated) or bool(info.private)
    return HubState(
        commit=str(info.sha),
        gated=bool(info.gated),
        private=bool(info.private),
        is_approved=not closed or _may_read(repository, repo_type),
        weights_bytes=sum(sizes) or None,
    )


def _may_read(repository: str, repo_type: RepoType) -> bool:
    """Whether this account may read the files of a gated or private repository."""
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(repository, repo_type=repo_type)
    except _broken_off():
        return False
    return True


def _broken_off() -> tuple[type[Exception], ...]:
    """What the Hub client raises of a network that fails or refuses."""
    from huggingface_hub import errors

    # The base of its HTTP library's errors, which this module has under the name it imports.
    return (OSError, errors.HfHubHTTPError, getattr(errors, "HTTPError", OSError))
