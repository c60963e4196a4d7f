"""Each shipped preset is drawn from, on a small Hub cache of the layout that it names."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_invarlock.data import draw_windows, get_provider
from pytest_invarlock.plan import MeasurementPlan
from pytest_invarlock.policy.plan_settings import build_plan
from pytest_invarlock.policy.settings import collect_settings

ENGLISH_FRENCH = [
    {"id": str(n), "translation": {"en": f"w{n} w{n + 1} w{n + 2}", "fr": f"w{n + 9} w{n}"}}
    for n in range(200)
]
ENDINGS = [
    {
        "ind": n, "activity_label": "Walking", "ctx": f"w{n} w{n + 1}", "label": str(n % 4),
        "endings": [f"w{n + 10 * k} w{k}" for k in range(4)], "split": "val",
    }
    for n in range(200)
]  # fmt: skip


def planned(preset: str, hub: Any, tmp_path: Any, **options: str) -> MeasurementPlan:
    value = {"preset": preset, "profile": "dev", "dataset": {"cache_dir": str(hub.folder)}}
    made = {f"invarlock_{name}": text for name, text in options.items()}
    return build_plan(value, collect_settings(made.get, {}.get, {}), tmp_path)


def drawn(plan: MeasurementPlan, tokenizer: Any, reading: Any) -> Any:
    provider = get_provider(plan.source.provider, plan.source)
    windows = draw_windows(
        provider, tokenizer, plan.windows, draw=0, reading=reading, metric=plan.metric,
        mask_probability=plan.mask_probability,
    )  # fmt: skip
    return windows, provider.identity()


@pytest.mark.parametrize(("preset", "reading"), [("causal", "causal"), ("masked", "masked")])
def test_the_wikitext_presets_draw_articles(
    hub: Any, tmp_path: Any, word_tokenizer: Any, preset: str, reading: Any
) -> None:
    hub.add_wikitext(articles=61)
    plan = planned(preset, hub, tmp_path, profile="ci", final_windows="48", preview_windows="48")
    windows, identity = drawn(plan, word_tokenizer((1,), (2,), mask=4), reading)
    # 122 articles; the floor of ci and release is 40 documents in the final arm.
    assert windows.n_documents["final"] == 48
    assert identity["split"] == "validation+test"
    assert identity["config_name"] == "wikitext-2-raw-v1"
    assert (plan.windows.seq_len, plan.windows.stride) == (512, 512)
    assert windows.overlap_fraction == 0.0


def test_the_encoder_decoder_preset_draws_translations(
    hub: Any, tmp_path: Any, word_tokenizer: Any
) -> None:
    card = "---\nconfigs:\n- config_name: en-fr\n  data_files:\n  - split: train\n    path: en-fr/train-*\n---\n"
    hub.add("Helsinki-NLP/opus_books", {"en-fr/train-00000-of-00001.parquet": ENGLISH_FRENCH}, card)
    plan = planned("seq2seq", hub, tmp_path, final_windows="50", preview_windows="50")
    windows, identity = drawn(plan, word_tokenizer(suffix=(1,)), "seq2seq")
    assert plan.metric == "ppl_seq2seq"
    assert windows.n_documents == {"preview": 50, "final": 50}
    assert identity["dataset_name"] == "Helsinki-NLP/opus_books"
    assert identity["max_samples"] == 20000


def test_the_accuracy_preset_draws_examples(hub: Any, tmp_path: Any, word_tokenizer: Any) -> None:
    files = {f"data/{split}-00000-of-00001.parquet": ENDINGS for split in ("train", "validation")}
    hub.add("Rowan/hellaswag", files)
    plan = planned("accuracy", hub, tmp_path, final_windows="50", preview_windows="50")
    windows, identity = drawn(plan, word_tokenizer(), "causal")
    assert plan.metric == "accuracy"
    assert len(windows.final) == 200
    assert windows.final[-1].example == 99
    assert identity["split"] == "validation"
