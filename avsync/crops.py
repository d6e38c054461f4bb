"""Mouth crops: one aligned grey picture of the mouth per grid tick and track.

Scale and roll come from points of the face that do not talk (eye corners, bridge and wings of
the nose, temples), smoothed over a few ticks; the mouth's place relative to them is smoothed
over about a second, so that the crop follows the head and never the lips themselves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from avsync.follow import anchors_between
from avsync.grid import STALE_S
from avsync.picture import Picture, sampled

__all__ = [
    "CROP_HEIGHT",
    "CROP_WIDTH",
    "CropChunk",
    "CropMaker",
    "FacePatch",
    "Pose",
    "crop_matrix",
    "crop_of",
]

#: Stored crop; models look at its centre (64 x 96) and training jitters inside the margin.
CROP_HEIGHT = 80
CROP_WIDTH = 112
#: Distance between the outer eye corners in crop pixels: the crop is 1.27 of it wide.
EYE_DISTANCE_PX = 88.0
#: The crop's centre lies this far below the mouth's centre (eye distances): lips and chin fit.
BELOW_MOUTH = 0.08
#: Pixels that a face patch's side has at least where the picture has them.
PATCH_SIDE = 192
#: What is kept of a tick until its smoothed pose is known: a square this many times the longer
#: side of the face's box, whose middle lies this far (longer sides) below the box's.
KEPT = 1.5
KEPT_BELOW = 0.2

#: Face-mesh indices that do not move with speech.
STABLE = np.array([33, 133, 362, 263, 168, 6, 98, 327, 234, 454, 127, 356, 10])
#: Outer lip contour.
LIPS = np.array([61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181])
#: Mean frontal face for STABLE, in outer-eye distances, x right, y down, origin between the eyes.
TEMPLATE = np.array(
    [
        [-0.5, 0.0],
        [-0.17, 0.02],
        [0.17, 0.02],
        [0.5, 0.0],
        [0.0, -0.03],
        [0.0, 0.09],
        [-0.19, 0.44],
        [0.19, 0.44],
        [-0.78, 0.17],
        [0.78, 0.17],
        [-0.78, -0.03],
        [0.78, -0.03],
        [0.0, -0.67],
    ]
)

#: Half width (ticks) of the smoothing of the head's pose and of the mouth's place in it.
POSE_HALF = 3
PLACE_HALF = 10
#: Between meshes that are this many ticks apart, or fewer than the second, the head is followed.
FOLLOW = (3, 12)
#: Crops are made this many at a time.
RENDER_TICKS = 8

CropArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pose:
    """Head in the picture: eye-distance ``scale`` (px), ``roll`` (rad), anchor and mouth points.

    ``mouth`` is relative to the anchor, unrolled, in eye distances; ``opening`` is the gap
    between upper and lower outer lip in eye distances.
    """

    scale: float
    roll: float
    anchor: FloatArray
    mouth: FloatArray
    opening: float

    @classmethod
    def from_mesh(cls, points: FloatArray) -> Pose:
        """From face-mesh points (468, 3) in picture pixels (z in the same unit)."""
        stable = points[STABLE]
        corners = points[[33, 263]]
        scale = float(np.linalg.norm(corners[0] - corners[1])) + 1e-6
        flat = stable[:, :2] - stable[:, :2].mean(0)
        model = TEMPLATE - TEMPLATE.mean(0)
        roll = float(
            np.arctan2(
                np.sum(model[:, 0] * flat[:, 1] - model[:, 1] * flat[:, 0]),
                np.sum(model * flat),
            )
        )
        anchor = stable[:, :2].mean(0)
        turn = _rotation(-roll)
        lips = points[LIPS][:, :2]
        mouth = turn @ (lips.mean(0) - anchor) / scale
        opening = float(np.linalg.norm(points[17, :2] - points[0, :2])) / scale
        return cls(scale, roll, anchor, mouth, opening)

    @property
    def row(self) -> FloatArray:
        """All of it as (7,): scale, roll, anchor x y, mouth x y, opening."""
        return np.array([self.scale, self.roll, *self.anchor, *self.mouth, self.opening])

    @classmethod
    def of_row(cls, row: FloatArray) -> Pose:
        """The inverse of :attr:`row`."""
        return cls(float(row[0]), float(row[1]), row[2:4], row[4:6], float(row[6]))


def _rotation(angle: float) -> FloatArray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


@dataclass(frozen=True, slots=True)
class FacePatch:
    """A square of the picture around a face: (n, n, 3) uint8 RGB, or grey (luma) 2-D.

    Its pixels are the picture's own, or averages of squares of them. Picture point ``p`` lies at
    ``(p - origin) * zoom`` in the patch; whole numbers are the pixels' middles.
    """

    image: CropArray
    origin: FloatArray
    zoom: float

    @classmethod
    def cut(
        cls,
        picture: Picture,
        centre: FloatArray,
        side: float,
        *,
        pixels: int = PATCH_SIDE,
        grey: int = 0,
        luma: bool = False,
    ) -> FacePatch:
        """Cut the square of ``side`` picture pixels around ``centre``; ``grey`` beyond the edge.

        From twice ``pixels`` on it is brought down by a whole number, to no less than ``pixels``.
        ``luma``: without colour.
        """
        shrink = max(1, int(side / pixels))
        count = int(np.ceil(side / shrink)) + 1
        x, y = (int(v) for v in np.floor(centre - side / 2))
        height, width = picture.shape
        left, top = max(0, -(x // shrink)), max(0, -(y // shrink))
        right, bottom = min(count, (width - x) // shrink), min(count, (height - y) // shrink)
        image = None
        if left < right and top < bottom:
            look = picture.grey if luma else picture.region
            ends = (x + right * shrink, y + bottom * shrink)
            image = look(x + left * shrink, y + top * shrink, *ends, shrink=shrink)
        if image is None or (bottom - top, right - left) != (count, count):
            square = np.full((count, count) if luma else (count, count, 3), grey, np.uint8)
            if image is not None:
                square[top:bottom, left:right] = image
            image = square
        origin = np.array([x, y]) + (shrink - 1) / 2
        return cls(np.ascontiguousarray(image), origin, 1 / shrink)


@dataclass(frozen=True, slots=True)
class CropChunk:
    """Consecutive ticks of one track.

    ``crops`` (n, CROP_HEIGHT, CROP_WIDTH) uint8 grey, or (n, side, side, 3) uint8 RGB of whole
    faces (:mod:`avsync.face_crops`); ``valid`` (n,) bool: the face was seen and
    the picture is not older than the grid allows; ``boxes`` (n, 4) float32 x0 y0 x1 y1 in picture
    pixels; ``opening`` (n,) float32 lip gap in eye distances; ``eye_px`` (n,) eye distance in
    picture pixels; ``ages`` (n,) float32: how much older (s) than its tick each picture is by its
    own stamp, negative = younger. Tick ``first + i`` is at ``(first + i) / 25`` seconds.
    """

    track: int
    first: int
    crops: CropArray
    valid: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32]
    opening: npt.NDArray[np.float32]
    eye_px: npt.NDArray[np.float32]
    ages: npt.NDArray[np.float32]
    last: bool = False

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(slots=True)
class _Tick:
    patch: FacePatch
    box: FloatArray
    pose: Pose | None
    age: float
    anchor: FloatArray | None = None

    @property
    def fresh(self) -> bool:
        return abs(self.age) <= STALE_S


@dataclass(slots=True)
class CropMaker:
    """Turns one track's patches and poses into crops, a second behind the input.

    Ticks without a measured pose (the mesh runs on some ticks only, or lost the face) take one
    by interpolation, their anchor from the picture (:mod:`avsync.follow`) where it is found again;
    they are valid when a measured one is at most ``max_hole`` ticks away.
    """

    track: int
    max_hole: int = 4
    chunk: int = 250
    _ticks: deque[_Tick] = field(default_factory=deque)
    _first: int | None = None
    _done: int = 0
    _out: list[tuple[CropArray, bool, FloatArray, float, float, float]] = field(
        default_factory=list
    )
    _out_first: int = 0

    def keep(self, picture: Picture, box: FloatArray) -> FacePatch:
        """What is kept of a tick's picture until its crop is made: the luma around the box."""
        longer = max(2.0, float((box[2:] - box[:2]).max()))
        centre = (box[:2] + box[2:]) / 2 + [0, KEPT_BELOW * longer]
        return FacePatch.cut(picture, centre, KEPT * longer, luma=True)

    def push(
        self, tick: int, patch: FacePatch, box: FloatArray, pose: Pose | None, age: float = 0.0
    ) -> CropChunk | None:
        """Add the next tick. ``age``: how much older (s) than the tick the picture is."""
        if self._first is None:
            self._first = self._out_first = tick
        self._ticks.append(_Tick(patch, box, pose, age))
        if pose is not None:
            self._follow(pose)
        ready = len(self._ticks) - PLACE_HALF - 1
        if ready >= self._done + RENDER_TICKS:
            self._render(self._done, ready)
        while self._done > PLACE_HALF:
            self._ticks.popleft()
            self._done -= 1
        return self._take() if len(self._out) >= self.chunk else None

    def close(self) -> CropChunk | None:
        """End the track; the last chunk has ``last`` set."""
        if len(self._ticks) > self._done:
            self._render(self._done, len(self._ticks))
        self._ticks.clear()
        return self._take(last=True) if self._out else None

    def _take(self, last: bool = False) -> CropChunk:
        crops, valid, boxes, opening, eye, ages = zip(*self._out, strict=True)
        chunk = CropChunk(
            track=self.track,
            first=self._out_first,
            crops=np.stack(crops),
            valid=np.array(valid, bool),
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            opening=np.array(opening, np.float32),
            eye_px=np.array(eye, np.float32),
            ages=np.array(ages, np.float32),
            last=last,
        )
        self._out_first += len(self._out)
        self._out = []
        return chunk

    def _follow(self, pose: Pose) -> None:
        """Find the anchors of the ticks since the last measured pose, now that there is another."""
        last = len(self._ticks) - 1
        for back in range(1, min(FOLLOW[1], last + 1)):
            before = self._ticks[last - back].pose
            if before is not None:
                break
        else:
            return
        if back < FOLLOW[0] or self._ticks[last].patch.image.ndim != 2:
            return
        ticks = [self._ticks[i] for i in range(last - back, last + 1)]
        anchors = anchors_between(before, pose, [t.patch for t in ticks])
        for tick, anchor in zip(ticks[1:-1], () if anchors is None else anchors, strict=False):
            tick.anchor = anchor

    def _filled(self) -> tuple[FloatArray, npt.NDArray[np.int64]] | None:
        """Rows of poses (n, 7) with holes interpolated, and each tick's distance (n,) to a
        measured one; None when there is none. The roll is unwrapped."""
        known = [i for i, t in enumerate(self._ticks) if t.pose is not None]
        if not known:
            return None
        rows = np.array([t.pose.row for t in self._ticks if t.pose is not None])
        rows[:, 1] = np.unwrap(rows[:, 1])
        ticks = np.arange(len(self._ticks))
        away = np.abs(ticks[:, None] - np.array(known)[None, :]).min(1)
        filled = np.stack([np.interp(ticks, known, column) for column in rows.T], 1)
        for row, tick in zip(filled, self._ticks, strict=True):
            if tick.anchor is not None:
                row[2:4] = tick.anchor
        return filled, away

    def _render(self, start: int, stop: int) -> None:
        filled = self._filled()
        poses = [None] * (stop - start) if filled is None else _smoothed(filled[0], start, stop)
        for i, pose in enumerate(poses, start):
            item = self._ticks[i]
            crop = self.draw(item.patch, pose)
            if filled is None or pose is None:
                self._out.append((crop, False, item.box, 0.0, 0.0, item.age))
                continue
            valid = bool(item.fresh and filled[1][i] <= self.max_hole)
            self._out.append((crop, valid, item.box, pose.opening, pose.scale, item.age))
        self._done = stop

    def draw(self, patch: FacePatch, pose: Pose | None) -> CropArray:
        """The crop of one tick, in order; without a pose it is black."""
        if pose is None:
            return np.zeros((CROP_HEIGHT, CROP_WIDTH), np.uint8)
        return _warp(patch, pose)


def _smoothed(rows: FloatArray, start: int, stop: int) -> list[Pose]:
    """The head's poses at ticks ``start`` … as neighbours see it; each opening is its own."""
    away = np.arange(start, stop)[:, None] - np.arange(len(rows))
    near = np.exp(-0.5 * (away / 1.5) ** 2) * (np.abs(away) <= POSE_HALF)
    wide = (np.abs(away) <= PLACE_HALF).astype(float)
    out = near / near.sum(1, keepdims=True) @ rows
    out[:, 4:6] = wide / wide.sum(1, keepdims=True) @ rows[:, 4:6]
    out[:, 6] = rows[start:stop, 6]
    return [Pose.of_row(row) for row in out]


def crop_matrix(pose: Pose) -> FloatArray:
    """(2, 3): crop pixel (x, y, 1) to picture pixel; whole numbers are the pixels' middles."""
    turn = _rotation(pose.roll)
    place = pose.mouth + np.array([0.0, BELOW_MOUTH])
    centre = pose.anchor + turn @ place * pose.scale
    middle = np.array([(CROP_WIDTH - 1) / 2, (CROP_HEIGHT - 1) / 2])
    linear = turn * (pose.scale / EYE_DISTANCE_PX)
    return np.column_stack([linear, centre - linear @ middle])


def crop_of(grey: CropArray, matrix: FloatArray) -> CropArray:
    """The crop (CROP_HEIGHT, CROP_WIDTH) whose pixels lie in ``grey`` where ``matrix`` says."""
    return sampled(grey, matrix, CROP_WIDTH, CROP_HEIGHT)


def _warp(patch: FacePatch, pose: Pose) -> CropArray:
    """The aligned crop (CROP_HEIGHT, CROP_WIDTH) uint8 of the mouth."""
    matrix = crop_matrix(pose) * patch.zoom
    matrix[:, 2] -= patch.origin * patch.zoom
    grey = patch.image
    if grey.ndim == 3:
        grey = np.asarray(cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY), np.uint8)
    return crop_of(grey, matrix)
