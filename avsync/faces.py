"""Faces: detection, tracks and mesh with mediapipe, several people, cuts and small faces.

Detection runs rarely (every ``DETECT_EVERY`` ticks, after cuts, more often while there is no face);
between, each track's face mesh follows its face, on every sixth tick while the head is steady,
every fourth while it moves and every second while it moves fast; where the head is between is found
by comparing pictures (:mod:`avsync.follow`). Small faces are found by looking at overlapping
squares of the picture: at large ones after a cut to a picture in which no face is found, at all now
and then, the more rarely the longer that finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from avsync import graphs
from avsync._quiet import quiet_native_stderr
from avsync.crops import CropChunk, CropMaker, FacePatch, Pose
from avsync.media import GridFrame
from avsync.mesh import mesh_again
from avsync.picture import Picture

__all__ = ["FaceTracker", "mouth_chunks"]

#: Ticks (1/25 s) between detections on the whole picture while faces are followed (by one of both
#: detectors in turn), and while none is (by both).
DETECT_EVERY = 15
SEEK_EVERY = 5
#: In a new scene the first so many detections come as quickly, after the first one by the detector
#: of near faces, which may be missed by the other for long.
FIRST_LOOKS = 3
#: Ticks between searches of the picture's tiles: at first, at most in a new scene without a face,
#: and at most where faces are followed and where none is.
TILE_EVERY = 125
TILE_NEW_SCENE = 75
TILE_AT_MOST = 1200
TILE_AT_MOST_ALONE = 300
#: Side (px) of the smallest tiles; in smaller ones only faces would be found whose lips cannot be
#: read. And where faces are followed: tiles of 270 px, three quarters of those of a 1080p picture,
#: bring 96 to 100 % of faces 36 to 60 px wide in place of 85 to 96 %, and no more of larger ones
#: (one picture each of 26 unseen clips).
SMALLEST_TILE = 240
SMALLEST_BESIDE = 300
#: Strips narrower than this (px) are not searched: no lips can be read in them.
NARROWEST = 48
#: Longer side (px) of the picture as detectors see it, and of a tile, as near as whole numbers
#: go; their models see 128 and 192 px. Tiles overlap so that this many cover the space of one.
WHOLE_SIDE = 256
TILE_SIDE = 256
OVERLAP = 1.4
#: Ticks between meshes, by how far the head moves from mesh to mesh at most: its middle (eye
#: distances), and its scale (relative) or roll (rad); else MESH_EVERY.
MESH_EVERY = 2
STEADY = ((6, 0.06, 0.02), (4, 0.15, 0.05))
#: A track ends when its mesh has been lost for this many ticks.
LOST_AFTER = 15
#: The mesh looks at a window this many times the face box; it moves when the face has moved.
WINDOW = 2.0
#: Points are taken this far right and below (share of the window), as in the crops that the bundled
#: model was trained on: half a pixel there.
ASIDE = np.array([1 / 512, 1 / 512, 0])
#: A box this many times as wide as another shows something else (walls are taken for faces).
FAR_LARGER = 3.0
#: Mean difference (of 255) of a small picture's luma to the last tick's, above which it is a cut.
#: In 61 films that finds the cuts that 28 in all three colours does, but for one of 32.
CUT_LEVEL = 22.0

Box = npt.NDArray[np.float64]


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x0 y0 x1 y1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / total)


class _Detector:
    """mediapipe's two face detectors over the whole picture, with a margin, or in tiles."""

    def __init__(self) -> None:
        self._models: dict[int, Any] = {}

    def _run(self, image: Any, model: int, origin: tuple[int, int], shrink: int) -> list[Box]:
        if model not in self._models:
            self._models[model] = graphs.take(f"detector {model}")
        result = self._models[model].process(image)
        height, width = image.shape[:2]
        boxes = []
        for found in result.detections or []:
            r = found.location_data.relative_bounding_box
            corners = (r.xmin, r.ymin, r.xmin + r.width, r.ymin + r.height)
            scale = np.array((width, height, width, height)) * shrink
            boxes.append(np.array(corners) * scale + np.array(origin * 2))
        return boxes

    def whole(self, picture: Picture, models: tuple[int, ...] = (0, 1)) -> list[Box]:
        """Faces in the whole picture; with both models also those that fill it."""
        shrink = 2 ** max(0, round(np.log2(max(picture.shape) / WHOLE_SIDE)))
        small = np.ascontiguousarray(picture.small(shrink))
        boxes = [box for model in models for box in self._run(small, model, (0, 0), shrink)]
        if not boxes and len(models) > 1:
            pad = round(0.3 * max(small.shape[:2]))
            wide = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
            boxes = self._run(wide, 0, (-pad * shrink, -pad * shrink), shrink)
        return _distinct(boxes)

    def tiles(
        self, picture: Picture, parts: tuple[int, ...], smallest: int = SMALLEST_TILE
    ) -> list[Box]:
        """Look closer: overlapping squares, as large as the picture allows or of parts of that."""
        height, width = picture.shape
        boxes: list[Box] = []
        for part in parts if min(height, width) >= NARROWEST else ():
            side = int(max(height, width * 9 / 16) / part) if part > 1 else min(height, width)
            if side < smallest if part > 1 else max(height, width) < OVERLAP * side:
                continue
            shrink = max(1, round(side / TILE_SIDE))
            nx, ny = (int(np.ceil(OVERLAP * d / side)) if d > side else 1 for d in (width, height))
            for x in np.linspace(0, max(0, width - side), nx).astype(int):
                for y in np.linspace(0, max(0, height - side), ny).astype(int):
                    wide, tall = (min(side, d) // shrink * shrink for d in (width, height))
                    tile = picture.region(x, y, x + wide, y + tall, shrink=shrink)
                    boxes += self._run(np.ascontiguousarray(tile), 1, (x, y), shrink)
        return _distinct(boxes)

    def close(self) -> None:
        for model, graph in self._models.items():
            graphs.give_back(f"detector {model}", graph)
        self._models.clear()


def _distinct(boxes: list[Box]) -> list[Box]:
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda b: -(b[2] - b[0])):
        if all(_overlap(box, k) < 0.3 and not _inside(box, k) for k in kept):
            kept.append(box)
    return kept


def _inside(box: Box, other: Box) -> bool:
    """Whether a box lies in another of its kind; what is far larger is no view of the same face."""
    if other[2] - other[0] > FAR_LARGER * (box[2] - box[0]):
        return False
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return bool(other[0] <= x <= other[2] and other[1] <= y <= other[3])


def _near(box: Box, other: Box) -> bool:
    """Whether two centres are closer than the smaller of both faces is wide or high."""
    apart = np.abs(box[:2] + box[2:] - other[:2] - other[2:]).max() / 2
    return bool(apart < min(max(box[2:] - box[:2]), max(other[2:] - other[:2])))


@dataclass(slots=True, eq=False)
class _Track:
    maker: CropMaker
    box: Box
    mesh: Any
    window: tuple[npt.NDArray[np.float64], float]
    lost: int = 0
    age: int = 0
    meshed: int = 0
    due: int = 0
    pose: Pose | None = None
    by_tiles: bool = False
    #: The last mesh, (468, 3) in picture pixels, unless the face is lost; and whether mediapipe's
    #: graph saw the face last where it is no more.
    raw: npt.NDArray[np.float64] | None = None
    elsewhere: bool = False

    def follow(self, picture: Picture) -> Pose | None:
        """The pose at this tick, when the mesh is due and finds the face."""
        self.age += 1
        if self.age <= self.due and not self.lost:
            return None
        self._move_window()
        pose = self._look(picture)
        self.due = self.age - 1 + _wait(self.pose, pose)
        self.lost = 0 if pose is not None else self.lost + 1
        self.meshed += pose is not None
        self.pose = pose
        return pose

    def _move_window(self) -> None:
        centre = (self.box[:2] + self.box[2:]) / 2
        side = WINDOW * float(max(self.box[2:] - self.box[:2]))
        old_centre, old_side = self.window
        moved, zoomed = float(np.abs(centre - old_centre).max()) / side, side / old_side
        if moved > 0.1 or not 0.8 < zoomed < 1.25:
            self.window = (centre, side)
            if self.meshed and (moved > 0.2 or not 0.8 < zoomed < 1.25):
                self.elsewhere = True

    def _look(self, picture: Picture) -> Pose | None:
        patch = FacePatch.cut(picture, *self.window)
        raw = self._mesh(patch)
        self.raw = None
        if raw is None:
            return None
        self.raw = (raw - [0.5, 0.5, 0]) / patch.zoom
        self.raw[:, :2] += patch.origin
        points = self.raw + ASIDE * (patch.image.shape[0] / patch.zoom)
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        self.box = np.concatenate([low, high])
        return Pose.from_mesh(points)

    def _mesh(self, patch: FacePatch) -> npt.NDArray[np.float64] | None:
        """Points (468, 3) in the patch's pixels; mediapipe finds what is not known or lost."""
        if self.raw is not None:
            before = self.raw.copy()
            before[:, :2] -= patch.origin
            again = mesh_again(patch.image, before * patch.zoom + [0.5, 0.5, 0])
            self.elsewhere |= again is not None
            if again is not None and again[1] > graphs.MIN_SCORE:
                return again[0]
        if self.elsewhere:
            graphs.forget(self.mesh)
            self.elsewhere = False
        with quiet_native_stderr() if self.meshed == 0 else nullcontext():
            found = self.mesh.process(patch.image).multi_face_landmarks
        return graphs.points_of(found[0]) * patch.image.shape[0] if found else None


def _wait(before: Pose | None, now: Pose | None) -> int:
    """Ticks to the next mesh, by how far the head moved from the last one to this."""
    if before is None or now is None:
        return MESH_EVERY
    moved = float(np.abs(now.anchor - before.anchor).max()) / now.scale
    turned = abs((now.roll - before.roll + np.pi) % (2 * np.pi) - np.pi)
    changed = max(turned, abs(before.scale / now.scale - 1))
    found = (ticks for ticks, far, much in STEADY if moved < far and changed < much)
    return next(found, MESH_EVERY)


class FaceTracker:
    """Feeds on grid frames, yields aligned mouth crops of every face, track by track.

    Args:
        max_faces: at most this many faces are followed at once, the largest first.
        crops: makes the crop maker of a track from its id; default aligned mouths.
    """

    def __init__(
        self, *, max_faces: int = 4, crops: Callable[[int], CropMaker] = CropMaker
    ) -> None:
        self.max_faces = max_faces
        self._crops = crops
        self._detector = _Detector()
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._since_detect = DETECT_EVERY
        self._detections = 0
        self._since_tiles = TILE_EVERY
        self._tiles_in_vain = 0
        self._new_scene = False
        self._tick: int | None = None
        self._last_small: npt.NDArray[np.uint8] | None = None

    def push(self, frame: GridFrame) -> Iterator[CropChunk]:
        """Take the next grid frame (ticks rise); yield chunks that became ready."""
        picture = frame.picture
        jumped = self._tick is not None and frame.tick != self._tick + 1
        self._tick = frame.tick
        cut = self._is_cut(picture) or jumped
        if cut:
            self._new_scene, self._detections = True, 0
            yield from self._end(list(self._tracks))
        self._since_detect += 1
        self._since_tiles += 1
        known = self._tracks and self._detections >= FIRST_LOOKS
        if cut or self._since_detect >= (DETECT_EVERY if known else SEEK_EVERY):
            self._since_detect = 0
            self._detect(picture, cut)
        for track in self._tracks:
            pose = track.follow(picture)
            if track.by_tiles and track.meshed:  # a face indeed
                track.by_tiles, self._tiles_in_vain = False, 0
            kept = track.maker.keep(picture, track.box)
            chunk = track.maker.push(frame.tick, kept, track.box, pose, frame.age)
            if chunk is not None:
                yield chunk
        dead = [t for t in self._tracks if t.lost > LOST_AFTER or (t.lost > 2 and t.meshed == 0)]
        yield from self._end(dead + self._doubles(dead))

    def end_tracks(self) -> Iterator[CropChunk]:
        """End all tracks, as at a cut; the next tick may be any."""
        self._last_small = None
        yield from self._end(list(self._tracks))

    def close(self) -> Iterator[CropChunk]:
        """End all tracks and give mediapipe's graphs back to the process."""
        yield from self._end(list(self._tracks))
        self._detector.close()

    def _doubles(self, dead: list[_Track]) -> list[_Track]:
        """Younger tracks that came to lie on the face of an older one."""
        live = [t for t in self._tracks if t not in dead]
        return [
            t for i, t in enumerate(live) if any(_overlap(t.box, o.box) > 0.5 for o in live[:i])
        ]

    def _is_cut(self, picture: Picture) -> bool:
        shrink = max(1, picture.shape[0] // 36 * 2)
        small = picture.sketch(shrink)
        last, self._last_small = self._last_small, small
        if last is None or last.shape != small.shape:
            return False
        return cv2.norm(small, last, cv2.NORM_L1) > CUT_LEVEL * small.size

    def _detect(self, picture: Picture, cut: bool) -> None:
        self._detections += 1
        far = (self._detections - FIRST_LOOKS) % 2 if self._detections > FIRST_LOOKS else 0
        models = (far,) if self._tracks else (0, 1)
        self._follow(self._detector.whole(picture, models))
        at_most = TILE_AT_MOST if self._tracks else TILE_AT_MOST_ALONE
        parts: tuple[int, ...] = (1, 2, 4)
        if cut and not self._tracks:
            self._follow(self._detector.tiles(picture, parts[:1]))
            parts = parts[1:]
        if self._new_scene and not self._tracks:
            at_most = TILE_NEW_SCENE
        wait = TILE_EVERY * 2 ** max(0, min(self._tiles_in_vain, 9) - 1)
        if self._since_tiles >= min(wait, at_most):
            self._since_tiles, self._new_scene = 0, False
            self._tiles_in_vain += 1
            smallest = SMALLEST_BESIDE if self._tracks else SMALLEST_TILE
            self._follow(self._detector.tiles(picture, parts, smallest), by_tiles=True)

    def _follow(self, boxes: list[Box], *, by_tiles: bool = False) -> None:
        """Start tracks for boxes that are nobody's yet."""
        for box in boxes:
            taken = any(_overlap(box, t.box) > 0.15 or _near(box, t.box) for t in self._tracks)
            if not taken and len(self._tracks) < self.max_faces:
                self._tracks.append(self._new_track(box, by_tiles))

    def _new_track(self, box: Box, by_tiles: bool) -> _Track:
        mesh = graphs.take("mesh")
        centre = (box[:2] + box[2:]) / 2
        side = WINDOW * float(max(box[2:] - box[:2]))
        maker = self._crops(self._next_id)
        track = _Track(maker, box, mesh, (centre, side), by_tiles=by_tiles)
        self._next_id += 1
        return track

    def _end(self, tracks: list[_Track]) -> Iterator[CropChunk]:
        for track in tracks:
            chunk = track.maker.close()
            if chunk is not None and track.meshed > 1:
                yield chunk
            graphs.give_back("mesh", track.mesh)
        self._tracks = [t for t in self._tracks if t not in tracks]


def mouth_chunks(
    frames: Iterable[GridFrame],
    *,
    max_faces: int = 4,
    crops: Callable[[int], CropMaker] = CropMaker,
    tracker: FaceTracker | None = None,
) -> Iterator[CropChunk]:
    """Crops of all faces in ``frames`` (ticks rise), mouths unless ``crops`` says else.

    Where ticks jump, tracks end. ``tracker``: follows the faces in place of one with those options.

    Memory is bounded: chunks of at most some 10 s per face are yielded as they become ready.
    """
    tracker = tracker or FaceTracker(max_faces=max_faces, crops=crops)
    try:
        for frame in frames:
            yield from tracker.push(frame)
        yield from tracker.close()
    finally:
        for _ in tracker.close():
            pass
