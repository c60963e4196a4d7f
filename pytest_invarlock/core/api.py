"""The Python API: the contracts of guards, adapters and edits, and what `CoreRunner.execute` takes.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from invarlock_guards.answers import GuardAnswerError
from invarlock_guards.chain import ChainResult, GuardChain
from invarlock_guards.contract import Guard, GuardEvidence, GuardResult, Violation

__all__ = [
    "ChainResult",
    "EditLike",
    "Guard",
    "GuardAnswerError",
    "GuardChain",
    "GuardEvidence",
    "GuardResult",
    "GuardWithPrepare",
    "ModelAdapter",
    "ModelEdit",
    "RunConfig",
    "RunReport",
    "Violation",
]

Status = Literal["pending", "running", "success", "failed", "rollback"]


@runtime_checkable
class GuardWithPrepare(Protocol):
    """A guard that sees the baseline before the edit; every `Guard` is one."""

    name: str

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Look at the baseline; gives at least ``{"ready": bool}``."""

    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult | Mapping[str, Any]:
        """Look at the subject and conclude."""


@runtime_checkable
class ModelAdapter(Protocol):
    """Loads models and says what they are.

    The original's ``snapshot`` and ``restore`` are not asked for: a run never leaves a rejected
    edit in the model, and needs no adapter to take it back.
    """

    name: str

    def load_model(self, model_id: str, /, device: str = "auto") -> Any:
        """The model of a reference, on ``device``."""

    def describe(self, model: Any) -> Mapping[str, Any]:
        """What ``model`` is, by name; edits read ``n_layer``."""


@runtime_checkable
class EditLike(Protocol):
    """Anything with a name that changes a model in place.

    Where it also has ``spec``, an `EditSpec`, that edit is run instead: undone from a journal
    rather than measured on a copy.
    """

    name: str

    def apply(self, model: Any, adapter: Any = None, /) -> Mapping[str, Any] | None:
        """Change the numbers of ``model`` in place, and nothing else of it or of any other model.

        What is returned stands in `RunReport.edit`.
        """


@runtime_checkable
class ModelEdit(EditLike, Protocol):
    """An edit that says beforehand whether a model is for it."""

    def can_edit(self, model_desc: Mapping[str, Any], /) -> bool:
        """Whether the edit fits a model that `ModelAdapter.describe` describes so."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Settings of one programmatic run.

    ``max_pm_ratio`` and ``spike_threshold`` replace the tier's limit and catastrophic ratio where
    they are given;
    ``tier`` and ``profile`` name what else is demanded; ``context`` travels to the report.
    """

    device: str = "auto"
    max_pm_ratio: float | None = None
    spike_threshold: float | None = None
    tier: str = "balanced"
    profile: str = "dev"
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a programmatic run came to.

    ``status`` is ``success``, ``rollback`` (a check failed and the edit was undone) or ``failed``
    (an error, or a guard's abort); ``metrics["verdict"]`` keeps the word of the decision.
    """

    status: Status
    metrics: Mapping[str, Any]
    guards: Mapping[str, Any]
    edit: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    evaluation_windows: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
