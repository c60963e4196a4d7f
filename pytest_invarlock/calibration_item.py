"""Calibration items: one a model, before its scenarios; derives its preset and checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.items import CheckFailure, CheckItem
from pytest_invarlock.policy.calibrated_preset import META
from pytest_invarlock.policy.calibration import ITEM, KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_invarlock.activation import VirtualSuite
    from pytest_invarlock.plan import Pair


class CalibrationCollector(pytest.Collector):
    """The calibration of one pair; its id makes the pair's other units wait for it."""

    pair: Pair
    virtual: VirtualSuite

    def collect(self) -> Iterator[CalibrationItem]:
        """The item that derives the preset."""
        if not self.virtual.selects(f"{self.nodeid}::{ITEM}"):
            return
        item = CalibrationItem.from_parent(self, name=ITEM)
        item.suite, item.pair, item.position = self.virtual.suite, self.pair, 0
        item.add_marker("invarlock")
        yield item


class CalibrationItem(CheckItem):
    """Derives one model's limits; passes where they hold on draws that nothing was derived from."""

    leads = True

    @property
    def scenario_id(self) -> tuple[str, str, str]:
        """The calibration stands beside the model's scenarios."""
        return (self.suite.node_prefix, self.pair.name, KEY)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The suite as location, and a title with spaces."""
        location = self.config.rootpath / self.suite.node_prefix
        return location, None, " ".join((self.pair.name, KEY, self.name))

    def runtest(self) -> None:
        """Derive the preset, unless this run has, write it, and fail where it does not hold."""
        from pytest_invarlock.calibrated_run import calibrated_in_run
        from pytest_invarlock.workbench import workbench_of

        calibrated = calibrated_in_run(workbench_of(self.config), self.suite, self.pair, self)
        meta = calibrated.document[META]
        self.user_properties[:] = [
            entry for entry in self.user_properties if not entry[0].startswith("invarlock.")
        ]
        self.user_properties.extend(
            (f"invarlock.{key}", value) for key, value in _properties(meta).items()
        )
        lines = [_counts(meta), f"  preset: {calibrated.shown}"]
        if not meta["usable"]:
            found = calibrated.problems or [_line(entry) for entry in meta["held_out"]["found"]]
            head = f"the derived limits of {self.pair.name} do not hold: {found[0]}"
            raise CheckFailure("\n".join([head, *(f"  {line}" for line in found[1:10]), *lines]))
        self.add_report_section("call", KEY, "\n".join(lines))


def _properties(meta: Mapping[str, Any]) -> dict[str, str]:
    held_out = meta["held_out"]
    return {
        "verdict": "usable" if meta["usable"] else "not usable",
        "tier": meta["tier"],
        "profile": meta["profile"],
        "runs": str(meta["runs"]),
        "held_out_alarms": str(held_out["alarms"]),
        "held_out_subjects": str(held_out["n"]),
    }


def _counts(meta: Mapping[str, Any]) -> str:
    held_out = meta["held_out"]
    low, high = held_out["interval"]
    derived = sum(limit["source"] == "derived" for limit in meta["limits"])
    return (
        f"  {derived} of {len(meta['limits'])} limits are tighter than tier {meta['tier']}'s; held "
        f"out: {held_out['alarms']} alarms in {held_out['n']} benign runs [{low:.3f}, {high:.3f}], "
        f"{held_out['unjudged']} not judged"
    )


def _line(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['subject']} (draw {entry['draw']}): {entry['check']} {entry['outcome']}: "
        f"{entry['reason']}"
    )
