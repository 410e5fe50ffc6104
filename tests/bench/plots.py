"""The sweeps as SVG: time and peak memory over each axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def write(sweeps: dict[str, Rows], folder: Path) -> list[Path]:
    """``speed-<sweep>.svg`` for every sweep; the same numbers give the same file."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "snn2chip", "font.size": 9})
    paths = []
    for name, rows in sweeps.items():
        figure, (time, memory) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
        _lines(time, rows, "ms_per_sample", "ms per sample")
        _lines(memory, rows, "added_mib", "MiB added by the run")
        time.legend(frameon=False)
        paths.append(folder / f"speed-{name}.svg")
        figure.savefig(paths[-1], metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return paths


def _lines(axes: Any, rows: Rows, quantity: str, label: str) -> None:
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        axes.plot([row["at"] for row in mine], [row[quantity] for row in mine], "o-", markersize=3, label=variant)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := sorted({row["at"] for row in rows}), [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(rows[0]["axis"])
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
