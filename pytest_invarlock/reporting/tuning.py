"""What a tuning session says at its end: what was found, where the file is, how to use it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_invarlock.tuned_file import TunedFile


def write_tuned(terminal: Any, files: Sequence[TunedFile]) -> None:
    """Write a section for each tuning run, or that none found anything."""
    for tuned in files:
        _write_section(terminal, tuned)
    if not files:
        terminal.write_line("invarlock: nothing was tuned; no verdict, no evidence pack", red=True)


def _write_section(terminal: Any, tuned: TunedFile) -> None:
    meta = tuned.document["_meta"]
    terminal.write_sep(
        "=", f"invarlock {meta['suite']}: TUNING, NO VERDICT", bold=True, yellow=True
    )
    for model, entries in tuned.document["models"].items():
        for edit, entry in entries.items():
            steps = meta["evidence"][model][edit]["steps"]
            skipped = entry["status"] == "skipped"
            terminal.write_line(
                f"{model} {edit}: {'SKIPPED after' if skipped else 'step'} {len(steps)}: "
                f"{step_text(steps[-1])}",
                **({"red": True} if skipped else {}),
            )
    for missing in meta["missing"]:
        terminal.write_line(f"not tuned: {missing['model']} {missing['edit']}", red=True)
    path = _shown(tuned.path)
    terminal.write_line(f"tuned parameters{' (partial)' if meta['missing'] else ''}: {path}")
    command = shlex.join(["pytest", *tuned.arguments, f"--invarlock-tuned={path}"])
    terminal.write_line(f"use them: {command}")
    terminal.write_line("tuning is no certification: no verdict, no evidence pack")


def step_text(step: Mapping[str, Any]) -> str:
    """A tried step in one line: its parameters, its worst check, the ratio with its bound."""
    parameters = ", ".join(f"{key} {_word(value)}" for key, value in step["parameters"].items())
    text = f"{parameters}: {step['outcome']}"
    if step["outcome"] != "PASS":
        text += f" {step['check']}"
    if "ratio" in step:
        bound = f", bound {step['ratio_upper']:.4f}" if "ratio_upper" in step else ""
        return f"{text} (ratio {step['ratio']:.4f}{bound}, limit {step['limit']:g})"
    if "drop_pp" in step:
        return f"{text} (drop {step['drop_pp']:.2f} pp, bound {step['drop_upper_pp']:.2f} pp)"
    return f"{text} ({step['text']})"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
