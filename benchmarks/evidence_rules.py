"""Sections on the other rules: tail, drift, sequential mode."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from evidence_page import with_error
from evidence_simulation import (
    HARM_NATS,
    HARM_SHARE,
    Sums,
    drifts,
    even_documents,
    harmed_share,
    noise,
    walks,
)
from scipy import special, stats

from pytest_invarlock.stats.sequential import SequentialRule
from pytest_invarlock.stats.tail import TailRule

if TYPE_CHECKING:
    from evidence_page import Page
    from numpy.typing import NDArray

TAIL = TailRule()
_BENIGN_SD = (0.02, 0.05, 0.1)
_GATING = range(59, 201)


def outcome_chances(n: int, share: float) -> tuple[float, float]:
    """Exact chances of "fail" and of anything but "pass" where ``share`` of n units is above."""
    chance = stats.binom.pmf(np.arange(n + 1), n, share)
    classes = [TAIL.classify(count, n) for count in range(n + 1)]
    fail = sum(float(p) for p, c in zip(chance, classes, strict=True) if c == "fail")
    return fail, 1 - sum(float(p) for p, c in zip(chance, classes, strict=True) if c == "pass")


def t3_above(threshold: float, sd: float) -> float:
    """P(sd · t3/√3 > threshold)."""
    return float(special.stdtr(3, -threshold * math.sqrt(3) / sd))


def tail(page: Page) -> None:
    repetitions = page.repetitions(20_000)
    page.section("Tail: 5 % of windows +1.7 nats, threshold ln 2")
    page.say(
        "Windows are independent, noise t3 of the sd given. The count above ln 2 is then binomial, "
        "so the chances are computed exactly (they decide the claims); beside them "
        f"{repetitions} simulated samples through the shipped rule.",
        "",
        "| windows | benign sd | false FAIL, exact | simulated | FAIL on harm, exact | simulated |",
        "|---|---|---|---|---|---|",
    )
    found: dict[int, list[tuple[float, float]]] = {}
    for n in (100, 128, 200, 400):
        classes = np.array([TAIL.classify(count, n) == "fail" for count in range(n + 1)])
        for sd in _BENIGN_SD:
            rng = page.rng(3, n, round(1000 * sd))
            benign = t3_above(math.log(2), sd)
            harmed = HARM_SHARE * t3_above(math.log(2) - HARM_NATS, sd) + (1 - HARM_SHARE) * benign
            exact = outcome_chances(n, benign)[0], outcome_chances(n, harmed)[0]
            found.setdefault(n, []).append(exact)
            simulated = []
            for harm in (0.0, HARM_NATS):
                differences = sd * noise(rng, "t3", (repetitions, n))
                if harm:
                    differences += harm * (rng.random(differences.shape) < HARM_SHARE)
                share = float(classes[(differences > math.log(2)).sum(1)].mean())
                simulated.append(with_error(share, repetitions))
            page.say(
                f"| {n} | {sd} | {exact[0]:.4f} | {simulated[0]} | {exact[1]:.4f} "
                f"| {simulated[1]} |"
            )
    for n in (128, 200):
        detection, alarm = min(each[1] for each in found[n]), max(each[0] for each in found[n])
        page.claim(
            f"{n} windows: FAIL ≥ .95 on harm, ≤ .02 on benign noise of sd ≤ .10",
            f"{detection:.4f} and {alarm:.4f} (exact)",
            detection >= 0.95 and alarm <= 0.02,
        )
    beyond = outcome_chances(128, t3_above(math.log(2), 0.2))[0]
    page.say("", f"Outside the claim: t3 noise of sd .2 false-alarms in {beyond:.3f} at n = 128.")
    document_tail(page)


def document_tail(page: Page) -> None:
    page.say(
        "",
        "### Document rule: 5 % of documents, every window +1.7 nats",
        "",
        "Documents of 1 to 8 windows, independent t3 noise within; the rule counts plain means of "
        "a document's windows. Nothing is simulated: the share of means above ln 2 comes from the "
        "characteristic function of t3, the count of n independent documents is binomial.",
        "",
        "| documents | FAIL on harm | not PASS on harm | not PASS on benign, sd .02 / .05 / .1 |",
        "|---|---|---|---|",
    )
    shares = {
        (sd, harm): harmed_share(cap=8, sd=sd, harm=harm)
        for sd in _BENIGN_SD
        for harm in (0.0, HARM_NATS)
    }
    harmed = min(
        HARM_SHARE * shares[sd, HARM_NATS] + (1 - HARM_SHARE) * shares[sd, 0.0] for sd in _BENIGN_SD
    )
    rows = {n: outcome_chances(n, harmed) for n in (40, *_GATING)}
    benign = {n: [outcome_chances(n, shares[sd, 0.0])[1] for sd in _BENIGN_SD] for n in rows}
    for n in (40, 59, 64, 92, 93, 100, 128, 200):
        fail, not_pass = rows[n]
        note = " (does not gate)" if n < _GATING[0] else ""
        page.say(
            f"| {n}{note} | {fail:.4f} | {not_pass:.4f} | "
            + " / ".join(f"{each:.4f}" for each in benign[n])
            + " |"
        )
    not_passed = min(rows[n][1] for n in _GATING)
    page.claim(
        "document rule: not PASS ≥ .95 from 59 documents",
        f"at least {not_passed:.5f} up to {_GATING[-1]}",
        not_passed >= 0.95,
    )
    failed = min(rows[n][0] for n in _GATING if n >= 93)
    page.claim(
        "document rule: FAIL ≥ .95 from 93 documents",
        f"at least {failed:.5f} up to {_GATING[-1]}",
        failed >= 0.95,
    )
    alarms = [max(benign[n]) for n in _GATING]
    page.claim(
        "document rule: anything but PASS on benign noise of sd ≤ .10, ≤ .02 at every number of "
        f"documents from {_GATING[0]} to {_GATING[-1]}, 1 to 8 windows a document",
        f"at most {max(alarms):.4f} at {_GATING[int(np.argmax(alarms))]} documents (exact; share "
        f"above ln 2 {shares[0.1, 0.0]:.2e})",
        max(alarms) <= 0.02,
    )
    single = [outcome_chances(n, t3_above(math.log(2), 0.1))[1] for n in _GATING]
    page.claim(
        "document rule: the same where each document is a single window, t3 sd .1",
        f"{min(single):.4f} to {max(single):.4f} (exact; {single[0]:.4f} at {_GATING[0]} "
        f"documents, most at {_GATING[int(np.argmax(single))]}; document means then vary as much "
        "as windows)",
        max(single) <= 0.02,
    )


def drift(page: Page) -> None:
    repetitions = page.repetitions(20_000)
    chunk = min(repetitions, 2500)
    page.section("Drift: preview against final arm, band ± ln 1.05")
    page.say(
        f"{repetitions} repetitions; both arms of the layout given, token weights lognormal(.5). "
        "FAIL and WARN at true ratio 1.00 are false. A plain threshold would fail wherever "
        "the point leaves the band.",
        "",
        "| layout, ICC | law | window sd | plain threshold | false FAIL | WARN "
        "| equivalence shown | FAIL at 1.10 | FAIL at 1.15 |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    worst = 0.0
    layouts = ((64, 1, 0.0), (16, 4, 0.2), (16, 4, 0.5), (40, 5, 0.2))
    for case, (n, windows, icc) in enumerate(layouts):
        for law in ("normal", "t3"):
            for sd in (0.05, 0.1, 0.2):
                rng = page.rng(5, case, law == "t3", round(100 * sd))
                hits: NDArray[np.float64] = np.zeros(6)
                for _ in range(repetitions // chunk):
                    one, other = (
                        even_documents(
                            rng, (chunk, n), law, windows=windows, icc=icc, sd=sd, shift=0.0
                        )
                        for _ in range(2)
                    )
                    still = drifts(one, other)
                    moved = [
                        drifts(
                            Sums(one.weighted_difference + shift * one.weight, one.weight), other
                        )
                        for shift in (math.log(1.10), math.log(1.15))
                    ]
                    hits += [
                        (np.abs(still.delta) > math.log(1.05)).sum(),
                        still.fail.sum(),
                        (still.warn_or_fail & ~still.fail).sum(),
                        still.equivalent.sum(),
                        moved[0].fail.sum(),
                        moved[1].fail.sum(),
                    ]
                shares = hits / (repetitions // chunk * chunk)
                worst = max(worst, shares[1])
                shown = " | ".join(f"{share:.4f}" for share in shares)
                page.say(f"| {n} × {windows}, {icc} | {law} | {sd} | {shown} |")
    page.claim(
        "drift: false FAIL ≤ .01 at window sd .05 to .2",
        f"at most {with_error(worst, repetitions)}",
        worst <= 0.01,
    )


_SEQUENTIAL_LAWS = (
    ("normal", 10_000, True),
    ("t3", 10_000, True),
    ("skew 1.75", 10_000, True),
    ("10 % of documents +.5", 10_000, True),
    ("5 % of documents +1.7", 20_000, False),
)


def sequential_sample(
    rng: np.random.Generator, law: str, size: tuple[int, int], *, sd: float, equal: bool
) -> Sums:
    """Document means around 0 in order of drawing; weights 1 or lognormal(.6)."""
    means = sd * noise(rng, law, size)
    if "documents" in law:
        share, harm = (0.10, 0.5) if law.startswith("10") else (HARM_SHARE, HARM_NATS)
        means += harm * ((rng.random(size) < share) - share)
    weight = np.ones(size) if equal else np.exp(0.6 * rng.standard_normal(size))
    return Sums(weight * means, weight)


def moved(sums: Sums, delta: float) -> Sums:
    return Sums(sums.weighted_difference + delta * sums.weight, sums.weight)


def sequential(page: Page) -> None:
    page.section("Sequential mode: a look after every document, D_max = 200, limit 1.10")
    rule, limit = SequentialRule(maximum_documents=200), math.log(1.10)
    page.say(
        "Document sd .1, truth exactly at the limit: a PASS is false. At D_max the zero clause "
        "gives way to the whole document rule of the tail, FAIL part included (at most 1 of 200 "
        "documents above ln 2).",
        "",
        "| law | weights | repetitions | false PASS | FAIL | documents used / 200 |",
        "|---|---|---|---|---|---|",
    )
    worst, most = 0.0, 0
    for case, (law, full, promised) in enumerate(_SEQUENTIAL_LAWS):
        for equal in (True, False):
            repetitions = page.repetitions(full)
            rng = page.rng(6, case, equal)
            sums = sequential_sample(rng, law, (repetitions, 200), sd=0.1, equal=equal)
            found = walks(moved(sums, limit), limit_delta=limit, rule=rule)
            share = float(found.passed.mean())
            if promised and share >= worst:
                worst, most = share, repetitions
            page.say(
                f"| {law}{'' if promised else ' (printed)'} "
                f"| {'equal' if equal else 'lognormal(.6)'} | {repetitions} "
                f"| {with_error(share, repetitions)} | {found.failed.mean():.4f} "
                f"| {found.n_documents.mean() / 200:.3f} |"
            )
    page.claim(
        "sequential: false PASS ≤ .05 for normal, t3, skew 1.75 and 10 % of documents +.5",
        f"at most {with_error(worst, most)}",
        worst <= 0.05,
    )
    clear_cases(page, rule, limit)


def clear_cases(page: Page, rule: SequentialRule, limit: float) -> None:
    repetitions = page.repetitions(10_000)
    page.say(
        "",
        "| true ratio | document sd | weights | right verdict | documents used / 200 |",
        "|---|---|---|---|---|",
    )
    worst, least = 0.0, 1.0
    cases = [(1.00, 0.05), (1.00, 0.1), (1.00, 0.2), (1.30, 0.05), (1.30, 0.1), (1.30, 0.2)]
    for case, (ratio, sd) in enumerate([*cases, (1.05, 0.1), (1.08, 0.1)]):
        clear = (ratio, sd) in cases
        for equal in (True, False):
            rng = page.rng(7, case, equal)
            sums = sequential_sample(rng, "normal", (repetitions, 200), sd=sd, equal=equal)
            found = walks(moved(sums, math.log(ratio)), limit_delta=limit, rule=rule)
            right = float((found.passed if ratio < 1.10 else found.failed).mean())
            used = float(found.n_documents.mean()) / 200
            if clear:
                worst, least = max(worst, used), min(least, right)
            page.say(
                f"| {ratio:.2f}{'' if clear else ' (near, printed)'} | {sd} "
                f"| {'equal' if equal else 'lognormal(.6)'} | {right:.4f} | {used:.3f} |"
            )
    page.claim(
        "sequential: at most half of the documents on clear cases (ratio 1.00 or 1.30)",
        f"at most {worst:.3f}, right verdict in at least {with_error(least, repetitions)}",
        worst <= 0.5,
    )
