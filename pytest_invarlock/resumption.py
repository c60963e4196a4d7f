"""Resumption: what a worker takes over of earlier runs, and what it keeps for later ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.earlier_runs import (
    continued,
    find_preset,
    find_record,
    keep_preset_request,
    keep_request,
    newest_run,
    taken_over,
    write_continued,
)
from pytest_invarlock.errors import InvarlockError
from pytest_invarlock.policy.settings import NEWEST
from pytest_invarlock.run_directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.core.request import Requests
    from pytest_invarlock.plan import MeasurementPlan, Pair, Scenario
    from pytest_invarlock.records import Facts, Record

SALT_BYTES = 32


@dataclass(slots=True, repr=False)
class Resumption:
    """What one worker resumes: nothing, the suite's newest run, or the run in a folder.

    ``reference`` is None, ``newest`` or an absolute path; ``workers`` is how many share the host.
    """

    reference: str | None
    worker: str
    workers: int
    allow_network: bool
    _requests: Requests | None = None

    def begin(self, run: RunDirectory, name: str, prefix: str, session: str) -> None:
        """Let a run directory that was just made continue the earlier one, salt included."""
        if self.reference is None:
            return
        if self.reference == NEWEST:
            earlier = newest_run(run.path.parent, name, prefix, session)
        else:
            earlier = RunDirectory(Path(self.reference))
        if earlier is None:
            run.log(self.worker, "no_earlier_run", suite=name)
            return
        try:
            salt = earlier.salt()
        except (OSError, ValueError):
            salt = b""
        if len(salt) != SALT_BYTES:
            # Its records' keyed hashes could no longer be told from others'.
            run.log(self.worker, "not_resumed", run=earlier.run_id, reason="its salt is damaged")
            return
        run.write_salt(salt)
        write_continued(run.path, earlier)
        run.log(self.worker, "resumed", run=earlier.run_id)

    def asked(
        self, run: RunDirectory, pair: Pair, scenario: Scenario, plan: MeasurementPlan
    ) -> dict[str, Any] | None:
        """What is asked for, models aside; None, and a line in the log, where that is unknown.

        To be called before the measurement, which might find other data than stands here.
        """
        try:
            return self._made_requests().asked(pair, scenario, plan)
        except (InvarlockError, OSError) as error:
            self._log_unidentified(run, pair, scenario, plan, error)
            return None

    def take_over(
        self, run: RunDirectory, pair: Pair, scenario: Scenario, plan: MeasurementPlan
    ) -> Record | None:
        """Copy the record that an earlier run made of the same request; None where none did."""
        earlier = continued(run) if self.reference is not None else []
        if not earlier:
            return None
        try:
            request = self._made_requests().expected(pair, scenario, plan)
        except (InvarlockError, OSError) as error:
            self._log_unidentified(run, pair, scenario, plan, error)
            return None
        found = find_record(earlier, request, scenario=scenario.name, draw=plan.draw)
        place: dict[str, str | float] = {
            "model": pair.name,
            "scenario": scenario.name,
            "draw": plan.draw,
        }
        for reason in found.reasons:
            run.log(self.worker, "not_taken_over", **place, reason=reason)
        if found.record is None:
            return None
        # Whoever finds the record there can tell that it was not measured here.
        keep_request(run, found.record, request, taken_from=found.run_id)
        run.write_record(found.record)
        run.log(self.worker, "taken_over", **place, run=str(found.run_id))
        return found.record

    def keep(
        self,
        run: RunDirectory,
        asked: dict[str, Any] | None,
        pair: Pair,
        scenario: Scenario,
        record: Record,
    ) -> None:
        """Write beside a record what it was asked for, so that a later run can take it over."""
        from pytest_invarlock.core.request import answered

        if asked is None:
            return
        request = answered(asked, pair, scenario, record.facts)
        if request is not None:
            keep_request(run, record, request)

    def take_over_preset(
        self, run: RunDirectory, pair: Pair, scenario: Scenario, plan: MeasurementPlan, inputs: str
    ) -> Mapping[str, Any] | None:
        """Copy the preset that an earlier run derived of the same; None where none did.

        Args:
            run: where it goes.
            pair: the model.
            scenario: the baseline against itself.
            plan: on which benign runs are measured.
            inputs: the digest of all else that it follows from.
        """
        from pytest_invarlock.calibration.preset_file import write_preset

        earlier = continued(run) if self.reference is not None else []
        if not earlier:
            return None
        try:
            request = self._made_requests().expected(pair, scenario, plan) | {"inputs": inputs}
        except (InvarlockError, OSError) as error:
            self._log_unidentified(run, pair, scenario, plan, error)
            return None
        found = find_preset(earlier, request, pair.name)
        for reason in found.reasons:
            run.log(self.worker, "preset_not_taken_over", model=pair.name, reason=reason)
        if found.document is not None:
            keep_preset_request(run, found.document, request)
            write_preset(run.path, found.document)
            source = next(one for one in earlier if one.run_id == found.run_id)
            seconds = source.calibration_time(pair.name)
            if seconds is not None:
                run.write_calibration_time(pair.name, seconds)
            run.log(self.worker, "preset_taken_over", model=pair.name, run=str(found.run_id))
        return found.document

    def keep_preset(
        self,
        run: RunDirectory,
        asked: dict[str, Any] | None,
        pair: Pair,
        scenario: Scenario,
        facts: Facts,
        inputs: str,
    ) -> None:
        """Write down what the preset of ``run`` was derived from; ``facts`` are of ``scenario``."""
        from pytest_invarlock.calibration.preset_file import read_preset
        from pytest_invarlock.core.request import answered

        request = None if asked is None else answered(asked, pair, scenario, facts)
        document = read_preset(run.path, pair.name)
        if request is not None and document is not None:
            keep_preset_request(run, document, {**request, "inputs": inputs})

    def _made_requests(self) -> Requests:
        if self._requests is None:
            from pytest_invarlock.core.request import Requests

            self._requests = Requests(self.workers, self.allow_network)
        return self._requests

    def _log_unidentified(
        self,
        run: RunDirectory,
        pair: Pair,
        scenario: Scenario,
        plan: MeasurementPlan,
        error: Exception,
    ) -> None:
        code = error.code if isinstance(error, InvarlockError) else "UNREADABLE"
        run.log(
            self.worker, "not_identified",
            model=pair.name, scenario=scenario.name, draw=plan.draw, code=code,
        )  # fmt: skip


def resumed_line(run: RunDirectory) -> str:
    """What a run that was to continue another took over, for the user."""
    earlier = continued(run)
    if not earlier:
        return "resume: no earlier run to continue, all was measured"
    n_records = sum(1 for _ in run.records.glob("*/*/run_*.record.json"))
    return f"resumed {earlier[0].run_id}: {taken_over(run)} of {n_records} records taken over"
