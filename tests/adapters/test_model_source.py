"""Model references: where they lead without a network, and how a damaged checkpoint reads."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_invarlock.adapters.model_source import (
    checkpoint_digest,
    read_header,
    resolve_model,
    weight_files,
)
from pytest_invarlock.errors import ModelLoadError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import json, sys
from pytest_invarlock.adapters.model_source import resolve_model
from pytest_invarlock.errors import ModelLoadError
found = {}
for reference in sys.argv[1:]:
    try:
        source = resolve_model(reference)
        found[reference] = [str(source.directory), source.repository, source.revision]
    except ModelLoadError as error:
        found[reference] = error.code
print(json.dumps(found))
"""


@pytest.fixture
def model(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoints["llama"], tmp_path / "model")


def refusal(directory: Path) -> ModelLoadError:
    with pytest.raises(ModelLoadError) as caught:
        resolve_model(str(directory))
    return caught.value


def resolved_elsewhere(home: Path, *references: str) -> dict[str, list[str] | str]:
    """Resolve in a new process: the Hub client reads its folders when it is imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    ran = subprocess.run(
        [sys.executable, "-c", RESOLVE, *references],
        env=environment | {"HF_HOME": str(home)} if home.name == "home"
        else environment | {"HF_HUB_CACHE": str(home)},
        capture_output=True, text=True, check=True, cwd=home.parent,
    )  # fmt: skip
    found: dict[str, list[str] | str] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize(
    "reference", ["/absent/model", "./absent", "../absent", "~/absent/x", "a/b/c"]
)
def test_an_absent_directory_is_named(reference: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        resolve_model(reference)
    assert caught.value.code == "MODEL_NOT_FOUND"
    assert reference in caught.value.cause


def test_an_unknown_shipped_model_names_the_nearest() -> None:
    with pytest.raises(ModelLoadError) as caught:
        resolve_model("builtin:lama")
    assert caught.value.remedy == "did you mean 'llama'?"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '"x"', "{}", '{"model": "llama"}'])
def test_a_directory_without_a_usable_configuration_is_refused(
    model: Path, content: str | None
) -> None:
    config = model / "config.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content, encoding="utf-8")
    error = refusal(model)
    assert error.code == "MODEL_INCOMPLETE"
    assert "config.json" in error.cause


def test_a_configuration_that_is_not_text_is_refused(model: Path) -> None:
    (model / "config.json").write_bytes(b"\xff\xfe{}")
    assert refusal(model).code == "MODEL_INCOMPLETE"


def test_a_directory_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    error = refusal(model)
    assert error.code == "MODEL_INCOMPLETE"
    assert "*.safetensors is missing" in error.cause


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -1000])
def test_cut_weights_are_refused_naming_the_file(model: Path, size: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: size or 0])
    error = refusal(model)
    assert error.code == "MODEL_TRUNCATED"
    assert "model.safetensors" in error.cause


def test_weights_with_bytes_left_over_are_refused(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    assert refusal(model).code == "MODEL_TRUNCATED"


@pytest.mark.parametrize(
    "header",
    [
        b"not json", b"[]", b"7", b'"text"', b'{"w": 1}', b'{"w": {}}',
        b'{"w": {"data_offsets": []}}', b'{"w": {"data_offsets": [0, "x"]}}', b"\xff\xff",
    ],
)  # fmt: skip
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"data")
    with pytest.raises(ModelLoadError) as caught:
        read_header(path)
    assert caught.value.code == "MODEL_TRUNCATED"


def sharded(model: Path) -> dict[str, str]:
    """Turn the checkpoint into two shards; returns the weight map."""
    whole = model / "model.safetensors"
    shutil.copy(whole, model / "model-00001-of-00002.safetensors")
    whole.rename(model / "model-00002-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}), encoding="utf-8")
    return weights


def test_a_missing_shard_is_named(model: Path) -> None:
    weights = sharded(model)
    (model / weights["b"]).unlink()
    error = refusal(model)
    assert error.code == "MODEL_INCOMPLETE"
    assert weights["b"] in error.cause


def test_a_cut_shard_is_named(model: Path) -> None:
    shard = model / sharded(model)["b"]
    shard.write_bytes(shard.read_bytes()[:-5])
    error = refusal(model)
    assert error.code == "MODEL_TRUNCATED"
    assert shard.name in error.cause


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}']
)
def test_a_damaged_index_of_shards_is_refused(model: Path, content: str) -> None:
    sharded(model)
    (model / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert refusal(model).code == "MODEL_INCOMPLETE"


def test_all_shards_are_found(model: Path) -> None:
    weights = sharded(model)
    assert [path.name for path in weight_files(model)] == sorted(weights.values())


def test_a_directory_is_taken_as_it_is(model: Path) -> None:
    source = resolve_model(str(model))
    assert (source.directory, source.repository, source.revision) == (model, None, None)
    assert set(read_header(model / "model.safetensors")) >= {"model.norm.weight"}


def cached(cache: Path, model: Path, repository: str, **refs: str) -> Path:
    """Lay ``model`` out as the Hub client does: blobs, and snapshots of links to them."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for name in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / name).mkdir(parents=True)
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.copy(path, folder / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    for ref, commit in refs.items():
        (folder / "refs" / ref).write_text(commit, encoding="ascii")
    return snapshot


def test_a_hub_model_is_found_in_the_cache_without_a_network(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    snapshot = cached(home / "hub", model, "org/tiny", main=COMMIT, v1=COMMIT)
    found = resolved_elsewhere(
        home, "org/tiny", "hf:org/tiny", "org/tiny@v1", f"org/tiny@{COMMIT}",
        "org/tiny@v2", "org/absent", "absent", "hf:./x y",
    )  # fmt: skip
    expected = [str(snapshot), "org/tiny", COMMIT]
    assert found == {
        "org/tiny": expected, "hf:org/tiny": expected,
        "org/tiny@v1": expected, f"org/tiny@{COMMIT}": expected,
        "org/tiny@v2": "MODEL_NOT_CACHED", "org/absent": "MODEL_NOT_CACHED",
        "absent": "MODEL_NOT_CACHED", "hf:./x y": "MODEL_NOT_FOUND",
    }  # fmt: skip


def test_hub_cache_says_where_the_cache_is(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    snapshot = cached(cache, model, "tiny", main=COMMIT)
    (snapshot / "model.safetensors").unlink()
    assert resolved_elsewhere(cache, "tiny")["tiny"] == "MODEL_INCOMPLETE"
    (snapshot / "model.safetensors").symlink_to(model / "model.safetensors")
    assert resolved_elsewhere(cache, "tiny")["tiny"] == [str(snapshot), "tiny", COMMIT]


def by_sha256sum(folder: Path) -> str:
    script = (
        "find -L . -type f -not -path '*/.*' -printf '%P\\0' | LC_ALL=C sort -z"
        " | xargs -0 sha256sum | sha256sum"
    )
    ran = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return "sha256:" + ran.stdout.split()[0]


def test_the_checkpoint_digest_is_sha256sum_twice(model: Path) -> None:
    (model / "sub").mkdir()
    (model / "sub" / "Z.txt").write_text("z")
    (model / "Ä.txt").write_text("ä")
    assert checkpoint_digest(model) == by_sha256sum(model)
    before = checkpoint_digest(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("x")
    (model / ".gitattributes").write_text("x")
    assert checkpoint_digest(model) == before == by_sha256sum(model)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert checkpoint_digest(model) != before


def test_a_renamed_file_changes_the_checkpoint_digest(model: Path) -> None:
    before = checkpoint_digest(model)
    (model / "generation_config.json").rename(model / "generation.json")
    assert checkpoint_digest(model) != before


def test_links_of_the_hub_cache_leave_no_trace_in_the_digest(model: Path, tmp_path: Path) -> None:
    snapshot = cached(tmp_path / "cache", model, "tiny", main=COMMIT)
    assert checkpoint_digest(snapshot) == checkpoint_digest(model)
