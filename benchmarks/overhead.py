"""Two ratios, each measured side by side in one run: what measuring costs over a bare loop.

1. evaluating one subject (edit, invariants, losses, undo) ÷ a bare batched forward pass with
   cross-entropy over the same windows, in this process, alternating;
2. the whole process of a one-pair run under pytest ÷ the whole process of the bare loop.

Usage: python benchmarks/overhead.py [--model builtin:llama] [--repetitions 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEQ_LEN, WINDOWS, BATCH, THREADS = 128, 96, 64, 1
EVALUATION_GOAL, PROCESS_GOAL = 1.15, 1.25
SUITE = """
name: overhead
models: ["{model}"]
profile: dev
dataset: {{provider: pydoc, seq_len: {seq_len}, preview_n: {windows}, final_n: {windows}}}
run: {{device: cpu, dtype: float32, threads: {threads}}}
floors: {{documents: 40, effective_documents: 20}}
scenarios:
  - {{id: rtn_8bit_all, strictness: must_pass,
     edit: {{name: quant_rtn, plan: {{bitwidth: 8, group_size: 32}}}}}}
"""


def bare_loop(model, batches) -> float:
    """What anyone would write: batched forward, cross-entropy on the logits, summed."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for ids, mask in batches:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            total += torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), reduction="sum"
            ).item()
    return total


def bare_process(model_reference: str) -> None:
    """Load, tokenise, and evaluate baseline and subject with the bare loop: the floor of a run."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_invarlock.adapters.model_source import resolve_model
    from pytest_invarlock.data import draw_windows, get_provider
    from pytest_invarlock.plan import WindowSelection

    torch.set_num_threads(THREADS)
    directory = str(resolve_model(model_reference).directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    selection = WindowSelection(SEQ_LEN, SEQ_LEN, WINDOWS, WINDOWS)
    windows = draw_windows(get_provider("pydoc"), tokenizer, selection, draw=0)
    batches = _padded(windows)
    for _ in ("baseline", "subject"):
        bare_loop(model, batches)


def _padded(windows):
    import torch

    ordered = sorted((*windows.preview, *windows.final), key=lambda w: -len(w.tokens))
    batches = []
    for start in range(0, len(ordered), BATCH):
        chosen = ordered[start : start + BATCH]
        ids = torch.zeros(len(chosen), len(chosen[0].tokens), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(chosen):
            ids[row, : len(window.tokens)] = torch.from_numpy(window.tokens.astype("int64"))
            mask[row, : len(window.tokens)] = 1
        batches.append((ids, mask))
    return batches


def evaluation_ratio(model_reference: str, repetitions: int) -> list[float]:
    """Ratios of evaluating a subject to the bare loop, alternating in one process."""
    import torch

    from pytest_invarlock.bench.resident import Bench
    from pytest_invarlock.core.determinism import in_force, resolve_plan
    from pytest_invarlock.core.engine import measure
    from pytest_invarlock.plan import (
        DataSource,
        EditSpec,
        MeasurementPlan,
        Pair,
        Scenario,
        WindowSelection,
    )

    plan = resolve_plan(
        MeasurementPlan(
            DataSource("pydoc"),
            WindowSelection(SEQ_LEN, SEQ_LEN, WINDOWS, WINDOWS),
            device="cpu",
            dtype="float32",
            threads=THREADS,
            batch_tokens=BATCH * SEQ_LEN,
        )
    )
    bench = Bench(Pair("model", model_reference), plan)
    scenario = Scenario("rtn", edit=EditSpec("quant_rtn", {"bitwidth": 8, "group_size": 32}))
    measure(bench.pair, scenario, plan, bench=bench)
    batches = _padded(bench.windows(0))
    ratios = []
    for _ in range(repetitions):
        start = time.perf_counter()
        measure(bench.pair, scenario, plan, bench=bench)
        ours = time.perf_counter() - start
        with in_force(plan):
            start = time.perf_counter()
            bare_loop(bench.baseline.model, batches)
            bare = time.perf_counter() - start
        ratios.append(ours / bare)
    del torch
    return ratios


def process_ratio(model_reference: str, repetitions: int) -> list[float]:
    """Ratios of whole processes: a one-pair pytest run with pack, and the bare loop's."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "overhead.invarlock.yaml"
        suite.write_text(
            SUITE.format(model=model_reference, seq_len=SEQ_LEN, windows=WINDOWS, threads=THREADS)
        )
        environment = {**os.environ, "XDG_CONFIG_HOME": folder, "HF_HUB_OFFLINE": "1"}
        # Plugins that only this repository's own tests need are no part of a user's run.
        ours = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                "-p", "no:randomly", "-p", "no:hypothesispytest", str(suite)]  # fmt: skip
        bare = [sys.executable, __file__, "--bare-process", "--model", model_reference]
        for repetition in range(repetitions + 1):
            times = [_seconds(command, folder, environment) for command in (ours, bare)]
            if repetition:
                ratios.append(times[0] / times[1])
    return ratios


def _seconds(command: list[str], folder: str, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _print(title: str, ratios: list[float], goal: float) -> None:
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    word = "met" if middle <= goal else "NOT met"
    print(f"{title}: {low:.3f} / {middle:.3f} / {high:.3f} (min / median / max); "
          f"goal {goal:g}: {word}")  # fmt: skip


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:llama")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--bare-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_process:
        bare_process(arguments.model)
        return
    print(f"{arguments.model}, 2 x {WINDOWS} windows of {SEQ_LEN} tokens, {THREADS} thread")
    _print("evaluation of one subject / bare loop",
           evaluation_ratio(arguments.model, arguments.repetitions), EVALUATION_GOAL)  # fmt: skip
    _print("process of a one-pair run / bare loop's process",
           process_ratio(arguments.model, arguments.repetitions), PROCESS_GOAL)  # fmt: skip


if __name__ == "__main__":
    main()
