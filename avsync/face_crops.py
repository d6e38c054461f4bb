"""Square colour crops of whole faces, as the published models were given them.

The published pipelines find faces with S3FD, whose boxes reach from forehead to chin and from
cheek to cheek (the WIDER FACE convention). The box of our face mesh, the smallest upright one
around its 468 points, spans the same; it is taken in S3FD's place as it is, without any factor.
The mesh looks at every second to sixth tick; boxes between are interpolated, as are those of short
losses. Centre and size then go through a running median of 13 ticks (6 to either side, fewer
at a track's ends), as in the public SyncNet pipeline.

SyncNet sees the square of :func:`avsync.published.syncnet_crop` around the box (scale 0.4), grey
110 beyond the picture. The VocaLiST family sees the box itself, cut off at the picture's edges and
stretched to a square, as the Wav2Lip preprocessing that both models were trained after does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from avsync.crops import CropArray, CropMaker, FacePatch, FloatArray
from avsync.picture import Picture, sampled
from avsync.published import Convention, syncnet_crop

__all__ = ["FaceCropMaker", "FaceStyle"]

#: Ticks to either side in the running median of the box.
MEDIAN_HALF = 6


@dataclass(frozen=True, slots=True)
class FaceStyle:
    """How a whole face is cut out.

    side: pixels of the crop's edge. padded: True for SyncNet's wider square, False for the box
    itself. window: side of the patch kept around a face, in longer sides of its box. pixels: the
    patch's own resolution. grey: what is painted where there is no picture.
    """

    side: int
    padded: bool
    window: float
    pixels: int
    grey: int

    @classmethod
    def of(cls, taken: Convention) -> FaceStyle:
        """The style of a published model's convention."""
        if taken.face == "full":
            return cls(taken.side, padded=True, window=2.5, pixels=400, grey=110)
        return cls(taken.side, padded=False, window=1.7, pixels=224, grey=0)


@dataclass(slots=True)
class FaceCropMaker(CropMaker):
    """Turns one track's pictures into crops (n, side, side, 3) uint8 RGB of the whole face.

    ``style`` must be given; the rest is as in :class:`avsync.crops.CropMaker`.
    """

    chunk: int = 50
    style: FaceStyle = field(default_factory=lambda: FaceStyle(224, True, 2.5, 400, 110))
    _picture: tuple[int, int] = (0, 0)

    def keep(self, picture: Picture, box: FloatArray) -> FacePatch:
        """A patch of this style's own size and resolution around the box."""
        self._picture = picture.shape
        centre = (box[:2] + box[2:]) / 2
        side = self.style.window * max(2.0, float(max(box[2:] - box[:2])))
        return FacePatch.cut(picture, centre, side, pixels=self.style.pixels, grey=self.style.grey)

    def _render(self, start: int, stop: int) -> None:
        filled = self._filled()
        places = self._places()
        side = self.style.side
        for i in range(start, stop):
            item = self._ticks[i]
            near = places[max(0, i - MEDIAN_HALF) : i + MEDIAN_HALF + 1]
            crop = _cut(item.patch, self._area(np.median(near, axis=0)), side, self.style.grey)
            valid, opening, eye = False, 0.0, 0.0
            if filled is not None:
                rows, away = filled
                valid = bool(item.fresh and away[i] <= self.max_hole)
                opening, eye = float(rows[i, 6]), float(rows[i, 0])
            self._out.append((crop, valid, item.box, opening, eye, item.age))
        self._done = stop

    def _places(self) -> FloatArray:
        """Centre and half sides (n, 4) of each tick's box, interpolated where none was measured."""
        boxes = np.array([t.box for t in self._ticks], np.float64)
        places: FloatArray = (
            np.concatenate([boxes[:, :2] + boxes[:, 2:], boxes[:, 2:] - boxes[:, :2]], axis=1) / 2
        )
        known = np.flatnonzero([t.pose is not None for t in self._ticks])
        if not len(known):
            return places
        ticks = np.arange(len(places))
        return np.stack([np.interp(ticks, known, column[known]) for column in places.T], axis=1)

    def _area(self, place: FloatArray) -> FloatArray:
        """What is cut out, (left, top, right, bottom) in picture pixels, for centre and halves."""
        x, y, half_width, half_height = (float(v) for v in place)
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        if self.style.padded:
            return np.array(syncnet_crop(box))
        height, width = self._picture
        return np.array(
            [max(0.0, box[0]), max(0.0, box[1]), min(width, box[2]), min(height, box[3])]
        )


def _cut(patch: FacePatch, area: FloatArray, side: int, grey: int) -> CropArray:
    """The area (edges in picture pixels) of a patch, stretched to (side, side, 3)."""
    scale = np.maximum(area[2:] - area[:2], 1e-3) / side  # picture pixels per crop pixel
    first = area[:2] + 0.5 * scale - 0.5  # the middle of crop pixel 0; pixel middles are integers
    shift = (first - patch.origin) * patch.zoom
    gain = scale * patch.zoom
    matrix = np.array([[gain[0], 0, shift[0]], [0, gain[1], shift[1]]])
    return sampled(patch.image, matrix, side, side, beyond=grey)
