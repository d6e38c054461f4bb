"""Pictures shown more than once: a film of 25 a second in a container of 60, a webcam's 15 in 30.

A repeat's time stamp says when it is shown again, not when it was taken: a mouth placed by it is
too late, by 10 to 20 ms on the mean. So where a film repeats pictures, only the first of each
counts, with its own stamp.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from avsync.picture import ImageArray

__all__ = ["RepeatFilter", "frame_look", "thinned"]

#: Rows that are compared, about.
ROWS = 180
#: A repeat differs by no more than this (0..255; the third most different row's greatest), and by
#: no more than this share of the third largest change within RECENT_S, which is more (the third:
#: a cut says nothing of motion). Of eight clips of which every second picture was a repeat, by ten
#: encoders at usual rates, repeats differ by 2 to 7 on the mean (x265, CRF 26: 14 in every tenth),
#: others by 47, 16 in every fiftieth.
MAX_CHANGE = 10
MAX_SHARE = 0.4
RECENT_S = 0.4
#: No picture stands for longer than this (s): what stays as it is longer is at rest.
MAX_STAND_S = 0.1
#: Repeats are left out where this share of the last second's pictures are some, of at least so
#: many: a mouth that rests for an instant is none.
MIN_REPEATED = 0.3
MIN_PICTURES = 8


def thinned(luma: npt.NDArray[Any]) -> ImageArray:
    """(h, w) uint8 of (H, W[, 3]): every n-th row and column, about ROWS rows; a copy."""
    return np.array(_every_nth(luma), np.uint8, order="C")


def _every_nth(luma: npt.NDArray[Any]) -> npt.NDArray[Any]:
    step = max(1, min(luma.shape[:2]) // ROWS)
    return luma[::step, ::step] if luma.ndim == 2 else luma[::step, ::step, luma.shape[2] // 2]


def frame_look(frame: Any) -> ImageArray | None:
    """An ``av.VideoFrame``'s first plane, :func:`thinned`; None where its numbers are not known."""
    form, plane = frame.format, frame.planes[0]
    bits = form.components[0].bits
    if bits < 8 or (bits > 8 and not form.name.endswith("le")):
        return None
    packed = len(frame.planes) == 1  # as bgr0, whose fourth byte is no component
    wide = frame.width * (form.padded_bits_per_pixel if packed else 8 if bits == 8 else 16) // 8
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, :wide]
    if bits == 8:
        return thinned(rows)
    shift = 8 if form.name.startswith("p0") else bits - 8
    return np.asarray(_every_nth(rows.view("<u2")) >> shift, np.uint8)


class RepeatFilter:
    """Tells repeats from new pictures as they come."""

    def __init__(self) -> None:
        self._before: ImageArray | None = None
        self._changes: deque[tuple[float, float, bool]] = deque()
        self._kept_s = -np.inf

    def is_repeat(self, pts: float, look: ImageArray) -> bool:
        """Whether the picture at ``pts`` (s, rising), :func:`thinned`, is to be left out."""
        before, self._before = self._before, look
        while self._changes and self._changes[0][0] < pts - 1:
            self._changes.popleft()
        if before is None or before.shape != look.shape:
            self._changes.clear()
            self._kept_s = pts
            return False
        change = _change(before, look)
        recent = _third([c for t, c, _ in self._changes if t >= pts - RECENT_S])
        same = change <= MAX_CHANGE <= recent and change <= MAX_SHARE * recent
        self._changes.append((pts, change, same))
        often = sum(s for *_, s in self._changes) >= MIN_REPEATED * len(self._changes)
        often = often and len(self._changes) >= MIN_PICTURES
        if same and often and pts - self._kept_s <= MAX_STAND_S:
            return True
        self._kept_s = pts
        return False


def _change(one: ImageArray, other: ImageArray) -> float:
    return _third(np.asarray(cv2.absdiff(one, other)).max(axis=1))


def _third(values: npt.ArrayLike) -> float:
    """The third largest; 0 where there are fewer."""
    known = np.asarray(values)
    return float(np.partition(known, -3)[-3]) if known.size >= 3 else 0.0
