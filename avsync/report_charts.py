"""Geometry of the report's charts: numbers in, places on the paper out.

Across, places are per cent of the chart's width, so that a chart fits a phone as well as a desk;
down, they are pixels from the chart's top. The template turns them into SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from avsync.result import Segment, SyncResult, Tolerance, Track, percent_sure

__all__ = [
    "PLOT_PX",
    "Bar",
    "CurveChart",
    "Lane",
    "TimeChart",
    "clock",
    "curve_chart",
    "drift_line",
    "signed_ms",
    "time_chart",
    "time_span",
]

#: Height of a plot without its axis, px.
PLOT_PX = 200
#: Width of the coordinate system of a curve's path (it is stretched to the chart's width).
PATH_WIDTH = 1000
#: A bar narrower than this (per cent) carries no text.
LABEL_PERCENT = 17.0

_TIME_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200)


def signed_ms(offset_ms: float) -> str:
    """An offset as "+124 ms", "−80 ms" or "0 ms", rounded half up like the words beside it."""
    amount = math.floor(abs(offset_ms) + 0.5)
    sign = "" if amount == 0 else "+" if offset_ms > 0 else "−"
    return f"{sign}{amount} ms"


def clock(seconds: float, digits: int = 1) -> str:
    """Seconds as h:mm:ss.s with so many digits, hours only where there are any."""
    sign = "−" if seconds < 0 else ""
    minutes, rest = divmod(round(abs(seconds), digits), 60)
    hours, minutes = divmod(int(minutes), 60)
    width = digits + 3 if digits else 2
    tail = f"{rest:0{width}.{digits}f}"
    return f"{sign}{hours}:{minutes:02d}:{tail}" if hours else f"{sign}{minutes}:{tail}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place of an axis: per cent across, or px down."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch across (``left``, ``width`` in per cent) at ``top`` px."""

    left: float
    width: float
    top: float
    label: str
    title: str
    good: bool = True

    @property
    def centre(self) -> float:
        """Its middle, per cent across."""
        return round(self.left + self.width / 2, 3)

    @property
    def labelled(self) -> bool:
        """Whether the label fits on a phone's screen."""
        return self.width >= LABEL_PERCENT


@dataclass(frozen=True, slots=True)
class CurveChart:
    """Score over shift. ``line`` and ``area`` are path data, 0..1000 across, px down."""

    line: str
    area: str
    band: Bar
    zero: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best: tuple[float, float] | None
    """Where the claimed offset lies: per cent across, px down."""
    best_label: str
    best_anchor: str
    """Which side of its place the label is written on: start, middle or end (as SVG has it)."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of faces that do not overlap in time."""

    bars: tuple[tuple[Bar, Track], ...]


@dataclass(frozen=True, slots=True)
class TimeChart:
    """Offsets over time (px down within :data:`PLOT_PX`), and the faces in rows below."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    band: tuple[float, float]
    """Top and height of the tolerance band, px."""
    zero: float
    bars: tuple[Bar, ...]
    drift: tuple[float, float, float, float] | None
    """The drift line: per cent, px, per cent, px."""
    lanes: tuple[Lane, ...]


def _step(span: float, most: int) -> float:
    """The finest step of 1, 2 or 5 times a power of ten that makes at most ``most`` parts."""
    least = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


def _round_values(low: float, high: float, step: float) -> list[float]:
    """All multiples of ``step`` from ``low`` to ``high``."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 6) + 0.0 for i in range(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def curve_chart(result: SyncResult) -> CurveChart | None:
    """The chart of a result's curve; None when there is none to draw."""
    curve = result.curve
    if curve is None or len(curve.shift_ms) < 2:
        return None
    low, high = curve.shift_ms[0], curve.shift_ms[-1]
    bottom, top = min(curve.score), max(curve.score)
    room = max(top - bottom, 1e-3)
    bottom, top = bottom - 0.08 * room, top + 0.22 * room

    def across(shift: float) -> float:
        return round(100 * (min(max(shift, low), high) - low) / (high - low), 3)

    def down(score: float) -> float:
        return round(PLOT_PX * (top - score) / (top - bottom), 2)

    points = [
        f"{across(x) * PATH_WIDTH / 100:.1f} {down(y):.1f}"
        for x, y in zip(curve.shift_ms, curve.score, strict=True)
    ]
    line = "M" + " L".join(points)
    tolerance = result.tolerance
    left, right = across(-tolerance.late_ms), across(tolerance.early_ms)
    best = None
    label = ""
    if result.offset_ms is not None:
        best = (across(result.offset_ms), down(_between(curve.shift_ms, curve.score, result)))
        label = signed_ms(result.offset_ms)
    shifts = _round_values(low, high, _step(high - low, 6))
    levels = _round_values(bottom, top, _step(top - bottom, 4))
    at = 50.0 if best is None else best[0]
    return CurveChart(
        line=line,
        area=f"{line} L{PATH_WIDTH} {PLOT_PX} L0 {PLOT_PX} Z",
        band=Bar(left, round(right - left, 3), 0, "", str(tolerance)),
        zero=across(0),
        x_ticks=tuple(Tick(across(v), _label(v)) for v in shifts),
        y_ticks=tuple(Tick(down(v), f"{v:g}".replace("-", "−")) for v in levels),
        best=best,
        best_label=label,
        best_anchor="start" if at < 12 else "end" if at > 88 else "middle",
    )


def _between(shifts: Sequence[float], scores: Sequence[float], result: SyncResult) -> float:
    """The curve's height at the offset, on the straight line between its neighbours."""
    at = min(max(result.offset_ms or 0.0, shifts[0]), shifts[-1])
    k = next((i for i in range(1, len(shifts)) if shifts[i] >= at), len(shifts) - 1)
    share = (at - shifts[k - 1]) / (shifts[k] - shifts[k - 1])
    return scores[k - 1] + share * (scores[k] - scores[k - 1])


def time_span(result: SyncResult, start_s: float | None = None) -> tuple[float, float]:
    """From when to when (s, container's clock) the timeline runs; ``start_s`` where known."""
    spans: list[Segment | Track] = [*result.segments, *result.tracks]
    starts = [s.start_s for s in spans]
    duration = result.duration_s or 0.0
    if start_s is None:
        start_s = min(starts, default=0.0)
        if 0 <= start_s <= max(duration, 1.0):
            start_s = 0.0
    start = min([start_s, *starts])
    end = max([start + duration, *(s.end_s for s in spans)])
    return start, max(end, start + 0.1)


def drift_line(result: SyncResult) -> tuple[float, float, float, float] | None:
    """The drift as a line: s, ms, s, ms. It passes ``offset_ms`` in the middle of the segments."""
    if result.drift_ms_per_min is None or result.offset_ms is None or not result.segments:
        return None
    start = min(s.start_s for s in result.segments)
    end = max(s.end_s for s in result.segments)
    half = result.drift_ms_per_min * (end - start) / 120
    return start, result.offset_ms - half, end, result.offset_ms + half


def time_chart(result: SyncResult, start_s: float | None = None, lanes: int = 8) -> TimeChart:
    """Segments, tolerance, drift and the faces of at most so many ``lanes`` over time."""
    start, end = time_span(result, start_s)
    tolerance: Tolerance = result.tolerance
    drift = drift_line(result)
    values = [s.offset_ms for s in result.segments] + [tolerance.early_ms, -tolerance.late_ms]
    values += [drift[1], drift[3]] if drift else []
    bottom, top = min(values), max(values)
    room = max(top - bottom, 40.0)
    bottom, top = bottom - 0.15 * room, top + 0.22 * room

    def across(time_s: float) -> float:
        return round(100 * (time_s - start) / (end - start), 3)

    def down(offset_ms: float) -> float:
        return round(PLOT_PX * (top - offset_ms) / (top - bottom), 2)

    def bar(span: Track, label: str, title: str) -> Bar:
        left = across(span.start_s)
        good = span.speaking is not None and span.speaking >= 0.5
        return Bar(left, round(across(span.end_s) - left, 3), 0, label, title, good)

    bars = []
    for s in result.segments:
        left = across(s.start_s)
        span = f"{clock(s.start_s)} to {clock(s.end_s)}"
        bars.append(
            Bar(
                left,
                round(across(s.end_s) - left, 3),
                down(s.offset_ms),
                signed_ms(s.offset_ms),
                f"{span}: {signed_ms(s.offset_ms)}",
                tolerance.contains(s.offset_ms),
            )
        )
    step = next((t for t in _TIME_STEPS if (end - start) / t <= 6), 86400)
    ticks = [
        Tick(across(t), clock(t, 1 if step < 1 else 0)) for t in _round_values(start, end, step)
    ]
    return TimeChart(
        x_ticks=tuple(ticks),
        y_ticks=tuple(
            Tick(down(v), _label(v)) for v in _round_values(bottom, top, _step(top - bottom, 4))
        ),
        band=(
            down(tolerance.early_ms),
            round(down(-tolerance.late_ms) - down(tolerance.early_ms), 2),
        ),
        zero=down(0),
        bars=tuple(bars),
        drift=None
        if drift is None
        else (across(drift[0]), down(drift[1]), across(drift[2]), down(drift[3])),
        lanes=tuple(
            Lane(tuple((bar(t, f"face {t.id}", _track_title(t)), t) for t in lane))
            for lane in _packed(result.tracks)[:lanes]
        ),
    )


def _track_title(track: Track) -> str:
    speaking = ""
    if track.speaking is not None:
        speaking = f", speaks: {percent_sure(track.speaking)} %"
    return f"face {track.id}: {clock(track.start_s)} to {clock(track.end_s)}{speaking}"


def _packed(tracks: Sequence[Track]) -> list[list[Track]]:
    """Tracks in few rows without overlap in time; those that speak come first, at the top."""
    lanes: list[list[Track]] = []
    for track in sorted(tracks, key=lambda t: ((t.speaking or 0) < 0.5, t.start_s, t.id)):
        lane = next((row for row in lanes if all(_apart(t, track) for t in row)), None)
        if lane is None:
            lanes.append([track])
        else:
            lane.append(track)
    return lanes


def _apart(one: Track, other: Track) -> bool:
    return one.end_s <= other.start_s + 1e-3 or other.end_s <= one.start_s + 1e-3
