"""The table at the end of the terminal output, where the pack is, and how to verify it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.policy.sweep import NO_CERTIFICATION
from pytest_invarlock.reporting.dose_response import dose_responses
from pytest_invarlock.reporting.dose_response_files import FOLDER, SUFFIXES
from pytest_invarlock.reporting.dose_response_table import terminal_lines
from pytest_invarlock.run_text import HEADINGS, aligned, rows, what_fired

if TYPE_CHECKING:
    from pytest_invarlock.run_summary import RunSummary


def write_summary(terminal: Any, summary: RunSummary) -> None:
    """Write the section of one run; the word of the verdict carries its meaning without colour."""
    word = summary.word
    colour = {"PASS": {"green": True}, "FAIL": {"red": True}}.get(word, {"yellow": True})
    terminal.write_sep("=", f"invarlock {summary.name}: {word}", bold=True, **colour)
    entries = rows(summary)
    if entries:
        lines = aligned([HEADINGS, *(row.cells for row in entries)])
        terminal.write_line(lines[0], bold=True)
        for row, line in zip(entries, lines[1:], strict=True):
            terminal.write_line(line, **({} if row.met else {"red": True}))
    if summary.verdict is not None and summary.verdict.broken is not None:
        broken = summary.verdict.broken
        terminal.write_line(f"broken: {broken.name}: {broken.text}", red=True)
    told = [] if summary.is_sweep else what_fired(summary)
    for line in (*told, *sweep_lines(summary), *closing_lines(summary)):
        terminal.write_line(line)


def sweep_lines(summary: RunSummary) -> list[str]:
    """A table a sweep and model, and where its files are; nothing in a run without sweeps."""
    lines = []
    for response in dose_responses(summary):
        folder = summary.run.path / FOLDER
        files = [path for s in SUFFIXES if (path := folder / f"{response.stem}{s}").is_file()]
        lines += [*terminal_lines(response), *(f"sweep: {_shown(path)}" for path in files)]
    return lines


def closing_lines(summary: RunSummary) -> list[str]:
    """Where everything is, and the command that verifies the pack."""
    folder = _shown(summary.run.path)
    if summary.problem is not None:
        return [f"ERROR: {summary.problem}", f"reports: {folder}"]
    if summary.is_sweep:
        return [*_cut_short(summary), NO_CERTIFICATION, f"reports: {folder}"]
    if summary.is_calibration:
        return [
            f"presets: {folder}/presets (use them: --invarlock-preset={folder}/presets)",
            "a calibration certifies nothing: no verdict, no evidence pack",
        ]
    if not summary.complete:
        (why,) = _cut_short(summary)
        return [f"{why}: no verdict, no evidence pack", f"reports: {folder}"]
    if summary.sealed is None:
        return [f"reports: {folder}", "no evidence pack was asked for"]
    pack = shlex.quote(_shown(summary.run.pack))
    lines = [f"evidence pack: {_shown(summary.run.pack)}"]
    if summary.sealed.fingerprint is None:
        lines += [
            "UNSIGNED: anyone could have written this pack",
            f"verify it: invarlock verify {pack} --allow-unsigned",
        ]
    else:
        made = " (your new signing key)" if summary.key_created else ""
        lines += [
            f"signed by {summary.sealed.fingerprint}{made}",
            f"verify it: invarlock verify {pack} "
            f"--expected-fingerprint {summary.sealed.fingerprint}",
        ]
    return lines


def _cut_short(summary: RunSummary) -> list[str]:
    """Why not everything was measured; nothing where it was."""
    texts = {"partial": ["some items were not run"], "incomplete": ["the run was cut short"]}
    return texts.get(summary.status, [])


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
