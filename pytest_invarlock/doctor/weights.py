"""Two checkpoints compared by their files: what invariants and spectral say, and the worst modules.

Nothing is loaded and nothing fetched; the verdict is `decide`'s under the shipped tier.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from invarlock_guards.measure.checkpoint_change import compare_checkpoints
from invarlock_guards.measure.checkpoint_files import CheckpointError, read_checkpoint

from pytest_invarlock.adapters import HF_Auto_Adapter
from pytest_invarlock.adapters.checkpoint_shapes import NOT_LAID_OUT, describe_checkpoint
from pytest_invarlock.adapters.model_source import resolve_model
from pytest_invarlock.decision import Outcome
from pytest_invarlock.doctor.findings import Finding, Severity, in_order, of_error
from pytest_invarlock.errors import ModelLoadError
from pytest_invarlock.policy.decision_policy import Expectation, Strictness
from pytest_invarlock.policy.plan_settings import build_policy
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.weights_decision import decide_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invarlock_guards.measure.checkpoint_change import CheckpointEvidence

    from pytest_invarlock.adapters.checkpoint_shapes import DescribedCheckpoint
    from pytest_invarlock.adapters.model_source import ModelSource
    from pytest_invarlock.decision import Decision
    from pytest_invarlock.errors import InvarlockError
    from pytest_invarlock.policy.decision_policy import DecisionPolicy

TIER = "balanced"
GUARDS = ("invariants", "spectral")
_SCENARIO = "weights"
_SEVERITY: Mapping[Outcome, Severity] = {
    Outcome.WARN: "warning",
    Outcome.FAIL: "error",
    Outcome.INCONCLUSIVE: "error",
    Outcome.ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class WeightsComparison:
    """What was found of ``subject`` beside ``baseline``, both as they were named.

    ``decision`` and ``evidence`` are None where a checkpoint could not be read; the findings then
    say why.
    """

    baseline: str
    subject: str
    kind: str
    findings: Sequence[Finding]
    decision: Decision | None = None
    evidence: CheckpointEvidence | None = None
    revisions: tuple[str | None, str | None] = (None, None)
    named: Sequence[str] = field(default=())

    @property
    def modules(self) -> list[Mapping[str, Any]]:
        """Every tensor that differs, the worst first: in the order of violations, then by size."""
        if self.evidence is None or self.decision is None:
            return []
        order: dict[str, int] = {}
        for violation in self.decision.check("spectral").violations:
            order.setdefault(violation["module"], len(order))
        return sorted(
            self.evidence.spectral["changes"],
            key=lambda c: (order.get(c["name"], len(order)), -(c["relative_change"] or 0.0)),
        )


def compare_weights(baseline: str, subject: str, kind: str) -> WeightsComparison:
    """Compare two models' files: directories, Hub ids in the offline cache, shipped ones.

    What keeps either from being read is a finding, not an error.

    Args:
        baseline: as `resolve_model` takes it.
        subject: the same.
        kind: the declared kind of change, one of `invarlock_guards.judge.kinds.GROUP_OF`.
    """
    findings: list[Finding] = []
    sources = [_resolved(reference, findings) for reference in (baseline, subject)]
    one, other = sources
    if one is None or other is None:
        return WeightsComparison(baseline, subject, kind, findings)
    named = tuple(str(source.directory) for source in (one, other))
    revisions = one.revision, other.revision
    try:
        described, evidence = _evidence(one, other)
    except (CheckpointError, ModelLoadError) as error:
        findings.append(
            of_error(error)
            if isinstance(error, ModelLoadError)
            else Finding("CHECKPOINT_FILE", "error", f"{error.path}: {error.problem}", error.remedy)
        )
        return WeightsComparison(
            baseline, subject, kind, findings, revisions=revisions, named=named
        )
    decision = decide_weights(
        {"invariants": evidence.invariants, "spectral": evidence.spectral}, _policy(),
        model=_SCENARIO, scenario=_SCENARIO, kind=kind,
    )  # fmt: skip
    findings += [
        *_of_checks(decision),
        *_not_compared(decision, evidence),
        *_of_descriptions(one, other, described, evidence),
    ]
    return WeightsComparison(
        baseline, subject, kind, in_order(findings), decision, evidence, revisions, named
    )


def _resolved(reference: str, findings: list[Finding]) -> ModelSource | None:
    try:
        return resolve_model(reference, allow_network=False)
    except ModelLoadError as error:
        findings.append(of_error(error))
    return None


def _evidence(
    one: ModelSource, other: ModelSource
) -> tuple[tuple[DescribedCheckpoint, DescribedCheckpoint], CheckpointEvidence]:
    files = read_checkpoint(one.directory), read_checkpoint(other.directory)
    before, after = _described(one, files[0].config), _described(other, files[1].config)
    descriptions = before.description, after.description
    if None in (descriptions[0].tokenizer, descriptions[1].tokenizer):
        # Weights are often stored alone; a finding says so.
        descriptions = (
            replace(descriptions[0], tokenizer=None),
            replace(descriptions[1], tokenizer=None),
        )
    if None in (descriptions[0].config, descriptions[1].config):
        # Defaults filled in on one side only would be differences.
        descriptions = replace(descriptions[0], config=None), replace(descriptions[1], config=None)
    return (before, after), compare_checkpoints(*files, *descriptions)


def _described(source: ModelSource, config: Mapping[str, Any]) -> DescribedCheckpoint:
    """What `describe_checkpoint` tells; raises ModelLoadError of a configuration that is wrong."""
    try:
        described = describe_checkpoint(source, HF_Auto_Adapter().reading_of)
    # Whatever values a file has, it is that file which is wrong, and not the doctor.
    except Exception as error:
        raise _wrong(source, error) from error
    for problem in described.problems:
        if problem.code in ("MODEL_CONFIG", NOT_LAID_OUT) and _is_wrong(config, problem):
            raise _wrong(source, problem.__cause__ or problem) from problem
    return described


def _is_wrong(config: Mapping[str, Any], problem: InvarlockError) -> bool:
    """Whether the values of a configuration are the problem, and not what is known of it here."""
    from transformers import CONFIG_MAPPING

    model_type = config.get("model_type")
    if "auto_map" in config or not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return False
    cause = problem.__cause__
    # A package that is not there, or a model that cannot be laid out without numbers.
    return not isinstance(cause, (ImportError, NotImplementedError)) and "meta" not in str(cause)


def _wrong(source: ModelSource, error: BaseException) -> ModelLoadError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ModelLoadError(
        f"{source.directory / 'config.json'}: no model is made by it: {said}",
        remedy="restore the file",
        code="MODEL_CONFIG",
    )


def _policy() -> DecisionPolicy:
    expected = {(_SCENARIO, _SCENARIO): Expectation(_SCENARIO, Strictness.MUST_PASS)}
    shipped = build_policy(
        {"tier": TIER}, collect_settings(lambda _: None, lambda _: None, {}), expected
    )
    return replace(shipped, checks=GUARDS)


def _of_checks(decision: Decision) -> list[Finding]:
    return [
        Finding(f"{check.check}_{check.outcome}".upper(), _SEVERITY[check.outcome], check.text)
        for check in decision.checks
        if check.outcome in _SEVERITY
    ]


def _not_compared(decision: Decision, evidence: CheckpointEvidence) -> list[Finding]:
    """Of tensors that differ and have no numbers: no check that passes speaks of them."""
    if decision.check("spectral").outcome not in (Outcome.PASS, Outcome.WARN):
        return []
    names = [c["name"] for c in evidence.spectral["changes"] if c["reason"] == "dtype"]
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        Finding(
            "NOT_COMPARED", "error",
            f"no check compares {names[0]}{more}, changed: no floating-point numbers (dtype)",
            remedy="compare the models in a run",
        )
    ]  # fmt: skip


def _of_descriptions(
    one: ModelSource,
    other: ModelSource,
    described: tuple[DescribedCheckpoint, DescribedCheckpoint],
    evidence: CheckpointEvidence,
) -> list[Finding]:
    found = [
        of_error(problem, severity="warning") for side in described for problem in side.problems
    ]
    if evidence.by_names is not None:
        found.append(
            Finding(
                "BY_NAMES", "note",
                f"tensors are compared under their stored names, and canon is not measured: "
                f"{evidence.by_names}",
            )
        )  # fmt: skip
    for source, side in zip((one, other), described, strict=True):
        if (side.description.config or {}).get("quantization_config") is not None:
            found.append(
                Finding(
                    "PACKED_WEIGHTS", "warning",
                    f"{source.reference} stores quantised weights, whose values only loading gives",
                    remedy="compare the models in a run",
                )
            )  # fmt: skip
    return found
