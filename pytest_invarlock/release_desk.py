"""What a session's packs say of their making: permissions, repository, signature, review."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_invarlock.activation import Activation
    from pytest_invarlock.evidence.pack_files import PackMetadata
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.release_review import ReleaseReview
    from pytest_invarlock.run_summary import RunSummary

SETTING = "release-review"
# What makes a session one that certifies nothing.
_UNCERTIFIED = ("no-pack", "tune", "sweep")


class ReleaseDesk:
    """Asks git once a session, and says what a release review lacks."""

    def __init__(self, config: pytest.Config, activation: Activation) -> None:
        self._config = config
        self._activation = activation
        self._looked = False
        self._source_repo: dict[str, Any] | None = None

    @property
    def asked(self) -> bool:
        """Whether a release review was asked for."""
        return self._activation.settings.flag(SETTING)

    @property
    def signed(self) -> bool:
        """Whether packs of this session will bear a signature."""
        settings = self._activation.settings
        return settings.text("signing-key") != "none" and not settings.flag("no-pack")

    def look_at_repository(self) -> Mapping[str, Any] | None:
        """The state of the user's repository when this was first asked; None where there is none.

        Raises ConfigError where a marker file names no commit.
        """
        if not self._looked:
            from pytest_invarlock.evidence.source_repo import read_source_repo

            self._source_repo = read_source_repo(
                self._config.rootpath, os.environ, leaving_out=self._activation.out
            )
            self._looked = True
        return self._source_repo

    def review(self) -> ReleaseReview | None:
        """What the verdict of a run is told; None where no release review was asked for."""
        if not self.asked:
            return None
        from pytest_invarlock.release_review import ReleaseReview

        named = self._activation.settings.text("signing-key") not in (None, "auto", "none")
        return ReleaseReview(named and self.signed, self.look_at_repository() is not None)

    def metadata(self, summary: RunSummary) -> PackMetadata:
        """What the reports and the pack of a run say besides its records and policies."""
        from pytest_invarlock.evidence.environment import Permissions
        from pytest_invarlock.evidence.run_pack import pack_metadata

        settings = self._activation.settings
        allowed = Permissions(settings.flag("allow-network"), settings.flag("allow-remote-code"))
        return pack_metadata(
            summary,
            allowed,
            source_repo=self.look_at_repository(),
            release_review=self.asked,
        )

    def refuses(self, summary: RunSummary) -> bool:
        """Whether a run of a release review came to anything but a sealed PASS."""
        passed = summary.verdict is not None and summary.verdict.verdict == "PASS"
        return self.asked and not (passed and summary.sealed is not None)

    def check(self, suites: Sequence[Suite]) -> None:
        """Look at the repository, and refuse a release review that could not hold.

        Raises pytest.UsageError with the one line of what is wrong, before anything is loaded.
        """
        try:
            self.look_at_repository()
            if self.asked:
                self._check(suites)
        except ConfigError as error:
            raise pytest.UsageError(f"{error} [{error.code}]") from error

    def _check(self, suites: Sequence[Suite]) -> None:
        settings = self._activation.settings
        if settings.text("signing-key") in (None, "auto", "none"):
            raise _lacks("no named key", "give --invarlock-signing-key=FILE")
        for name in _UNCERTIFIED:
            if settings.text(name) is not None and (name == "sweep" or settings.flag(name)):
                raise _lacks(settings.made[name].origin, "leave that out")
        if settings.text("mode") == "calibrate-only":
            raise _lacks("mode calibrate-only, which certifies nothing", "run the suite")
        for suite in suites:
            _check_suite(suite)
        if self.look_at_repository() is None:
            raise _lacks(
                "neither a git repository nor a marker file",
                "run inside one, or write GPU_RUN_SOURCE.txt with source_commit=<40 hex digits>",
            )


def _check_suite(suite: Suite) -> None:
    """What of a suite a release review refuses, known before it is measured."""
    from pytest_invarlock.release_review import DETERMINISM, PROFILES

    for policy in suite.policies():
        if policy.profile not in PROFILES:
            what = f"profile {policy.profile} of {suite.name}"
            raise _lacks(what, "give --invarlock-profile=release")
    if suite.plan.determinism != DETERMINISM:
        what = f"determinism {suite.plan.determinism} of {suite.name}"
        raise _lacks(what, "give --invarlock-determinism=strict")
    listed = {check for policy in suite.policies() for check in policy.checks}
    unlisted = {guard.name for guard in suite.plan.foreign_guards} - listed
    if unlisted:
        what = f"guard {min(unlisted)}, which no check of {suite.name}'s policy names"
        raise _lacks(what, "name it in guards.order or in the tier")


def _lacks(what: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"--invarlock-{SETTING} does not go with {what}", remedy=remedy, code="RELEASE_REVIEW"
    )
