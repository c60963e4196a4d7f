"""Section on harm to windows in sequential mode, where the windows' tail rule gates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from evidence_page import with_error
from evidence_simulation import HARM_NATS, Sums, noise, walks

from pytest_invarlock.stats.sequential import FIRST_LOOK, SequentialRule
from pytest_invarlock.stats.tail import TailRule

if TYPE_CHECKING:
    from evidence_page import Page

_WINDOWS, _BETWEEN_LOOKS = 8, 8
_TAIL = TailRule()


def window_harm(page: Page) -> None:
    """How often the sequential PASS stands alone, and how often the windows' rule stops it."""
    repetitions = page.repetitions(2000)
    page.section("Sequential mode: harm to windows, 8 windows a document")
    page.say(
        f"{repetitions} runs a row of at most 200 documents of {_WINDOWS} equal windows, t3 noise "
        f"of window sd .1; a share of the windows loses {HARM_NATS} nats more, wherever it "
        "stands. Limit 1.10, so that the mean alone may pass; in a document of eight one such "
        "window is below ln 2. The windows' rule counts all windows measured, the block of eight "
        "documents in which the sequence stopped included.",
        "",
        "| harmed windows | ratio | sequential PASS | windows' rule FAIL | not PASS "
        "| PASS of both | documents used / 200 |",
        "|---|---|---|---|---|---|---|",
    )
    classes = {
        n: np.array([_TAIL.classify(count, n) for count in range(n + 1)])
        for n in range(_WINDOWS * FIRST_LOOK, _WINDOWS * 200 + 1, _WINDOWS * _BETWEEN_LOOKS)
    }
    seen: dict[float, float] = {}
    false_alarm = 0.0
    for case, share in enumerate((0.0, 0.01, 0.02, 0.05)):
        rng = page.rng(11, case)
        windows = 0.1 * noise(rng, "t3", (repetitions, 200, _WINDOWS))
        windows += HARM_NATS * (rng.random(windows.shape) < share)
        sums = Sums(windows.sum(2), np.full((repetitions, 200), float(_WINDOWS)))
        found = walks(sums, limit_delta=math.log(1.10), rule=SequentialRule(200))
        blocks = np.ceil((found.n_documents - FIRST_LOOK) / _BETWEEN_LOOKS).astype(int)
        measured = FIRST_LOOK + _BETWEEN_LOOKS * blocks
        above = np.cumsum((windows > math.log(2)).sum(2), axis=1)
        counts = above[np.arange(repetitions), measured - 1]
        said = np.array(
            [
                classes[_WINDOWS * n][count]
                for n, count in zip(measured.tolist(), counts.tolist(), strict=True)
            ]
        )
        fail, both = float((said == "fail").mean()), (found.passed & (said == "pass")).mean()
        not_pass = float((said != "pass").mean())
        if share:
            seen[share] = not_pass
        else:
            false_alarm = not_pass
        page.say(
            f"| {share} | {math.exp(share * HARM_NATS):.3f} | {found.passed.mean():.4f} "
            f"| {with_error(fail, repetitions)} | {not_pass:.4f} | {both:.4f} "
            f"| {found.n_documents.mean() / 200:.3f} |"
        )
    page.claim(
        "sequential, 8 windows a document: the windows' rule stops ≥ .95 of runs with 5 % of "
        "windows harmed, ≤ .02 of clean ones",
        f"{with_error(seen[0.05], repetitions)} and {with_error(false_alarm, repetitions)}",
        seen[0.05] >= 0.95 and false_alarm <= 0.02,
    )
