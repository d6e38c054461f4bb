"""The offset curve and the timeline drawn with matplotlib, without a window or global settings."""

from __future__ import annotations

import textwrap
from typing import BinaryIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from avsync.report_charts import clock, drift_line, signed_ms, time_span
from avsync.report_data import file_name
from avsync.result import SyncResult

__all__ = ["draw"]

_GOOD, _BAD, _LINE, _INK = "#137044", "#b42323", "#2459c9", "#59606b"


def draw(result: SyncResult, stream: BinaryIO, form: str) -> None:
    """Write the figure (8 × 5.6 inches at 150 dpi) in a form that matplotlib knows."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    title = textwrap.wrap(f"{file_name(result.path)}: {result.describe()}", 88)[:3]
    # A name is no formula: $ would start one.
    figure.suptitle("\n".join(title), fontsize=11, parse_math=False)
    above, below = figure.subplots(2, 1)
    _curve(above, result)
    _timeline(below, result)
    figure.savefig(stream, format=form, dpi=150)


def _curve(axes: Axes, result: SyncResult) -> None:
    tolerance = result.tolerance
    axes.axvspan(
        -tolerance.late_ms, tolerance.early_ms, color=_GOOD, alpha=0.15, label=f"{tolerance}"
    )
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle=":")
    if result.curve is not None and result.curve.shift_ms:
        axes.plot(result.curve.shift_ms, result.curve.score, color=_LINE, label="score")
    else:
        axes.text(
            0.5, 0.5, "no curve", transform=axes.transAxes, ha="center", va="center", color=_INK
        )
        axes.set_yticks([])
    if result.offset_ms is not None:
        axes.axvline(
            result.offset_ms,
            color=_tone(result, result.offset_ms),
            linestyle="--",
            label=signed_ms(result.offset_ms),
        )
    axes.set_xlim(-result.max_offset_ms, result.max_offset_ms)
    axes.set_xlabel("← audio lags (late)     shift, ms     audio leads (early) →")
    axes.set_ylabel("score")
    axes.legend(loc="best", fontsize=8)


def _timeline(axes: Axes, result: SyncResult) -> None:
    tolerance = result.tolerance
    axes.axhspan(-tolerance.late_ms, tolerance.early_ms, color=_GOOD, alpha=0.15)
    axes.axhline(0, color=_INK, linewidth=0.8, linestyle=":")
    for s in result.segments:
        axes.plot(
            (s.start_s, s.end_s),
            (s.offset_ms, s.offset_ms),
            color=_tone(result, s.offset_ms),
            linewidth=4,
            alpha=0.4 if result.drift_ms_per_min is not None else 1.0,
            solid_capstyle="butt",
        )
        axes.annotate(
            signed_ms(s.offset_ms),
            ((s.start_s + s.end_s) / 2, s.offset_ms),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    drift = drift_line(result)
    if drift is not None:
        label = f"drift {result.drift_ms_per_min:+.1f} ms per minute"
        axes.plot(drift[::2], drift[1::2], color=_BAD, linestyle="--", label=label)
        axes.legend(loc="best", fontsize=8)
    if not result.segments:
        axes.text(
            0.5, 0.7, "no segment", transform=axes.transAxes, ha="center", va="center", color=_INK
        )
    axes.set_xlim(*time_span(result))
    axes.margins(y=0.2)
    axes.set_xlabel("time")
    axes.set_ylabel("offset, ms (+ = audio leads)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: clock(at, 0)))


def _tone(result: SyncResult, offset_ms: float) -> str:
    return _GOOD if result.tolerance.contains(offset_ms) else _BAD
