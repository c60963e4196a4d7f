"""Sessions on masked and encoder-decoder models, on accuracy, and with early stopping."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "models"
TEXT = ROOT / "pytest_invarlock" / "builtin" / "text" / "heldout.jsonl.gz"
LOADERS = {"bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}
COUNTS = (
    "--invarlock-dataset=pydoc", "--invarlock-seq-len=64", "--invarlock-preview-windows=20",
    "--invarlock-final-windows=20", "--invarlock-profile=dev", "--invarlock-threads=1",
)  # fmt: skip


def paragraphs() -> list[str]:
    rows = [json.loads(line) for line in gzip.decompress(TEXT.read_bytes()).splitlines()]
    return [
        " ".join(paragraph.split())
        for row in rows
        for paragraph in row["text"].split("\n\n")
        if len(paragraph) > 200
    ]


def damaged(kind: str, folder: Path, share: float) -> Path:
    """A checkpoint whose decoder (BERT: encoder) projections carry noise of ``share`` their size."""
    source = MODELS / kind
    model = LOADERS[kind].from_pretrained(source, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and ("decoder.block" in name or "encoder.layer" in name):
            noise = torch.randn(parameter.shape, generator=generator) * parameter.std() * share
            parameter.data.add_(noise)
    target = folder / f"{kind}-{share:g}"
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def records(repository) -> dict[str, dict]:
    return {
        path.parent.name: json.loads(path.read_text())["facts"]
        for path in (repository.latest / "records").rglob("*.record.json")
    }


def numbers(repository, scenario: str, check: str = "primary_metric") -> dict:
    (path,) = (repository.latest / "reports").glob(f"*/{scenario}/run_0/evaluation.report.json")
    checks = json.loads(path.read_text())["decision"]["checks"]
    return next(entry["numbers"] for entry in checks if entry["check"] == check)


OWN = """\
name: own
models: ["{model}"]
dataset: {{provider: pydoc}}
scenarios:
  - {{id: noop, strictness: must_pass, edit: {{name: noop}}}}
"""


def drawn_again(verified: tuple[int, str]) -> tuple[int, int]:
    """Exit status, and of how many records windows were drawn again."""
    status, told = verified
    found = re.search(r"^DATA_CHECKED .* windows of (\d+) records drawn again", told, re.M)
    assert found, told
    return status, int(found[1])


@pytest.mark.parametrize(
    ("kind", "metric", "adapter"),
    [("bert", "ppl_mlm", "hf_mlm"), ("t5", "ppl_seq2seq", "hf_seq2seq")],
)
def test_a_models_kind_chooses_its_metric_and_harm_is_told_from_noise(
    repository, tmp_path, kind, metric, adapter
):
    good, bad = damaged(kind, tmp_path, 0.01), damaged(kind, tmp_path, 1.0)
    result = repository.run(
        f"--invarlock-baseline={MODELS / kind}", f"--invarlock-subject={good}",
        f"--invarlock-subject={bad}", *COUNTS,
    )  # fmt: skip
    verdicts = {r["scenario"]: r["outcome"] for r in repository.verdict()["decisions"]}
    assert verdicts == {good.name: "PASS", bad.name: "FAIL"}
    assert result.ret == 1
    facts = records(repository)[good.name]
    assert facts["plan"]["metric"] == metric
    assert facts["baseline"]["adapter"] == facts["subject"]["adapter"] == adapter
    assert facts["divergence"]["method"] == "cached_states"
    assert 0 < facts["divergence"]["final"]["kl_nats_mean"] < 0.05
    assert facts["arms"]["final"]["n_windows"] == 20
    assert (
        numbers(repository, good.name)["ratio_upper"] < 1.1 < numbers(repository, bad.name)["ratio"]
    )
    # Of a comparison any suite names the data that names it and the baseline.
    (repository.path / "own.yaml").write_text(OWN.format(model=MODELS / kind))
    assert drawn_again(repository.verify_data("own.yaml")) == (1, 2)


def test_a_metric_of_another_kind_of_model_ends_in_one_line(repository):
    result = repository.run(
        f"--invarlock-baseline={MODELS / 'bert'}", f"--invarlock-subject={MODELS / 'bert'}",
        "--invarlock-adapter=hf_causal", *COUNTS,
    )  # fmt: skip
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*ERROR*is not a causal language model*hf_mlm*"])


CHOICES = """\
name: choices
models: ["builtin:llama"]
tier: text-only.yaml
profile: dev
dataset:
  provider: {{kind: local_jsonl_choices, file: {file}, choices_field: choices}}
  seq_len: 96
  preview_n: {final}
  final_n: {final}
eval: {{metric: {{kind: accuracy}}}}
run: {{device: cpu, dtype: float32, threads: 1, determinism: strict}}
floors: {{documents: 20, effective_documents: 10}}
accuracy: {{min_examples: {floor}, drop_limit_pp: 8.0}}
bootstrap_replicates: 499
scenarios:
  - {{id: same, strictness: must_pass, edit: {{name: noop}}}}
  - {{id: rtn, strictness: must_pass, edit: {{name: quant_rtn, plan: {{bitwidth: 8}}}}}}
  - {{id: wrecked, strictness: must_fail, detectors: {{any: [primary_metric]}},
     edit: {{name: magnitude_prune, plan: {{sparsity: 0.95}}}}}}
"""


def write_choices(folder: Path, n: int) -> Path:
    """How does this paragraph go on: with its next words, or with the same ones shuffled?"""
    generator = random.Random(0)
    rows = []
    for text in generator.sample(paragraphs(), n):
        words = text.split()
        end = words[12:22]
        ends = [end, *(generator.sample(end, len(end)) for _ in range(3))]
        order = generator.sample(range(4), 4)
        rows.append({
            "text": " ".join(words[:12]), "choices": [" " + " ".join(ends[i]) for i in order],
            "label": order.index(0),
        })  # fmt: skip
    path = folder / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_accuracy_is_measured_on_real_predictions(repository):
    file = write_choices(repository.path, 200)
    (repository.path / "choices.yaml").write_text(
        CHOICES.format(file=file.name, final=60, floor=60)
    )
    result = repository.run("--invarlock-suite=choices.yaml")
    verdicts = {r["scenario"]: r["outcome"] for r in repository.verdict()["decisions"]}
    assert verdicts == {"same": "PASS", "rtn": "PASS", "wrecked": "FAIL"}
    assert result.ret == 0
    rtn, wrecked = numbers(repository, "rtn"), numbers(repository, "wrecked")
    # Four choices: a model that knows nothing is right in one of four.
    assert rtn["accuracy_baseline"] > 0.5
    assert wrecked["accuracy_subject"] < 0.45
    assert wrecked["harmful"] - wrecked["beneficial"] == pytest.approx(
        wrecked["drop_pp"] / 100 * 60
    )
    assert wrecked["mcnemar_p"] < 0.01 < rtn["mcnemar_p"]
    facts = records(repository)["wrecked"]
    assert facts["arms"]["final"]["n_windows"] == 240
    assert facts["noise_floor"]["changed_predictions"] == 0
    assert drawn_again(repository.verify_data("choices.yaml")) == (0, 3)


def test_too_few_examples_are_inconclusive(repository):
    file = write_choices(repository.path, 200)
    (repository.path / "choices.yaml").write_text(
        CHOICES.format(file=file.name, final=20, floor=21)
    )
    repository.run("--invarlock-suite=choices.yaml", "--invarlock-scenario=rtn")
    (found,) = repository.verdict()["decisions"]
    assert found["outcome"] == "INCONCLUSIVE"


def test_sequential_mode_stops_at_the_first_look_on_clear_cases(repository):
    texts = repository.path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs()[:360]))
    (repository.path / "small.invarlock.yaml").write_text(
        """\
name: small
models: ["builtin:llama"]
tier: text-only.yaml
profile: dev
dataset: {provider: {kind: local_jsonl, file: texts.jsonl}, seq_len: 48, preview_n: 130, final_n: 130}
run: {device: cpu, dtype: float32, threads: 1, determinism: strict}
bootstrap_replicates: 499
scenarios:
  - {id: rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8}}}
  - {id: pruned, strictness: must_fail, detectors: {any: [primary_metric]},
     edit: {name: magnitude_prune, plan: {sparsity: 0.8}}}
"""
    )
    result = repository.run("--invarlock-suite=small.invarlock.yaml", "--invarlock-sequential")
    verdicts = {r["scenario"]: r["outcome"] for r in repository.verdict()["decisions"]}
    assert verdicts == {"rtn": "PASS", "pruned": "FAIL"}, result.stdout.str()
    for facts in records(repository).values():
        assert facts["arms"]["final"]["n_windows"] == 64
        assert facts["arms"]["preview"]["n_windows"] == 64
        assert facts["data"]["n_documents"]["final"] == 64
        assert facts["data"]["n_documents_planned"]["final"] == 130
    assert numbers(repository, "rtn")["rule"] == "sequential"
    counters = max(
        json.loads(path.read_text())["observations"]["counters"]["subject_windows"]
        for path in (repository.latest / "records").rglob("*.record.json")
    )
    assert counters == 2 * 2 * 64
    # What stopped early was drawn whole, and measured in part.
    assert drawn_again(repository.verify_data("small.invarlock.yaml")) == (0, 2)
    # The baseline's kept states would betray the text, and are large.
    assert not (repository.latest / "state" / "baseline").exists()
