"""What a transformer's parametrisation leaves free, by architecture, and the weights it ties.

`canonical_units` reads names, shapes and the configuration alone: a model on the meta device will
do. What an architecture leaves free and is not removed here is listed in docs/guards.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from invarlock_guards.families import WeightMatrix, all_weight_matrices, norm_weights
from invarlock_guards.stacks import blocks, text_config

if TYPE_CHECKING:
    import torch

ATTENTION = frozenset({"q", "k", "v", "qkv"})
NETWORK = frozenset({"up", "gate", "gate_up", "router"})
Positions = Literal["added", "halves", "other"]
HeadLayout = Literal["contiguous", "grouped"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture computes, as far as its parametrisation goes.

    Attributes:
        readers: for each norm of a block, by its name there, where its readers stand in the block
            (a prefix of their names) and their roles. Empty where the residual stream reads the
            norm too (post-norm), so that its gain is not free.
        offset: the gain is ``offset + weight``.
        positions: how queries and keys meet their positions: ``added`` (or biased: the score is
            a product of matrices), ``halves`` (each component of the first half of a head is turned
            with its like in the second), or ``other``, which leaves them as they stand.
        heads: how a fused query-key-value lies along its outputs.
        outer_norms: norms outside the blocks: ``cross`` is read by the key and value of every
            cross-attention, another word is the role that reads it.
    """

    readers: Mapping[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    offset: float = 0.0
    positions: Positions = "added"
    heads: HeadLayout = "contiguous"
    outer_norms: Mapping[str, str] = field(default_factory=dict)


_LLAMA = {"input_layernorm": ("", ATTENTION), "post_attention_layernorm": ("", NETWORK)}
_T5 = {
    "layer.0.layer_norm": ("layer.0.", ATTENTION),
    # The second layer is cross-attention in the decoder, whose key and value read the encoder.
    "layer.1.layer_norm": ("layer.1.", NETWORK | {"q"}),
    "layer.2.layer_norm": ("layer.2.", NETWORK),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "mixtral"), Architecture(_LLAMA, positions="halves")
    ),
    # Queries and keys have norms of their own.
    "qwen3": Architecture(_LLAMA, positions="other"),
    "gemma": Architecture(_LLAMA, offset=1.0, positions="halves"),
    # Only a part of each head is turned.
    "phi3": Architecture(_LLAMA, positions="other"),
    "gpt2": Architecture(
        {
            "ln_1": ("attn.", ATTENTION),
            "ln_cross_attn": ("crossattention.", frozenset({"q"})),
            "ln_2": ("", NETWORK),
        }
    ),
    "gpt_neox": Architecture(_LLAMA, positions="other", heads="grouped"),
    "opt": Architecture(
        {"self_attn_layer_norm": ("", ATTENTION), "final_layer_norm": ("", NETWORK)},
        outer_norms={"embed_out": "model.decoder.final_layer_norm"},
    ),
    "phi": Architecture({"input_layernorm": ("", ATTENTION | NETWORK)}, positions="other"),
    "bloom": Architecture(_LLAMA, heads="grouped"),
    "bert": Architecture(),
    "roberta": Architecture(),
    "bart": Architecture(),
    "t5": Architecture(_T5, outer_norms={"cross": "encoder.final_layer_norm"}),
}
"""By ``model_type`` of the configuration."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One matrix as the function sees it: (outputs, inputs), its norm's gain folded in.

    Attributes:
        name: of the parameter.
        transposed: whether it is stored as (inputs, outputs).
        norm: name of the norm's weight whose gain multiplies its inputs; None for none.
        offset: the gain is ``offset + weight``.
        expert: index along the first axis of a stack.
        rows: which outputs it takes of a fused matrix, as (start, stop); None for all of them.
        grouped: (groups, size, first, last): of each of ``groups`` runs of ``size`` outputs those
            from ``first`` to ``last``.
    """

    name: str
    transposed: bool
    norm: str | None = None
    offset: float = 0.0
    expert: int | None = None
    rows: tuple[int, int] | None = None
    grouped: tuple[int, int, int, int] | None = None

    @property
    def module(self) -> str:
        """The name that `WeightChange` has."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


@dataclass(frozen=True, slots=True)
class AttentionUnit:
    """The matrices of one attention; ``o`` has the heads along its inputs."""

    q: Operand
    k: Operand
    v: Operand
    o: Operand
    n_heads: int
    n_kv_heads: int
    positions: Positions


@dataclass(frozen=True, slots=True)
class NetworkUnit:
    """The matrices of one feed-forward network or expert; ``gate`` is None without one."""

    up: Operand
    down: Operand
    gate: Operand | None = None


@dataclass(frozen=True, slots=True)
class PlainUnit:
    """A matrix whose parametrisation is free in nothing but a norm's gain."""

    matrix: Operand


Unit = AttentionUnit | NetworkUnit | PlainUnit


def canonical_units(model: torch.nn.Module) -> list[Unit] | str:
    """The units of ``model``'s matrices outside embeddings and head; or the reason for none.

    A matrix that is in no whole unit is one of its own.
    """
    config = text_config(model)
    kind = str(getattr(config, "model_type", ""))
    architecture = ARCHITECTURES.get(kind)
    if architecture is None:
        return f"unknown architecture {kind}" if kind else "unknown architecture"
    if _reads_norm_twice(config):
        architecture = Architecture(positions=architecture.positions, heads=architecture.heads)
    return _Units(model, architecture).found


def _reads_norm_twice(config: object) -> bool:
    """Whether an option makes the residual stream read what the norms return."""
    return (
        getattr(config, "do_layer_norm_before", True) is False
        or getattr(config, "apply_residual_connection_post_layernorm", False) is True
    )


class _Units:
    """Groups the matrices of a model into units; ``found`` holds them in model order."""

    def __init__(self, model: torch.nn.Module, architecture: Architecture) -> None:
        self._architecture = architecture
        self._config = text_config(model)
        self._norms = {(norm.block, norm.norm): norm.name for norm in norm_weights(model)}
        self._prefixes = self._block_prefixes(model)
        self.found: list[Unit] = []
        attentions: dict[tuple[int, bool], dict[str, WeightMatrix]] = {}
        networks: dict[tuple[int, int | None], dict[str, WeightMatrix]] = {}
        for matrix in all_weight_matrices(model):
            if matrix.family == "attn" and matrix.block is not None:
                members = attentions.setdefault((matrix.block, matrix.cross), {})
                members[matrix.role if matrix.role not in members else matrix.name] = matrix
            elif matrix.family == "ffn" and matrix.block is not None:
                members = networks.setdefault((matrix.block, matrix.expert), {})
                members[matrix.role if matrix.role not in members else matrix.name] = matrix
            elif matrix.family != "embed":
                self.found.append(PlainUnit(self._operand(matrix)))
        for members in attentions.values():
            self.found += self._attention(members)
        for members in networks.values():
            self.found += self._networks(members)

    @staticmethod
    def _block_prefixes(model: torch.nn.Module) -> list[str]:
        return [f"{name}." for name, _ in blocks(model)]

    def _operand(self, matrix: WeightMatrix, expert: int | None = None) -> Operand:
        return Operand(
            matrix.name, matrix.input_axis == -2, self._norm(matrix), self._architecture.offset,
            expert,
        )  # fmt: skip

    def _norm(self, matrix: WeightMatrix) -> str | None:
        """The norm whose gain the inputs of ``matrix`` were multiplied by."""
        outer = self._architecture.outer_norms
        if matrix.block is None:
            return self._norms.get((None, outer.get(matrix.role, "")))
        if matrix.cross and matrix.role in ("k", "v", "kv"):
            return self._norms.get((None, outer.get("cross", "")))
        inside = matrix.name.removeprefix(self._prefixes[matrix.block])
        for norm, (prefix, roles) in self._architecture.readers.items():
            if matrix.role in roles and inside.startswith(prefix):
                name = self._norms.get((matrix.block, norm))
                if name is not None:
                    return name
        return None

    def _attention(self, members: dict[str, WeightMatrix]) -> list[Unit]:
        plain: list[Unit] = [PlainUnit(self._operand(m)) for m in members.values()]
        output = members.get("o")
        n_heads = None if output is None else self._heads(output)
        if output is None or n_heads is None or _inputs(output) % n_heads:
            return plain
        width = _inputs(output) // n_heads
        if members.keys() == {"q", "k", "v", "o"}:
            q, k, v = (self._operand(members[role]) for role in ("q", "k", "v"))
            n_kv = _outputs(members["v"]) // width
        elif members.keys() == {"q", "kv", "o"}:
            q, kv = self._operand(members["q"]), self._operand(members["kv"])
            half = _outputs(members["kv"]) // 2
            k, v = _part(kv, rows=(0, half)), _part(kv, rows=(half, 2 * half))
            n_kv = half // width
        elif members.keys() == {"qkv", "o"}:
            n_kv = (_outputs(members["qkv"]) // width - n_heads) // 2
            q, k, v = self._split(members["qkv"], n_heads, n_kv, width)
        else:
            return plain
        if n_kv < 1 or n_heads % n_kv:
            return plain
        o = self._operand(output)
        return [AttentionUnit(q, k, v, o, n_heads, n_kv, self._architecture.positions)]

    def _heads(self, output: WeightMatrix) -> int | None:
        side = f"{output.stack}_attention_heads" if output.stack else "num_attention_heads"
        count = getattr(self._config, side, None)
        count = getattr(self._config, "num_attention_heads", None) if count is None else count
        return count if isinstance(count, int) and count > 0 else None

    def _split(
        self, fused: WeightMatrix, n_heads: int, n_kv: int, width: int
    ) -> tuple[Operand, Operand, Operand]:
        whole = self._operand(fused)
        if self._architecture.heads == "grouped":
            each = n_heads // n_kv + 2
            ends = ((0, each - 2), (each - 2, each - 1), (each - 1, each))
            q, k, v = (
                _part(whole, grouped=(n_kv, each * width, first * width, last * width))
                for first, last in ends
            )
            return q, k, v
        first, second = n_heads * width, (n_heads + n_kv) * width
        return (
            _part(whole, rows=(0, first)),
            _part(whole, rows=(first, second)),
            _part(whole, rows=(second, second + n_kv * width)),
        )

    def _networks(self, members: dict[str, WeightMatrix]) -> list[Unit]:
        found: list[Unit] = []
        count = len(next(iter(members.values())).weight) if _is_stack(members) else 1
        for index in range(count):
            expert = index if _is_stack(members) else None
            operands = {role: self._operand(m, expert) for role, m in members.items()}
            if members.keys() == {"gate_up", "down"}:
                half = _outputs(members["gate_up"]) // 2
                fused = operands["gate_up"]
                gate, up = _part(fused, rows=(0, half)), _part(fused, rows=(half, 2 * half))
                found.append(NetworkUnit(up, operands["down"], gate))
            elif members.keys() in ({"up", "down"}, {"gate", "up", "down"}):
                found.append(NetworkUnit(operands["up"], operands["down"], operands.get("gate")))
            else:
                found += [PlainUnit(operand) for operand in operands.values()]
        return found


def _is_stack(members: dict[str, WeightMatrix]) -> bool:
    return all(matrix.weight.ndim == 3 for matrix in members.values())


def _part(
    whole: Operand,
    rows: tuple[int, int] | None = None,
    grouped: tuple[int, int, int, int] | None = None,
) -> Operand:
    return Operand(
        whole.name, whole.transposed, whole.norm, whole.offset, whole.expert, rows, grouped
    )


def _outputs(matrix: WeightMatrix) -> int:
    return int(matrix.weight.shape[-3 - matrix.input_axis])


def _inputs(matrix: WeightMatrix) -> int:
    return int(matrix.weight.shape[matrix.input_axis])
