"""Pieces of a film with an offset each: where they join, and the sound put together anew.

Before a join the sound keeps the shift of the piece before it, after it that of the next; so
something is heard twice where the shift grows and something is left out where it shrinks. The join
therefore goes where the sound is quiet, near a cut of the picture where there is one, and the two
sides are cross-faded for a few milliseconds.

Times are seconds on the container's clock, those of joins on that of the picture; a positive shift
makes the sound later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.media import iter_audio, iter_frames
from avsync.result import Segment

__all__ = ["FADE_S", "Piece", "Splicer", "find_joins"]

#: Both sides are heard together for so long (s).
FADE_S = 0.006
#: A segment's border is known to a window of 0.6 s: the join may lie this far (s) inside it.
MARGIN_S = 0.6
#: The sound's level is looked at in steps of so long (s).
STEP_S = 0.005
#: A join at the edge of where it may be must be so much quieter (dB) than one in the middle, or
#: than one at a cut of the picture.
MIDDLE_DB = 6.0
CUT_DB = 40.0
#: Levels below the loudest by more than this (dB) are silence, one as good as the other.
SILENT_DB = -60.0
#: Where pictures differ from those before by this much of full scale, and by so many times what
#: pictures around them do, is a cut.
CUT_CHANGE = 0.08
CUT_TIMES = 5.0

Samples = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """From ``start_s`` on (the first piece: from ever) the sound is ``shift_s`` later."""

    start_s: float
    shift_s: float


class Splicer:
    """Turns one line of samples into another in which each piece is moved by a shift of its own.

    Args:
        pieces: in order of time; the line that comes in has the first piece's shift already.
        rate: sample rate.
        origin: the number of the line's first sample, counted from time 0.
    """

    def __init__(self, pieces: Sequence[Piece], rate: int, origin: int) -> None:
        first = pieces[0].shift_s
        self._more = [round((p.shift_s - first) * rate) for p in pieces]
        starts = [round(p.start_s * rate) - origin for p in pieces[1:]]
        self._half = max(1, round(FADE_S * rate / 2))
        # A piece is never shorter than the fades at its ends.
        self._ends = [max(s, (i + 1) * 2 * self._half) for i, s in enumerate(starts)]
        self._at = 0  # samples given out
        self._piece = 0
        self._block = rate
        self._waiting: list[Samples] = []
        self._line: Samples | None = None
        self._from = 0  # number of the line's first sample that is still held

    def feed(self, samples: Samples, *, last: bool = False) -> Iterator[Samples]:
        """Take in the line's next samples (channels, N); yield what is settled by them."""
        self._waiting.append(samples)
        if not last and sum(part.shape[1] for part in self._waiting) < self._block:
            return
        held = [] if self._line is None else [self._line]
        self._line = np.concatenate([*held, *self._waiting], axis=1)
        self._waiting = []
        while self._piece < len(self._ends):
            end = self._ends[self._piece]
            yield from self._straight(end - self._half, last)
            if self._at < end - self._half:
                break
            fade = self._fade(last)
            if fade is None:
                break
            yield fade
        if self._piece == len(self._ends):
            yield from self._straight(None, last)
        gone = self._at - max(self._more[self._piece :]) - self._from
        gone = min(max(0, gone), self._line.shape[1])
        self._line = self._line[:, gone:]
        self._from += gone

    @property
    def _known(self) -> int:
        """The number of samples of the line that have come in."""
        return self._from + (0 if self._line is None else self._line.shape[1])

    def _take(self, start: int, end: int) -> Samples:
        """Samples of the line by number; those before it and behind its end are silence."""
        line = self._line
        if line is None:
            raise ValueError("nothing was fed yet")
        inside = line[:, max(0, start - self._from) : max(0, end - self._from)]
        silence = 128 if line.dtype == np.uint8 else 0
        before = min(end, max(start, self._from)) - start
        after = end - start - before - inside.shape[1]
        return np.pad(inside, ((0, 0), (before, after)), constant_values=silence)

    def _straight(self, until: int | None, last: bool) -> Iterator[Samples]:
        """What the present piece gives up to a sample, or as far as the line goes."""
        more = self._more[self._piece]
        ready = self._known + more
        end = ready if until is None else until if last else min(until, ready)
        if end > self._at:
            yield self._take(self._at - more, end - more)
            self._at = end

    def _fade(self, last: bool) -> Samples | None:
        """From this piece into the next; None when the line does not reach that far yet."""
        start, end = self._at, self._at + 2 * self._half
        more, other = self._more[self._piece], self._more[self._piece + 1]
        if not last and self._known < end - min(more, other):
            return None
        one, two = self._take(start - more, end - more), self._take(start - other, end - other)
        share = (np.arange(2 * self._half) + 0.5) / (2 * self._half)
        mixed = (1 - share) * one + share * two
        self._at, self._piece = end, self._piece + 1
        return (mixed if one.dtype.kind == "f" else np.rint(mixed)).astype(one.dtype)


def find_joins(
    path: str | Path, segments: Sequence[Segment], *, audio_stream: int | None = None
) -> list[Piece]:
    """The pieces of a film whose segments have offsets of their own.

    Raises:
        MediaNotFoundError, MediaReadError: the file cannot be read.
    """
    in_order = sorted(segments, key=lambda s: s.start_s)
    pieces = [Piece(0.0, in_order[0].offset_ms / 1000)]
    for one, two in pairwise(in_order):
        shifts = (one.offset_ms / 1000, two.offset_ms / 1000)
        low = max(one.end_s - MARGIN_S, (one.start_s + one.end_s) / 2)
        high = min(max(two.start_s, one.end_s) + MARGIN_S, (two.start_s + two.end_s) / 2)
        middle = (one.end_s + max(two.start_s, one.end_s)) / 2
        cut = _picture_cut(path, low, high)
        begin = low - max(shifts) - FADE_S
        levels = _levels(path, audio_stream, begin, high - min(shifts) + FADE_S)
        at = _quiet_place(levels, begin, shifts, (low, high), middle if cut is None else cut, cut)
        pieces.append(Piece(at, shifts[1]))
    return pieces


def _picture_cut(path: str | Path, low: float, high: float) -> float | None:
    """The time of the greatest lasting change of the picture, if that is a cut and no flash."""
    shown: list[npt.NDArray[np.float32]] = []
    times: list[float] = []
    changes: list[float] = []
    for frame in iter_frames(path, start_s=low - 0.1, end_s=high + 0.1, max_side=64):
        shown = [*shown[-3:], frame.image.astype(np.float32) / 255]
        times.append(frame.pts_seconds)
        if len(shown) == 4:  # two pictures before, two after
            changes.append(min(float(np.abs(b - a).mean()) for a in shown[:2] for b in shown[2:]))
    if not changes:
        return None
    top = int(np.argmax(changes))
    usual = float(np.median(changes))
    return times[top + 2] if changes[top] > max(CUT_CHANGE, CUT_TIMES * usual) else None


def _levels(path: str | Path, audio_stream: int | None, start_s: float, end_s: float) -> Floats:
    """Mean square of the sound in each step from ``start_s`` to ``end_s``."""
    rate = round(80 / STEP_S)
    power = np.zeros(max(1, round((end_s - start_s) * rate)))
    first = round(start_s * rate)
    for piece in iter_audio(
        path, audio_stream=audio_stream, sample_rate=rate, start_s=start_s, end_s=end_s
    ):
        at = round(piece.start_s * rate) - first
        part = piece.samples[max(0, -at) : max(0, len(power) - at)]
        at = max(0, at)
        power[at : at + len(part)] = np.square(part, dtype=np.float64)
    steps = len(power) // 80
    means: Floats = power[: 80 * steps].reshape(steps, 80).mean(1)
    return means


def _quiet_place(
    levels: Floats,
    begin: float,
    shifts: tuple[float, float],
    span: tuple[float, float],
    best: float,
    cut: float | None,
) -> float:
    """Where a join is heard least: the stretch that is repeated or left out there is quiet."""
    low, high = span
    places = np.append(np.arange(low, high, STEP_S), best)
    sums = np.append(0.0, np.cumsum(levels))
    first = np.floor((places - max(shifts) - FADE_S / 2 - begin) / STEP_S).astype(int)
    last = np.ceil((places - min(shifts) + FADE_S / 2 - begin) / STEP_S).astype(int)
    first, last = first.clip(0, len(levels) - 1), last.clip(1, len(levels))
    mean = (sums[last] - sums[first]) / np.maximum(1, last - first)
    loudest = max(float(mean.max()), 1e-12)
    loud = np.maximum(10 * np.log10(np.maximum(mean / loudest, 1e-12)), SILENT_DB)
    far = np.abs(places - best) / max(high - low, STEP_S)
    return float(places[int(np.argmin(loud + (MIDDLE_DB if cut is None else CUT_DB) * far))])
