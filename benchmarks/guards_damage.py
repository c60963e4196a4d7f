"""Damage of the guards' evidence: classes at graded doses, over a declared distribution of sites.

A site is one matrix with chance .7, all matrices of one sub-layer with .15, all of the attentions,
of the feed-forward networks or of both with .15; matrices, blocks and heads are equally likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import guards_edits as edits
import numpy as np
from guards_bench import Bench, Run, Step
from guards_benign import DRAWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SINGLE, SUB_LAYER = 0.70, 0.15


@dataclass(frozen=True)
class Cell:
    """A class of damage at one dose; ``gross`` by construction."""

    name: str
    dose: float | str
    gross: bool = False
    change: Callable[..., Any] | None = None


MATRIX_CELLS = (
    *(Cell("scale", x, not 0.5 < x < 1.5, edits.scale)
      for x in (0.1, 0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 5.0)),
    *(Cell("rank", x, x <= 16, edits.rank) for x in (64, 32, 16, 4, 1)),
    *(Cell("noise", x, x >= 1, edits.noise) for x in (0.1, 0.2, 0.3, 0.5, 1.0)),
    Cell("sign turned", "", True, edits.sign),
    Cell("rows permuted", "", True, edits.permuted_rows),
    Cell("redrawn, equal norm", "", True, edits.equal_norm),
    Cell("redrawn, equal spectrum", "", True, edits.equal_spectrum),
    *(Cell("zeroed rows", x, False, edits.zeroed_rows) for x in (2, 8, 32)),
    *(Cell("prune", x, x >= 0.9, edits.prune) for x in (0.5, 0.7, 0.9)),
    *(Cell("RTN", x, x == 2, edits.rtn) for x in (4, 3, 2)),
)  # fmt: skip
OTHER_CELLS = (
    Cell("zeroed head", "", True),
    Cell("zeroed layer", ""),
    Cell("swapped layers", ""),
    *(Cell("norm gain", x) for x in (0.8, 0.9, 1.02, 1.05, 1.1, 1.25)),
    *(Cell("final norm gain", x) for x in (0.9, 1.02, 1.05, 1.1)),
    *(Cell("all norm gains", x) for x in (1.05, 1.1)),
    *(Cell("bias scaled", x) for x in (0.0, 0.5)),
    *(Cell("low rank under int8", x) for x in (0.003, 0.01, 0.02, 0.05)),
    *(Cell("structure", x) for x in ("weight_tying_break", "tokenizer_mismatch")),
)
EXPERT_CELLS = tuple(Cell("killed expert", number) for number in range(4))
"""The one damage that only a model with experts can have; the rest is the other models'."""


class Damage:
    """Draws damaged runs of one model, cell by cell in turn; see `guards_benign.Benign`."""

    def __init__(self, bench: Bench, seed: int, model: int) -> None:
        self._bench, self._seed, self._model = bench, seed, model
        self._branch = bench.branch_of()
        self._matrices = bench.matrices()
        self._names = dict(bench.loaded.model.named_parameters())
        cells = [*MATRIX_CELLS, *OTHER_CELLS]
        if bench.has_experts:
            cells = list(EXPERT_CELLS)
        elif not self._biases():
            cells = [cell for cell in cells if cell.name != "bias scaled"]
        self._cells = cells

    @property
    def n_cells(self) -> int:
        """Classes times doses that this model has."""
        return len(self._cells)

    def runs(self, count: int) -> Iterator[Run]:
        """The first ``count`` runs: every round takes all cells, in an order of its own."""
        for number in range(count):
            turn, place = divmod(number, len(self._cells))
            order = np.random.default_rng([self._seed, 2, self._model, turn])
            cell = self._cells[int(order.permutation(len(self._cells))[place])]
            yield self.run(number, cell)

    def run(self, number: int, cell: Cell) -> Run:
        """Run ``number``, of ``cell``, at a site drawn for it."""
        draw = np.random.default_rng([self._seed, 3, self._model, number])
        windows, seed = int(draw.integers(DRAWS)), int(draw.integers(2**31))
        kind = "quantize8" if cell.name == "low rank under int8" else "any"
        if cell.change is not None:
            names, site = self._site(draw)
            step: Step = (
                edits.on_matrices,
                {"names": names, "change": cell.change, "dose": cell.dose or 0.0, "seed": seed},
            )
            steps: tuple[Step, ...] = (step,)
            branch = self._branch.get(names[0]) if len(names) == 1 else None
        else:
            site, branch, steps = self._other(cell, draw, seed)
        return Run(
            f"damage-{number}", "damage", cell.name, str(cell.dose), site, kind, windows, steps,
            branch, cell.gross,
        )  # fmt: skip

    def _site(self, draw: np.random.Generator) -> tuple[list[str], str]:
        where = draw.random()
        one = self._matrices[int(draw.integers(len(self._matrices)))]
        if where < SINGLE:
            return [one.name], one.name
        if where < SINGLE + SUB_LAYER:
            branch = self._branch[one.name]
            return [m.name for m in self._matrices if self._branch[m.name] == branch], branch
        scope = str(draw.choice(["attn", "ffn", "all"]))
        return [m.name for m in self._matrices if scope in ("all", m.family)], scope

    def _other(
        self, cell: Cell, draw: np.random.Generator, seed: int
    ) -> tuple[str, str | None, tuple[Step, ...]]:
        """Site, damaged branch and steps of a cell that is not one change of matrices."""
        blocks = sorted({m.block for m in self._matrices})
        block = blocks[int(draw.integers(len(blocks)))]
        if cell.name == "structure":
            return "checkpoint", None, ((str(cell.dose), {}),)
        if cell.name == "zeroed layer":
            return f"block {block}", None, (("zero_layer", {"layer": block}),)
        if cell.name == "swapped layers":
            one, other = (int(b) for b in draw.permutation(blocks)[:2])
            step: Step = ("swap_layers", {"first": one, "second": other})
            return f"blocks {one} and {other}", None, (step,)
        if cell.name == "killed expert":
            killed: Step = ("kill_expert", {"expert": int(cell.dose), "layer": block})
            inside = next(m for m in self._matrices if m.block == block and m.role == "down")
            return f"block {block} expert {cell.dose}", self._branch[inside.name], (killed,)
        if cell.name == "zeroed head":
            head = int(draw.integers(self._bench.loaded.model.config.num_attention_heads))
            output = next(m for m in self._matrices if m.block == block and m.role == "o")
            step = (edits.zero_attention_head, {"block": block, "head": head})
            return f"block {block} head {head}", self._branch[output.name], (step,)
        if cell.name == "low rank under int8":
            one_name = self._matrices[int(draw.integers(len(self._matrices)))].name
            hidden: Step = (
                edits.on_matrices,
                {
                    "names": [one_name], "change": edits.added_low_rank,
                    "dose": cell.dose, "seed": seed, "ranks": 4,
                },
            )  # fmt: skip
            return one_name, None, (hidden, ("quant_rtn", {"bitwidth": 8, "group_size": 32}))
        names, branch = self._vectors(cell, draw)
        step = (edits.scale_vectors, {"names": names, "factor": float(cell.dose)})
        return names[0] if len(names) == 1 else "all norms", branch, (step,)

    def _vectors(self, cell: Cell, draw: np.random.Generator) -> tuple[list[str], str | None]:
        """The gains or biases that a cell scales, and the branch they are of."""
        gains = [n for n, p in self._names.items() if p.ndim == 1 and n.endswith("weight")]
        in_block = [n for n in gains if any(part.isdigit() for part in n.split("."))]
        final = [n for n in gains if n not in in_block]
        if cell.name == "all norm gains":
            return gains, None
        found = {"final norm gain": final, "norm gain": in_block}.get(cell.name) or self._biases()
        chosen = found[int(draw.integers(len(found)))]
        return [chosen], self._branch.get(chosen)

    def _biases(self) -> list[str]:
        """Biases that are not zero throughout."""
        return [n for n, p in self._names.items() if n.endswith("bias") and bool((p != 0).any())]
