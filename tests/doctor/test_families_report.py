"""``invarlock doctor --families``: the table of any model, and one line for what is no model."""

from __future__ import annotations

import json

import pytest

from pytest_invarlock.cli import main

# By family, parameters of the shipped models' matrices; a tied head is part of the embedding.
SIZES = {
    "builtin:llama": {"attn": 196_608, "ffn": 491_520, "embed": 131_072},
    "builtin:gpt2": {"attn": 262_144, "ffn": 524_288, "embed": 163_840},
}


@pytest.mark.parametrize("model", SIZES)
def test_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--families", model, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["model"]) == ("invarlock-families-v1", model)
    found: dict[str, int] = {}
    for row in document["rows"]:
        found[row["family"]] = found.get(row["family"], 0) + row["parameters"]
    assert found == SIZES[model]
    roles = {row["role"]: row["tensors"] for row in document["rows"]}
    assert roles["embedding"] == 1
    assert roles["up"] == roles["down"] == roles["o"] == 4


@pytest.mark.parametrize("model", SIZES)
def test_as_a_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--families", model]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{model} (")
    assert header.split() == ["family", "role", "tensors", "parameters", "for", "example"]
    assert rows[-1].split() == [
        "all",
        "29" if model == "builtin:llama" else "18",
        f"{sum(SIZES[model].values()):,}",
    ]
    up = next(row.split() for row in rows if " up " in row)
    assert up[0] == "ffn"
    assert up[4].endswith(("mlp.up_proj.weight", "mlp.c_fc.weight"))


@pytest.mark.parametrize("model", ["builtin:nope", "no-such/model", "./nowhere"])
def test_what_is_no_model_ends_in_one_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--families", model]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("invarlock: MODEL_NOT_")
