"""Checkpoints with Python code of their own: refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_invarlock.adapters import adapter_named
from pytest_invarlock.errors import ModelLoadError

CODE = """\
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """The tiny Llama as an architecture that only its own file knows."""
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "own")
    (folder / "own_model.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    mapped = {
        "AutoConfig": "own_model.OwnConfig",
        "AutoModelForCausalLM": "own_model.OwnForCausalLM",
    }
    changed = {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": mapped}
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    return folder


def test_it_is_refused_naming_model_class_and_remedy(own: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        adapter_named("auto").load(str(own), device="cpu", dtype="float32")
    assert caught.value.code == "MODEL_REMOTE_CODE"
    assert caught.value.cause == (
        f"{own}: needs its own code (own_model.OwnForCausalLM), which is not run"
    )
    assert "--invarlock-allow-remote-code" in caught.value.remedy
