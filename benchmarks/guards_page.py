"""The page of the guards' evidence: claims, tables and plots from the rows of a run."""

from __future__ import annotations

import datetime as dt
import platform
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from guards_bench import GUARD_WINDOWS, GUARDS, METRIC_WINDOWS, SEQ_LEN
from guards_damage import SINGLE, SUB_LAYER
from guards_plots import write_plots
from guards_tables import (
    Row,
    alarm_list,
    alarmed,
    basis_told,
    benign_table,
    by,
    caught,
    count,
    damage_table,
    fired,
    first_named,
    is_within,
    missed_list,
    own_class,
    told,
    warned,
    wilson,
)
from guards_transfer import MARGIN, headroom, left_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from guards_models import ModelUnderTest

BENIGN_RUNS, ALARM_SHARE, WARNING_SHARE, CAUGHT_SHARE = 1000, 0.003, 0.05, 0.95
Claims = list[tuple[str, str, bool]]


class GuardsPage:
    """Lines and claims, section by section."""

    def __init__(self, models: Sequence[ModelUnderTest], rows: Mapping[str, Sequence[Row]]) -> None:
        self.models = [model for model in models if rows.get(model.name)]
        every = [row for model in self.models for row in rows[model.name]]
        self.rows = every
        self.benign = [row for row in every if row["group"] == "benign"]
        self.passed = [row for row in self.benign if row["pm"] == "pass"]
        self.damage = [row for row in every if row["group"] == "damage"]
        self.faults = [row for row in every if row["group"] == "fault"]
        self.lines: list[str] = []
        self.claims: Claims = []

    def claim(self, text: str, found: str, met: bool) -> None:
        self.claims.append((text, found, met))
        self.lines += ["", f"**{'met' if met else 'NOT met'}**: {text}. Found: {found}.", ""]

    def section(self, title: str, *lines: str) -> None:
        self.lines += ["", f"## {title}", "", *lines]

    def models_used(self) -> None:
        self.section("Models", "| model | training | weights | rows |", "|---|---|---|---|")
        for model in self.models:
            n = count(self.rows, lambda row, name=model.name: row["model"] == name)  # type: ignore[misc]
            self.lines.append(f"| {model.name} | {model.training} | `{model.sha256[:12]}` | {n} |")
        self.lines += [
            "",
            "llama: 4 layers, width 128, RMSNorm, rotary positions, gated feed-forward. gpt2: 4 "
            "layers, width 128, LayerNorm, biases, fused attention. Every rate on this page is "
            "conditional on these models, one text domain and toy size; runs on one model are not "
            "independent of each other, which the intervals do not know. mixtral: 2 layers, width "
            "128, four experts, two at a token; of it only killed experts are measured.",
        ]

    def benign_runs(self) -> None:
        self.section(
            "Benign changes",
            "Kind, dose, scope, seed and windows are drawn. An alarm is any guard that fails or "
            "cannot judge. Runs whose metric does not pass are not benign and do not count. "
            "Quantisation leaves embeddings and head as they are; FP8 is scaled by channel.",
            "",
            *benign_table(self.benign, "name"),
            "",
            *benign_table(self.benign, "model"),
        )
        n = len(self.passed)
        self.claim(
            f"at least {BENIGN_RUNS} benign runs that the metric passes",
            f"{n} of {len(self.benign)}",
            n >= BENIGN_RUNS,
        )
        for words, kind in (("their declared kind", None), ("`any`", "any")):
            n_alarms = count(self.passed, lambda r, k=kind: alarmed(r, k or r["kind"]))  # type: ignore[misc]
            self.claim(
                f"gate alarms under {words}: at most 3 in 1000",
                told(n_alarms, n),
                n > 0 and n_alarms <= ALARM_SHARE * n,
            )
        for words, kind in (("their declared kind", None), ("`any`", "any")):
            n_warned = count(self.passed, lambda r, k=kind: warned(r, k or r["kind"]))  # type: ignore[misc]
            n_told = count(self.passed, lambda r, k=kind: basis_told(r, k or r["kind"]))  # type: ignore[misc]
            self.claim(
                f"warnings under {words}, but for `basis_changed` of a model whose basis did "
                f"change: at most {WARNING_SHARE:.2f}",
                f"{told(n_warned - n_told, n)}; with those, {told(n_warned, n)}",
                n > 0 and n_warned - n_told <= WARNING_SHARE * n,
            )
        rebased = [row for row in self.passed if row["kind"] == "reparametrized"]
        n_told = count(rebased, lambda r: basis_told(r, "any"))
        self.claim(
            "`basis_changed`, a warning that has to be given, of every reparametrised model "
            "under `any`",
            told(n_told, len(rebased)),
            bool(rebased) and n_told == len(rebased),
        )
        self.lines += ["", "Every alarm:", "", *alarm_list(self.passed)]

    def transfer(self) -> None:
        self.section(
            "Largest benign values",
            "Over benign runs that the metric passes, by the group of limits of their declared "
            "kind; the largest over modules. In the open group weights fail only beyond `canon`. "
            "The limits are the tier's, chosen before these runs; the trained seeds confirm or "
            "refute them, and the shipped two, on which users first see them, stand apart.",
            "",
            *headroom(self.passed, {m.name for m in self.models if m.name.startswith("builtin:")}),
            "",
            "### Leave one model out",
            "",
            f"Limits set to {MARGIN} × the largest benign value on the other models; alarms on the "
            "one left out, with Wilson's interval.",
            "",
            *left_out(self.passed),
        )

    def damaged(self, plot: str) -> None:
        self.section(
            "Damage",
            f"Sites: one matrix with chance {SINGLE}, all of one sub-layer {SUB_LAYER}, the rest "
            "all attentions, all feed-forward networks or both. Judged as `any`, but the low-rank "
            "change hidden under int8 as `quantize8`; *as `quantize8`* is any gate under that "
            "declared kind. Shares of n; Wilson's interval of the gate.",
            "",
            *damage_table(self.damage),
            "",
            f"![Share detected against dose, by class of damage and guard]({plot})",
        )
        gross = [row for row in self.damage if row["gross"] and row["pm"] == "pass"]
        seen = count(gross, lambda r: caught(r, "any"))
        self.claim(
            f"gross damage that the metric passes is caught by a gate under `any` in at least "
            f"{CAUGHT_SHARE}",
            f"{told(seen, len(gross))}; "
            + "; ".join(
                f"{guard} {told(count(gross, lambda r, g=guard: fired(r, g, 'any')), len(gross))}"  # type: ignore[misc]
                for guard in GUARDS[1:]
            ),
            bool(gross) and seen >= CAUGHT_SHARE * len(gross),
        )
        missed = [row for row in gross if not caught(row, "any")]
        self.lines += ["", "Gross damage that neither sees:", "", *missed_list(missed)]

    def own_classes(self) -> None:
        half = frozenset(model.name for model in self.models[::2])
        self.section(
            "What one guard alone sees",
            f"The class, at all doses or at one, with the largest share seen by no other guard, on "
            f"{', '.join(sorted(half))} and confirmed on the other models, under the declared "
            "kind; confirmed is half of the runs there or more.",
            "",
            "| guard | class | seen by it alone | on the other half | |",
            "|---|---|---|---|---|",
        )
        without = []
        for guard in GUARDS:
            best = own_class(self.damage, guard, half)
            if best is None:
                without.append(guard)
                self.lines.append(f"| {guard} | none | | | not found |")
                continue
            name, (here, n_here), (there, n_there) = best
            confirmed = there >= 0.5 * n_there
            without += [] if confirmed else [guard]
            self.lines.append(
                f"| {guard} | {name} | {told(here, n_here)} | {told(there, n_there)} "
                f"| {'confirmed' if confirmed else 'not confirmed'} |"
            )
        self.claim(
            "each guard has a class that no other sees",
            f"without one: {', '.join(without)}" if without else "all four",
            not without,
        )

    def localisation(self) -> None:
        single = [row for row in self.damage if row["branch"] is not None]
        self.section(
            "Localisation",
            "Damage at one site, under `any`, where the guard fails: whether what it names first "
            "is the damaged branch or a part of it.",
            "",
            "| guard | the damaged branch is named first |",
            "|---|---|",
        )
        for guards in (*((guard,) for guard in GUARDS[1:]), GUARDS):
            named = [(row, first_named(row, "any", guards)) for row in single]
            found = [(row, name) for row, name in named if name is not None]
            right = sum(is_within(name, row["branch"]) for row, name in found)
            words = guards[0] if len(guards) == 1 else "first that fails"
            self.lines.append(f"| {words} | {told(right, len(found))} |")
        self.claim(
            f"the first module named is the damaged branch in at least {CAUGHT_SHARE}",
            told(right, len(found)),
            bool(found) and right >= CAUGHT_SHARE * len(found),
        )

    def shipped_faults(self) -> None:
        self.section(
            "The fifteen faults",
            "Models on which each fires, under `any`, with the parameters of suite `faults`.",
            "",
            "| fault | primary guard | it fires | metric does not pass | " + " | ".join(GUARDS),
            "|---" * (4 + len(GUARDS)) + "|",
        )
        silent = []
        for (name, primary), group in by(self.faults, "name", "primary").items():
            n = len(group)
            metric = count(group, lambda r: r["pm"] != "pass")
            shares = [count(group, lambda r, g=guard: fired(r, g, "any")) for guard in GUARDS]  # type: ignore[misc]
            own = metric if primary == "primary_metric" else shares[GUARDS.index(primary)]
            silent += [] if own == n else [f"{name} ({own} of {n})"]
            cells = " | ".join(f"{share} of {n}" for share in (own, metric, *shares))
            self.lines.append(f"| {name} | {primary} | {cells} |")
        self.claim(
            "the declared primary guard of each of the fifteen faults fires on every model",
            f"not: {', '.join(silent)}" if silent else "all",
            bool(self.faults) and not silent,
        )


def write_page(
    models: Sequence[ModelUnderTest],
    rows: Mapping[str, Sequence[Row]],
    path: Path,
    *,
    seed: int,
    command: str,
    planned: int,
) -> Claims:
    """Write page and plot from ``rows`` by model, ``planned`` in all; returns the claims."""
    page = GuardsPage(models, rows)
    page.models_used()
    page.benign_runs()
    page.transfer()
    plot = path.with_name(path.stem + "-dose.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.damaged(plot.name)
    write_plots(page.damage, plot)
    page.own_classes()
    page.localisation()
    page.shipped_faults()
    path.write_text(
        "\n".join([*_head(page, seed, command, planned), *page.lines]) + "\n", encoding="utf-8"
    )
    return page.claims


def _head(page: GuardsPage, seed: int, command: str, planned: int) -> list[str]:
    seconds = [row["s"] for row in page.rows] or [0.0]
    # Not the sum: a machine that others use, or that pauses, would be in it.
    tenth, median = (float(np.quantile(seconds, share)) for share in (0.1, 0.5))
    commits = sorted({row["commit"] for row in page.rows})
    _, upper = wilson(3, BENIGN_RUNS)
    broken_off = (
        [f"- **broken off: {len(page.rows)} of {planned} planned runs; the order is random**"]
        if len(page.rows) < planned
        else []
    )
    return [
        "# Guards, measured",
        "",
        "Generated by a script; edit that, not this page.",
        "",
        f"- command: `{command}`",
        f"- seed: {seed}",
        f"- commit: {', '.join(commits)}",
        f"- date: {dt.datetime.now(dt.UTC):%Y-%m-%d}",
        f"- versions: Python {platform.python_version()}, numpy {np.__version__}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, {platform.system()} "
        f"{platform.machine()}",
        f"- {len(page.rows)} runs, {median * len(page.rows) / 60:.0f} minutes at the median of "
        f"{median:.1f} s each, one thread of a busy machine (fastest tenth: {tenth:.1f} s)",
        f"- tier balanced; {GUARD_WINDOWS} guard windows and {METRIC_WINDOWS} of the metric, of "
        f"{SEQ_LEN} tokens, fewer than any profile takes; draws 0 to 3",
        *broken_off,
        "",
        f"Shares stand with Wilson's 95 % interval: 3 alarms in {BENIGN_RUNS} reach to "
        f"{upper:.4f}. *The metric passes* where the upper bound of the ratio is at most 1.10.",
        "",
        "## Claims",
        "",
        "| claim | found | |",
        "|---|---|---|",
        *(
            f"| {text} | {found} | {'met' if met else '**NOT met**'} |"
            for text, found, met in page.claims
        ),
    ]
