"""Digests of tensors: every bit, shape, dtype and name counts; layout in memory does not."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch

from pytest_invarlock.bench.tensor_digest import combined_digest, tensor_digest, tensor_digests

VALUES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([[1.0, 2.0], [3.0, 4.0000005]]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        VALUES.T,
        VALUES.double(),
        VALUES.view(torch.int32),
        -VALUES,
    ],
)
def test_any_difference_of_bits_shape_or_dtype_changes_it(other: torch.Tensor) -> None:
    assert tensor_digest(other) != tensor_digest(VALUES)


def test_zeros_of_either_sign_and_nans_of_other_bits_differ() -> None:
    assert tensor_digest(torch.tensor([0.0])) != tensor_digest(torch.tensor([-0.0]))
    nans = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert tensor_digest(nans[:1]) != tensor_digest(nans[1:])


def test_it_is_the_sha256_of_head_and_bytes() -> None:
    content = b"torch.float32|(2, 2)|" + VALUES.numpy().tobytes()
    assert tensor_digest(VALUES) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool],
)
def test_every_dtype_has_one(dtype: torch.dtype) -> None:
    tensor = VALUES.to(dtype)
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())
    assert tensor_digest(tensor) != tensor_digest(VALUES)


@pytest.mark.parametrize("tensor", [torch.empty(0), torch.empty(3, 0), torch.tensor(5.0)])
def test_empty_tensors_and_scalars_have_one(tensor: torch.Tensor) -> None:
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())


def test_layout_in_memory_leaves_no_trace() -> None:
    wide = torch.arange(8.0).reshape(2, 4)
    assert tensor_digest(wide[:, ::2]) == tensor_digest(wide[:, ::2].contiguous())
    assert tensor_digest(VALUES.T) == tensor_digest(VALUES.T.contiguous())


def test_gradients_leave_no_trace() -> None:
    assert tensor_digest(VALUES.clone().requires_grad_()) == tensor_digest(VALUES)


def test_tied_names_are_both_listed_with_one_digest(tiny_model: Any) -> None:
    digests = tensor_digests(tiny_model("gpt2"))
    assert digests["lm_head.weight"] == digests["transformer.wte.weight"]
    untied = tensor_digests(tiny_model("llama"))
    assert untied["lm_head.weight"] != untied["model.embed_tokens.weight"]


def test_buffers_count(tiny_model: Any) -> None:
    net = torch.nn.BatchNorm1d(2)
    before = tensor_digests(net)
    assert set(before) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    net.running_mean[0] = math.pi
    assert tensor_digests(net)["running_mean"] != before["running_mean"]


def test_the_combined_digest_is_sha256sum_of_sorted_lines() -> None:
    text = b"aa  one\nbb  two\n"
    expected = "sha256:" + hashlib.sha256(text).hexdigest()
    assert combined_digest({"two": "bb", "one": "aa"}) == expected
    assert combined_digest({"one": "aa", "two": "bb"}) == expected
    assert combined_digest({"one": "bb", "two": "aa"}) != expected
