"""How far benign changes come to the limits, and whether limits of some models hold for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guards_tables import Row, told
from invarlock_guards.judge.kinds import GROUP_OF

from pytest_invarlock.policy.guard_limits import guard_policy
from pytest_invarlock.policy.tiers import load_tier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

GROUPS = {"strict": "quantize8", "compression": "quantize4", "open": "any"}
"""Each group of limits, and a kind that chooses it."""
WEIGHTS = ("ln_sigma", "ln_stable_rank", "ln_frobenius", "relative_change")
MARGIN = 1.25
FLOOR: float = guard_policy("rmt", load_tier("balanced").guards["rmt"]).edge_change_floor  # type: ignore[union-attr]


def limits() -> dict[str, dict[str, float]]:
    """By group and statistic of a row: the limits of tier balanced."""
    tier = load_tier("balanced")
    spectral, rmt, variance = (
        guard_policy(name, tier.guards[name]) for name in ("spectral", "rmt", "variance")
    )
    found: dict[str, dict[str, float]] = {}
    for group, kind in GROUPS.items():
        own: dict[str, Any] = {s: spectral.limit(s, kind, "ffn") for s in WEIGHTS}  # type: ignore[union-attr]
        if group == "open":
            own["canon"] = spectral.canon_limit  # type: ignore[union-attr]
        else:
            own["edge_of_change"] = rmt.edge_of_change  # type: ignore[union-attr]
        if group == "strict":
            own["outer_change"] = spectral.outer_limit(kind)  # type: ignore[union-attr]
        own |= {
            "error": rmt.error.of(kind),  # type: ignore[union-attr]
            "angle": rmt.angle.of(kind),  # type: ignore[union-attr]
            "feature_edge": rmt.feature_edge_band,  # type: ignore[union-attr]
            "newly_dead": rmt.newly_dead_share,  # type: ignore[union-attr]
            "log_rms": variance.log_rms.of(kind),  # type: ignore[union-attr]
            "norm_log_rms": variance.norm_log_rms,  # type: ignore[union-attr]
        }
        found[group] = own
    return found


def judged(row: Row) -> dict[str, float]:
    """The statistics of ``row`` that rmt's floor lets be judged: no edge of a negligible change.

    A row keeps the largest over matrices, so an edge stays in where any matrix changed by more.
    """
    found = dict(row["statistics"])
    if found.get("relative_change", 0.0) < FLOOR:
        found.pop("edge_of_change", None)
    return found


def headroom(rows: Sequence[Row], tested: Collection[str]) -> list[str]:
    """The largest value of each statistic over benign runs, by group, beside its limit.

    ``tested`` are the models that no limit is to be set on; the others' largest stands first.
    """
    lines = [
        "| limits for | statistic | largest on the trained seeds | on the shipped two | limit "
        "| of the run |",
        "|---|---|---|---|---|---|",
    ]
    for group, own in limits().items():
        members = [row for row in rows if GROUP_OF[row["kind"]] == group]
        for statistic, limit in own.items():
            if not members:
                continue
            worst = max(members, key=lambda row: judged(row).get(statistic, 0.0))
            value = judged(worst).get(statistic, 0.0)
            halves = [
                max(
                    (judged(r).get(statistic, 0.0) for r in members if (r["model"] in tested) == t),
                    default=0.0,
                )
                for t in (False, True)
            ]
            # In the open group weights count only together with the canonical change.
            tells = not (group == "open" and statistic in WEIGHTS)
            beyond = " **beyond**" if value > limit and tells else ""
            lines.append(
                f"| {group} | {statistic} | {halves[0]:.4f} | {halves[1]:.4f}{beyond} | {limit:g} "
                f"| {worst['model']}, {worst['name']} {worst['dose']} |"
            )
    return lines


def left_out(rows: Sequence[Row]) -> list[str]:
    """Alarms on each model under limits of `MARGIN` × the others' largest benign values."""
    lines = ["| model left out | strict | compression | open |", "|---|---|---|---|"]
    for model in sorted({row["model"] for row in rows}):
        cells = []
        for group in GROUPS:
            members = [row for row in rows if GROUP_OF[row["kind"]] == group]
            own = [row for row in members if row["model"] == model]
            bounds = _bounds([row for row in members if row["model"] != model])
            cells.append(told(sum(_beyond(row, bounds, group) for row in own), len(own)))
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


def _bounds(rows: Sequence[Row]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        for key, value in judged(row).items():
            found[key] = max(found.get(key, 0.0), MARGIN * value)
    return found


def _beyond(row: Row, bounds: Mapping[str, float], group: str) -> bool:
    over = {key for key, value in judged(row).items() if value > bounds.get(key, 0.0)}
    over -= {"outer_change"} if group != "strict" else {"canon"}
    if group == "compression":
        over -= {"canon"}
    if group == "open":
        # Weights count where the change that no parametrisation explains counts too; nothing is
        # known there of a change's edge.
        over -= {"edge_of_change"} | (set() if "canon" in over else set(WEIGHTS)) | {"canon"}
    return bool(over)
