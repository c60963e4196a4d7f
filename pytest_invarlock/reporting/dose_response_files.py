"""The files of a run's sweeps: figures as JSON, a table, a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import EvidenceError
from pytest_invarlock.evidence.atomic import write_bytes, write_json
from pytest_invarlock.reporting.dose_response import dose_responses
from pytest_invarlock.reporting.dose_response_table import markdown

if TYPE_CHECKING:
    from pytest_invarlock.run_summary import RunSummary

FOLDER = "sweeps"
SUFFIXES = (".json", ".md", ".svg")


def write_sweeps(summary: RunSummary) -> None:
    """Write each sweep as JSON, table and plot, ``sweeps/<scenario>.<param>.*``, atomically.

    Nothing is written where nothing is swept. Figures and tables of all sweeps come before the
    first plot. Raises EvidenceError where the run's folder cannot be written.
    """
    responses = dose_responses(summary)
    if not responses:
        return
    folder = summary.run.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for response in responses:
            write_json(folder / f"{response.stem}.json", response.document())
            write_bytes(folder / f"{response.stem}.md", markdown(response).encode())
        from pytest_invarlock.reporting.dose_response_plot import svg

        for response in responses:
            write_bytes(folder / f"{response.stem}.svg", svg(response))
    except OSError as error:
        raise EvidenceError(
            f"{summary.run.run_id}/{FOLDER}: cannot be written: {error.strerror}",
            remedy="free space or give another --invarlock-out; records that were written are kept",
            code="OUT_UNWRITABLE",
        ) from error
