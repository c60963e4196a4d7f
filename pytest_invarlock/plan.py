"""What is measured: pairs, edits, data selection and the settings that change bits.

Nothing here says what is demanded; that is `policy.decision_policy`. A plan never holds a path or
a file name: locations live in `Pair` and `DataSource`, identities (digests) in the plan document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from invarlock_guards.judge.variance_policy import ProposalRules

PLAN_FORMAT = "invarlock-plan-v1"
Determinism = Literal["throughput", "strict"]
Metric = Literal["ppl_causal", "ppl_mlm", "ppl_seq2seq", "accuracy"]
METRICS: tuple[Metric, ...] = ("ppl_causal", "ppl_mlm", "ppl_seq2seq", "accuracy")
Convention = Literal[
    "document", "concatenated", "row", "llama.cpp-512", "gptq-2048", "lm-eval-word"
]
CONVENTIONS: tuple[Convention, ...] = (
    "document", "concatenated", "row", "llama.cpp-512", "gptq-2048", "lm-eval-word",
)  # fmt: skip
Arm = Literal["preview", "final"]
ARMS: tuple[Arm, Arm] = ("preview", "final")
Pool = Literal["certification", "tuning", "calibration"]
"""Which documents windows come from: those that verdicts rest on, or those kept for tuning.

A calibration takes the latter too, in halves that are other ones in every draw.
"""


@dataclass(frozen=True, slots=True)
class EditSpec:
    """A named edit or fault and its parameters, as plain values."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The specification as plain JSON values."""
        return {"name": self.name, "parameters": dict(self.parameters)}


BUILTIN_MODELS = ("gpt2", "llama")
"""The shipped models, each the reference ``builtin:NAME``."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A baseline and the name it goes by in node ids, records and packs.

    ``baseline`` is a reference a user typed: ``builtin:llama``, a Hub id with optional
    ``@revision``, or a directory.
    """

    name: str
    baseline: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a scenario is for, in the original's words; it changes neither facts nor verdict.

    ``primary_guard`` is the check that is meant to see the change; ``artifact_class`` is what kind
    of subject the scenario makes.
    """

    intent: str | None = None
    primary_guard: str | None = None
    artifact_class: str | None = None

    def document(self) -> dict[str, str]:
        """What was given, as plain JSON values."""
        given = {
            "intent": self.intent,
            "primary_guard": self.primary_guard,
            "artifact_class": self.artifact_class,
        }
        return {key: value for key, value in given.items() if value is not None}


PROBES = ("rmt", "variance")
"""Guards of whose evidence a scenario may ask for a probe: a summary in a file of its own."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One subject of a pair: an edit of the baseline, or a checkpoint (``subject`` reference).

    ``kind`` is the declared kind of change, None the edit's own; ``runs`` are the numbers of its
    draws of windows, none: as many as the suite has; ``timeout`` bounds one run, in seconds;
    ``skipped`` says why its edit has no parameters, which makes it an ERROR; ``probes`` (of
    `PROBES`) are written beside its certificates.
    """

    name: str
    edit: EditSpec | None = None
    subject: str | None = None
    kind: str | None = None
    runs: tuple[int, ...] = ()
    timeout: float | None = None
    description: Description = Description()
    skipped: str | None = None
    probes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a scenario that names neither or both."""
        if (self.edit is None) == (self.subject is None):
            raise ValueError(f"scenario {self.name!r} needs either an edit or a subject")


@dataclass(frozen=True, slots=True, order=True)
class PlannedScenario:
    """A scenario of a model that the run set out to measure, ``draws`` times.

    ``seeds`` are the numbers of the draws, where they are not those from 0.
    """

    model: str
    scenario: str
    draws: int
    seeds: tuple[int, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> PlannedScenario:
        """The entry of a `document`."""
        return cls(**{**document, "seeds": tuple(document.get("seeds", ()))})

    @classmethod
    def of_runs(cls, model: str, scenario: str, runs: Sequence[int]) -> PlannedScenario:
        """The entry of a scenario with the draws of these numbers."""
        counted = tuple(runs) == tuple(range(len(runs)))
        return cls(model, scenario, len(runs), () if counted else tuple(runs))

    @property
    def runs(self) -> tuple[int, ...]:
        """The numbers of the draws; as many as ``seeds`` says, whatever ``draws`` does."""
        return self.seeds or tuple(range(self.draws))

    def document(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return {
            "model": self.model,
            "scenario": self.scenario,
            "draws": self.draws,
            **({"seeds": list(self.seeds)} if self.seeds else {}),
        }


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where evaluation data comes from; ``locations`` and ``cache_dir`` stay on this machine.

    Attributes:
        provider: a kind that `data.get_provider` knows.
        locations: files, directories or glob patterns, for providers that read local files.
        dataset_name: a Hub dataset id, such as ``Salesforce/wikitext``.
        config_name: the configuration of a Hub dataset.
        split: the split asked for; None takes the provider's default, with a recorded fallback.
        revision: the Hub commit to read; None takes the newest in the cache, which is recorded.
        text_field: the column that holds text, or an example's question.
        id_field: the column that says which rows form one document; None: each row is one.
        source_field: the column of encoder inputs, for pairs.
        target_field: the column of decoder targets, for pairs.
        label_field: the column of an example's right answer: an index, or one of the choices.
        choices_field: the column of an example's own choices; None: ``labels`` are the choices.
        labels: the choices of every example, for labelled data; empty: the labels that occur.
        max_samples: at most that many rows are read.
        dedup: drop documents whose text occurred before.
        cache_dir: another cache directory than the Hub client's own.
        shareable: whether the data is public, so that its digest and name may leave the machine;
            None: as the provider says (Hub and shipped data are, local files are not).
        allow_network: whether the Hub client may fetch.
    """

    provider: str
    locations: tuple[str, ...] = ()
    dataset_name: str | None = None
    config_name: str | None = None
    split: str | None = None
    revision: str | None = None
    text_field: str = "text"
    id_field: str | None = None
    source_field: str = "source"
    target_field: str = "target"
    label_field: str = "label"
    choices_field: str | None = None
    labels: tuple[str, ...] = ()
    max_samples: int | None = None
    dedup: bool = False
    cache_dir: str | None = None
    shareable: bool | None = None
    allow_network: bool = False


@dataclass(frozen=True, slots=True)
class WindowSelection:
    """How windows are cut and drawn; lengths in tokens, counts in windows.

    For metric ``accuracy`` the counts are of examples. ``max_windows_per_document`` keeps few long
    documents from carrying the verdict. With another ``pool`` than
    "certification" both arms are cut from the documents that no certification reads; the counts are
    then the most that is taken. ``guard_windows`` is
    how many the guards' activations are measured on, at most, of documents of neither arm.
    """

    seq_len: int
    stride: int
    preview_windows: int
    final_windows: int
    max_windows_per_document: int = 8
    seed: int = 0
    convention: Convention = "document"
    pool: Pool = "certification"
    guard_windows: int = 16

    def document(self) -> dict[str, Any]:
        """The selection as plain JSON values; ``pool`` only where it is not the usual one."""
        return {
            "seq_len": self.seq_len,
            "stride": self.stride,
            "preview_windows": self.preview_windows,
            "final_windows": self.final_windows,
            "max_windows_per_document": self.max_windows_per_document,
            "seed": self.seed,
            "convention": self.convention,
            "guard_windows": self.guard_windows,
            **({} if self.pool == "certification" else {"pool": self.pool}),
        }


@dataclass(frozen=True, slots=True)
class ForeignGuard:
    """Another package's guard: its name in the entry points, and its constructor's arguments.

    ``gates`` says that its abort ends the scenario: then no guard behind it is asked.
    """

    name: str
    # Kept out of the hash: a mapping has none.
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    gates: bool = False


@dataclass(frozen=True, slots=True)
class SequentialPlan:
    """After which documents measuring may stop, and against which limit.

    The limit stands in the plan because it decides how much is measured; `decide` demands that
    the policy has the same one. ``first_look``, ``rho`` and ``alpha`` as in
    `stats.sequential.SequentialRule`.
    """

    ratio_limit: float
    first_look: int = 64
    rho: float = 0.334
    alpha: float = 0.05

    def document(self) -> dict[str, Any]:
        """The rule as plain JSON values."""
        return {
            "ratio_limit": self.ratio_limit,
            "first_look": self.first_look,
            "rho": self.rho,
            "alpha": self.alpha,
        }


@dataclass(frozen=True, slots=True)
class RescalingPlan:
    """By which rules the variance guard's rescalings are proposed and tried.

    With ``remediate`` what is proposed is also written into the subject's weights, measured on the
    final arm, and undone.
    """

    rules: ProposalRules
    remediate: bool = False

    def document(self) -> dict[str, Any]:
        """The rules as plain JSON values."""
        return {**self.rules.proposal_rules(), "remediate": self.remediate}


def n_tried_windows(n_windows: int, guard_windows: int, *, lent: bool, sequential: bool) -> int:
    """On how many windows of the preview arm, from its first, rescalings are tried.

    On as many as the guards look at; on all where the arm lent the guards its own documents
    (``lent``), or where the blocks it is measured in are those of a sequential rule.
    """
    if lent or sequential or guard_windows < 1:
        return n_windows
    return min(n_windows, guard_windows)


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """Everything that changes what is measured, for every scenario of a run.

    ``device``, ``dtype`` and ``threads`` may say ``auto`` until `resolved` in the worker;
    ``adapter`` and ``metric`` may say ``auto``: the checkpoint's ``config.json`` decides;
    ``batch_tokens`` bounds
    the tokens of one forward pass; ``draw`` (k from 0) selects the windows together with the data
    seed; ``guards`` lists the guards whose evidence is taken, with ``guard_overhead`` what their
    turns left of the models; ``foreign_guards`` those of other packages that are asked;
    ``mask_probability`` is the share of tokens that ``ppl_mlm`` predicts;
    ``strict_pairing`` ends the measurement where the subject's own tokenizer gives other windows;
    ``sequential`` None measures every planned window; ``outlier_factor`` is the multiple of an edge
    of activations beyond which singular values are counted as outliers; ``rescaling`` None looks
    for no rescalings, and counts only where guard ``variance`` is listed; ``notes`` say what was
    assumed, for the certificate, and change nothing that is measured.
    """

    source: DataSource
    windows: WindowSelection
    guards: tuple[str, ...] = ("invariants", "spectral", "rmt", "variance", "guard_overhead")
    foreign_guards: tuple[ForeignGuard, ...] = ()
    metric: Metric | Literal["auto"] = "auto"
    adapter: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    threads: int | Literal["auto"] = "auto"
    determinism: Determinism = "throughput"
    batch_tokens: int = 8192
    draw: int = 0
    mask_probability: float = 0.15
    strict_pairing: bool = False
    sequential: SequentialPlan | None = None
    outlier_factor: float = 1.5 * 1.10
    rescaling: RescalingPlan | None = None
    notes: tuple[str, ...] = ()

    def for_draw(self, draw: int) -> MeasurementPlan:
        """The same plan with the windows of draw ``draw``."""
        return replace(self, draw=draw)

    def document(
        self, *, source: Mapping[str, Any] | None, data_digest: str | None
    ) -> dict[str, Any]:
        """The digested form: identities instead of locations, and no policy.

        Args:
            source: the provider's identity (`Provider.identity`); None where it was never read.
            data_digest: SHA-256 over all tokenised data and its sampling; None likewise.
        """
        rescaling = self.rescaling if "variance" in self.guards else None
        return {
            "format": PLAN_FORMAT,
            "source": None if source is None else dict(source),
            "data_digest": data_digest,
            "windows": self.windows.document(),
            "guards": list(self.guards),
            "outlier_factor": self.outlier_factor,
            "metric": self.metric,
            "mask_probability": self.mask_probability if self.metric == "ppl_mlm" else None,
            "sequential": None if self.sequential is None else self.sequential.document(),
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "determinism": self.determinism,
            "batch_tokens": self.batch_tokens,
            "draw": self.draw,
            **({} if rescaling is None else {"rescaling": rescaling.document()}),
        }
