"""Measure of the invariants guard: compare the logical tensors of two models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from invarlock_guards.contract import Guard, GuardResult
from invarlock_guards.judge.invariants import judge_invariants
from invarlock_guards.measure.row_blocks import BLOCK_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from invarlock_guards.contract import GuardEvidence

IGNORED_CONFIG_KEYS = frozenset(
    {
        "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version",
        "return_dict", "output_attentions", "output_hidden_states", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config",
    }
)  # fmt: skip
"""Config keys that do not change the computed function; file layout and generation defaults."""


SHOWN_CONFIG_LENGTH = 80


@dataclass(frozen=True, slots=True)
class ModelStructure:
    """What the invariants guard remembers of one model.

    ``tensors`` maps each name to (shape, dtype); ``ties`` are groups of names that share storage;
    ``config`` holds the keys that change the computed function, as text; ``tokenizer`` is a
    fingerprint, or None where the model came without one; ``non_finite`` counts NaN and infinite
    elements by tensor; ``unread`` names tensors of the checkpoint that the architecture left out.
    """

    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    ties: frozenset[tuple[str, ...]]
    config: Mapping[str, str]
    tokenizer: str | None
    non_finite: Mapping[str, int]
    n_parameters: int
    unread: frozenset[str] = frozenset()


def read_structure(
    model: torch.nn.Module, tokenizer_fingerprint: str | None, unread: Iterable[str] = ()
) -> ModelStructure:
    """Read the structure of ``model``; reads every element once, for finiteness."""
    state = model.state_dict(keep_vars=True)
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        # Empty tensors have no storage to share.
        storage = tensor.data_ptr() if tensor.numel() else name
        groups.setdefault((storage, tuple(tensor.shape), tensor.stride()), []).append(name)
    distinct = [sorted(names) for names in groups.values()]
    return ModelStructure(
        tensors={
            name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in state.items()
        },
        ties=frozenset(tuple(names) for names in distinct if len(names) > 1),
        config=read_config(model),
        tokenizer=tokenizer_fingerprint,
        non_finite={
            names[0]: count for names in distinct if (count := count_non_finite(state[names[0]]))
        },
        n_parameters=sum(state[names[0]].numel() for names in distinct),
        unread=frozenset(unread),
    )


def count_non_finite(tensor: torch.Tensor) -> int:
    """How many elements of ``tensor`` are NaN or infinite; 0 for integer tensors."""
    if not tensor.is_floating_point():
        return 0
    # Blocks, so that no mask is as large as the tensor; a view of what lies in one piece.
    flat = tensor.detach().reshape(-1)
    return sum(_non_finite(block) for block in torch.split(flat, BLOCK_ELEMENTS))


def _non_finite(block: torch.Tensor) -> int:
    # Few operations exist for float8, whose values float32 holds exactly.
    values = block.float() if block.element_size() == 1 else block
    return int(values.numel() - torch.isfinite(values).sum().item())


def read_config(model: torch.nn.Module) -> dict[str, str]:
    """The keys of the configuration that change what is computed, as text; none without one."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {}
    return config_values(config.to_dict())


def config_values(values: Mapping[str, Any]) -> dict[str, str]:
    """The values of a configuration that change the computed function, as text by key."""
    return {
        key: json.dumps(value, sort_keys=True, default=repr)
        for key, value in values.items()
        if key not in IGNORED_CONFIG_KEYS
    }


def measure_invariants(baseline: ModelStructure, subject: ModelStructure) -> GuardEvidence:
    """Compare two structures; the evidence lists every difference as name, baseline, subject."""
    shared = [name for name in baseline.tensors if name in subject.tensors]
    return {
        "n_tensors": len(baseline.tensors),
        "n_floating_tensors": sum("float" in dtype for _, dtype in baseline.tensors.values()),
        "n_parameters": baseline.n_parameters,
        "missing": [
            _difference(name, "present", "missing")
            for name in sorted(set(baseline.tensors) - set(subject.tensors))
        ],
        "unexpected": [
            _difference(name, "absent", "present")
            for name in sorted(set(subject.tensors) - set(baseline.tensors))
        ]
        + [
            _difference(name, "absent", "present and not read by the architecture")
            for name in sorted(subject.unread - baseline.unread)
        ],
        "shape_changes": _changes(baseline, subject, shared, 0),
        "dtype_changes": _changes(baseline, subject, shared, 1),
        "non_finite": [
            _difference(name, str(baseline.non_finite.get(name, 0)), str(count))
            for name, count in sorted(subject.non_finite.items())
        ],
        "baseline_non_finite": sorted(baseline.non_finite),
        "ties_broken": [
            _difference(" = ".join(t), "tied", "untied")
            for t in sorted(baseline.ties - subject.ties)
        ],
        "ties_added": [
            _difference(" = ".join(t), "untied", "tied")
            for t in sorted(subject.ties - baseline.ties)
        ],
        "config_changes": [
            _difference(key, _shown(baseline.config.get(key)), _shown(subject.config.get(key)))
            for key in sorted(set(baseline.config) | set(subject.config))
            if baseline.config.get(key) != subject.config.get(key)
        ],
        "tokenizer_changes": (
            []
            if baseline.tokenizer == subject.tokenizer
            else [_difference("tokenizer", str(baseline.tokenizer), str(subject.tokenizer))]
        ),
    }


def _shown(value: str | None) -> str:
    """A config value as evidence may hold it: nothing long, and nothing that may be a path."""
    if value is None:
        return "absent"
    if len(value) <= SHOWN_CONFIG_LENGTH and "/" not in value and "\\" not in value:
        return value
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def _changes(
    baseline: ModelStructure, subject: ModelStructure, names: list[str], field: int
) -> list[dict[str, str]]:
    return [
        _difference(name, str(baseline.tensors[name][field]), str(subject.tensors[name][field]))
        for name in names
        if baseline.tensors[name][field] != subject.tensors[name][field]
    ]


def _difference(name: str, baseline: str, subject: str) -> dict[str, str]:
    return {"name": name, "baseline": baseline, "subject": subject}


class InvariantsGuard(Guard):
    """Structure of the subject against the baseline's: names, shapes, dtypes, ties, finiteness."""

    name = "invariants"

    def __init__(self, kind: str = "any") -> None:
        self._kind = kind
        self._baseline: ModelStructure | None = None

    def prepare(
        self, model: Any, adapter: Any, calib: Any, policy: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Remember the baseline's structure."""
        del adapter, calib, policy
        self._baseline = read_structure(model, None)
        return {"ready": True}

    def validate(self, model: Any, adapter: Any, context: Any) -> GuardResult:
        """Compare the subject with the prepared baseline."""
        del adapter, context
        if self._baseline is None:
            return GuardResult(
                self.name,
                None,
                "abort",
                "not_prepared",
                "the baseline was never shown to the guard",
            )
        return judge_invariants(
            measure_invariants(self._baseline, read_structure(model, None)), kind=self._kind
        )
