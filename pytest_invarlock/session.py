"""The controller of a session: which runs are whole, their verdicts, certificates and packs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_invarlock.activation import WORKER_KEY, Activation, holds_suite_file
from pytest_invarlock.errors import InvarlockError
from pytest_invarlock.progress import ProgressLine
from pytest_invarlock.release_desk import ReleaseDesk

if TYPE_CHECKING:
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.run_progress import SessionProgress
    from pytest_invarlock.run_summary import RunSummary
    from pytest_invarlock.tuned_file import TunedFile


class RunController:
    """Hooks of the process that seals: without xdist the only one, with it the controller.

    Truth is the files that workers wrote; reports only say which items ran.
    """

    def __init__(self, config: pytest.Config, activation: Activation) -> None:
        self._config = config
        self._activation = activation
        self._ran: set[str] = set()
        self._summaries: list[RunSummary] = []
        self._tuned: list[TunedFile] = []
        self._problems: dict[str, str] = {}
        self._progress: ProgressLine | None = None
        self._state: SessionProgress | None = None
        self._release = ReleaseDesk(config, activation)

    @property
    def expects_suites(self) -> bool:
        """Whether items of ours may come: then they are scheduled by scenario."""
        return self._activation.named or any(
            holds_suite_file(self._config.invocation_params.dir / str(arg).split("::", 1)[0])
            for arg in self._config.args
        )

    def check_release(self, suites: Sequence[Suite]) -> None:
        """Before the first measurement: note the repository's state, check a release review.

        Raises pytest.UsageError where that is known not to hold.
        """
        self._release.check(suites)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker which session it belongs to."""
        node.workerinput[WORKER_KEY] = {
            "session": self._activation.session,
            "stamp": self._activation.stamp,
            "resume": self._activation.resume,
            "pins": self._activation.pins,
        }

    def pytest_report_header(self) -> list[str]:
        """One line a named suite, and what was assumed; nothing in a run that is not ours."""
        lines = []
        for virtual in self._activation.virtual:
            suite = virtual.suite
            lines.append(
                f"invarlock: {suite.node_prefix} ({len(suite.pairs)} models × "
                f"{len(suite.scenarios)} scenarios) tier {suite.policy.tier} "
                f"profile {suite.policy.profile} out {self._activation.out}"
            )
            if suite.tunes:
                lines.append("invarlock: tuning clean edits: no verdict, no evidence pack")
            lines += [f"invarlock: note: {note}" for note in suite.notes]
        lines += [f"invarlock: note: {note}" for note in self._activation.outlook_notes]
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which items ran to an outcome; show progress."""
        if self._progress is None:
            self._progress = ProgressLine(
                self._config,
                self._activation.settings,
                lambda: self._state.remaining_text() if self._state is not None else "",
            )
        shows = report.when == "progress"  # type: ignore[comparison-overlap]
        if shows or "invarlock" in report.keywords:
            self._note_progress(report)
        if shows:
            self._progress.show(report)
            return
        self._progress.clear()
        if report.when == "call":
            self._ran.add(report.nodeid)

    def _note_progress(self, report: pytest.TestReport) -> None:
        """Tell the run's state files what a report on an item of ours says, and of which worker."""
        if self._state is None:
            from pytest_invarlock.run_progress import SessionProgress

            activation = self._activation
            self._state = SessionProgress(activation.out, activation.stamp, activation.session)
        node = getattr(report, "node", None)
        worker = "main" if node is None else str(node.gateway.id)
        seconds = report.duration if report.when == "call" else 0.0
        self._state.saw(report.nodeid, worker, seconds=seconds)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """After the last item of a whole run, report its verdict as one more test."""
        result = yield
        if not self._config.option.collectonly:
            self._summaries = self._summarise(None)
            for summary in self._summaries:
                if summary.verdict_node is not None:
                    self._report_verdict(session, summary)
        return result

    def _summarise(self, cut: Literal["partial", "incomplete"] | None) -> list[RunSummary]:
        """What each run of the session came to; a run that cannot be read becomes a problem."""
        if not self._activation.out.is_dir():
            return []
        from pytest_invarlock.run_directory import runs_of_session
        from pytest_invarlock.run_summary import summarise

        activation = self._activation
        summaries = []
        for run in runs_of_session(activation.out, activation.stamp, activation.session):
            try:
                if run.read_plans():
                    signed, review = self._release.signed, self._release.review()
                    summary = summarise(run, self._ran, cut=cut, signed=signed, review=review)
                    summaries.append(summary)
            except InvarlockError as error:
                self._problems[run.run_id] = f"{error} [{error.code}]"
        return summaries

    def _report_verdict(self, session: pytest.Session, summary: RunSummary) -> None:
        from pytest_invarlock.reporting.verdict_testcase import verdict_reports

        hook = session.config.hook
        reports = verdict_reports(summary)
        # Collected by nobody, and yet reported: progress would pass 100 %.
        session.testscollected += 1
        hook.pytest_runtest_logstart(nodeid=reports[0].nodeid, location=reports[0].location)
        for report in reports:
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=reports[0].nodeid, location=reports[0].location)
        last_failed = getattr(session.config.pluginmanager.get_plugin("lfplugin"), "lastfailed", {})
        # No item bears this id: a later --lf would look for it in vain. Keys are objects on 9.2.
        for key in [key for key in last_failed if str(key) == reports[0].nodeid]:
            del last_failed[key]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write reports and verdict of every run, seal the whole ones, tell junit."""
        if self._config.option.collectonly:
            return
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            self._summaries = self._summarise("incomplete")
        elif not self._summaries:
            # The loop ended early (-x, --maxfail): no verdict was told, so none is sealed.
            self._summaries = self._summarise("partial")
        self._append_step_summary()
        for summary in self._summaries:
            try:
                self._conclude(summary)
            except InvarlockError as error:
                summary.problem = f"{error} [{error.code}]"
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            if self._release.refuses(summary) and session.exitstatus == pytest.ExitCode.OK:
                # No item of a cut or a marker run tells it, and users may soften those that do.
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            self._conclude_sweeps(session, summary)
        self._close_state()
        if self._activation.settings.flag("tune"):
            self._merge_tuned()
        if self._problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._summaries:
            from pytest_invarlock.reporting.junit import add_suite_properties

            add_suite_properties(self._config, self._summaries)

    def _close_state(self) -> None:
        """Say in every run's state how it ended, and drop what no later run needs of it."""
        for summary in self._summaries:
            # Kept states of the baseline: as large as its text is long, and of no use to anybody.
            shutil.rmtree(summary.run.state / "baseline", ignore_errors=True)
        if self._state is not None:
            self._state.end({s.run.run_id: s.status == "complete" for s in self._summaries})

    def _merge_tuned(self) -> None:
        """Merge what the workers tuned; what they kept of baselines is of no further use."""
        from pytest_invarlock.run_directory import runs_of_session
        from pytest_invarlock.tuned_file import write_tuned_file

        activation = self._activation
        for run in runs_of_session(activation.out, activation.stamp, activation.session):
            shutil.rmtree(run.state / "baseline", ignore_errors=True)
            try:
                tuned = write_tuned_file(run)
            except InvarlockError as error:
                self._problems[run.run_id] = f"{error} [{error.code}]"
                continue
            if tuned is not None:
                self._tuned.append(tuned)

    def _conclude_sweeps(self, session: pytest.Session, summary: RunSummary) -> None:
        """Write the files of a run's sweeps, and fail where a dose could not be measured."""
        from pytest_invarlock.reporting.dose_response_files import write_sweeps

        try:
            write_sweeps(summary)
        except InvarlockError as error:
            self._problems[f"{summary.run.run_id} sweeps"] = f"{error} [{error.code}]"
        if summary.sweep_failed and session.exitstatus == pytest.ExitCode.OK:
            # Its item failed too, unless a user's own hook softened that; no verdict would tell.
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _conclude(self, summary: RunSummary) -> None:
        from pytest_invarlock.evidence.run_pack import seal_run, signing_key, write_reports

        metadata = self._release.metadata(summary)
        write_reports(summary, metadata, html=not self._activation.settings.flag("no-html"))
        if summary.complete and not self._activation.settings.flag("no-pack"):
            key = signing_key(self._activation.settings.text("signing-key") or "auto")
            summary.key_created = key.created
            summary.sealed = seal_run(summary, metadata, key.private)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table, where the pack is, and how to verify it."""
        if self._summaries:
            from pytest_invarlock.reporting.terminal import write_summary
            from pytest_invarlock.resumption import resumed_line

            for summary in self._summaries:
                write_summary(terminalreporter, summary)
                is_suite = any(plan["node_prefix"] for plan in summary.plans)
                if self._activation.resume is not None and is_suite:
                    terminalreporter.write_line(resumed_line(summary.run))
        for line in self._activation.planned:
            terminalreporter.write_line(line)
        if self._activation.settings.flag("tune") and not self._config.option.collectonly:
            from pytest_invarlock.reporting.tuning import write_tuned

            write_tuned(terminalreporter, self._tuned)
        for run_id, problem in self._problems.items():
            terminalreporter.write_line(f"ERROR: {run_id}: {problem}", red=True)

    def _append_step_summary(self) -> None:
        target = os.environ.get("GITHUB_STEP_SUMMARY")
        if not target or not self._summaries:
            return
        from pytest_invarlock.run_text import markdown

        try:
            with Path(target).open("a", encoding="utf-8") as stream:
                stream.writelines(markdown(summary) for summary in self._summaries)
        except OSError as error:
            self._problems["GITHUB_STEP_SUMMARY"] = f"cannot be written: {error.strerror}"
