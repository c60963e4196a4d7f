"""Section on accuracy: does the bound of the drop cover, and what does clustering cost it."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from evidence_page import error, with_error
from scipy import special, stats

from pytest_invarlock.stats.accuracy import paired_accuracy, score_upper

if TYPE_CHECKING:
    from evidence_page import Page
    from numpy.typing import NDArray

_DROPS = (0.0, 0.005, 0.01, 0.02, 0.05)
_DISCORDANT = (0.005, 0.01, 0.02, 0.05, 0.1)
_NEGLIGIBLE = 1e-7
# Documents, examples of each, intraclass correlation of harm.
_LAYOUTS = ((40, 10, 0.0), (40, 10, 0.1), (40, 10, 0.3), (100, 5, 0.1), (100, 5, 0.3))


@cache
def bounds(n: int, harmful: int, beneficial: int) -> tuple[float, float]:
    """Lower and upper bound with one example a document.

    The shipped score bound, and the t bound in the closed form that
    `tests/stats/test_accuracy.py` holds equal to the shipped one.
    """
    drop = (harmful - beneficial) / n
    variance = ((harmful + beneficial) / n - drop**2) / (n - 1)
    half_width = float(special.stdtrit(n - 1, 0.95)) * math.sqrt(variance)
    return (
        min(drop - half_width, -score_upper(beneficial, harmful, n, alpha=0.05)),
        max(drop + half_width, score_upper(harmful, beneficial, n, alpha=0.05)),
    )


def exact_coverage(n: int, drop: float, discordant: float) -> tuple[float, float]:
    """Chances that the upper and the lower bound hold, over every likely pair of counts."""
    harm, benefit = (discordant + drop) / 2, (discordant - drop) / 2
    upper = lower = total = 0.0
    for b in likely(n, harm):
        chance = float(stats.binom.pmf(b, n, harm))
        rest = n - b
        for c in likely(rest, benefit / (1 - harm)):
            weight = chance * float(stats.binom.pmf(c, rest, benefit / (1 - harm)))
            found = bounds(n, b, c)
            lower += weight * (found[0] <= drop)
            upper += weight * (found[1] >= drop)
            total += weight
    return upper / total, lower / total


def likely(n: int, share: float) -> range:
    low, high = stats.binom.ppf([_NEGLIGIBLE, 1 - _NEGLIGIBLE], n, share)
    return range(int(low), int(high) + 1)


def clustered(
    rng: np.random.Generator, layout: tuple[int, int, float], harm: float, benefit: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Harm whose chance varies between documents (beta); benefit alike everywhere."""
    n_documents, each, icc = layout
    chance = np.full(n_documents, harm)
    if icc:
        scale = (1 - icc) / icc
        chance = rng.beta(harm * scale, (1 - harm) * scale, n_documents)
    harmed = rng.random((n_documents, each)) < chance[:, None]
    # Only what was not harmed can be helped: at a rate that makes ``benefit`` of all.
    helped = ~harmed & (rng.random((n_documents, each)) < benefit / (1 - harm))
    return (~helped).ravel(), (~harmed).ravel(), np.repeat(np.arange(n_documents), each)


def accuracy(page: Page) -> None:
    page.section("Accuracy: one-sided 95 % bounds of the drop")
    page.say(
        "One example a document; chances are exact, over all likely counts of harmful and "
        "beneficial flips. Discordant: examples on which the models "
        "differ in being right.",
        "",
        "| examples | true drop | discordant | upper bound covers | lower bound covers |",
        "|---|---|---|---|---|",
    )
    least = 1.0
    for n in (200, 400, 1000):
        for drop in _DROPS:
            for discordant in (share for share in _DISCORDANT if share >= drop):
                upper, lower = exact_coverage(n, drop, discordant)
                least = min(least, upper, lower)
                page.say(f"| {n} | {drop} | {discordant} | {upper:.4f} | {lower:.4f} |")
    page.claim(
        "accuracy: both bounds cover ≥ .935 from 200 examples, drop 0 to 5 points, discordance "
        "up to 10 %",
        f"at least {least:.4f} (exact)",
        least >= 0.935,
    )
    in_documents(page)


def in_documents(page: Page) -> None:
    repetitions = page.repetitions(2000)
    page.say(
        "",
        "### Several examples a document",
        "",
        f"{repetitions} simulated samples a row; the chance of harm varies between documents with "
        "the intraclass correlation given. Printed, not promised: where harm is rare and gathers "
        "in few documents, a sample may hold none of them.",
        "",
        "| documents × examples | ICC | true drop | discordant | upper bound covers "
        "| the same, documents ignored |",
        "|---|---|---|---|---|---|",
    )
    worst = 1.0
    for case, layout in enumerate(_LAYOUTS):
        for drop, discordant in ((0.01, 0.05), (0.02, 0.1), (0.05, 0.1)):
            rng = page.rng(9, case, round(1000 * drop))
            harm, benefit = (discordant + drop) / 2, (discordant - drop) / 2
            hits = np.zeros(2)
            for _ in range(repetitions):
                baseline, subject, documents = clustered(rng, layout, harm, benefit)
                found = paired_accuracy(baseline, subject, documents)
                naive = bounds(found.n_examples, found.harmful, found.beneficial)
                hits += [found.drop_upper >= drop, naive[1] >= drop]
            upper, ignored = hits / repetitions
            worst = min(worst, upper)
            page.say(
                f"| {layout[0]} × {layout[1]} | {layout[2]} | {drop} | {discordant} "
                f"| {with_error(upper, repetitions)} | {ignored:.4f} |"
            )
    page.say("", f"Least coverage of these rows: {worst:.4f} ± {error(worst, repetitions):.4f}.")
