"""What is measured: pairs, edits, data selection and the settings that change bits.

Nothing here says what is demanded; that is `policy.decision_policy`. A plan never holds a path or
a file name: locations live in `Pair` and `DataSource`, identities (digests) in the plan document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

PLAN_FORMAT = "invarlock-plan-v1"
Determinism = Literal["throughput", "strict"]
Arm = Literal["preview", "final"]
ARMS: tuple[Arm, Arm] = ("preview", "final")


@dataclass(frozen=True, slots=True)
class EditSpec:
    """A named edit or fault and its parameters, as plain values."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The specification as plain JSON values."""
        return {"name": self.name, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True)
class Pair:
    """A baseline and the name it goes by in node ids, records and packs.

    ``baseline`` is a reference a user typed: ``builtin:llama``, a Hub id with optional
    ``@revision``, or a directory.
    """

    name: str
    baseline: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One subject of a pair: an edit of the baseline, or a checkpoint (``subject`` reference)."""

    name: str
    edit: EditSpec | None = None
    subject: str | None = None
    kind: str = "any"

    def __post_init__(self) -> None:
        """Refuse a scenario that names neither or both."""
        if (self.edit is None) == (self.subject is None):
            raise ValueError(f"scenario {self.name!r} needs either an edit or a subject")


@dataclass(frozen=True, slots=True, order=True)
class PlannedScenario:
    """A scenario of a model that the run set out to measure, ``draws`` times."""

    model: str
    scenario: str
    draws: int

    def document(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return {"model": self.model, "scenario": self.scenario, "draws": self.draws}


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where evaluation text comes from; ``location`` stays on this machine."""

    provider: str
    location: str | None = None
    text_field: str = "text"
    id_field: str | None = None


@dataclass(frozen=True, slots=True)
class WindowSelection:
    """How windows are cut and drawn; lengths in tokens, counts in windows."""

    seq_len: int
    stride: int
    preview_windows: int
    final_windows: int
    max_windows_per_document: int = 8
    seed: int = 0
    convention: str = "document"

    def document(self) -> dict[str, Any]:
        """The selection as plain JSON values."""
        return {
            "seq_len": self.seq_len,
            "stride": self.stride,
            "preview_windows": self.preview_windows,
            "final_windows": self.final_windows,
            "max_windows_per_document": self.max_windows_per_document,
            "seed": self.seed,
            "convention": self.convention,
        }


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """Everything that changes what is measured, for every scenario of a run.

    ``device``, ``dtype`` and ``threads`` may say ``auto`` until `resolved` in the worker;
    ``batch_tokens`` bounds the tokens of one forward pass; ``draw`` (k from 0) selects the
    windows together with the data seed; ``guards`` lists the guards whose evidence is taken;
    ``notes`` say what was assumed, for the certificate, and change nothing that is measured.
    """

    source: DataSource
    windows: WindowSelection
    guards: tuple[str, ...] = ("invariants",)
    metric: str = "ppl_causal"
    device: str = "auto"
    dtype: str = "auto"
    threads: int | Literal["auto"] = "auto"
    determinism: Determinism = "throughput"
    batch_tokens: int = 8192
    draw: int = 0
    notes: tuple[str, ...] = ()

    def for_draw(self, draw: int) -> MeasurementPlan:
        """The same plan with the windows of draw ``draw``."""
        return replace(self, draw=draw)

    def document(self, *, source_digest: str) -> dict[str, Any]:
        """The digested form: identities instead of locations, and no policy."""
        return {
            "format": PLAN_FORMAT,
            "provider": self.source.provider,
            "source_digest": source_digest,
            "windows": self.windows.document(),
            "guards": list(self.guards),
            "metric": self.metric,
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "determinism": self.determinism,
            "batch_tokens": self.batch_tokens,
            "draw": self.draw,
        }
