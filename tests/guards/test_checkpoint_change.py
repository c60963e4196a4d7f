"""Two checkpoint directories compared by their files: as the loaded models are, and no more read."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from invarlock_guards.families import all_weight_matrices
from invarlock_guards.judge.invariants import judge_invariants
from invarlock_guards.judge.spectral import judge_spectral
from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    CheckpointEvidence,
    compare_checkpoints,
    compare_headers,
)
from invarlock_guards.measure.checkpoint_difference import NamedTensors, TensorDifference
from invarlock_guards.measure.checkpoint_files import (
    CheckpointError,
    CheckpointFiles,
    read_checkpoint,
)
from invarlock_guards.measure.checkpoint_names import roles_by_name
from invarlock_guards.measure.invariants import measure_invariants, read_structure
from invarlock_guards.measure.spectral import measure_models
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pytest_invarlock.evidence.strict_json import canonical

KINDS = ("llama", "gpt2")
# Of each kind a matrix, a norm, an embedding, and the two of a network's inner neurons.
NAMES = {
    "llama": {
        "matrix": "model.layers.1.self_attn.v_proj.weight",
        "norm": "model.layers.0.input_layernorm.weight",
        "table": "model.embed_tokens.weight",
        "rows": ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"),
        "columns": "model.layers.0.mlp.down_proj.weight",
    },
    "gpt2": {
        "matrix": "transformer.h.1.mlp.c_fc.weight",
        "norm": "transformer.h.0.ln_1.weight",
        "table": "transformer.wpe.weight",
    },
}


def described(model: Any) -> CheckpointDescription:
    with torch.device("meta"):
        layout = type(model)(model.config)
    return CheckpointDescription(layout, model.config.to_dict())


@cache
def loaded(directory: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    return model.eval().requires_grad_(False)


def compared(baseline: Path, subject: Path, *, known: bool = True) -> CheckpointEvidence:
    one, other = CheckpointDescription(), CheckpointDescription()
    if known:
        one, other = described(loaded(baseline)), described(loaded(subject))
    found = compare_checkpoints(read_checkpoint(baseline), read_checkpoint(subject), one, other)
    assert canonical(found.invariants)
    assert canonical(found.spectral)
    return found


def in_memory(baseline: Path, subject: Path) -> tuple[Any, Any]:
    one, other = loaded(baseline), loaded(subject)
    invariants = measure_invariants(read_structure(one, None), read_structure(other, None))
    parameters = dict(one.named_parameters()), dict(other.named_parameters())
    return invariants, measure_models(one, *parameters)


def copied(source: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a checkpoint whose dictionary of tensors went through ``change``."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def scaled(kind: str, part: str, factor: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[NAMES[kind][part]].mul_(factor)


def permuted_neurons(tensors: dict[str, Any]) -> None:
    order = torch.arange(48).flip(0)
    for name in NAMES["llama"]["rows"]:
        tensors[name] = tensors[name][order].contiguous()
    name = NAMES["llama"]["columns"]
    tensors[name] = tensors[name][:, order].contiguous()


def nan_in(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[name].view(-1)[3:5].fill_(float("nan"))


@pytest.mark.parametrize("part", ["matrix", "norm", "table"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_weight_fails_and_is_named(
    kind: str, part: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(checkpoints[kind], tmp_path / "subject", scaled(kind, part, 2.0))
    found = compared(checkpoints[kind], subject)
    result = judge_spectral(found.spectral, kind="quantize8")
    assert result.passed is False
    assert result.violations[0].module == NAMES[kind][part]
    assert judge_invariants(found.invariants, kind="quantize8").passed
    if part == "matrix":
        assert judge_spectral(found.spectral, kind="any").passed is False


CHANGES: dict[str, Callable[[str], Callable[[dict[str, Any]], object]]] = {
    "nothing": lambda kind: lambda tensors: None,
    "matrix": lambda kind: scaled(kind, "matrix", 1.3),
    "norm": lambda kind: scaled(kind, "norm", 0.5),
    "table": lambda kind: scaled(kind, "table", 1.1),
    "zeroed": lambda kind: scaled(kind, "matrix", 0.0),
    "nan": lambda kind: nan_in(NAMES[kind]["matrix"]),
    "infinite table": lambda kind: lambda t: t[NAMES[kind]["table"]][0, 0].fill_(float("inf")),
    "one tensor cast": lambda kind: (
        lambda t: t.update({NAMES[kind]["norm"]: t[NAMES[kind]["norm"]].double()})
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_that_of_the_loaded_models(
    kind: str, change: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(checkpoints[kind], tmp_path / "subject", CHANGES[change](kind))
    found = compared(checkpoints[kind], subject)
    invariants, spectral = in_memory(checkpoints[kind], subject)
    if change == "one tensor cast":
        # Loading casts all tensors to one dtype; the files tell of the one that differs.
        changes = found.invariants["dtype_changes"]
        assert [c["name"] for c in changes] == [NAMES[kind]["norm"]]
        assert judge_invariants(found.invariants, kind="cast").passed is False
        assert [c["relative_change"] for c in found.spectral["changes"]] == [0.0]
        return
    assert found.invariants == invariants
    assert found.spectral == spectral
    assert found.by_names is None


def test_a_whole_cast_is_expected_and_measured_alike(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(
        checkpoints["llama"], tmp_path / "subject",
        lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}),
    )  # fmt: skip
    values = json.loads((subject / "config.json").read_text()) | {"dtype": "bfloat16"}
    (subject / "config.json").write_text(json.dumps(values))
    found = compared(checkpoints["llama"], subject)
    invariants, spectral = in_memory(checkpoints["llama"], subject)
    assert found.spectral == spectral
    assert found.invariants["dtype_changes"] == invariants["dtype_changes"]
    result = judge_invariants(found.invariants, kind="cast")
    assert result.passed
    assert len(result.expected_changes) == found.invariants["n_tensors"]


def test_what_the_parametrisation_leaves_free_is_removed(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(checkpoints["llama"], tmp_path / "subject", permuted_neurons)
    found = compared(checkpoints["llama"], subject)
    assert found.spectral == in_memory(checkpoints["llama"], subject)[1]
    result = judge_spectral(found.spectral, kind="any")
    assert (result.passed, result.reason) == (True, "basis_changed")


def test_shards_compare_as_one_file_does(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    subject = copied(checkpoints["llama"], tmp_path / "one", scaled("llama", "matrix", 1.3))
    loaded(subject).save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    found = compared(checkpoints["llama"], tmp_path / "shards")
    assert found == compared(checkpoints["llama"], subject)
    assert found.spectral["changes"]


def test_a_tied_head_is_compared_once_and_untying_is_told(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def untie(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone() * 1.5

    subject = copied(checkpoints["gpt2"], tmp_path / "subject", untie)
    values = json.loads((subject / "config.json").read_text()) | {"tie_word_embeddings": False}
    (subject / "config.json").write_text(json.dumps(values))
    found = compared(checkpoints["gpt2"], subject)
    invariants, spectral = in_memory(checkpoints["gpt2"], subject)
    assert found.invariants == invariants
    assert found.spectral == spectral
    assert [t["name"] for t in found.invariants["ties_broken"]] == [
        "lm_head.weight = transformer.wte.weight"
    ]


def test_a_head_stored_beside_what_it_is_tied_to_stays_tied(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(
        checkpoints["gpt2"], tmp_path / "subject",
        lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}),
    )  # fmt: skip
    found = compared(checkpoints["gpt2"], subject)
    assert judge_invariants(found.invariants, kind="any").passed
    assert found.spectral["changes"] == []


def test_a_checkpoint_without_its_prefix_is_the_same_one(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def bare(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    subject = copied(checkpoints["gpt2"], tmp_path / "subject", bare)
    assert "h.0.ln_1.weight" in read_checkpoint(subject).tensors
    found = compared(checkpoints["gpt2"], subject)
    assert judge_invariants(found.invariants, kind="any").passed
    assert found.spectral["changes"] == []
    assert found.invariants == in_memory(checkpoints["gpt2"], subject)[0]


def test_a_name_that_loading_replaces_is_found_by_its_shape(
    architecture: Any, tmp_path: Path
) -> None:
    model = architecture("gpt_neox")
    model.save_pretrained(tmp_path / "neox")
    assert "embed_out.weight" in read_checkpoint(tmp_path / "neox").tensors
    found = compared(tmp_path / "neox", tmp_path / "neox")
    assert found.by_names is None
    assert found.spectral["canon"]["available"]
    # What the baseline does not show is no excuse for a subject that misnames a tensor.
    subject = copied(
        tmp_path / "neox", tmp_path / "subject",
        lambda t: t.update({"head.weight": t.pop("embed_out.weight")}),
    )  # fmt: skip
    files = read_checkpoint(tmp_path / "neox"), read_checkpoint(subject)
    broken = compare_checkpoints(*files, described(model), described(model)).invariants
    assert [d["name"] for d in broken["missing"]] == ["lm_head.weight"]
    assert [d["name"] for d in broken["unexpected"]] == ["head.weight"]


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_experts_stored_apart_are_compared_under_their_stored_names(
    kind: str, architecture: Any, tmp_path: Path
) -> None:
    model = architecture(kind)
    model.save_pretrained(tmp_path / "baseline")
    names = read_checkpoint(tmp_path / "baseline").tensors
    damaged = next(name for name in names if "experts.1." in name)
    subject = copied(tmp_path / "baseline", tmp_path / "s", lambda t: t[damaged].mul_(2))
    found = compared(tmp_path / "baseline", subject)
    assert "not stored under that name" in str(found.by_names)
    assert [c["name"] for c in found.spectral["changes"]] == [damaged]
    assert found.spectral["changes"][0]["family"] == "ffn"
    # Without canon the open kinds cannot fail, and say so.
    assert judge_spectral(found.spectral, kind="any").reason == "canon_unavailable"
    assert judge_spectral(found.spectral, kind="quantize8").passed is False


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "opt", "gemma", "qwen3"])
def test_names_alone_give_the_families_that_structure_gives(kind: str, architecture: Any) -> None:
    model = architecture(kind)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    told = roles_by_name(shapes)
    for matrix in all_weight_matrices(model):
        if matrix.weight.ndim == 2 and matrix.role != "embed_in":
            assert told[matrix.name][1] == matrix.family, matrix.name


def test_an_unknown_architecture_is_compared_whole_without_canon(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    subject = copied(checkpoints["llama"], tmp_path / "subject", scaled("llama", "matrix", 1.3))
    by_names, known = (compared(checkpoints["llama"], subject, known=k) for k in (False, True))
    assert by_names.invariants == known.invariants
    assert by_names.spectral["covered"] == known.spectral["covered"]
    assert by_names.spectral["canon"] == {"available": False, "reason": "unknown architecture"}
    strip = [{k: v for k, v in c.items() if k != "canon"} for c in known.spectral["changes"]]
    assert [
        {k: v for k, v in c.items() if k != "canon"} for c in by_names.spectral["changes"]
    ] == strip


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("change", "violation", "named"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing_tensor", "model.norm.weight"),
        (lambda t: t.update(more=torch.zeros(2)), "unexpected_tensor", "more"),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(8, 32)}),
            "shape_change",
            "lm_head.weight",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int32)}),
            "dtype_change",
            "model.norm.weight",
        ),
        (nan_in("lm_head.weight"), "non_finite", "lm_head.weight"),
    ],
    ids=["missing", "extra", "shape", "dtype", "nan"],
)
def test_a_checkpoint_that_does_not_load_is_reported(
    known: bool, change: Any, violation: str, named: str, checkpoints: Any, tmp_path: Path
) -> None:
    baseline = checkpoints["llama"]
    subject = copied(baseline, tmp_path / "subject", change)
    about = described(loaded(baseline)) if known else CheckpointDescription()
    files = read_checkpoint(baseline), read_checkpoint(subject)
    found = compare_checkpoints(*files, about, about)
    result = judge_invariants(found.invariants, kind="any")
    assert result.passed is False
    assert [(v.kind, v.module) for v in result.violations] == [(violation, named)]
    one, other, difference = compare_headers(*files, about, about)
    told = {"missing_tensor": difference.lost, "unexpected_tensor": difference.beside}
    for kind, tensors in told.items():
        assert tensors.names == ((named,) if kind == violation else ())
    headers = judge_invariants(measure_invariants(one, other), kind="any")
    # Headers cannot show NaN.
    assert headers.passed is (violation == "non_finite")


def test_a_baseline_with_nan_is_no_baseline(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    broken = copied(checkpoints["gpt2"], tmp_path / "b", nan_in(NAMES["gpt2"]["matrix"]))
    found = compared(broken, checkpoints["gpt2"])
    assert found.invariants["baseline_non_finite"] == [NAMES["gpt2"]["matrix"]]
    assert judge_spectral(found.spectral, kind="any").reason == "baseline_non_finite"
    # Bitwise equal NaN are no evidence of anything either.
    same = compared(broken, broken)
    assert judge_spectral(same.spectral, kind="any").reason == "baseline_non_finite"


def test_a_baseline_that_lacks_what_its_index_promises_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    loaded(checkpoints["llama"]).save_pretrained(tmp_path / "b", max_shard_size="30KB")
    index = tmp_path / "b" / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.absent.weight"] = next(iter(told["weight_map"].values()))
    index.write_text(json.dumps(told))
    files, other = read_checkpoint(tmp_path / "b"), read_checkpoint(checkpoints["llama"])
    about = CheckpointDescription()
    with pytest.raises(CheckpointError, match=r"promises model\.absent\.weight"):
        compare_checkpoints(files, other, about, about)


class Held:
    """Counts the bytes of stored tensors that are alive at one time, views of them included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.peak = 0
        self.reads: list[str] = []
        read = CheckpointFiles.tensor

        def counted(files: CheckpointFiles, name: str) -> torch.Tensor:
            tensor = read(files, name)
            memory = tensor.contiguous().view(-1).view(torch.uint8).numpy().copy()
            self.reads.append(name)
            self.now += memory.nbytes
            self.peak = max(self.peak, self.now)
            # torch holds the array as long as any view of its memory lives.
            weakref.finalize(memory, self.let_go, memory.nbytes)
            return torch.from_numpy(memory).view(tensor.dtype).view(tensor.shape)

        monkeypatch.setattr(CheckpointFiles, "tensor", counted)

    def let_go(self, n_bytes: int) -> None:
        self.now -= n_bytes


# Of a large table, and of a model whose networks' matrices are the largest tensors it has.
@pytest.mark.parametrize(
    ("kind", "config", "largest"),
    [
        ("llama", {"vocab_size": 4000}, 4000 * 32),
        ("llama", {"vocab_size": 40, "intermediate_size": 400}, 400 * 32),
        ("gpt2", {"vocab_size": 40}, 128 * 32),
    ],
)
def test_no_more_is_held_than_three_times_the_largest_tensor(
    kind: str,
    config: Any,
    largest: int,
    tiny_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(kind, **config)
    model.save_pretrained(tmp_path / "baseline")
    # All of them changed, so that nothing is spared.
    subject = copied(
        tmp_path / "baseline", tmp_path / "subject",
        lambda tensors: [tensor.mul_(1.01).add_(0.01) for tensor in tensors.values()],
    )  # fmt: skip
    about = described(model)
    files = read_checkpoint(tmp_path / "baseline"), read_checkpoint(subject)
    assert max(stored.n_elements for stored in files[0].tensors.values()) == largest
    held = Held(monkeypatch)
    found = compare_checkpoints(*files, about, about)
    assert len(found.spectral["changes"]) == len(files[0].tensors)
    assert found.spectral["canon"]["available"]
    assert held.now == 0
    assert 2 * largest * 4 <= held.peak <= 3 * largest * 4


def test_what_is_equal_is_read_once_of_each_side(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = NAMES["gpt2"]["matrix"]
    subject = copied(checkpoints["gpt2"], tmp_path / "subject", scaled("gpt2", "matrix", 1.3))
    about = described(loaded(checkpoints["gpt2"]))
    files = read_checkpoint(checkpoints["gpt2"]), read_checkpoint(subject)
    held = Held(monkeypatch)
    compare_checkpoints(*files, about, about)
    network = moved.rpartition(".c_fc")[0]
    elsewhere = [n for n in held.reads if not n.startswith((network, "transformer.h.1.ln_2"))]
    # Once for finiteness and equality of the baseline, once of the subject: no third look.
    assert max(elsewhere.count(name) for name in elsewhere) <= 3
    assert held.reads.count(moved) > 3


def stored(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of an unknown architecture."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    save_file(tensors, directory / "model.safetensors")
    return directory


def integers(seed: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    high = 2 if dtype is torch.bool else 100
    made = torch.randint(0, high, (16, 8), generator=torch.Generator().manual_seed(seed))
    return made.to(dtype)


def packed_like_gptq(seed: int) -> dict[str, torch.Tensor]:
    module = "model.layers.0.mlp.up_proj"
    return {
        f"{module}.qweight": integers(seed),
        f"{module}.qzeros": integers(seed + 1),
        "model.norm.weight": torch.ones(8),
    }


def test_packed_weights_that_all_differ_do_not_pass(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", packed_like_gptq(0))
    other = stored(tmp_path / "other", packed_like_gptq(10))
    found = compared(one, other, known=False).spectral
    names = [name for name in packed_like_gptq(0) if ".q" in name]
    assert [(c["name"], c["reason"]) for c in found["changes"]] == [(n, "dtype") for n in names]
    result = judge_spectral(found, kind="any")
    assert (result.passed, result.reason) == (None, "coverage")
    # Those that are equal are compared.
    same = compared(one, one, known=False).spectral
    assert same["covered"]["other"] == {
        "matrices": 2, "parameters": 256, "compared": 256, "changed": 0,
    }  # fmt: skip
    assert judge_spectral(same, kind="any").passed


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.complex64]
)
def test_tensors_without_real_numbers_are_compared_bit_by_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    one = stored(tmp_path / "one", {"a.weight": integers(0, dtype)})
    other = stored(tmp_path / "other", {"a.weight": integers(1, dtype)})
    assert judge_spectral(compared(one, one, known=False).spectral, kind="any").passed
    found = compared(one, other, known=False)
    assert judge_invariants(found.invariants, kind="any").passed
    assert judge_spectral(found.spectral, kind="any").reason == "coverage"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_packed_weights_under_their_parameters_names_are_compared_with_their_scales(
    dtype: torch.dtype, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    name = NAMES["llama"]["matrix"]

    def pack(tensors: dict[str, Any]) -> None:
        tensors[name] = (tensors[name] * 10).to(dtype)
        tensors[f"{name}_scale"] = torch.ones(len(tensors[name]), 1)

    one = copied(checkpoints["llama"], tmp_path / "one", pack)
    other = copied(one, tmp_path / "other", lambda t: t[f"{name}_scale"].mul_(3))
    about = described(loaded(checkpoints["llama"]))
    files = read_checkpoint(one), read_checkpoint(other)
    found = compare_checkpoints(*files, about, about)
    assert f"{name} is stored as {dtype}".replace("torch.", "") in str(found.by_names)
    assert [c["name"] for c in found.spectral["changes"]] == [f"{name}_scale"]


def test_nan_in_complex_numbers_is_counted(tmp_path: Path) -> None:
    whole = torch.complex(torch.ones(4, 4), torch.ones(4, 4))
    broken = whole.clone()
    broken[1, 2] = complex(0, float("nan"))
    one, other = (
        stored(tmp_path / name, {"a.weight": tensor, "b.weight": torch.ones(2, 2)})
        for name, tensor in (("one", whole), ("other", broken))
    )
    result = judge_invariants(compared(one, other, known=False).invariants, kind="any")
    assert [(v.kind, v.module, v.value) for v in result.violations] == [
        ("non_finite", "a.weight", "1")
    ]
    same = compared(other, other, known=False)
    assert same.invariants["baseline_non_finite"] == ["a.weight"]
    assert judge_spectral(same.spectral, kind="any").reason == "baseline_non_finite"


@pytest.mark.parametrize("known", [True, False])
def test_what_the_subjects_index_promises_and_no_file_holds_is_missing(
    known: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    baseline = checkpoints["llama"]
    loaded(baseline).save_pretrained(tmp_path / "s", max_shard_size="30KB")
    index = tmp_path / "s" / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.absent.weight"] = next(iter(told["weight_map"].values()))
    index.write_text(json.dumps(told))
    about = described(loaded(baseline)) if known else CheckpointDescription()
    files = read_checkpoint(baseline), read_checkpoint(tmp_path / "s")
    found = compare_checkpoints(*files, about, about).invariants
    assert [(d["name"], d["baseline"]) for d in found["missing"]] == [
        ("model.absent.weight", "absent")
    ]
    assert judge_invariants(found, kind="any").passed is False


def test_a_promised_tensor_that_is_missing_is_listed_once(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    baseline, name = checkpoints["llama"], "model.norm.weight"
    loaded(baseline).save_pretrained(tmp_path / "s", max_shard_size="30KB")
    told = json.loads((tmp_path / "s" / "model.safetensors.index.json").read_text())
    shard = tmp_path / "s" / told["weight_map"][name]
    save_file({n: t for n, t in load_file(shard).items() if n != name}, shard)
    about = described(loaded(baseline))
    files = read_checkpoint(baseline), read_checkpoint(tmp_path / "s")
    assert files[1].lost == {name}
    found = compare_checkpoints(*files, about, about).invariants
    assert [d["name"] for d in found["missing"]] == [name]


def test_names_that_only_one_checkpoint_has_are_bounded_and_counted() -> None:
    names = [f"layers.{index:02d}.weight" for index in range(25)]
    tensors = NamedTensors.of([*names, names[0]])
    assert (tensors.count, tensors.names) == (25, tuple(names[:20]))
    assert tensors.text.endswith("layers.19.weight and 5 more")
    none = NamedTensors.of([])
    assert TensorDifference(none, none).text == ""
    assert TensorDifference(NamedTensors.of("a"), NamedTensors.of("bc")).text == (
        "1 tensor lost: a; 2 tensors beside: b, c"
    )
