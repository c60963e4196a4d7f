"""Share of damage detected against its dose, as one small SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guards_bench import GUARDS
from guards_tables import Row, by, caught, count, fired

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PANELS = (
    "scale", "rank", "noise", "prune", "RTN", "zeroed rows", "norm gain", "low rank under int8"
)  # fmt: skip
STYLES = {
    "spectral": ("#0072b2", "s"), "rmt": ("#d55e00", "o"), "variance": ("#009e73", "^")
}  # fmt: skip


def write_plots(rows: Sequence[Row], path: Path) -> None:
    """One panel for each class of ``PANELS`` that ``rows`` has at two doses or more."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "guards", "font.size": 8})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(10, 4.6), sharey=True)
    for axis, name in zip(axes.flat, PANELS, strict=True):
        cells = by((row for row in rows if row["name"] == name), "dose")
        doses = [key[0] for key in cells]
        places = range(len(doses))
        for guard in GUARDS[1:]:
            shares = [
                count(group, lambda r, g=guard: fired(r, g, r["kind"])) / len(group)  # type: ignore[misc]
                for group in cells.values()
            ]
            colour, marker = STYLES[guard]
            axis.plot(places, shares, marker=marker, ms=4, lw=1, color=colour, label=guard)
        gate = [count(g, lambda r: caught(r, r["kind"])) / len(g) for g in cells.values()]
        metric = [count(g, lambda r: r["pm"] != "pass") / len(g) for g in cells.values()]
        axis.plot(places, gate, lw=2.5, alpha=0.3, color="black", label="any gate")
        axis.plot(places, metric, lw=1, ls="--", color="grey", label="metric does not pass")
        axis.set_title(name, fontsize=8)
        axis.set_xticks(list(places), doses)
        axis.set_ylim(-0.05, 1.05)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=5, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
