"""Benign changes of the guards' evidence, drawn at random: kind, dose, scope, seed and windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from guards_bench import Bench, Run, Step
from guards_edits import added_low_rank, blend, on_matrices

if TYPE_CHECKING:
    from collections.abc import Callable

    from guards_finetunes import Finetune

DRAWS = 4
SCOPES = ("all", "all", "ffn", "attn")
QUANTISED = (
    {"bitwidth": 8}, {"bitwidth": 8, "group_size": 32}, {"bitwidth": 4, "group_size": 32}
)  # fmt: skip

Drawn = tuple[str, str, str, str, tuple[Step, ...]]
"""Class, dose, site, declared kind, steps."""


class Benign:
    """Draws benign runs for one model.

    Args:
        bench: of the model.
        finetunes: trajectories of snapshots, for fine-tunes, merges and interpolations.
        seed: of everything drawn.
        model: its place among the models.
    """

    def __init__(
        self, bench: Bench, finetunes: list[list[Finetune]], seed: int, model: int
    ) -> None:
        self._bench, self._finetunes, self._seed, self._model = bench, finetunes, seed, model
        self._gated = any(m.role == "gate" for m in bench.matrices())
        self._classes: tuple[tuple[Callable[[np.random.Generator], Drawn], float], ...] = (
            (self._cast, 1), (self._rtn8, 2), (self._fp8, 1.5), (self._rtn4, 2.5),
            (self._prune, 2.5), (self._low_rank, 2.5), (self._finetune, 3), (self._merge, 2),
            (self._interpolation, 1.5), (self._reparametrized, 4),
        )  # fmt: skip

    def run(self, number: int) -> Run:
        """Benign run ``number``; the same number is the same run, however many are drawn."""
        draw = np.random.default_rng([self._seed, 1, self._model, number])
        weights = np.array([weight for _, weight in self._classes])
        chosen = int(draw.choice(len(weights), p=weights / weights.sum()))
        name, dose, site, kind, steps = self._classes[chosen][0](draw)
        windows = int(draw.integers(DRAWS))
        return Run(f"benign-{number}", "benign", name, dose, site, kind, windows, steps)

    def _cast(self, draw: np.random.Generator) -> Drawn:
        to = str(draw.choice(["float16", "bfloat16"]))
        return "cast", to, "all", "cast", (("dtype_round_trip", {"dtype": to}),)

    def _rtn8(self, draw: np.random.Generator) -> Drawn:
        scope = _scope(draw)
        step = {"bitwidth": 8, "scope": scope, **_group(draw)}
        return "RTN 8 bit", "8", scope, "quantize8", (("quant_rtn", step),)

    def _rtn4(self, draw: np.random.Generator) -> Drawn:
        scope, bits = _scope(draw), int(draw.choice([4, 4, 5, 6, 7]))
        group = {"group_size": int(draw.choice([32, 64]))} if bits == 4 else _group(draw)
        step = {"bitwidth": bits, "scope": scope, **group}
        return f"RTN {bits} bit", str(bits), scope, "quantize4", (("quant_rtn", step),)

    def _fp8(self, draw: np.random.Generator) -> Drawn:
        scope, form = _scope(draw), str(draw.choice(["e4m3", "e5m2"]))
        step = {"format": form, "scaled": True, "scope": scope}
        return f"FP8 {form}", form, scope, "quantize8", (("fp8_quant", step),)

    def _prune(self, draw: np.random.Generator) -> Drawn:
        scope, share = _scope(draw), round(float(draw.uniform(0.05, 0.30)), 3)
        step = {"sparsity": share, "scope": scope}
        return "prune 5–30 %", str(share), scope, "prune", (("magnitude_prune", step),)

    def _low_rank(self, draw: np.random.Generator) -> Drawn:
        scope, size = _scope(draw), round(float(np.exp(draw.uniform(*np.log([0.01, 0.10])))), 4)
        ranks, seed = int(draw.choice([1, 2, 4, 8])), int(draw.integers(2**31))
        names = [m.name for m in self._bench.matrices() if scope in ("all", m.family)]
        step = {
            "names": names, "change": added_low_rank, "dose": size, "seed": seed, "ranks": ranks
        }  # fmt: skip
        return (
            "low-rank update",
            f"{size} (rank {ranks})",
            scope,
            "finetune",
            ((on_matrices, step),),
        )

    def _finetune(self, draw: np.random.Generator) -> Drawn:
        tuned = self._tuned(draw)
        quantised, dose = self._maybe_quantised(draw, 0.3)
        # A number of full precision keeps the blend from being bit-equal to the snapshot.
        step = {"states": [tuned.state], "shares": [float(draw.uniform(0.9, 1.0))]}
        name = "fine-tune, quantised" if quantised else "fine-tune"
        steps: tuple[Step, ...] = ((blend, step), *quantised)
        return name, f"{tuned.rate:.1e} × {tuned.steps}{dose}", tuned.scope, "finetune", steps

    def _merge(self, draw: np.random.Generator) -> Drawn:
        one, other = draw.permutation(len(self._finetunes))[:2]
        tuned = [self._tuned(draw, int(one)), self._tuned(draw, int(other))]
        share = float(draw.uniform(0.3, 0.7))
        step = {"states": [t.state for t in tuned], "shares": [share, 1 - share]}
        dose = " + ".join(f"{t.rate:.1e} × {t.steps}" for t in tuned)
        return "merge of fine-tunes", dose, "all", "merge", ((blend, step),)

    def _interpolation(self, draw: np.random.Generator) -> Drawn:
        tuned, share = self._tuned(draw), float(draw.uniform(0.4, 0.6))
        step = {"states": [tuned.state], "shares": [share]}
        dose = f"{share:.2f} of {tuned.rate:.1e} × {tuned.steps}"
        return "half-way interpolation", dose, tuned.scope, "merge", ((blend, step),)

    def _reparametrized(self, draw: np.random.Generator) -> Drawn:
        seed = int(draw.integers(2**31))
        factor = float(draw.choice([0.25, 0.5, 2.0, 4.0]))
        each: dict[str, Step] = {
            "neurons permuted": ("permute_mlp_neurons", {"seed": seed}),
            "heads rotated": ("rotate_value_output_heads", {"seed": seed}),
            "gain folded": ("fold_norm_gain", {}),
        }
        if self._gated:
            each["pair rescaled"] = ("rescale_gated_pair", {"factor": factor})
        names = list(each)
        together = draw.random() < 0.4
        chosen = names if together else [names[int(draw.integers(len(names)))]]
        quantised, dose = self._maybe_quantised(draw, 0.5)
        name = "reparametrised, all" if together else f"reparametrised, {chosen[0]}"
        name += ", quantised" if quantised else ""
        steps = (*(each[key] for key in chosen), *quantised)
        return name, dose.removeprefix(", "), "all", "reparametrized", steps

    def _tuned(self, draw: np.random.Generator, run: int | None = None) -> Finetune:
        runs = self._finetunes
        snapshots = runs[int(draw.integers(len(runs))) if run is None else run]
        return snapshots[int(draw.integers(len(snapshots)))]

    def _maybe_quantised(
        self, draw: np.random.Generator, share: float
    ) -> tuple[tuple[Step, ...], str]:
        if draw.random() >= share:
            return (), ""
        step = dict(QUANTISED[int(draw.integers(len(QUANTISED)))])
        return (("quant_rtn", step),), f", RTN {step['bitwidth']}"


def _scope(draw: np.random.Generator) -> str:
    return str(draw.choice(SCOPES))


def _group(draw: np.random.Generator) -> dict[str, int]:
    size = int(draw.choice([0, 32, 64, 128]))
    return {"group_size": size} if size else {}
