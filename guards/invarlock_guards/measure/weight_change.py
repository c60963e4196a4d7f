"""How far each weight of a subject is from the baseline's, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from invarlock_guards.families import all_weight_matrices, biases, norm_weights
from invarlock_guards.measure.row_blocks import bitwise_equal, is_finite, row_blocks
from invarlock_guards.measure.singular_values import (
    CHANGE_TOLERANCE,
    TOLERANCE,
    MatrixNorms,
    matrix_norms,
)

STACKED = frozenset({"up", "gate", "gate_up", "inner", "down"})
"""Roles whose tensors of three axes are one matrix for each expert."""

UNCONVERGED = 10.0
"""A singular value whose error bound is this many times its tolerance was not measured."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightPair:
    """One tensor of the baseline and of the subject; None where one of them lacks it.

    Attributes:
        name: of the parameter.
        role: a role of `invarlock_guards.role_names`, or ``norm``, ``bias`` or ``vector``.
        family: ``ffn``, ``attn``, ``embed`` or ``other``.
        baseline: the tensor, in the layout the model stores; experts may be stacked before it.
        subject: the same tensor of the subject.
        unchanged: both are known to be finite and bitwise equal: only their shape is looked at,
            and they may be on the meta device.
    """

    name: str
    role: str
    family: str
    baseline: torch.Tensor | None
    subject: torch.Tensor | None
    unchanged: bool = False

    @property
    def is_matrix(self) -> bool:
        """Whether its singular values count: a matrix, and not a table of rows or a vector."""
        found = self.baseline if self.baseline is not None else self.subject
        return (
            found is not None
            and found.ndim > 1
            and self.family != "embed"
            and self.role not in ("norm", "bias", "vector")
        )


@dataclass(frozen=True, slots=True)
class WeightChange:
    """What changed in one matrix or vector; every number is None where ``reason`` says why.

    The ln ratios are subject over baseline. Those of singular values, and ``edge_of_change``, are
    None for embeddings, heads and vectors, which are compared by ``relative_change`` alone.

    Attributes:
        name: of the parameter; ``name[expert]`` for one expert of a stack.
        role: see `WeightPair`.
        family: see `WeightPair`.
        n_parameters: elements.
        bitwise_equal: same dtype and bits; nothing is computed then and every number is 0.
        ln_sigma: ln ratio of the largest singular values.
        ln_frobenius: ln ratio of the Frobenius norms.
        ln_stable_rank: 2 (ln_frobenius - ln_sigma).
        relative_change: ‖W' - W‖ / ‖W‖, Frobenius.
        sigma: largest singular value of the subject's matrix; None where nothing changed.
        edge_of_change: sigma(W' - W) / [‖W' - W‖/√(mn) · (√m + √n)]: 1 for a change without
            structure, up to √(mn) / (√m + √n) for one of rank one.
        balanced_edge: the same after rows and then columns of the change are scaled to one size:
            rounding errors follow the sizes of a matrix's rows and columns, structure does not.
        reason: ``non_finite_baseline``, ``non_finite_subject``, ``zero_baseline``,
            ``zero_subject``, ``missing_baseline``, ``missing_subject``, ``shape``, ``dtype`` (not
            both hold real floating numbers, and their bits differ) or ``not_converged`` (also a
            number that float64 cannot hold).
    """

    name: str
    role: str
    family: str
    n_parameters: int
    bitwise_equal: bool = False
    ln_sigma: float | None = None
    ln_frobenius: float | None = None
    ln_stable_rank: float | None = None
    relative_change: float | None = None
    edge_of_change: float | None = None
    sigma: float | None = None
    balanced_edge: float | None = None
    reason: str | None = None

    @property
    def compared(self) -> bool:
        """Whether both sides were there, of one shape, and read."""
        return self.reason in (None, "zero_baseline", "zero_subject", "non_finite_subject")

    def document(self) -> dict[str, Any]:
        """The change as plain JSON values."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__}


def weight_pairs(
    model: torch.nn.Module,
    baseline: Mapping[str, torch.Tensor],
    subject: Mapping[str, torch.Tensor],
) -> Iterator[WeightPair]:
    """Every parameter of ``model``, tied ones once, with its tensors from the two mappings.

    ``model`` gives names and roles and may be on the meta device; the mappings may read a tensor
    from disk when it is asked for, since each is asked once and let go.
    """
    roles: dict[str, tuple[str, str]] = {}
    for matrix in all_weight_matrices(model):
        roles[matrix.name] = (matrix.role, matrix.family)
    for bias in biases(model):
        roles[bias.name] = ("bias", bias.family)
    for norm in norm_weights(model):
        roles.setdefault(norm.name, ("norm", "other"))
        if norm.bias_name is not None:
            roles.setdefault(norm.bias_name, ("norm", "other"))
    for name, _ in model.named_parameters():
        role, family = roles.get(name, ("vector", "other"))
        yield WeightPair(name, role, family, baseline.get(name), subject.get(name))


def compare(pair: WeightPair) -> list[WeightChange]:
    """The change of ``pair``, or of each expert where experts are stacked in it.

    Nothing is computed for tensors that are bitwise equal, but that they are finite. No float64
    copy of a whole tensor is made: memory is a Gram matrix of the smaller side, beside the pair.
    """
    found = pair.baseline if pair.baseline is not None else pair.subject
    if found is None:
        return []
    reason = _incomparable(pair)
    if reason is not None or pair.baseline is None or pair.subject is None:
        return [WeightChange(pair.name, pair.role, pair.family, found.numel(), reason=reason)]
    baseline, subject = pair.baseline.detach(), pair.subject.detach()
    # The subject may be on an accelerator while the baseline's copy is in main memory.
    baseline = baseline.to(subject.device)
    if baseline.ndim == 3 and pair.role in STACKED and pair.is_matrix:
        return [
            _change(pair, f"{pair.name}[{expert}]", one, other)
            for expert, (one, other) in enumerate(zip(baseline, subject, strict=True))
        ]
    return [_change(pair, pair.name, baseline, subject)]


def _incomparable(pair: WeightPair) -> str | None:
    if pair.baseline is None:
        return "missing_baseline"
    if pair.subject is None:
        return "missing_subject"
    if pair.baseline.shape != pair.subject.shape:
        return "shape"
    if _has_numbers(pair.baseline) and _has_numbers(pair.subject):
        return None
    # Packed numbers have no size, but equal ones did not change.
    if pair.unchanged or bitwise_equal(pair.baseline, pair.subject):
        return None
    return "dtype"


def _has_numbers(tensor: torch.Tensor) -> bool:
    """Whether its elements are real numbers to compute with: not integers, packed or complex."""
    packed = str(tensor.dtype).removeprefix("torch.") in ("float8_e8m0fnu", "float4_e2m1fn_x2")
    return tensor.is_floating_point() and not packed


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.is_complex():
        return is_finite(torch.view_as_real(tensor))
    return not _has_numbers(tensor) or is_finite(tensor)


def _change(
    pair: WeightPair, name: str, baseline: torch.Tensor, subject: torch.Tensor
) -> WeightChange:
    about = (name, pair.role, pair.family, baseline.numel())
    if not pair.unchanged and not _is_finite(baseline):
        return WeightChange(*about, reason="non_finite_baseline")
    if pair.unchanged or bitwise_equal(baseline, subject):
        return WeightChange(*about, True, 0.0, 0.0, 0.0, 0.0, 0.0, balanced_edge=0.0)
    if not is_finite(subject):
        return WeightChange(*about, reason="non_finite_subject")
    one, other = _as_matrix(baseline), _as_matrix(subject)
    try:
        return _sizes(about, one, other) if pair.is_matrix else _sizes_only(about, one, other)
    except (ArithmeticError, ValueError):
        # Numbers near the ends of float64's range, whose difference or ratio it cannot hold.
        return WeightChange(*about, reason="not_converged")


def _sizes(
    about: tuple[str, str, str, int], one: torch.Tensor, other: torch.Tensor
) -> WeightChange:
    before, after, moved = matrix_norms(one), matrix_norms(other), matrix_norms(other, one)
    if moved.sigma == 0:
        # Another dtype, or the sign of a zero: not one value differs.
        return WeightChange(*about, False, 0.0, 0.0, 0.0, 0.0, 0.0, balanced_edge=0.0)
    reason = _unmeasured(before, after, moved)
    if reason is not None:
        rest = _held(moved.frobenius / before.frobenius) if before.frobenius else None
        return WeightChange(*about, relative_change=rest, reason=reason)
    ln_sigma = _held(math.log(after.sigma / before.sigma))
    ln_frobenius = _held(math.log(after.frobenius / before.frobenius))
    return WeightChange(
        *about,
        ln_sigma=ln_sigma,
        ln_frobenius=ln_frobenius,
        ln_stable_rank=2 * (ln_frobenius - ln_sigma),
        relative_change=_held(moved.frobenius / before.frobenius),
        edge_of_change=_edge(moved, *one.shape),
        sigma=_held(after.sigma),
        balanced_edge=_edge(matrix_norms(other, one, _balance(other, one)), *one.shape),
    )


def _held(number: float) -> float:
    """``number``, which must be finite: raises OverflowError where float64 could not hold it."""
    if not math.isfinite(number):
        raise OverflowError("a number beyond float64's range")
    return number


def _as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """(n, m): convolutions keep their first axis, a vector becomes one row."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)


def _unmeasured(before: MatrixNorms, after: MatrixNorms, moved: MatrixNorms) -> str | None:
    if before.sigma == 0:
        return "zero_baseline"
    if after.sigma == 0:
        return "zero_subject"
    errors = (before.sigma_error / TOLERANCE, after.sigma_error / TOLERANCE)
    worst = max(*errors, moved.sigma_error / CHANGE_TOLERANCE)
    return "not_converged" if worst > UNCONVERGED else None


def _balance(other: torch.Tensor, one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors for rows and columns of ``other - one`` after which all have one size, or none."""
    by_row = torch.cat([_inverse_sizes(b - a) for b, a in row_blocks(other, one)])
    squares = torch.zeros(one.shape[1], dtype=torch.float64, device=by_row.device)
    start = 0
    for b, a in row_blocks(other, one):
        squares += ((b - a) * by_row[start : start + len(b), None]).square().sum(0)
        start += len(b)
    return by_row, torch.where(squares > 0, squares.rsqrt(), 0.0)


def _inverse_sizes(block: torch.Tensor) -> torch.Tensor:
    """1 over the root mean square of each row of ``block``, 0 for a row of zeros."""
    squares = block.square().mean(1)
    units = torch.ones_like(squares)
    # Squares of float64 numbers alone can leave its range.
    beyond = ~((squares > 1e-200) & (squares < 1e200))
    if beyond.any():
        largest = block[beyond].abs().amax(1)
        units[beyond] = torch.where(largest > 0, largest, 1.0)
        squares[beyond] = (block[beyond] / units[beyond, None]).square().mean(1)
    return torch.where(squares > 0, squares.rsqrt() / units, 0.0)


def _edge(moved: MatrixNorms, rows: int, columns: int) -> float:
    spread = moved.frobenius / math.sqrt(rows * columns)
    return _held(moved.sigma / (spread * (math.sqrt(rows) + math.sqrt(columns))))


def _sizes_only(
    about: tuple[str, str, str, int], one: torch.Tensor, other: torch.Tensor
) -> WeightChange:
    unit, other_unit, moved_unit = _units(one, other)
    before = after = moved = 0.0
    for a, b in row_blocks(one, other):
        before += float((a / unit).square().sum())
        after += float((b / other_unit).square().sum())
        moved += float(((b - a) / moved_unit).square().sum())
    if moved == 0.0:
        return WeightChange(*about, relative_change=0.0, ln_frobenius=0.0)
    if before == 0.0:
        return WeightChange(*about, reason="zero_baseline")
    relative = _held(math.sqrt(moved / before) * (moved_unit / unit))
    if after == 0.0:
        return WeightChange(*about, relative_change=relative, reason="zero_subject")
    ratio = math.log(after / before) / 2 + math.log(other_unit) - math.log(unit)
    return WeightChange(*about, relative_change=relative, ln_frobenius=_held(ratio))


def _units(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float, float]:
    """What to divide ``one``, ``other`` and their difference by before they are squared."""
    if torch.float64 not in (one.dtype, other.dtype):
        # Sums of squares of float32 stay in float64's range.
        return 1.0, 1.0, 1.0
    before = after = moved = 0.0
    for a, b in row_blocks(one, other):
        if a.numel():
            before = max(before, float(a.abs().max()))
            after = max(after, float(b.abs().max()))
            moved = max(moved, _held(float((b - a).abs().max())))
    return before or 1.0, after or 1.0, moved or 1.0
