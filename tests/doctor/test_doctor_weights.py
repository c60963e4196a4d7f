"""``invarlock doctor --weights``: damage fails and is named; bad files are findings, no crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_invarlock.adapters import model_source
from pytest_invarlock.cli import main
from pytest_invarlock.policy.resources import schema, strict_validator

DAMAGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def _no_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)


@pytest.fixture
def baseline(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "baseline"))


@pytest.fixture
def subject(baseline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline, tmp_path / "subject"))


def changed(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def weights(capsys: Any, *arguments: str) -> tuple[int, Any]:
    status = main(["doctor", "--weights", *arguments, "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    strict_validator()(schema("doctor_weights")).validate(document)
    assert document["summary"]["status"] == ("ok" if status == 0 else "errors")
    return status, document


def outcomes(document: Any) -> dict[str, str]:
    return {check["check"]: check["outcome"] for check in document["checks"]}


def codes(document: Any) -> list[str]:
    return [finding["code"] for finding in document["findings"]]


def test_a_damaged_weight_fails_and_is_named(subject: Path, capsys: Any, tmp_path: Path) -> None:
    changed(subject, lambda t: t[DAMAGED][:, :20].zero_())
    changed(subject, lambda t: t["model.norm.weight"].mul_(1.001))
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    assert outcomes(document) == {"invariants": "PASS", "spectral": "FAIL"}
    assert [module["name"] for module in document["modules"]] == [DAMAGED, "model.norm.weight"]
    assert document["checks"][1]["violations"][0]["module"] == DAMAGED
    assert codes(document) == ["SPECTRAL_FAIL"]
    # A document may be shown to others.
    assert str(tmp_path) not in json.dumps(document)


def test_it_is_told_in_a_table(subject: Path, capsys: Any) -> None:
    changed(subject, lambda t: t[DAMAGED][:, :20].zero_())
    assert main(["doctor", "--weights", "baseline", "subject"]) == 1
    title, invariants, spectral, header, row, finding, count = capsys.readouterr().out.splitlines()
    assert title == "baseline -> subject: kind any, tier balanced"
    assert invariants.startswith("  invariants PASS: 21 tensors: finite")
    assert spectral == "  spectral FAIL"
    assert header.split()[:2] == ["module", "family"]
    assert row.split()[:2] == [DAMAGED, "ffn"]
    assert len(row.split()) == 8
    assert finding.startswith(f"ERROR: [SPECTRAL_FAIL] {DAMAGED} (ffn): ")
    assert count == "1 error, 0 warnings, 0 notes"


def test_what_the_manual_shows_is_what_is_printed(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_source.resolve_model("builtin:llama").directory, "baseline")
    shutil.copytree("baseline", "subject")

    def damage(tensors: dict[str, Any]) -> None:
        tensors[DAMAGED][:, :40] = 0
        tensors["model.norm.weight"].mul_(1.02)

    changed(Path("subject"), damage)
    assert main(["doctor", "--weights", "./baseline", "./subject"]) == 1
    printed = capsys.readouterr().out
    manual = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert f"$ invarlock doctor --weights ./baseline ./subject\n{printed}```" in manual


def test_equal_checkpoints_pass(subject: Path, capsys: Any) -> None:
    status, document = weights(capsys, "baseline", "subject")
    assert status == 0
    assert outcomes(document) == {"invariants": "PASS", "spectral": "PASS"}
    assert (document["modules"], document["findings"]) == ([], [])
    assert main(["doctor", "--weights", "baseline", "subject"]) == 0
    assert "  no tensor differs" in capsys.readouterr().out.splitlines()


def test_the_declared_kind_decides_the_limits(subject: Path, capsys: Any) -> None:
    changed(subject, lambda t: t[DAMAGED].mul_(1.02))
    assert weights(capsys, "baseline", "subject")[0] == 0
    status, document = weights(capsys, "baseline", "subject", "--kind", "quantize8")
    assert (status, document["kind"]) == (1, "quantize8")
    assert outcomes(document)["spectral"] == "FAIL"


def test_a_change_of_basis_is_a_warning(subject: Path, capsys: Any) -> None:
    def rescale(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.self_attn.v_proj.weight"].mul_(2)
        tensors["model.layers.0.self_attn.o_proj.weight"].div_(2)

    changed(subject, rescale)
    status, document = weights(capsys, "baseline", "subject")
    assert (status, codes(document)) == (0, ["SPECTRAL_WARN"])
    assert document["checks"][1]["reason"] == "basis_changed"


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing_tensor"),
        (lambda t: t.update(more=torch.zeros(2)), "unexpected_tensor"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(8, 32)}), "shape_change"),
        (lambda t: t[DAMAGED][0].fill_(float("nan")), "non_finite"),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_what_does_not_load_is_reported(
    change: Any, violation: str, subject: Path, capsys: Any
) -> None:
    changed(subject, change)
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    assert outcomes(document)["invariants"] == "FAIL"
    assert document["checks"][0]["violations"][0]["kind"] == violation
    assert "INVARIANTS_FAIL" in codes(document)


def test_another_architecture_fails_by_its_structure(
    baseline: Path, checkpoints: dict[str, Path], capsys: Any
) -> None:
    status, document = weights(capsys, "baseline", str(checkpoints["gpt2"]))
    assert status == 1
    assert outcomes(document) == {"invariants": "FAIL", "spectral": "ERROR"}
    assert document["subject"] == {"name": "gpt2", "revision": None}


def cut(subject: Path) -> None:
    file = subject / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def only_bin(subject: Path) -> None:
    (subject / "model.safetensors").rename(subject / "pytorch_model.bin")


def two_files(subject: Path) -> None:
    shutil.copy(subject / "model.safetensors", subject / "copy.safetensors")
    (subject / "model.safetensors").rename(subject / "other.safetensors")


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        (cut, "MODEL_TRUNCATED", "model.safetensors"),
        (only_bin, "MODEL_INCOMPLETE", "safetensors"),
        (two_files, "CHECKPOINT_FILE", "other.safetensors"),
        (lambda d: (d / "config.json").unlink(), "MODEL_INCOMPLETE", "config.json"),
    ],
    ids=["cut", "bin", "two files", "no config"],
)
def test_a_bad_file_is_an_error_with_a_remedy(
    damage: Callable[[Path], None], code: str, named: str, subject: Path, capsys: Any
) -> None:
    damage(subject)
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    (finding,) = document["findings"]
    assert (finding["code"], finding["severity"]) == (code, "error")
    assert named in finding["message"] + finding["remedy"]
    assert finding["remedy"]
    assert document["checks"] == []


def test_what_is_not_there_is_missing(baseline: Path, capsys: Any) -> None:
    status, document = weights(capsys, "baseline", "./nowhere")
    assert (status, codes(document)) == (3, ["MODEL_NOT_FOUND"])
    status, document = weights(capsys, "no-such/model", "baseline")
    assert (status, codes(document)) == (1, ["MODEL_NOT_CACHED"])


def test_without_tokenizers_weights_are_compared_and_that_is_told(
    subject: Path, capsys: Any
) -> None:
    for file in subject.glob("tokenizer*"):
        file.unlink()
    status, document = weights(capsys, "baseline", "subject")
    assert (status, codes(document)) == (0, ["TOKENIZER_MISSING"])
    assert outcomes(document)["invariants"] == "PASS"


def test_another_tokenizer_is_a_violation(subject: Path, capsys: Any) -> None:
    file = subject / "tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["merges"] = told["model"]["merges"][:-1]
    file.write_text(json.dumps(told))
    document = weights(capsys, "baseline", "subject")[1]
    assert document["checks"][0]["violations"][0]["kind"] == "tokenizer_change"


def test_an_architecture_that_nobody_knows_is_compared_by_names(
    baseline: Path, subject: Path, capsys: Any
) -> None:
    for folder in (baseline, subject):
        values = json.loads((folder / "config.json").read_text()) | {"model_type": "unheard-of"}
        (folder / "config.json").write_text(json.dumps(values))
    changed(subject, lambda t: t[DAMAGED].mul_(3))
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    assert document["checks"][1]["reason"] == "canon_unavailable"
    assert {"MODEL_CONFIG", "BY_NAMES", "SPECTRAL_ERROR"} <= set(codes(document))
    assert weights(capsys, "baseline", "subject", "--kind", "prune")[0] == 1


def test_weights_of_a_declared_quantiser_are_told_of(subject: Path, capsys: Any) -> None:
    values = json.loads((subject / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (subject / "config.json").write_text(json.dumps(values))
    document = weights(capsys, "baseline", "subject")[1]
    assert "PACKED_WEIGHTS" in codes(document)


def test_a_hub_id_is_read_from_the_offline_cache(
    baseline: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    commit = "0" * 40
    cached = model_source.ModelSource("org/tiny", baseline, "org/tiny", commit)
    resolve = model_source.resolve_model

    def found(reference: str, *, allow_network: bool = False) -> Any:
        assert not allow_network
        return cached if reference == "org/tiny" else resolve(reference)

    monkeypatch.setattr("pytest_invarlock.doctor.weights.resolve_model", found)
    status, document = weights(capsys, "org/tiny", "baseline")
    assert (status, document["baseline"]) == (0, {"name": "org/tiny", "revision": commit})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weights", "builtin:llama", "builtin:llama", "--kind", "nonsense"),
        ("--kind", "any"),
        ("--kind", "any", "--families", "builtin:llama"),
    ],
)
def test_usage(arguments: tuple[str, ...], capsys: Any) -> None:
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--kind" in captured.err


def test_two_models_are_asked_for() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--weights", "builtin:llama"])
    assert stop.value.code == 2


def store_packed(directory: Path, seed: int, n_floats: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = "model.layers.0.mlp.up_proj"
    packed = {
        f"{module}.{part}": torch.randint(0, 99, (8, 8), generator=generator, dtype=torch.int32)
        for part in ("qweight", "qzeros")
    }
    packed["model.layers.0.mlp.down_proj.weight"] = torch.ones(n_floats, 8)
    save_file(packed, directory / "model.safetensors")


@pytest.mark.parametrize("n_floats", [1, 1000])
def test_packed_weights_that_differ_are_an_error(
    n_floats: int, baseline: Path, subject: Path, capsys: Any
) -> None:
    for seed, folder in enumerate((baseline, subject)):
        store_packed(folder, seed, n_floats)
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    assert [m["reason"] for m in document["modules"]] == ["dtype", "dtype"]
    # A small share of a large model is let pass by the coverage.
    assert outcomes(document)["spectral"] == ("ERROR" if n_floats == 1 else "PASS")
    assert ("SPECTRAL_ERROR" if n_floats == 1 else "NOT_COMPARED") in codes(document)
    store_packed(subject, 0, n_floats)
    status, document = weights(capsys, "baseline", "subject")
    assert (status, outcomes(document)["spectral"]) == (0, "PASS")


BAD_VALUES: list[dict[str, Any]] = [
    {"hidden_size": float("nan")}, {"hidden_size": "x"}, {"hidden_size": -4},
    {"num_attention_heads": 0}, {"hidden_size": -4, "num_attention_heads": 0},
    {"architectures": 5}, {"num_key_value_heads": 0},
    {"vocab_size": None}, {"intermediate_size": 1.5},
    {"rope_parameters": 3}, {"rms_norm_eps": "x"}, {"quantization_config": 3},
]  # fmt: skip


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
@pytest.mark.parametrize("side", ["baseline", "subject"])
def test_a_configuration_that_makes_no_model_is_an_error_that_names_the_file(
    side: str, values: dict[str, Any], subject: Path, capsys: Any, tmp_path: Path
) -> None:
    file = subject.parent / side / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    status, document = weights(capsys, "baseline", "subject")
    assert status == 1
    assert str(tmp_path) not in json.dumps(document)
    errors = [f for f in document["findings"] if f["severity"] == "error"]
    assert [f["code"] for f in errors] == ["MODEL_CONFIG"]
    assert "config.json" in errors[0]["message"]
    assert main(["doctor", "--weights", "baseline", "subject"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("ERROR: [MODEL_CONFIG] ")]) == 1


@pytest.mark.parametrize("values", [{"num_key_value_heads": 3}, {"num_hidden_layers": -1}], ids=str)
@pytest.mark.parametrize("side", ["baseline", "subject"])
def test_a_configuration_of_another_model_fails_by_its_structure(
    side: str, values: dict[str, Any], subject: Path, capsys: Any
) -> None:
    file = subject.parent / side / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    status, document = weights(capsys, "baseline", "subject")
    assert (status, outcomes(document)["invariants"]) == (1, "FAIL")


def test_a_configuration_nested_too_deeply_is_an_error(subject: Path, capsys: Any) -> None:
    nested = '{"model_type": "llama", "a": ' + "[" * 200_000 + "]" * 200_000 + "}"
    (subject / "config.json").write_text(nested)
    status, document = weights(capsys, "baseline", "subject")
    assert (status, codes(document)) == (1, ["MODEL_INCOMPLETE"])
    assert "config.json" in document["findings"][0]["message"]


@pytest.mark.parametrize("depth", [50, 120, 250, 400, 900])
def test_a_configuration_nested_deeply_never_crashes(
    depth: int, subject: Path, capsys: Any
) -> None:
    file = subject / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values)[:-1] + ', "a": ' + "[" * depth + "]" * depth + "}")
    assert weights(capsys, "baseline", "subject")[0] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}', '{"added_tokens": [' + "[" * 5000])
def test_a_tokenizer_that_cannot_be_read_is_told(text: str, subject: Path, capsys: Any) -> None:
    (subject / "tokenizer.json").write_text(text)
    document = weights(capsys, "baseline", "subject")[1]
    assert "TOKENIZER_MISSING" in codes(document)


def test_names_of_tensors_are_printed_as_plain_text(
    baseline: Path, subject: Path, capsys: Any
) -> None:
    hostile = "a\x1b[2J\nERROR: forged.weight"
    for number, folder in enumerate((baseline, subject), 1):
        changed(folder, lambda t, n=number: t.update({hostile: torch.eye(4) * 9 * n}))
        values = json.loads((folder / "config.json").read_text()) | {"model_type": "unheard-of"}
        (folder / "config.json").write_text(json.dumps(values))
    main(["doctor", "--weights", "baseline", "subject", "--kind", "quantize8"])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "a\\x1b[2J" in printed
    assert not any(line.startswith("ERROR: forged") for line in printed.splitlines())
    # The table's columns stand in line.
    header, row = (line for line in printed.splitlines() if line.startswith("  ")
                   and ("module" in line or "a\\x1b" in line))  # fmt: skip
    assert header.index("family") == row.index("other")
