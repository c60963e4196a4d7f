"""``invarlock doctor``: what every measurement would end with, told by a checkpoint's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from . import suite_text

HEAD = suite_text.HEAD + "scenarios:\n"
NOOP = suite_text.NOOP
RTN = "  - {id: rtn, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 8, scope: ffn}}}\n"
GOOD = HEAD + NOOP


def told(document: Any) -> list[tuple[str, str, str | None]]:
    return [(one["severity"], one["code"], one["key"]) for one in document["findings"]
            if one["severity"] != "note"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (GOOD.replace("device: cpu", "device: cpu, adapter: hf_mlm"), "NOT_MASKED"),
        (GOOD + "eval: {metric: {kind: ppl_mlm}}\n", "METRIC_OF_OTHER_KIND"),
        (GOOD.replace("_n: 24", "_n: 5000"), "DATA_TOO_SMALL"),
        (HEAD + RTN.replace("scope: ffn", "scope: ffn, layers: [99]"), "EDIT_PARAMETERS"),
        (HEAD + RTN.replace("scope: ffn", "scope: ffn@layers=2-4"), "EDIT_PARAMETERS"),
        (HEAD.replace("_n: 24", "_n: 8") + RTN, "FEW_DOCUMENTS"),
    ],
)
def test_a_run_that_could_only_fail(text: str, finding: str, doctor: Any) -> None:
    status, document = doctor(text)
    assert (status, [code for severity, code, _ in told(document)]) == (1, [finding])


@pytest.mark.parametrize(
    "text",
    [
        HEAD + RTN,
        HEAD + RTN.replace("scope: ffn", "scope: ffn, layers: [0, 3]"),
        GOOD.replace("device: cpu", "device: cpu, adapter: hf_causal"),
        GOOD + "eval: {metric: {kind: ppl_causal}}\n",
    ],
)
def test_a_run_that_can_do_it_has_no_finding(text: str, doctor: Any) -> None:
    status, document = doctor(text)
    assert (status, told(document)) == (0, [])


def test_few_windows_are_a_warning_where_floors_may_not_matter(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = HEAD.replace("_n: 24", "_n: 8")
    # An unchanged model passes without them.
    status, document = doctor(few + NOOP)
    assert (status, told(document)) == (0, [("warning", "FEW_DOCUMENTS", "dataset.final_n")])
    monkeypatch.setenv("INVARLOCK_ON_INCONCLUSIVE", "xfail")
    status, document = doctor(few + RTN)
    assert (status, told(document)) == (0, [("warning", "FEW_DOCUMENTS", "dataset.final_n")])


def test_blocks_of_a_scenario_that_is_not_run_do_not_matter(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HEAD + NOOP + RTN.replace("scope: ffn", "scope: ffn, layers: [99]")
    text += "  - {id: other, strictness: must_pass, subject: ./gone}\n"
    status, document = doctor(text)
    assert (status, [code for _, code, _ in told(document)]) == (
        1, ["MODEL_NOT_FOUND", "EDIT_PARAMETERS"],
    )  # fmt: skip
    monkeypatch.setenv("INVARLOCK_SCENARIO", "noop")
    assert doctor(text)[0] == 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_type": "foo"}, "MODEL_CONFIG"),
        ({"model_type": "foo", "auto_map": {"AutoConfig": "x.Y"}}, "MODEL_REMOTE_CODE"),
        ({"hidden_size": 64, "head_dim": 16}, "MODEL_WEIGHTS"),
        ({"architectures": 5}, "MODEL_CONFIG"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "NO_LM_HEAD"),
        ({"architectures": {"a": "b"}}, None),
        ({"architectures": [5]}, None),
        ({"architectures": ["LlamaModel"]}, None),
        ({"architectures": []}, None),
    ],
)
@pytest.mark.parametrize("role", ["model", "subject"])
def test_a_configuration_that_cannot_be_used(
    changes: dict[str, Any], code: str | None, role: str, doctor: Any, tmp_path: Path
) -> None:
    from pytest_invarlock.adapters.model_source import resolve_model

    shutil.copytree(resolve_model("builtin:llama").directory, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    subject = HEAD + "  - {id: m, strictness: must_pass, subject: ./m}\n"
    text = GOOD.replace("builtin:llama", "./m") if role == "model" else subject
    status, document = doctor(text)
    key = "models[0]" if role == "model" else "scenarios[0].subject"
    expected = [] if code is None else [("error", code, key)]
    assert (status, told(document)) == (len(expected), expected)


def test_a_tokenizer_that_cannot_be_read(doctor: Any, tmp_path: Path) -> None:
    from pytest_invarlock.adapters.model_source import resolve_model

    shutil.copytree(resolve_model("builtin:llama").directory, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    status, document = doctor(GOOD.replace("builtin:llama", "./m"))
    assert (status, told(document)) == (1, [("error", "TOKENIZER_MISSING", "models[0]")])


def test_what_loading_raises_otherwise_is_told_and_stops_nothing(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_invarlock.doctor import preflight

    def broken(*arguments: Any) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(preflight, "lay_out", broken)
    status, document = doctor(GOOD)
    assert (status, told(document)) == (0, [("warning", "NOT_LAID_OUT", None)])
    assert "RecursionError: too deep" in document["findings"][0]["message"]
