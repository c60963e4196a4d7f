"""How much memory and disk measuring a checkpoint takes, told by its headers and configuration."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_invarlock.adapters.model_source import read_header, weight_files
from pytest_invarlock.policy.deploy_names import DEPLOY
from pytest_invarlock.policy.edit_names import STRUCTURAL_FAULTS

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_invarlock.plan import EditSpec, MeasurementPlan

ITEM_BYTES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2,
}  # fmt: skip
_STORED_FLOATS: Mapping[str, int] = {
    "F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_IN_BLOCK = re.compile(r"(^|\.)\d+\.")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_INNER = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "hidden_dim")
_LEAST_ROWS, _LOGITS_ELEMENTS, _LOGITS_COPIES = 128, 1 << 24, 4
_HIDDEN_COPIES, _INNER_COPIES = 8, 3
_TOKEN_BYTES = 12
PROCESS_BYTES = 1 << 29
"""What a worker holds beside models and windows: Python, torch, transformers, scipy and the text.

458 MB were measured with builtin:gpt2 on Linux x86-64; on CUDA nothing was.
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What headers and configuration say of a checkpoint; None where they do not tell.

    ``weights`` are bytes in the dtype it is measured in, ``block_weights`` those of matrices
    inside numbered blocks, ``table_weights`` those of matrices outside, ``largest`` the numbers of
    the largest matrix; ``head_weights`` what a copy of the output head takes.
    """

    weights: int
    block_weights: int
    table_weights: int
    largest: int
    head_weights: int
    item_bytes: int
    width: int | None
    inner: int | None
    vocabulary: int | None


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that one worker holds at once, part by part; see `memory_need`."""

    baseline: int
    edit: int
    subject: int
    activations: int
    logits: int
    process: int = PROCESS_BYTES
    is_whole: bool = True

    @property
    def total(self) -> int:
        """All of it: of an edit and a second checkpoint only the larger is there at a time."""
        other = max(self.edit, self.subject)
        return self.process + self.baseline + other + self.activations + self.logits

    def document(self) -> dict[str, int | bool]:
        """The need as plain JSON values."""
        return {
            "baseline": self.baseline,
            "edit": self.edit,
            "subject": self.subject,
            "activations": self.activations,
            "logits": self.logits,
            "process": self.process,
            "total": self.total,
            "whole": self.is_whole,
        }


def read_checkpoint(directory: Path, dtype: str) -> Checkpoint:
    """Sum a checkpoint's tensors as they are when loaded in ``dtype``.

    Floating tensors take the width of ``dtype``; with ``auto`` that of the configuration's own
    dtype, else of the first floating tensor. All others stay as they are stored. Tied tensors are
    stored, and counted, once.

    Raises:
        ModelLoadError: its weight files are missing or damaged.
    """
    config = _config(directory)
    tensors = [
        (str(name), entry)
        for file in weight_files(directory)
        for name, entry in read_header(file).items()
        if name != "__metadata__"
    ]
    item = _item_bytes(dtype, config, tensors)
    weights = blocks = tables = largest = 0
    first_table = 0
    for name, entry in tensors:
        shape = [int(size) for size in entry["shape"]]
        count = math.prod(shape)
        start, end = entry["data_offsets"]
        size = count * item if entry["dtype"] in _STORED_FLOATS else int(end) - int(start)
        weights += size
        if len(shape) < 2:
            continue
        largest = max(largest, count)
        if _IN_BLOCK.search(name):
            blocks += size
        else:
            tables += size
            first_table = max(first_table, size)
    width, inner = _number(config, _WIDTHS), _number(config, _INNER)
    vocabulary = _number(config, ("vocab_size",))
    head = first_table if width is None or vocabulary is None else width * vocabulary * item
    return Checkpoint(
        weights, blocks, tables, largest, head, item, width,
        inner if inner is not None or width is None else 4 * width, vocabulary,
    )  # fmt: skip


def memory_need(
    baseline: Checkpoint,
    plan: MeasurementPlan,
    edits: Sequence[EditSpec],
    subjects: Sequence[Checkpoint],
) -> MemoryNeed:
    """The bytes that one worker holds at once while it measures a baseline's scenarios.

    With ``b`` bytes a number in the measured dtype, ``B`` tokens of a forward pass (the greater of
    ``batch_tokens`` and ``seq_len``), width ``d``, inner width ``m`` and vocabulary ``V``:

    - baseline: its weights, resident throughout;
    - edit: the bits that the journal keeps of the largest edit (every matrix of the blocks for an
      edit or fault of weights, which may touch fewer; the embeddings and head where it includes
      them; all weights for ``dtype_change``, twice for a deployment), the copy of the output head,
      and two float32 copies of the largest matrix, in which edits compute;
    - subject: the largest second checkpoint;
    - activations: B·b·(8·d + 3·m), one block's at a time, since nothing is kept for gradients and
      no cache of keys and values is made (``use_cache`` is off);
    - logits: four float32 copies of max(128, 2²⁴/V) rows of V, the parts in which heads are read;
    - process: `PROCESS_BYTES`, whatever the model.

    Left out: attention scores that an implementation without fused kernels would hold, guards'
    activations and decompositions (of one matrix at a time), other packages' guards, a whole copy
    of the baseline for models whose head does not reproduce their logits, and experts' scratch.
    ``is_whole`` is False where the configuration tells no widths, and activations or logits are
    missing.
    """
    b, width, inner = baseline.item_bytes, baseline.width, baseline.inner
    tokens = max(plan.batch_tokens, plan.windows.seq_len)
    activations = 0
    if width is not None and inner is not None:
        activations = tokens * b * (_HIDDEN_COPIES * width + _INNER_COPIES * inner)
    logits = 0
    if baseline.vocabulary:
        rows = max(_LEAST_ROWS, _LOGITS_ELEMENTS // baseline.vocabulary)
        logits = _LOGITS_COPIES * 4 * min(rows, tokens) * baseline.vocabulary
    return MemoryNeed(
        baseline=baseline.weights,
        edit=max((_edit_bytes(edit, baseline) for edit in edits), default=0),
        subject=max((subject.weights for subject in subjects), default=0),
        activations=activations,
        logits=logits,
        is_whole=bool(activations and logits),
    )


def kept_bytes(baseline: Checkpoint, plan: MeasurementPlan, draws: int) -> int:
    """What a run keeps on disk of one baseline until its end: final states and losses, each draw's.

    Tokens of both arms times width and bytes of a number, and 12 bytes a token for loss and first
    choice. Records, reports and the pack, some kilobytes a scenario, are left out.
    """
    windows = plan.windows
    tokens = (windows.preview_windows + windows.final_windows) * windows.seq_len * draws
    return tokens * ((baseline.width or 0) * baseline.item_bytes + _TOKEN_BYTES)


def _edit_bytes(edit: EditSpec, baseline: Checkpoint) -> int:
    if edit.name == "noop":
        return 0
    if edit.name == DEPLOY:
        # The copy that is packed; then what is loaded, beside the numbers that it stands for.
        return 2 * baseline.weights
    if edit.name in STRUCTURAL_FAULTS:
        return baseline.weights if edit.name == "dtype_change" else 0
    include = edit.parameters.get("include", ())
    tables = baseline.table_weights if include else 0
    return baseline.block_weights + tables + baseline.head_weights + 2 * 4 * baseline.largest


def _item_bytes(
    dtype: str, config: Mapping[str, Any], tensors: Sequence[tuple[str, Mapping[str, Any]]]
) -> int:
    own = config.get("dtype", config.get("torch_dtype"))
    named = str(own if dtype == "auto" else dtype).removeprefix("torch.")
    if named in ITEM_BYTES:
        return ITEM_BYTES[named]
    stored = [_STORED_FLOATS[e["dtype"]] for _, e in tensors if e["dtype"] in _STORED_FLOATS]
    return stored[0] if stored else 4


def _config(directory: Path) -> dict[str, Any]:
    config: Any = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}


def _number(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """The first of ``keys`` with a whole number, in the configuration or its text part."""
    inner: Any = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in keys:
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
