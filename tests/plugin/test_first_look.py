"""`-x` ends a comparison whose weights fail by their files, before any model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_invarlock.adapters.model_source import resolve_model
from tests.plugin.conftest import Repository

COUNTS = (
    "--invarlock-dataset=pydoc", "--invarlock-seq-len=48", "--invarlock-preview-windows=20",
    "--invarlock-final-windows=20", "--invarlock-profile=dev", "--invarlock-device=cpu",
)  # fmt: skip
MATRIX = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """builtin:llama with one matrix twice as large."""
    source = resolve_model("builtin:llama", allow_network=False).directory
    target = tmp_path_factory.mktemp("damaged") / "twice"
    target.mkdir()
    for file in source.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    tensors[MATRIX].mul_(2)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def compared(repository: Repository, subject: Path, *more: str) -> pytest.RunResult:
    return repository.run(
        "--invarlock-baseline=builtin:llama", f"--invarlock-subject={subject}", *COUNTS, *more
    )


def test_nothing_is_loaded_where_the_files_fail_the_first_check(
    repository: Repository, damaged: Path
) -> None:
    result = compared(repository, damaged, "-x", "-rs")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*FAIL: *",
            f"*{MATRIX}: found *, allowed *",
            "*by the checkpoints' files: nothing was loaded*",
            "*spectral fails by the checkpoints' files: nothing was loaded*",
        ]
    )
    assert not {"baseline_load", "subject_load", "record"} & set(repository.events())
    assert not list(repository.latest.glob("records/*/*/*"))


def test_a_check_chosen_alone_is_measured(repository: Repository, damaged: Path) -> None:
    # What fails was not asked for: the chosen check is judged by all its evidence.
    result = compared(repository, damaged, "-x", "-k", "invariants")
    result.assert_outcomes(passed=1, deselected=7)
    assert {"baseline_load", "subject_load", "record"} <= set(repository.events())
