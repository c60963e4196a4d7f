"""``invarlock doctor --config``: every finding with code, place and remedy; nothing is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_invarlock.cli import main

from . import suite_text

NOOP = suite_text.NOOP
GOOD = suite_text.GOOD


def found(document: Any, code: str) -> Any:
    (finding,) = [one for one in document["findings"] if one["code"] == code]
    return finding


def codes(document: Any) -> list[str]:
    return [one["code"] for one in document["findings"]]


def place(finding: Any) -> tuple[str | None, int | None, str | None]:
    return finding["file"], finding["line"], finding["key"]


MANY_WRONG = """\
name: small
models: ["builtin:llama", ./nowhere, org/none]
tier: balancd
dataset: {provider: pydoc, seq_len: 64, preview_n: 24, fnal_n: 24, stryde: 3}
scenarios:
  - {id: a, strictness: must_pass, edit: {name: quant_rtn, plan: {bitwidth: 80}}}
  - {id: b, strictness: must_pas, edit: {name: noop}}
  - {id: c, strictness: must_pass, edit: {name: quantrtn}}
  - {id: d, strictness: must_pass, edit: {name: quant_rtn, plan: {clean: true, bits: 4}}}
  - {id: e, strictness: must_pass, subject: ./gone}
"""


def test_every_error_is_told_not_only_the_first(doctor: Any) -> None:
    status, document = doctor(MANY_WRONG)
    assert status == 1
    errors = [(one["code"], one["line"], one["key"]) for one in document["findings"]
              if one["severity"] == "error"]  # fmt: skip
    assert errors == [
        ("UNKNOWN_KEY", 4, "dataset.fnal_n"),
        ("UNKNOWN_KEY", 4, "dataset.stryde"),
        ("BAD_VALUE", 7, "scenarios[1].strictness"),
        ("BAD_VALUE", 6, "scenarios[0].edit.plan.bitwidth"),
        ("UNKNOWN_EDIT", 8, "scenarios[2].edit.name"),
        ("UNKNOWN_KEY", 9, "scenarios[3].edit.plan.bits"),
        ("UNKNOWN_TIER", 3, "tier"),
        ("MODEL_NOT_FOUND", 2, "models[1]"),
        ("MODEL_NOT_CACHED", 2, "models[2]"),
        ("MODEL_NOT_FOUND", 10, "scenarios[4].subject"),
    ]
    assert document["findings"][0]["remedy"] == "did you mean 'final_n'?"
    for one in document["findings"]:
        assert one["severity"] != "error" or (one["file"] == "my.yaml" and one["remedy"])
    assert document["config"]["runs"] is False


@pytest.mark.parametrize(
    "text",
    [
        MANY_WRONG,
        GOOD.replace("noop}}", "noop, plan: {x: 1}}}"),
        GOOD.replace("seq_len", "seqlen"),
        GOOD.replace("24}", "25}"),
        GOOD.replace("profile: dev", "profile: ci").replace("provider: pydoc, ", ""),
        GOOD.replace("profile: dev", "profile: dev\nprofile: ci"),
        GOOD + NOOP,
        GOOD.replace("pydoc", "pidoc"),
        "model: {id: 'builtin:gpt2'}\nedit: {name: quant_rtn, plan: {bits: 1}}\n",
        "model: {id: 'builtin:gpt2'}\ndataset: {provider: pydoc}\n",
        "model: {id: 'builtin:gpt2'}\nedit: {name: noop}\n"
        "eval: {metric: {kind: ppl_mlm}, loss: {type: causal}}\n",
        "extends: nothing\n",
        "- a list\n",
        "a: [\n",
        "",
    ],
)
def test_what_stops_collection_is_among_the_findings(
    text: str, doctor: Any, tmp_path: Path
) -> None:
    from pytest_invarlock.errors import ConfigError
    from pytest_invarlock.policy.settings import Settings
    from pytest_invarlock.policy.suite import load_suite_file

    status, document = doctor(text)
    with pytest.raises(ConfigError) as caught:
        load_suite_file(Path("my.yaml"), Settings(), tmp_path)
    assert status == 1
    told = [one for one in document["findings"] if one["severity"] == "error"]
    assert any(
        one["code"] == caught.value.code and one["message"] in caught.value.cause for one in told
    ), (caught.value, told)


def test_a_good_file_tells_what_it_would_run(doctor: Any) -> None:
    text = GOOD + (
        "  - {id: rtn, strictness: must_fail, edit: {name: quant_rtn, plan: {bitwidth: 2}}}\n"
        "  - {id: other, strictness: must_pass, subject: 'builtin:gpt2'}\n"
    )
    status, document = doctor(text)
    assert (status, document["summary"]["errors"]) == (0, 0)
    resolution = document["resolution"]
    (model,) = resolution["models"]
    assert (model["name"], model["context"], model["found"]) == ("builtin:llama", 256, True)
    assert [one["name"] for one in resolution["subjects"]] == ["builtin:gpt2"]
    assert [(one["id"], one["strictness"], one["parameters_from"]) for one in
            resolution["scenarios"]] == [
        ("noop", "must_pass", "plan"),
        ("rtn", "must_fail", "plan"),
        ("other", "must_pass", None),
    ]  # fmt: skip
    assert resolution["scenarios"][1]["edit"]["parameters"] == {"bitwidth": 2}
    assert "my.yaml::builtin:llama::rtn::detected" in resolution["items"]
    assert resolution["windows"]["final_windows"] == 24
    assert resolution["dataset"] == {
        "provider": "pydoc", "readable": True, "documents": 246, "revision": None,
    }  # fmt: skip
    assert document["policy"]["checks"] == [
        "invariants", "spectral", "rmt", "variance", "primary_metric", "drift", "tail",
        "guard_overhead",
    ]  # fmt: skip
    assert document["environment"]["device"] == "cpu"


def test_clean_parameters_and_where_they_come_from(
    doctor: Any, tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoints["llama"], tmp_path / "model")
    text = GOOD.replace('"builtin:llama"', "./model").replace(
        "{name: noop}", "{name: quant_rtn, plan: {clean: true}}"
    )
    status, document = doctor(text)
    (scenario,) = document["resolution"]["scenarios"]
    assert (status, scenario["parameters_from"]) == (0, "tuned: default")
    assert scenario["edit"]["parameters"] == {"bitwidth": 8, "group_size": 32}
    assert found(document, "TUNED_DEFAULT")["line"] == 7
    tuned = {"defaults": {"quant_rtn": {"status": "selected", "bits": 4, "group_size": 16}}}
    (tmp_path / "tuned.json").write_text(json.dumps(tuned))
    monkeypatch.setenv("INVARLOCK_TUNED", "tuned.json")
    (scenario,) = doctor(text)[1]["resolution"]["scenarios"]
    assert scenario["parameters_from"] == "tuned: file"
    assert scenario["edit"]["parameters"] == {"bitwidth": 4, "group_size": 16}
    monkeypatch.setenv("INVARLOCK_TUNED", "absent.json")
    status, document = doctor(text)
    assert (status, "UNREADABLE_FILE" in codes(document)) == (1, True)


def test_no_model_is_built_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers')))\n"
        "from pytest_invarlock.cli import main\n"
        "sys.exit(main(['doctor', '--config', 'my.yaml']))"
    )
    home = tmp_path / "home"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_missing_file_and_a_directory_still_give_one_document(
    doctor: Any, tmp_path: Path
) -> None:
    status, document = doctor(None, name="absent.yaml")
    assert (status, codes(document)) == (3, ["FILE_MISSING"])
    (tmp_path / "folder").mkdir()
    status, document = doctor(None, name="folder")
    assert (status, codes(document)) == (2, ["NOT_A_FILE"])


def test_whatever_else_is_raised_gives_one_document_too(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_invarlock.doctor import preflight
    from pytest_invarlock.errors import EvidenceError

    def broken(*arguments: Any, **options: Any) -> None:
        raise EvidenceError("something else", remedy="mend it", code="ELSE")

    monkeypatch.setattr(preflight, "look_at_dataset", broken)
    status, document = doctor(GOOD)
    assert (status, codes(document)) == (1, ["ELSE"])


def test_a_crash_gives_one_document_and_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_invarlock.doctor import preflight
    from pytest_invarlock.policy.resources import schema, strict_validator

    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError(f"{tmp_path}/elsewhere")

    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(GOOD)
    monkeypatch.setattr(preflight, "look_at_dataset", broken)
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--config", "my.yaml", "--json"])
    assert caught.value.code == 70
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    strict_validator()(schema("doctor")).validate(document)
    assert codes(document) == ["CRASHED"]
    assert str(tmp_path) not in captured.out
    assert "Traceback" in captured.err


def test_an_absolute_path_never_leaves_in_the_document(doctor: Any, tmp_path: Path) -> None:
    text = GOOD.replace('"builtin:llama"', f'"builtin:llama", {tmp_path}/elsewhere/model')
    _, document = doctor(text)
    assert found(document, "MODEL_NOT_FOUND")["message"].startswith("elsewhere/model: no such")
    assert str(tmp_path.parent) not in json.dumps(document)
    assert str(Path.home()) not in json.dumps(document)


def run_configuration(**blocks: str) -> str:
    head = {
        "model": "{id: 'builtin:gpt2', device: cpu}",
        "dataset": "{provider: pydoc, seq_len: 64, preview_n: 24, final_n: 24}",
        "edit": "{name: quant_rtn, plan: {bitwidth: 8}}",
    }
    return "".join(f"{key}: {value}\n" for key, value in {**head, **blocks}.items())


def test_keys_not_followed_are_told(doctor: Any) -> None:
    text = run_configuration(
        guards="{order: [invariants, spectral, rmt], spectral: {mode: monitor}}",
        auto="{probes: 3}",
        output="{dir: runs, save_model: true}",
    )
    status, document = doctor(text)
    assert status == 0
    assert document["config"] == {"file": "my.yaml", "kind": "run_configuration", "runs": True}
    not_followed = [one["key"] for one in document["findings"] if one["code"] == "NOT_FOLLOWED"]
    assert not_followed == ["guards.order", "auto.probes", "output.save_model"]
    assert document["resolution"]["out"] == "runs"


def test_a_wrong_limit_of_a_guard_is_an_error_at_its_place(doctor: Any) -> None:
    status, document = doctor(run_configuration(guards="{rmt: {margin: 0}}"))
    assert status == 1
    wrong = found(document, "GUARD_LIMITS")
    assert place(wrong) == ("my.yaml", 4, "guards.rmt.margin")


def test_a_guard_that_is_not_installed_is_an_error_at_its_place(doctor: Any) -> None:
    status, document = doctor(run_configuration(guards="{order: [invariants, nan_check]}"))
    assert status == 1
    assert place(found(document, "UNKNOWN_GUARD")) == ("my.yaml", 4, "guards.order")


def test_windows_beyond_the_context(doctor: Any) -> None:
    status, document = doctor(GOOD.replace("seq_len: 64", "seq_len: 512"))
    assert status == 0
    capped = found(document, "SEQ_LEN_CAPPED")
    assert place(capped) == ("my.yaml", 4, "dataset.seq_len")
    assert "builtin:llama: seq_len 512 capped at the model's context of 256" in capped["message"]
    named = GOOD.replace("seq_len: 64", "convention: gptq-2048")
    status, document = doctor(named)
    assert (status, "CONTEXT_TOO_SHORT" in codes(document)) == (1, True)


def test_a_checkpoint_without_tokenizer_or_with_damaged_weights(
    doctor: Any, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    text = GOOD.replace('"builtin:llama"', "./model")
    shutil.copytree(checkpoints["llama"], tmp_path / "model")
    assert doctor(text)[0] == 0
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    status, document = doctor(text)
    assert (status, place(found(document, "TOKENIZER_MISSING"))) == (1, ("my.yaml", 2, "models[0]"))
    byte_level = {"tokenizer_class": "ByT5Tokenizer"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(byte_level))
    # Bytes are a tokenizer; that this model knows others of them is another error.
    assert "TOKENIZER_MISSING" not in codes(doctor(text)[1])
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "MODEL_TRUNCATED" in codes(doctor(text)[1])


def test_the_network_turns_what_is_not_cached_into_a_note(doctor: Any) -> None:
    text = GOOD.replace('"builtin:llama"', "org/none").replace("pydoc", "wikitext2")
    status, document = doctor(text)
    assert status == 1
    assert found(document, "MODEL_NOT_CACHED")["key"] == "models[0]"
    assert place(found(document, "DATASET_NOT_CACHED")) == ("my.yaml", 4, "dataset.provider")
    status, document = doctor(text, "--allow-network")
    assert status == 0
    assert {"MODEL_TO_FETCH", "DATASET_TO_FETCH"} <= set(codes(document))
    assert not document["resolution"]["dataset"]["readable"]


def test_local_data_missing_broken_or_too_little(doctor: Any, tmp_path: Path) -> None:
    text = GOOD.replace("provider: pydoc", "provider: local_jsonl, file: texts.jsonl")
    status, document = doctor(text)
    assert (status, found(document, "DATA_UNREADABLE")["key"]) == (1, "dataset.provider")
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"text": \n')
    status, document = doctor(text)
    assert status == 1
    assert "texts.jsonl:2" in json.dumps(document["findings"])
    lines = (
        json.dumps({"text": " ".join(f"word{1000 * i + j}" for j in range(200))}) for i in range(30)
    )
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    status, document = doctor(text)
    assert (status, document["resolution"]["dataset"]["documents"]) == (0, 30)
    few = found(document, "FEW_DOCUMENTS")
    assert "holds windows of 12 documents, below the floor of 20" in few["message"]
    assert (few["severity"], place(few)) == ("warning", ("my.yaml", 4, "dataset.provider"))
    assert few["remedy"].startswith("give at least 50 documents")


def test_data_that_nobody_named(doctor: Any) -> None:
    text = GOOD.replace("provider: pydoc, ", "")
    status, document = doctor(text)
    assert (status, found(document, "ASSUMED")["severity"]) == (0, "warning")
    assert "using the shipped text (pydoc)" in found(document, "ASSUMED")["message"]


def test_an_adapter_that_nobody_installed(doctor: Any) -> None:
    status, document = doctor(GOOD.replace("device: cpu", "adapter: hf_casual"))
    assert (status, found(document, "UNKNOWN_ADAPTER")["remedy"]) == (
        1,
        "did you mean 'hf_causal'?",
    )


def test_text_is_one_line_a_finding(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(GOOD.replace("profile", "profle"))
    assert main(["doctor", "--config", "my.yaml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ERROR: [UNKNOWN_KEY] my.yaml:3: unknown key 'profle' (did you mean 'profile'?)" in lines
    assert "  scenario builtin:llama::noop (must pass): noop" in lines
    assert lines[-1] == "1 error, 0 warnings, 1 note"


def test_config_and_families_exclude_each_other(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--config", "a.yaml", "--families", "builtin:llama"])
    assert caught.value.code == 2
