"""Headers of a checkpoint directory: what is read of them, and a typed error for every bad file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from invarlock_guards.measure.checkpoint_files import INDEX, CheckpointError, read_checkpoint
from safetensors.torch import load_file, save_file


@pytest.fixture
def sharded(tiny_model: Any, tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    return tmp_path / "sharded"


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def cut(directory: Path) -> str:
    file = shards(directory)[0]
    file.write_bytes(file.read_bytes()[:-4])
    return file.name


def grown(directory: Path) -> str:
    file = shards(directory)[0]
    file.write_bytes(file.read_bytes() + bytes(4))
    return file.name


def not_safetensors(directory: Path) -> str:
    shards(directory)[0].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return shards(directory)[0].name


def empty(directory: Path) -> str:
    shards(directory)[0].write_bytes(b"")
    return shards(directory)[0].name


def without_shard(directory: Path) -> str:
    name = shards(directory)[0].name
    (directory / name).unlink()
    return name


def twice(directory: Path) -> str:
    first, second = shards(directory)[:2]
    save_file(load_file(second) | load_file(first), second)
    return second.name


def no_weight_map(directory: Path) -> str:
    (directory / INDEX).write_text("{}")
    return INDEX


def broken_index(directory: Path) -> str:
    (directory / INDEX).write_text("{")
    return INDEX


def nested_config(directory: Path) -> str:
    (directory / "config.json").write_text('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")
    return "config.json"


def listed_index(directory: Path) -> str:
    (directory / INDEX).write_text("[]")
    return INDEX


def escaping_index(directory: Path) -> str:
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    return INDEX


def no_config(directory: Path) -> str:
    (directory / "config.json").unlink()
    return "config.json"


def bin_only(directory: Path) -> str:
    for file in (*shards(directory), directory / INDEX):
        file.unlink()
    torch.save({}, directory / "pytorch_model.bin")
    return "safetensors are needed"


def no_weights(directory: Path) -> str:
    for file in (*shards(directory), directory / INDEX):
        file.unlink()
    return "holds no *.safetensors"


@pytest.mark.parametrize(
    "damage",
    [
        cut, grown, not_safetensors, empty, without_shard, twice, no_weight_map, broken_index,
        listed_index, escaping_index, no_config, nested_config, bin_only, no_weights,
    ],
)  # fmt: skip
def test_a_bad_file_is_one_line_that_names_it_and_the_remedy(
    damage: Callable[[Path], str], sharded: Path
) -> None:
    named = damage(sharded)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(sharded)
    assert named in str(caught.value)
    assert caught.value.remedy
    assert str(caught.value).count("\n") == 0
    assert caught.value.path.is_relative_to(sharded)


def test_headers_give_shapes_dtypes_and_files(sharded: Path, tiny_model: Any) -> None:
    files = read_checkpoint(sharded)
    state = tiny_model("llama").state_dict()
    assert files.tensors.keys() == state.keys()
    for name, stored in files.tensors.items():
        assert stored.shape == tuple(state[name].shape)
        assert f"torch.{stored.dtype}" == str(state[name].dtype)
        assert stored.n_elements == state[name].numel()
        assert stored.is_floating
        assert files.tensor(name).equal(state[name])
    assert len({stored.file for stored in files.tensors.values()}) > 2
    assert files.config["model_type"] == "llama"
    assert files.lost == frozenset()


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    torch.complex64,
]  # fmt: skip


def test_every_dtype_is_named_as_torch_names_it(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.zeros(3).to(dtype) for dtype in DTYPES}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    files = read_checkpoint(tmp_path)
    assert {f"torch.{stored.dtype}" for stored in files.tensors.values()} == tensors.keys()
    for name, stored in files.tensors.items():
        dtype = tensors[name].dtype
        assert stored.is_floating is (dtype.is_floating_point or dtype.is_complex)


def test_what_the_index_promises_and_no_file_holds_is_known(sharded: Path) -> None:
    told = json.loads((sharded / INDEX).read_text())
    told["weight_map"]["absent"] = shards(sharded)[0].name
    (sharded / INDEX).write_text(json.dumps(told))
    assert read_checkpoint(sharded).lost == {"absent"}


def test_a_file_that_goes_while_it_is_read_is_a_typed_error(sharded: Path) -> None:
    files = read_checkpoint(sharded)
    shutil.rmtree(sharded)
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.tensor(next(iter(files.tensors)))


def test_one_whole_file_is_the_checkpoint_whatever_lies_beside_it(
    sharded: Path, tiny_model: Any
) -> None:
    tiny_model("llama").save_pretrained(sharded)
    save_file({"other": torch.zeros(2)}, sharded / "consolidated.safetensors")
    files = read_checkpoint(sharded)
    assert {stored.file.name for stored in files.tensors.values()} == {"model.safetensors"}
    assert "other" not in files.tensors
