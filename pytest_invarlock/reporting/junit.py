"""junit XML: suite-level properties of the runs of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_invarlock.run_summary import RunSummary


def add_suite_properties(config: pytest.Config, summaries: Sequence[RunSummary]) -> None:
    """Run id, verdict, pack path and digest, signer; under xdist pytest's fixture is mute."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is None:
        return
    for summary in summaries:
        values = {
            "run_id": summary.run.run_id,
            "status": summary.status,
            "verdict": summary.verdict.verdict if summary.verdict is not None else None,
        }
        if summary.sealed is not None:
            values["pack"] = f"{summary.run.run_id}/evidence_pack"
            values["pack_digest"] = summary.sealed.digest
            values["signer"] = summary.sealed.fingerprint or "unsigned"
        for key, value in values.items():
            if value is not None:
                xml.add_global_property(f"invarlock.{key}", str(value))
