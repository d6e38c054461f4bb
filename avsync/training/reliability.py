"""The reliability plot of a calibration: claimed probability against what came true."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avsync.training.calibrate import Reliability

__all__ = ["plot_reliability"]


def plot_reliability(checked: Reliability, file: str | Path, *, bins: int = 10) -> None:
    """Write a PNG: share right against probability in equally filled bins, and a histogram.

    Bars at each point are two standard errors of the share.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    top, low = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    order = np.argsort(checked.said)
    parts = [i for i in np.array_split(order, bins) if len(i)]
    said = np.array([checked.said[i].mean() for i in parts])
    true = np.array([checked.right[i].mean() for i in parts])
    error = 2 * np.sqrt(true * (1 - true) / np.array([len(i) for i in parts]))
    top.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    top.errorbar(said, true, error, fmt="o-", color="tab:blue", capsize=2, markersize=4)
    figures = checked.figures()
    top.set_title(
        f"{len(checked.said)} runs, ECE {figures['ece']:.3f} by cross-fitting", fontsize=9
    )
    top.set_ylabel("share within 40 ms")
    own, false = checked.said[~checked.false], checked.said[checked.false]
    low.hist([own, false], np.linspace(0, 1, 21), stacked=True, label=["own sound", "stranger's"])
    low.set_xlabel("probability claimed")
    low.set_ylabel("runs")
    low.legend(fontsize=7)
    figure.savefig(file, dpi=90, metadata={"Software": None})
