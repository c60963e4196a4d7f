"""Saving an edit or a fault: a whole checkpoint that compares as the edit does, or nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from pytest_invarlock.bench import saved_checkpoint
from pytest_invarlock.bench.resident import Bench
from pytest_invarlock.bench.saved_checkpoint import save_checkpoint
from pytest_invarlock.core.engine import measure
from pytest_invarlock.errors import EditError, ModelLoadError
from pytest_invarlock.plan import (
    ARMS,
    DataSource,
    EditSpec,
    MeasurementPlan,
    Pair,
    Scenario,
    WindowSelection,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RTN = EditSpec("quant_rtn", {"bitwidth": 4, "group_size": 32})
HEAD = {"llama": "lm_head.weight", "gpt2": "lm_head.weight"}
EMBEDDING = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Any,
    tokenizer: Any, texts: Path,
) -> Bench:  # fmt: skip
    """A small model whose head is its embedding."""
    folder = tmp_path_factory.mktemp("tied")
    tiny_model(request.param, tie_word_embeddings=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plan = MeasurementPlan(
        source=DataSource("local_jsonl", (str(texts),)),
        windows=WindowSelection(48, 48, preview_windows=4, final_windows=4, guard_windows=4),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair(request.param, str(folder)), plan)


@pytest.fixture
def small(checkpoints: dict[str, Path], texts: Path) -> Bench:
    """A small model of random weights: quick to save."""
    plan = MeasurementPlan(
        source=DataSource("local_jsonl", str(texts)), windows=WindowSelection(48, 48, 4, 4),
        device="cpu", dtype="float32", threads=1,
    )  # fmt: skip
    return Bench(Pair("tiny", str(checkpoints["llama"])), plan)


def kind_of(bench: Bench) -> str:
    return bench.pair.name


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def stored_names(directory: Path) -> set[str]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return set(file.keys())


def refused(bench: Bench, spec: EditSpec, directory: Path) -> EditError:
    with pytest.raises(EditError) as caught:
        save_checkpoint(bench, spec, directory)
    assert str(Path.cwd()) not in str(caught.value)
    assert str(directory.absolute().parent) not in str(caught.value)
    return caught.value


def facts_of(bench: Bench, **scenario: Any) -> Any:
    return measure(bench.pair, Scenario("saved", **scenario), bench.plan, bench=bench).facts


@pytest.mark.parametrize("spec", [RTN, EditSpec("scale_explosion"), EditSpec("noop")], ids=str)
def test_a_saved_edit_loads_tied_and_bit_for_bit(
    spec: EditSpec, bench: Bench, tmp_path: Path
) -> None:
    save_checkpoint(bench, spec, tmp_path / "saved")
    model, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(loading.values())
    state = model.state_dict()
    with bench.edited(spec) as subject:
        edited = subject.loaded.model.state_dict()
        assert state.keys() == edited.keys()
        for name, tensor in edited.items():
            assert state[name].dtype == tensor.dtype
            assert state[name].equal(tensor), name
    kind = kind_of(bench)
    assert state[HEAD[kind]].data_ptr() == state[EMBEDDING[kind]].data_ptr()
    assert HEAD[kind] not in stored_names(tmp_path / "saved")
    # Where the model was read from stays on this machine.
    assert "/" not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize(
    "spec",
    [
        RTN,
        EditSpec("permute_mlp_neurons"),
        EditSpec("missing_tensors"),
        EditSpec("shape_mismatch"),
        EditSpec("weight_tying_break"),
    ],
    ids=lambda spec: spec.name,
)
def test_what_is_saved_compares_as_the_edit_in_memory_does(
    spec: EditSpec, bench: Bench, tmp_path: Path
) -> None:
    save_checkpoint(bench, spec, tmp_path / "saved")
    inside = facts_of(bench, edit=spec)
    outside = facts_of(bench, subject=str(tmp_path / "saved"))
    assert inside.guards == outside.guards
    same = dict(inside.subject) | {"checkpoint_digest": outside.subject["checkpoint_digest"]}
    assert same == outside.subject
    assert set(inside.arms) == set(outside.arms) == set(ARMS)
    for arm in ARMS:
        assert np.array_equal(inside.arms[arm].subject_nll, outside.arms[arm].subject_nll)
        assert np.array_equal(inside.arms[arm].baseline_nll, outside.arms[arm].baseline_nll)


@pytest.mark.parametrize("name", ["missing_tensors", "shape_mismatch"])
def test_a_fault_that_does_not_load_is_saved_as_it_stands(
    name: str, bench: Bench, tmp_path: Path
) -> None:
    whole, saved = tmp_path / "whole", tmp_path / "saved"
    save_checkpoint(bench, EditSpec("noop"), whole)
    save_checkpoint(bench, EditSpec(name, {"update_config": False}), saved)
    lost = stored_names(whole) - stored_names(saved)
    assert bool(lost) is (name == "missing_tensors")
    assert all(".1." in tensor for tensor in lost)
    assert stored_names(saved) <= stored_names(whole)
    assert (saved / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()
    with pytest.raises(ModelLoadError) as caught, bench.checkpoint(str(saved)):
        pytest.fail("it loaded")
    assert caught.value.code == "MODEL_WEIGHTS"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3"])
def test_a_changed_dtype_is_that_of_the_stored_tensors(
    dtype: str, small: Bench, tmp_path: Path
) -> None:
    save_checkpoint(small, EditSpec("dtype_change", {"dtype": dtype}), tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        stored = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert [name.startswith(f"torch.{dtype}") for name in stored] == [True]
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["dtype"] == "float32"


def test_a_tokenizer_that_does_not_exist_cannot_be_saved(small: Bench, tmp_path: Path) -> None:
    error = refused(small, EditSpec("tokenizer_mismatch"), tmp_path / "saved")
    assert error.code == "EDIT_NOT_SAVABLE"
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("what", ["directory", "empty directory", "file", "dangling link", "."])
def test_what_exists_is_refused_and_stays_as_it_was(
    what: str, small: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mine"
    if what == "file":
        target.write_text("mine")
    elif what == "dangling link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
    if what == "directory":
        (target / "model-00001-of-00002.safetensors").write_text("mine")
        (target / "config.json").write_text("{}")
    if what == ".":
        monkeypatch.chdir(target)
        target = Path()
    before = sorted((str(p), p.is_file() and p.read_text()) for p in tmp_path.rglob("*"))
    with pytest.raises(EditError) as caught:
        save_checkpoint(small, EditSpec("noop"), target)
    assert caught.value.code == "CHECKPOINT_EXISTS"
    assert str(caught.value).startswith((".:" if what == "." else "mine:") + " exists already")
    assert "name a new directory" in caught.value.remedy
    assert sorted((str(p), p.is_file() and p.read_text()) for p in tmp_path.rglob("*")) == before
    assert small._loaded is None, "refused before the model was loaded"


def test_the_path_is_named_below_the_current_folder_or_by_its_last_part(
    small: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "jane doe's (files)"
    (folder / "a" / "b").mkdir(parents=True)
    assert refused(small, RTN, folder / "a" / "b").cause.startswith("b: ")
    monkeypatch.chdir(folder)
    assert refused(small, RTN, folder / "a" / "b").cause.startswith("a/b: ")
    assert refused(small, RTN, Path("a/b")).cause.startswith("a/b: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError, MemoryError])
@pytest.mark.parametrize("name", ["noop", "missing_tensors"])
def test_a_save_that_breaks_off_leaves_nothing(
    name: str, error: type[BaseException], small: Bench, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def breaks(_self: object, folder: Path, **_: object) -> None:
        assert (Path(folder) / "model.safetensors").is_file()
        raise error(f"in {folder}/tokenizer.json")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", breaks)
    target = tmp_path / "new" / "saved"
    if issubclass(error, OSError | RuntimeError):
        refusal = refused(small, EditSpec(name), target)
        assert refusal.code == "CHECKPOINT_NOT_WRITTEN"
        assert str(tmp_path) not in str(refusal)
        # What names the path must not be shown as its cause either.
        assert refusal.__suppress_context__
    else:
        with pytest.raises(error):
            save_checkpoint(small, EditSpec(name), target)
    assert names_in(tmp_path / "new") == []
    assert small.unchanged()


def test_an_edit_that_cannot_be_applied_leaves_nothing(small: Bench, tmp_path: Path) -> None:
    assert refused(small, EditSpec("kill_expert"), tmp_path / "saved").code == "EDIT_NO_TARGET"
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_typed_error(small: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    error = refused(small, RTN, tmp_path / "file" / "saved")
    assert error.code == "CHECKPOINT_NOT_WRITTEN"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("content", ["file", "full directory"])
def test_what_appears_while_saving_is_not_replaced(
    content: str, small: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, sync = tmp_path / "saved", saved_checkpoint._sync

    def another(folder: Path) -> None:
        sync(folder)
        if content == "file":
            target.write_text("theirs")
        else:
            target.mkdir()
            (target / "config.json").write_text("theirs")

    monkeypatch.setattr(saved_checkpoint, "_sync", another)
    assert refused(small, RTN, target).code == "CHECKPOINT_NOT_WRITTEN"
    assert names_in(tmp_path) == ["saved"]
    file = target if content == "file" else target / "config.json"
    assert file.read_text() == "theirs"


def test_every_file_is_on_the_disk_before_the_name_is(
    small: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, rename = set(), Path.replace
    fsync: Callable[[int], None] = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checked(self: Path, target: Path) -> Path:
        inodes = {path.stat().st_ino for path in (self, *self.rglob("*"))}
        assert len(inodes) > 4
        assert inodes <= synced
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", checked)
    save_checkpoint(small, RTN, tmp_path / "saved")
    assert names_in(tmp_path) == ["saved"]
    assert tmp_path.stat().st_ino in synced


@pytest.mark.parametrize("name", ["noop", "missing_tensors"])
def test_while_another_edit_is_open_nothing_is_saved(
    name: str, small: Bench, tmp_path: Path
) -> None:
    with small.edited(EditSpec("sign_flip")):
        assert refused(small, EditSpec(name), tmp_path / "saved").code == "EDIT_OPEN"
    assert names_in(tmp_path) == []
