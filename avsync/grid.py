"""The picture on the grid of 25 ticks a second, by nearest time stamp, whatever its frame rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from avsync.picture import ImageArray, Picture
from avsync.repeats import RepeatFilter

__all__ = ["GRID_HZ", "STALE_S", "FrameGrid", "GridFrame", "ImageArray"]

GRID_HZ = 25.0
#: A picture holds for this long (s) at most; then there is none until the next one.
MAX_HOLD_S = 2.0
#: Pictures whose stamp is further than this (s) from the tick are no evidence.
STALE_S = 0.06

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class GridFrame:
    """The picture nearest to ``time_s = tick / rate``; its own stamp is ``pts_seconds``."""

    tick: int
    time_s: float
    pts_seconds: float
    content: Picture | ImageArray

    @property
    def age(self) -> float:
        """How much older (s) than the tick the picture is by its own stamp."""
        return self.time_s - self.pts_seconds

    @property
    def picture(self) -> Picture:
        """The picture, to be converted where it is looked at."""
        return self.content if isinstance(self.content, Picture) else Picture.of(self.content)

    @property
    def image(self) -> ImageArray:
        """All of the picture, (H, W, 3) uint8 RGB."""
        return self.picture.rgb()


class FrameGrid(Generic[_Item]):
    """Samples frames that come one by one on the grid ``tick / rate``.

    Ticks are absolute (tick 0 is time 0) and consecutive, from the first frame to the last; only
    where no frame comes for more than 4 s do they jump. A frame may serve several ticks (low frame
    rate) or none (high frame rate, repeats).
    """

    def __init__(self, rate: float = GRID_HZ) -> None:
        self._rate = rate
        self._held: tuple[float, float, _Item] | None = None
        self._tick = 0
        self._repeats = RepeatFilter()

    def push(
        self, pts: float, duration: float, item: _Item, look: ImageArray | None = None
    ) -> Iterator[tuple[int, float, _Item]]:
        """Add the next frame (s; stamps rise); yield (tick, pts, item) that are now settled.

        ``look``: the picture :func:`~avsync.repeats.thinned`, so that repeats are left out.
        """
        if look is not None and self._repeats.is_repeat(pts, look):
            return
        far = False
        if self._held is not None:
            middle = (self._held[0] + pts) / 2
            far = middle > self._held[0] + MAX_HOLD_S
            yield from self._until(middle, self._held)
        if self._held is None or far:
            self._tick = math.ceil((pts - 0.5 / self._rate) * self._rate - 1e-6)
        self._held = (pts, duration, item)

    def close(self) -> Iterator[tuple[int, float, _Item]]:
        """Yield the ticks of the last frame."""
        if self._held is not None:
            pts, duration, _ = self._held
            yield from self._until(pts + max(duration, 1 / self._rate) / 2, self._held)
            self._held = None

    def _until(
        self, end_s: float, held: tuple[float, float, _Item]
    ) -> Iterator[tuple[int, float, _Item]]:
        pts, _, item = held
        end_s = min(end_s, pts + MAX_HOLD_S)
        while self._tick / self._rate < end_s:
            yield self._tick, pts, item
            self._tick += 1
