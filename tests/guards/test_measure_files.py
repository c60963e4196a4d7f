"""Checkpoints of a few small tensors: headers, layouts, what is missing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from invarlock_guards.measure.checkpoint_change import (
    CheckpointDescription,
    checkpoint_sides,
    non_finite_counts,
)
from invarlock_guards.measure.checkpoint_difference import NamedTensors, tensor_difference
from invarlock_guards.measure.checkpoint_files import (
    DTYPES,
    CheckpointError,
    CheckpointFiles,
    StoredTensor,
    _told,
    read_checkpoint,
)
from invarlock_guards.measure.checkpoint_layout import (
    CheckpointLayout,
    layout_by_names,
    layout_of,
    misfit,
    packed,
    renamed_names,
    stored_names,
    unread_names,
)
from invarlock_guards.measure.checkpoint_names import roles_by_name
from invarlock_guards.measure.checkpoint_structure import CheckpointSide, checkpoint_structure
from safetensors.torch import save_file

Stored = dict[str, torch.Tensor]


def saved(folder: Path, *files: Stored, **config: Any) -> Path:
    folder.mkdir()
    names = ["model.safetensors"] if len(files) == 1 else [f"part{n}.safetensors" for n in range(9)]
    for name, tensors in zip(names, files, strict=False):
        save_file(tensors, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def headers(**shapes: Any) -> CheckpointFiles:
    """Files of tensors by shape, or by (shape, dtype); '__' in a name is a dot."""
    tensors = {}
    for name, given in shapes.items():
        shape, dtype = given if isinstance(given[-1], str) else (given, "float32")
        tensors[name.replace("__", ".")] = StoredTensor(Path("f"), shape, dtype)
    return CheckpointFiles(Path("d"), tensors, {})


def layout(
    *names: str, ties: tuple[tuple[str, ...], ...] = (), prefix: str = "",
    ignored: tuple[str, ...] = (), renamed: dict[str, str] | None = None,
) -> CheckpointLayout:  # fmt: skip
    shapes = dict.fromkeys(names, (2, 3))
    roles = dict.fromkeys(names, ("up", "ffn"))
    return CheckpointLayout(shapes, ties, roles, [], prefix, ignored, renamed or {})


def refused(made: Any) -> tuple[str, str, str]:
    with pytest.raises(CheckpointError) as caught:
        made()
    error = caught.value
    assert str(error) == f"{error.path}: {error.problem} ({error.remedy})"
    return error.path.name, error.problem, error.remedy


def test_every_dtype_of_the_format_has_torchs_name() -> None:
    assert DTYPES == {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32",
        "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16",
        "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    }  # fmt: skip


def test_a_header_says_how_many_numbers_of_what_kind() -> None:
    tensor = StoredTensor(Path("f"), (2, 3, 4), "bfloat16")
    assert (tensor.n_elements, tensor.is_floating) == (24, True)
    assert StoredTensor(Path("f"), (), "complex64").is_floating
    assert StoredTensor(Path("f"), (), "complex64").n_elements == 1
    assert not StoredTensor(Path("f"), (0, 3), "int8").is_floating


def test_a_bad_checkpoint_is_told_in_full(tmp_path: Path) -> None:
    one = {"a": torch.zeros(2)}
    folder = saved(tmp_path / "twice", one, one)
    assert refused(lambda: read_checkpoint(folder)) == (
        "part1.safetensors", "tensor a is in part0.safetensors too",
        "remove the file that is not the checkpoint's",
    )  # fmt: skip
    index = folder / "model.safetensors.index.json"
    for text, problem, remedy in (
        ("{}", "has no weight_map", "restore the file"),
        ('{"weight_map": {}}', "has no weight_map", "restore the file"),
        ('{"weight_map": []}', "has no weight_map", "restore the file"),
        ("[]", "holds no JSON object", "restore the file"),
        ('{"weight_map": {"a": "x/../part0.safetensors"}}', "names files outside its folder",
         "restore the file"),
        ("{", "cannot be read: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)", "restore it"),
    ):  # fmt: skip
        index.write_text(text)
        assert refused(lambda: read_checkpoint(folder)) == (index.name, problem, remedy)
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    assert refused(lambda: read_checkpoint(folder)) == (
        "gone.safetensors", "is missing", "copy or download the file again"
    )  # fmt: skip
    index.write_text('{"weight_map": {"a": "part1.safetensors", "b": "part1.safetensors"}}')
    found = read_checkpoint(folder)
    assert (found.lost, list(found.tensors)) == ({"b"}, ["a"])
    (folder / "part1.safetensors").write_bytes(b"no")
    name, problem, remedy = refused(lambda: read_checkpoint(folder))
    assert (name, remedy) == ("part1.safetensors", "copy or download the file again")
    assert problem.startswith("no whole safetensors file: ")
    name, problem, remedy = refused(lambda: found.tensor("a"))
    assert problem.startswith("tensor a cannot be read: ")
    assert (name, remedy) == ("part1.safetensors", "copy the file again")
    (folder / "part1.safetensors").unlink()
    assert refused(lambda: found.tensor("a"))[1].startswith("tensor a cannot be read: ")
    bare = tmp_path / "bare"
    bare.mkdir()
    assert refused(lambda: read_checkpoint(bare)) == (
        "bare", "holds no *.safetensors", "name a checkpoint's directory"
    )  # fmt: skip
    (bare / "x.bin").touch()
    assert refused(lambda: read_checkpoint(bare)) == (
        "bare", "holds .bin weights only, which are not read: safetensors are needed",
        "load the model and save it again with save_pretrained()",
    )  # fmt: skip
    save_file(one, bare / "any.safetensors")
    assert refused(lambda: read_checkpoint(bare)) == (
        "config.json", "cannot be read: No such file or directory", "restore it"
    )  # fmt: skip


def test_an_error_is_told_in_one_line() -> None:
    assert _told(OSError(2, "No such file", "x")) == "No such file"
    assert _told(OSError("bare")) == "bare"
    assert _told(ValueError(" first\nsecond")) == "first"
    assert _told(ValueError("  ")) == "ValueError"


def test_a_checkpoint_is_read_by_its_headers(tmp_path: Path) -> None:
    whole = {"b": torch.ones(2, 3), "a": torch.arange(3)}
    folder = saved(tmp_path / "c", whole, model_type="x")
    (folder / "extra.safetensors").write_bytes(b"not looked at")
    found = read_checkpoint(folder)
    file = folder / "model.safetensors"
    assert found.tensors == {
        "a": StoredTensor(file, (3,), "int64"), "b": StoredTensor(file, (2, 3), "float32")
    }  # fmt: skip
    assert (found.directory, found.config, found.lost) == (folder, {"model_type": "x"}, set())
    assert torch.equal(found.tensor("b"), whole["b"])
    assert non_finite_counts(found) == {"b": 0}
    parts = read_checkpoint(saved(tmp_path / "p", {"z": torch.ones(1)}, {"y": torch.ones(1)}))
    assert list(parts.tensors) == ["z", "y"]


def test_roles_by_names_alone() -> None:
    matrix = (2, 2)
    shapes = dict.fromkeys(
        ("wte.weight", "wpe.weight", "token_type_embeddings.weight", "lm_head.weight",
         "h.attn.q_proj.weight", "h.attn.o_proj.weight", "h.other.o_proj.weight",
         "h.mlp.gate_proj.weight", "h.mlp.up_proj.weight", "h.mlp.down_proj.weight",
         "h.two.fc1.weight", "h.two.fc2.weight", "h.three.fc1.weight", "h.odd.weight",
         "h.lone.down_proj.weight", "h.q_proj"), matrix,
    ) | {"h.norm.weight": (2,), "h.fc.bias": (2,), "scalar": ()}  # fmt: skip
    assert roles_by_name(shapes) == {
        "wte.weight": ("embedding", "embed"), "wpe.weight": ("position", "embed"),
        "token_type_embeddings.weight": ("segment", "embed"), "lm_head.weight": ("head", "embed"),
        "h.attn.q_proj.weight": ("q", "attn"), "h.attn.o_proj.weight": ("o", "attn"),
        "h.other.o_proj.weight": ("unknown", "other"), "h.mlp.gate_proj.weight": ("gate", "ffn"),
        "h.mlp.up_proj.weight": ("up", "ffn"), "h.mlp.down_proj.weight": ("down", "ffn"),
        "h.two.fc1.weight": ("up", "ffn"), "h.two.fc2.weight": ("down", "ffn"),
        "h.three.fc1.weight": ("unknown", "other"), "h.odd.weight": ("unknown", "other"),
        "h.lone.down_proj.weight": ("down", "ffn"), "h.q_proj": ("q", "attn"),
        "h.norm.weight": ("vector", "other"), "h.fc.bias": ("bias", "other"),
        "scalar": ("vector", "other"),
    }  # fmt: skip


def test_where_the_names_of_a_layout_are_stored() -> None:
    about = layout(
        "m.a", "m.b", "head", "m.x", "gone",
        prefix="m.", ties=(("m.a", "head"), ("gone", "also")), renamed={"m.x": "y"},
        ignored=(r"inv_freq$",),
    )  # fmt: skip
    files = headers(a=(2, 3), m__b=(2, 3), y=(2, 3), rotary__inv_freq=(2,), more=(2,))
    assert stored_names(about, files) == {"m.a": "a", "m.b": "m.b", "head": "a", "m.x": "y"}
    assert list(stored_names(about, files)) == ["m.a", "m.b", "head", "m.x"]
    assert unread_names(about, files) == {"more"}
    own = headers(head=(2, 3), m__a=(2, 3))
    assert stored_names(about, own) == {"m.a": "m.a", "head": "head"}


def test_a_name_is_told_by_a_shape_that_nothing_else_has() -> None:
    about = layout("a", "b", "c")
    about.shapes.update(b=(4, 4), c=(5, 5))  # type: ignore[attr-defined]
    assert renamed_names(about, headers(a=(2, 3), bb=(4, 4), cc=(5, 5))) == {"b": "bb", "c": "cc"}
    assert renamed_names(about, headers(a=(2, 3), bb=(4, 4), cc=(4, 4))) == {}
    about.shapes.update(c=(4, 4))  # type: ignore[attr-defined]
    assert renamed_names(about, headers(a=(2, 3), bb=(4, 4))) == {}


def test_what_does_not_fit_a_layout() -> None:
    about = layout("a", "b")
    assert misfit(about, headers(a=(2, 3), b=(2, 3), c=(1,))) is None
    assert misfit(about, headers(a=(2, 3))) == (
        "b, which its configuration asks for, is not stored under that name"
    )
    assert misfit(about, headers(a=(2, 3), b=(3, 2))) == (
        "b has another shape than its configuration says"
    )


def test_what_is_packed() -> None:
    about, shape = layout("a", "b"), (2, 3)
    assert packed(about, headers(a=shape, c=(shape, "int8"))) is None
    assert packed(about, headers(a=shape, b=(shape, "int8"))) == "b is stored as int8"
    small = (shape, "float8_e4m3fn")
    assert packed(about, headers(a=shape, b=small)) is None
    assert packed(about, headers(a=shape, b=small, scale=(1,))) == (
        "b is stored as float8_e4m3fn, beside tensors that are not parameters"
    )


def test_the_layout_of_a_model_and_of_names(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    about = layout_of(model)
    assert about.ties == (("transformer.wte.weight", "lm_head.weight"),)
    assert about.shapes["transformer.h.0.mlp.c_fc.weight"] == (32, 128)
    assert about.roles["transformer.h.0.mlp.c_fc.weight"] == ("up", "ffn")
    assert "lm_head.weight" in about.shapes
    assert "lm_head.weight" not in about.roles
    assert (about.prefix, len(about.units), about.renamed) == ("transformer.", 4, {})
    bare = torch.nn.Linear(2, 2)
    bare._keys_to_ignore_on_load_unexpected = ["old"]  # type: ignore[assignment]
    assert layout_of(bare) == CheckpointLayout(
        {"weight": (2, 2), "bias": (2,)}, (),
        {"weight": ("unknown", "other"), "bias": ("bias", "other")}, "unknown architecture", "",
        ("old",), {},
    )  # fmt: skip
    names = headers(a__q_proj=(2, 2), n=(2,))
    assert layout_by_names(names, "why") == CheckpointLayout(
        {"a.q_proj": (2, 2), "n": (2,)}, (),
        {"a.q_proj": ("q", "attn"), "n": ("vector", "other")}, "why",
    )  # fmt: skip


def test_the_structure_of_a_checkpoint(tmp_path: Path) -> None:
    tensors = {
        "a": torch.ones(2, 3),
        "head": torch.ones(2, 3),
        "b": torch.zeros(2, 3),
        "x": torch.ones(1),
    }
    files = read_checkpoint(saved(tmp_path / "c", tensors, rope=1, use_cache=True))
    about = layout("head", "a", "b", ties=(("head", "a"), ("gone", "away")))
    shape = ((2, 3), "float32")
    found = checkpoint_structure(
        CheckpointSide(files, about, None, "t"), {"head": 2, "b": 0, "x": 1}
    )
    assert found.tensors == {"head": shape, "a": shape, "b": shape}
    assert found.ties == {("a", "head")}
    assert (found.config, found.tokenizer) == ({"rope": "1"}, "t")
    assert (found.non_finite, found.n_parameters, found.unread) == ({}, 12, {"x"})
    counted = checkpoint_structure(CheckpointSide(files, about, {"rope": 2}), {"a": 3, "b": 1})
    assert (counted.config, counted.tokenizer) == ({"rope": "2"}, None)
    assert counted.non_finite == {"a": 3, "b": 1}
    apart = layout("head", "b", ties=(("head", "b"),))
    untied = checkpoint_structure(CheckpointSide(files, apart))
    assert (untied.ties, untied.n_parameters, untied.non_finite) == (set(), 12, {})
    assert untied.unread == {"a", "x"}


def test_what_one_checkpoint_has_alone() -> None:
    def side(files: CheckpointFiles, lost: frozenset[str] = frozenset()) -> CheckpointSide:
        about = layout("m.a", "m.b", "m.c", prefix="m.", renamed={"m.c": "old"})
        return CheckpointSide(CheckpointFiles(files.directory, files.tensors, {}, lost), about)

    one = side(headers(m__a=(2, 3), m__b=(2, 3), m__c=(2, 3), u=(1,)))
    lost = frozenset({"m.b", "a", "old", "promised"})
    other = side(headers(b=(2, 3), u=(1,), v=(1,), w=(1,)), lost)
    structures = checkpoint_structure(one), checkpoint_structure(other)
    found = tensor_difference(*structures, other)
    # 'a' and 'old' are stored names of what is missing already.
    assert found.lost.names == ("m.a", "m.b", "m.c", "promised")
    assert found.beside.names == ("v", "w")
    none = tensor_difference(structures[0], structures[0], one)
    assert (none.text, none.lost.count, none.beside.count) == ("", 0, 0)
    back = tensor_difference(structures[1], structures[0], one)
    assert back.beside.names == ("m.a", "m.c")
    assert back.text == "2 tensors beside: m.a, m.c"
    assert found.text == "4 tensors lost: m.a, m.b, m.c, promised; 2 tensors beside: v, w"


def test_an_incomplete_baseline_is_refused() -> None:
    about = CheckpointDescription()
    for lost, told in (({"b", "a"}, "a and 1 more tensors"), ({"a"}, "a")):
        files = CheckpointFiles(Path("d"), {}, {}, frozenset(lost))
        assert refused(lambda f=files: checkpoint_sides(f, f, about, about)) == (
            "d", f"its index promises {told}, which no file holds", "give a complete baseline"
        )  # fmt: skip


def test_names_that_only_one_side_has_are_bounded() -> None:
    names = [f"n{index:02d}" for index in range(21)]
    assert NamedTensors.of([*names, names[0]]) == NamedTensors(21, tuple(names[:20]))
    assert NamedTensors.of(names).text == ", ".join(names[:20]) + " and 1 more"
    assert NamedTensors.of(names[:20]).text == ", ".join(names[:20])
    assert NamedTensors.of([]).text == ""
