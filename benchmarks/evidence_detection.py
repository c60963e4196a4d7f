"""Run suite `full` on both shipped models and tell what came of it; rewrites
docs/measured/detection.md.

One pytest session with two workers, on shipped text: every edit and fault of the original, each
draw judged. What was declared, what came out and what fired stand side by side, for every model.

Usage: python benchmarks/evidence_detection.py [--jobs 2] [--repeats 1] [--run FOLDER]
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from intervals import told
from mutation_page import commit

from pytest_invarlock.run_directory import RunDirectory
from pytest_invarlock.run_summary import RunSummary, summarise

if TYPE_CHECKING:
    from pytest_invarlock.decision import Decision

PAGE = Path(__file__).resolve().parent.parent / "docs" / "measured" / "detection.md"
MODELS = ("builtin:llama", "builtin:gpt2")
# The floors of profile dev need 20 documents an arm; 96 windows hold more than 40.
SETTINGS = (
    "--invarlock-suite=full",
    *(f"--invarlock-model={model}" for model in MODELS),
    "--invarlock-dataset=pydoc",
    "--invarlock-profile=dev",
    "--invarlock-seq-len=128",
    "--invarlock-preview-windows=96",
    "--invarlock-final-windows=96",
)
# What else is installed has no part in it, and what the session says is not for a page.
PLAIN = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--invarlock-progress=off",
         "--invarlock-signing-key=none")  # fmt: skip
DECLARED = {
    "must_pass": "must pass", "must_fail": "must fail", "must_detect": "must be detected",
    "informational": "informational",
}  # fmt: skip


def measure(out: Path, jobs: int, repeats: int | None) -> tuple[RunDirectory, str, float]:
    """The folder of a fresh run, the command of its session, and the minutes that it took."""
    shown = [*SETTINGS, *([] if repeats is None else [f"--invarlock-repeats={repeats}"])]
    workers = ["-n", str(jobs)] if jobs > 1 else []
    command = [sys.executable, "-m", "pytest", *workers, *PLAIN, *shown]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("INVARLOCK_", "PACK_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    started = time.monotonic()
    # Its exit status is the verdict's: what was not as declared stands on the page.
    subprocess.run([*command, f"--invarlock-out={out}"], cwd=out, env=environment, check=False)
    minutes = (time.monotonic() - started) / 60
    return RunDirectory((out / "latest").resolve()), " ".join(["pytest", *workers, *shown]), minutes


def by_scenario(summary: RunSummary) -> dict[tuple[str, str], list[Decision]]:
    """The decisions of each planned model and scenario by draw; none where none was measured."""
    found: dict[tuple[str, str], list[Decision]] = {
        (planned.model, planned.scenario): [] for planned in summary.planned
    }
    for decision in sorted(summary.decisions, key=lambda d: d.draw):
        found[decision.model, decision.scenario].append(decision)
    return found


def as_declared(decisions: list[Decision], draws: int) -> bool:
    """Whether every planned draw was measured and met what the suite demands of it."""
    return len(decisions) == draws and all(d.expectation_met for d in decisions)


def table(summary: RunSummary, category: str) -> list[str]:
    """A row a scenario and model of ``category``."""
    lines = [
        "| scenario | model | declared | any of | outcome | fired | ratio | as declared |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = by_scenario(summary)
    for planned in sorted(summary.planned, key=lambda p: order(summary, p.scenario)):
        key = planned.model, planned.scenario
        expected = summary.policies[key].expectation(*key)
        if expected.category != category:
            continue
        decisions = found[key]
        met = as_declared(decisions, planned.draws)
        outcome = ", ".join(dict.fromkeys(d.outcome.value for d in decisions))
        lines.append(
            f"| `{planned.scenario}` | {planned.model} | {DECLARED[expected.strictness.value]} "
            f"| {', '.join(expected.detectors_any) or '–'} | {outcome or 'not measured'} "
            f"| {fired(decisions)} | {ratios(decisions)} | {'yes' if met else '**NO**'} |"
        )
    return lines


def order(summary: RunSummary, scenario: str) -> int:
    """Where the suite has ``scenario``: rows of one stand together."""
    return [planned.scenario for planned in summary.planned].index(scenario)


def fired(decisions: list[Decision]) -> str:
    """The checks that failed, each with the number of draws where there are several."""
    names = dict.fromkeys(name for decision in decisions for name in decision.fired)
    counts = {name: sum(name in d.fired for d in decisions) for name in names}
    many = len(decisions) > 1
    return ", ".join(f"{n} {k}/{len(decisions)}" if many else n for n, k in counts.items()) or "–"


def ratios(decisions: list[Decision]) -> str:
    """The smallest and largest ratio of perplexities over the draws."""
    numbers = [
        check.numbers["ratio"]
        for decision in decisions
        for check in decision.checks
        if check.check == "primary_metric" and isinstance(check.numbers.get("ratio"), int | float)
    ]
    if not numbers:
        return "–"
    low, high = (f"{value:.4g}" for value in (min(numbers), max(numbers)))  # type: ignore[type-var]
    return low if low == high else f"{low} to {high}"


def claims(summary: RunSummary) -> list[tuple[str, str, bool]]:
    """What the page claims, what was found, and whether it holds."""
    found = by_scenario(summary)
    claimed = []
    for words, text in (
        (("must_fail", "must_detect"), "every scenario that must fail or be detected is detected"),
        (("must_pass",), "every clean edit passes, on every draw"),
        (("informational",), "every informational scenario is measured, on every draw"),
    ):
        rows = [
            as_declared(found[p.model, p.scenario], p.draws)
            for p in summary.planned
            if summary.policies[p.model, p.scenario]
            .expectation(p.model, p.scenario)
            .strictness.value
            in words
        ]
        claimed.append((text, told(sum(rows), len(rows)), bool(rows) and all(rows)))
    clean = [d for d in summary.decisions if d.category == "clean"]
    alarms = sum(bool(d.fired) for d in clean)
    claimed.append(
        ("no check fires on a clean control", f"alarms in {told(alarms, len(clean))}",
         bool(clean) and alarms == 0)
    )  # fmt: skip
    return claimed


def write_page(summary: RunSummary, verdict: str, command: str, output: Path) -> None:
    """Write the page of a run; what was planned and not measured is not as declared."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "pytest")
    )
    lines = [
        "# Detection, measured",
        "",
        "Generated by a script; edit that, not this page.",
        "",
        "- command: `make evidence-detection` (draws other than the suite's own: "
        '`DETECTION_ARGS="--repeats N"`), which runs',
        f"  `{command}`",
        f"- commit: {commit()}",
        f"- versions: Python {platform.python_version()}, {versions}, "
        f"{platform.system()} {platform.machine()}",
        f"- page written: {dt.datetime.now(dt.UTC):%Y-%m-%d}",
        f"- verdict of the run: {verdict}",
        "",
        "Each scenario of suite `full` on each shipped model, in one session. *Fired* are the "
        "checks that failed, whatever was declared, with the draws on which they did where there "
        "are several. A scenario is as declared where every draw that was planned was measured and "
        "met what the suite demands; an informational one only has to be measured. Shares stand "
        "with Wilson's 95 % interval.",
        "",
        "## Claims",
        "",
        "| claim | found | |",
        "|---|---|---|",
    ]
    for text, found, met in claims(summary):
        lines.append(f"| {text} | {found} | {'met' if met else '**NOT met**'} |")
    for category, title in (("error", "Faults"), ("stress", "Heavy edits"),
                            ("clean", "Clean controls")):  # fmt: skip
        lines += ["", f"## {title}", "", *table(summary, category)]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rewrites docs/measured/detection.md.")
    parser.add_argument("--jobs", type=int, default=2, help="workers of the session")
    parser.add_argument("--repeats", type=int, help="draws of every scenario; the suite's own")
    parser.add_argument("--out", type=Path, help="keep the run there")
    parser.add_argument("--run", type=Path, help="only write the page of the run in this folder")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (options.run or options.out or Path(scratch)).resolve()
        told_by = out / "command.json"
        if options.run is None:
            out.mkdir(parents=True, exist_ok=True)
            run, command, minutes = measure(out, options.jobs, options.repeats)
            told_by.write_text(json.dumps(command), encoding="utf-8")
            print(f"measured in {minutes:.0f} minutes", flush=True)
        else:
            run = RunDirectory((out / "latest").resolve())
            command = json.loads(told_by.read_text(encoding="utf-8"))
        final = run.path / "final_verdict.json"
        verdict = json.loads(final.read_text("utf-8"))["verdict"] if final.is_file() else None
        summary = summarise(run, set(), cut="partial")
        write_page(summary, verdict or "none: the run was cut short", command, options.output)
    for text, found, met in claims(summary):
        print(f"{'met' if met else 'NOT met'}: {text}: {found}")


if __name__ == "__main__":
    main()
