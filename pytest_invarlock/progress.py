"""Live progress: reports from workers, shown by the controller without garbling pytest's output."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_invarlock.policy.settings import Settings

PROPERTY = "invarlock.progress"
SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_BETWEEN_PLAIN_LINES = 30.0
LEAST_ROOM = 20
SAVE_CURSOR, RESTORE_CURSOR, ERASE_TO_END = "\x1b7", "\x1b8", "\x1b[K"
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
    """Shows the newest progress: beside pytest's text on a terminal, a line in 30 s elsewhere.

    On a terminal the cursor is put back and the text erased before pytest writes on, so that
    pytest's lines come out as they would without it. There ``remaining`` follows: the time left.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, remaining: Callable[[], str] = str
    ) -> None:
        self._config = config
        self._remaining = remaining
        mode = settings.choice("progress", MODES) or "auto"
        self._terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        if self._terminal is None or config.getoption("verbose") < 0:
            mode = "off"
        elif mode == "auto":
            dumb = os.environ.get("TERM") in (None, "dumb")
            mode = "line" if self._terminal.isatty and not dumb else "plain"
        self._mode = mode
        self._shown = False
        self._next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES

    def show(self, report: pytest.TestReport) -> None:
        """Show a progress report."""
        text = str(dict(report.user_properties).get(PROPERTY, ""))
        if self._mode == "line":
            writer = self._config.get_terminal_writer()
            text += self._remaining()
            room = writer.fullwidth - writer.width_of_current_line - 3
            if room >= LEAST_ROOM:
                self._write(f"{SAVE_CURSOR}  {text[:room]}{ERASE_TO_END}{RESTORE_CURSOR}")
                self._shown = True
        elif self._mode == "plain" and time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + SECONDS_BETWEEN_PLAIN_LINES
            with self._uncaptured():
                self._terminal.ensure_newline()
                self._terminal.write_line(f"  {text}")

    def clear(self) -> None:
        """Erase what is shown before pytest writes a result."""
        if self._shown:
            self._write(ERASE_TO_END)
            self._shown = False

    def _write(self, text: str) -> None:
        # Past pytest's writer, which counts columns.
        with self._uncaptured():
            sys.stdout.write(text)
            sys.stdout.flush()

    def _uncaptured(self) -> AbstractContextManager[None]:
        """Without workers the item is still running, and what it prints is captured."""
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            return nullcontext()
        disabled: AbstractContextManager[None] = capture.global_and_fixture_disabled()
        return disabled
