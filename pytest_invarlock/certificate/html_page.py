"""A certificate as one HTML page that needs no other file, script or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_invarlock.certificate.heat_map import HeatMap, guard_maps
from pytest_invarlock.certificate.outcome_words import MEANINGS, SHAPES, expectation_sentence
from pytest_invarlock.certificate.svg_plots import hatching, histogram, interval_plot, ordered_tail
from pytest_invarlock.certificate.tables import number_tables, number_text
from pytest_invarlock.certificate.what_changed import changed_families

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

    from pytest_invarlock.records import ArmLosses, Facts

TEMPLATE = "report.html.jinja"
MOST_VIOLATIONS = 50
WORST_SHOWN = 5
LARGEST_DRAWN = 1e100
"""Nats per token; beyond, differences of places on the page leave what a double holds."""


@dataclass(frozen=True, slots=True)
class WindowPlots:
    """The plots of the final arm's windows, or in ``why_not`` the reason that there are none."""

    histogram: Markup | None = None
    tail: Markup | None = None
    caption: str = ""
    worst: Sequence[tuple[int, int, str]] = ()
    why_not: str = ""


def render_certificate_html(certificate: Mapping[str, Any], facts: Facts | None) -> str:
    """The page of ``certificate``: the verdict in words first, then plots, guards and tables.

    Args:
        certificate: as `make_certificate` made it; every text in it is escaped.
        facts: of its record, for the plots of windows; None where they are not at hand.
    """
    metric = certificate["primary_metric"]
    return _template().render(
        certificate=certificate,
        decision=certificate["decision"],
        expectation=expectation_sentence(certificate["decision"]),
        counts=_counts(certificate["decision"]["checks"]),
        shapes=SHAPES,
        meanings=MEANINGS,
        hatching=hatching(),
        metric=metric,
        interval=None if metric is None else interval_plot(metric),
        windows=_windows(certificate, facts),
        maps=_maps(certificate),
        families=changed_families(certificate),
        tables=number_tables(certificate),
        most=MOST_VIOLATIONS,
        number=number_text,
    )


@cache
def _template() -> Template:
    # Not at the top: most of who imports the package never draws a page.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("pytest_invarlock.certificate").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source)


def _counts(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """How many checks came to each outcome, those that none came to left out."""
    found = [check["outcome"] for check in checks]
    return [(word, found.count(word)) for word in SHAPES if word in found]


def _maps(certificate: Mapping[str, Any]) -> list[tuple[str, list[HeatMap], str]]:
    """Each guard's maps, with what its check said."""
    said = {check["check"]: check for check in certificate["decision"]["checks"]}
    return [
        (name, maps, said[name]["text"] if name in said else "the policy does not demand it")
        for name, maps in guard_maps(certificate).items()
        if maps or name in said
    ]


def _windows(certificate: Mapping[str, Any], facts: Facts | None) -> WindowPlots:
    if facts is None:
        return WindowPlots(why_not="The record is not beside this certificate.")
    final = facts.arms.get("final")
    if final is None or not len(final.tokens):
        return WindowPlots(why_not="No window of the final arm was measured.")
    if facts.plan["metric"] == "accuracy":
        return WindowPlots(
            why_not="Accuracy was measured: an example is right or wrong, and has no loss of its "
            "own to draw."
        )
    return _drawn(certificate, final)


def _drawn(certificate: Mapping[str, Any], final: ArmLosses) -> WindowPlots:
    metric = certificate["primary_metric"] or {}
    with np.errstate(all="ignore"):
        differences = final.window_difference
    finite = np.abs(differences) < LARGEST_DRAWN
    if not finite.any():
        return WindowPlots(why_not="No window has a finite loss under both models.")
    known = differences[finite]
    threshold, n_above = _tail_numbers(certificate["tail"] or {})
    left_out = len(differences) - len(known)
    caption = f"{len(known)} windows of the final arm; above 0 the subject is worse."
    if left_out:
        caption += f" {left_out} more have no finite loss and are not drawn."
    places = np.flatnonzero(finite)[np.argsort(-known, kind="stable")[:WORST_SHOWN]]
    return WindowPlots(
        histogram=histogram(known, metric.get("delta_nats_per_token"), threshold),
        tail=ordered_tail(known, threshold, n_above),
        caption=caption,
        worst=[(int(p), int(final.documents[p]), f"{differences[p]:+.4f}") for p in places],
    )


def _tail_numbers(tail: Mapping[str, Any]) -> tuple[float | None, int]:
    """The tail's threshold, and how many windows the decision counts above it."""
    threshold, n_above = tail.get("threshold_nats"), tail.get("n_windows_above")
    return (
        float(threshold) if isinstance(threshold, int | float) else None,
        n_above if isinstance(n_above, int) else 0,
    )
