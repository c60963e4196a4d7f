"""Bad models, data, keys and folders: one clear line each, the right exit status, nothing half written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from pytest_invarlock.adapters.model_source import resolve_model

COUNTS = (
    "--invarlock-seq-len=48", "--invarlock-preview-windows=20", "--invarlock-final-windows=20",
    "--invarlock-dataset=pydoc", "--invarlock-threads=1",
)  # fmt: skip


@pytest.fixture
def model(repository) -> Path:
    target = repository.path / "model"
    shutil.copytree(resolve_model("builtin:llama").directory, target)
    return target


def compare(repository, subject: str | Path, *more: str) -> pytest.RunResult:
    return repository.run(
        "--invarlock-baseline=builtin:llama", f"--invarlock-subject={subject}", *COUNTS, *more
    )


def nothing_half_written(repository) -> bool:
    return not list((repository.path / "invarlock-out").rglob("*.tmp*"))


def failed_with(repository, result: pytest.RunResult, message: str) -> None:
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown = message.replace(f"{repository.path}/", "")
    assert f"ERROR: {shown}" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert repository.verdict()["verdict"] == "FAIL"
    assert nothing_half_written(repository)


def test_a_missing_model_directory(repository):
    result = compare(repository, "./nowhere")
    failed_with(
        repository, result, "./nowhere: no such model directory (give an existing directory"
    )


def test_a_hub_model_that_is_not_cached(repository):
    result = compare(repository, "someone/some-model")
    failed_with(
        repository, result, "someone/some-model: not in the local Hub cache, and the network"
    )


def test_a_truncated_checkpoint(repository, model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = compare(repository, model)
    failed_with(repository, result, f"{model}/model.safetensors: damaged safetensors file: ")


def test_a_tokenizer_with_another_vocabulary_than_the_model(repository, model):
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    kept = {token: i for token, i in vocabulary.items() if i < 300}
    tokenizer["model"]["vocab"] = kept
    tokenizer["model"]["merges"] = []
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = compare(repository, model)
    assert (
        "the model's vocabulary 1024 (put the tokenizer that the model was" in result.stdout.str()
    )
    assert "[TOKENIZER_VOCABULARY]" in result.stdout.str()


def test_empty_evaluation_text(repository):
    data = repository.path / "data.jsonl"
    data.write_text('{"text": ""}\n{"text": "  "}\n')
    result = repository.run(
        "--invarlock-baseline=builtin:llama", "--invarlock-subject=builtin:llama",
        f"--invarlock-dataset=local_jsonl:{data}",
    )  # fmt: skip
    failed_with(
        repository, result, f"{data}: holds no text in field 'text' (give a file with at least"
    )


def test_a_data_line_that_is_no_json_is_named_by_its_number(repository):
    data = repository.path / "data.jsonl"
    data.write_text('{"text": "fine"}\nnot json\n')
    result = repository.run(
        "--invarlock-baseline=builtin:llama", "--invarlock-subject=builtin:llama",
        f"--invarlock-dataset=local_jsonl:{data}",
    )  # fmt: skip
    failed_with(repository, result, f"{data}:2: is not a JSON object (mend that line)")


def test_an_output_folder_that_cannot_be_written(repository):
    blocked = repository.path / "blocked"
    blocked.write_text("a file, not a folder")
    result = repository.run(repository.suite("noop"), f"--invarlock-out={blocked}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{blocked}: cannot be written (give a writable folder)*"])


def test_a_signing_key_of_another_type(repository):
    key = repository.path / "key.pem"
    key.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    key.chmod(0o600)
    result = repository.run(repository.suite("noop"), f"--invarlock-signing-key={key}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--invarlock-signing-key: *Ed25519*"])
    assert not repository.runs


def test_a_signing_key_that_others_may_read(repository):
    from pytest_invarlock.evidence.keys import generate_key

    key = repository.path / "key.pem"
    generate_key(key)
    key.chmod(0o644)
    result = repository.run(repository.suite("noop"), f"--invarlock-signing-key={key}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--invarlock-signing-key: *chmod 600*"])
    assert not repository.runs


def test_a_user_key_that_others_may_read_is_found_before_anything_is_measured(repository):
    suite = repository.suite("noop")
    repository.run(suite)
    from pytest_invarlock.evidence.keys import user_signing_key_path

    user_signing_key_path().chmod(0o640)
    result = repository.run(suite)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--invarlock-signing-key: *chmod 600*"])
    assert len(repository.runs) == 1


def test_nan_weights_in_a_compared_subject_fail_by_name(repository, model):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = torch.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = compare(repository, model)
    # That no guard changed a model is true of this one too.
    result.assert_outcomes(passed=1, failed=8)
    result.stdout.fnmatch_lines(
        [
            f"FAIL: non finite in {name} (1, baseline 0)",
            "FAIL: the subject's loss*",
            "INCONCLUSIVE: the subject's loss*",
            "FAIL: the subject's loss*",
        ]
    )


def test_a_subject_bitwise_equal_to_its_baseline_passes_by_name(repository, model):
    result = compare(repository, model, "--junitxml=junit.xml", "-v")
    result.assert_outcomes(passed=9)
    report = repository.latest / "reports/builtin-llama/model/run_0/evaluation.report.json"
    checks = json.loads(report.read_text())["decision"]["checks"]
    texts = {check["check"]: check["text"] for check in checks}
    identical = "bitwise identical: same tensors, same losses"
    assert [texts[name] for name in ("primary_metric", "drift", "tail")] == [identical] * 3
    assert (
        'classname="invarlock.compare.builtin:llama.model"'
        in (repository.path / "junit.xml").read_text()
    )
