"""Two checkpoints compared by their files, before either is loaded: a gate that fails fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    compare_checkpoints,
)
from invarlock_guards.measure.checkpoint_files import CheckpointError, read_checkpoint
from invarlock_guards.measure.checkpoint_layout import layout_of, misfit, packed

from pytest_invarlock.adapters.checkpoint_shapes import lay_out_checkpoint
from pytest_invarlock.adapters.hf_adapter import HF_Adapter
from pytest_invarlock.errors import AdapterError, ModelLoadError

if TYPE_CHECKING:
    from typing import Any

    from invarlock_guards.contract import GuardEvidence
    from invarlock_guards.measure.checkpoint_files import CheckpointFiles

    from pytest_invarlock.adapters import Adapter
    from pytest_invarlock.plan import MeasurementPlan

FIRST = ("invariants", "spectral")
"""The guards that files alone can answer for."""


@dataclass(frozen=True, slots=True, repr=False)
class FirstLook:
    """What the files of two checkpoints show.

    Attributes:
        invariants: of tensors, configurations and finiteness; nothing of tokenizers.
        spectral: what `invarlock_guards.measure.spectral.measure_models` says of the loaded models.
    """

    invariants: GuardEvidence
    spectral: GuardEvidence

    def evidence(self) -> dict[str, GuardEvidence]:
        """By the guard's name."""
        return {"invariants": self.invariants, "spectral": self.spectral}


def first_look(
    adapter: Adapter, plan: MeasurementPlan, baseline: str, subject: str
) -> FirstLook | None:
    """Compare two checkpoints tensor by tensor; of the two no more than a pair is held at once.

    Args:
        adapter: that would load them.
        plan: with the device to compare on, and the dtype that loading would cast to.
        baseline: a reference as the adapter takes it.
        subject: the same.

    Returns:
        None where the plan does not ask for spectral statistics, and where the loaded models may
        hold other numbers than the files do: packed or renamed tensors, a cast that rounds, an
        architecture that is not laid out by its configuration.

    Raises:
        ModelLoadError: a reference names no checkpoint.
    """
    if "spectral" not in plan.guards or not isinstance(adapter, HF_Adapter):
        return None
    sources = [adapter.source_of(reference) for reference in (baseline, subject)]
    try:
        one, other = (read_checkpoint(source.directory, plan.device) for source in sources)
        models = [lay_out_checkpoint(source, adapter.reading_of)[0] for source in sources]
        sides = zip((one, other), models, strict=True)
        if not all(_loads_as_stored(files, model, plan.dtype) for files, model in sides):
            return None
        before, after = (CheckpointDescription(model, model.config.to_dict()) for model in models)
        found = compare_checkpoints(one, other, before, after, dtype=plan.dtype)
    except (AdapterError, CheckpointError, ModelLoadError):
        # Loading knows more ways to store a checkpoint, and says what is wrong with this one.
        return None
    return FirstLook(found.invariants, found.spectral) if found.by_names is None else None


def _loads_as_stored(files: CheckpointFiles, model: Any, dtype: str) -> bool:
    layout = layout_of(model)
    if files.config.get("quantization_config") is not None:
        return False
    if misfit(layout, files) or packed(layout, files):
        return False
    stored = {tensor.dtype for tensor in files.tensors.values() if tensor.is_floating}
    if dtype == "auto":
        return stored == {str(model.config.dtype).removeprefix("torch.")}
    target = getattr(torch, dtype)
    return all(torch.promote_types(getattr(torch, one), target) == target for one in stored)
