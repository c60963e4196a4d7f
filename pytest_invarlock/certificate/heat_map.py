"""Heat maps of guard evidence: a row a block, a column a role; a number in every cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_invarlock.certificate.sections import layer_of

OUTSIDE = "outside blocks"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its number as text, how hot it is in per cent of the map's largest, its mark."""

    text: str
    heat: int
    broken: bool = False


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A map of one statistic, with what it shows in words."""

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


@dataclass(frozen=True, slots=True)
class _Reading:
    row: str
    column: str
    value: float | None
    broken: bool


def guard_maps(certificate: Mapping[str, Any]) -> dict[str, list[HeatMap]]:
    """The maps of each guard that left evidence by module; an empty list where nothing is there."""
    guards = certificate["guards"]
    marked = {
        check["check"]: {found["module"] for found in check["violations"]}
        for check in certificate["decision"]["checks"]
    }
    return {
        "spectral": _spectral(guards.get("spectral", {}), marked.get("spectral", set())),
        **{
            name: _branches(guards.get(name, {}), marked.get(name, set()), maps)
            for name, maps in (("rmt", _RMT), ("variance", _VARIANCE))
        },
    }


_SPECTRAL = (
    ("relative_change", "‖ΔW‖ / ‖W‖", "size of the change, relative to the weight"),
    ("ln_sigma", "ln σ", "log ratio of the largest singular value"),
    ("ln_stable_rank", "ln stable rank", "log ratio of the stable rank"),
    ("ln_frobenius", "ln Frobenius", "log ratio of the Frobenius norm"),
)
_RMT = (
    ("e", "branch error", "‖y′−y‖/‖y‖ of a branch on the baseline's residual stream"),
    ("c", "branch angle", "1 − cos between the branch's outputs"),
)
_VARIANCE = (("l", "ln rms", "log ratio of the size of a branch's output"),)


def _spectral(evidence: Mapping[str, Any], marked: set[str]) -> list[HeatMap]:
    changes = [row for row in evidence.get("changes", ()) if row["type"] == "matrix"]
    places = _block_names(row["name"] for row in changes)
    return [
        made
        for key, title, caption in _SPECTRAL
        if (
            made := _map(
                title,
                f"{caption}; blocks without a row did not change",
                [
                    _Reading(places[row["name"]], str(row["role"]), row[key], row["name"] in marked)
                    for row in changes
                ],
            )
        )
        is not None
    ]


def _branches(
    evidence: Mapping[str, Any], marked: set[str], maps: Iterable[tuple[str, str, str]]
) -> list[HeatMap]:
    rows = evidence.get("branches", ())
    # A projection that broke something marks the branch that it stands in.
    marked = marked | {s["branch"] for s in evidence.get("sites", ()) if s["module"] in marked}
    return [
        made
        for key, title, caption in maps
        if (
            made := _map(
                title,
                caption,
                [
                    _Reading(_branch_row(row), str(row["kind"]).replace("_", " "), row[key],
                             row["module"] in marked)
                    for row in rows
                ],
            )
        )
        is not None
    ]  # fmt: skip


def _branch_row(row: Mapping[str, Any]) -> str:
    if row["block"] is None:
        return OUTSIDE
    stack = "" if row["stack"] is None else f"{row['stack']} "
    return f"{stack}{row['block']}"


def _block_names(modules: Iterable[str]) -> dict[str, str]:
    """Of each module the block's number; its whole name where numbers alone would collide."""
    layers = {module: layer_of(module) for module in modules}
    heads = {layer.rpartition(".")[0] for layer in layers.values() if layer is not None}
    return {
        module: OUTSIDE
        if layer is None
        else (layer.rpartition(".")[2] if len(heads) == 1 else layer)
        for module, layer in layers.items()
    }


def _map(title: str, caption: str, readings: Sequence[_Reading]) -> HeatMap | None:
    """The map of ``readings``; of several in one cell the largest is shown."""
    if not readings:
        return None
    rows = list(dict.fromkeys(reading.row for reading in readings))
    columns = list(dict.fromkeys(reading.column for reading in readings))
    cells: dict[tuple[str, str], list[_Reading]] = {}
    for reading in readings:
        cells.setdefault((reading.row, reading.column), []).append(reading)
    known = [abs(r.value) for r in readings if r.value is not None]
    largest = max(known, default=0.0)
    return HeatMap(
        title,
        caption,
        columns,
        [(row, [_cell(cells.get((row, name)), largest) for name in columns]) for row in rows],
    )


def _cell(found: Sequence[_Reading] | None, largest: float) -> Cell:
    if not found:
        return Cell("–", 0)
    broken = any(reading.broken for reading in found)
    values = [reading.value for reading in found if reading.value is not None]
    if not values:
        return Cell("none", 0, broken)
    value = max(values, key=abs)
    heat = round(100 * (abs(value) / largest)) if largest else 0
    return Cell(_short(value), heat, broken)


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2g}" if abs(value) < 1000 else f"{value:.1e}"
