"""Live progress: reports from workers, shown by the controller without garbling pytest's output."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_invarlock.policy.settings import Settings

PROPERTY = "invarlock.progress"
SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_PLAIN_LINES = 30.0
MODES = ("auto", "line", "plain", "off")


class ProgressReporter:
    """Sends what an item is doing as a report of phase ``progress``, which xdist carries over."""

    def __init__(self, settings: Settings) -> None:
        self._off = settings.choice("progress", MODES) == "off"
        self._next = 0.0

    def __call__(self, item: Any, text: str) -> None:
        """Tell ``text`` of ``item``, at most twice a second."""
        now = time.monotonic()
        if self._off or now < self._next:
            return
        self._next = now + SECONDS_BETWEEN_REPORTS
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="passed",
            longrepr=None,
            when="progress",  # type: ignore[arg-type]
            user_properties=[(PROPERTY, text)],
        )
        item.ihook.pytest_runtest_logreport(report=report)


class ProgressLine:
    """Shows the newest progress: one rewritten line on a terminal, a line in 30 s elsewhere.

    It keeps quiet where pytest's own results would share the line: without ``-v``, results are
    letters on one line, and only plain lines between them would break it, so nothing is shown.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        mode = settings.choice("progress", MODES) or "auto"
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        self._terminal: Any = terminal
        on_a_tty = bool(
            terminal is not None and terminal.isatty and os.environ.get("TERM") != "dumb"
        )
        self._mode = ("line" if on_a_tty else "plain") if mode == "auto" else mode
        if terminal is None or config.getoption("verbose") < 0:
            self._mode = "off"
        self._shown = False
        self._next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES

    def show(self, report: pytest.TestReport) -> None:
        """Show a progress report."""
        text = dict(report.user_properties).get(PROPERTY, "")
        if self._mode == "line":
            self.clear()
            self._terminal.ensure_newline()
            self._terminal.rewrite(f"  {text}", erase=True)
            self._shown = True
        elif self._mode == "plain" and time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES
            self._terminal.ensure_newline()
            self._terminal.write_line(f"  {text}")

    def clear(self) -> None:
        """Blank the progress line before pytest writes a result."""
        if self._shown:
            self._terminal.rewrite("", erase=True)
            self._terminal.currentfspath = None
            self._shown = False
