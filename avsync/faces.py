"""Faces: detection, tracks and mesh with mediapipe, several people, cuts and small faces.

Detection runs rarely (every ``DETECT_EVERY`` ticks, after cuts, when a face is lost); between,
each track's face mesh follows its face on every second tick. Small faces are found by looking
at overlapping tiles of the picture now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from avsync._quiet import quiet_native_stderr
from avsync.crops import CropChunk, CropMaker, FacePatch, Pose
from avsync.media import GridFrame

__all__ = ["FaceTracker", "mouth_chunks"]

#: Ticks (1/25 s) between detections on the whole picture, and between searches of its tiles.
DETECT_EVERY = 12
TILE_EVERY = 75
MESH_EVERY = 2
#: A track ends when its mesh has been lost for this many ticks.
LOST_AFTER = 15
#: The mesh looks at a window this many times the face box; it moves when the face has moved.
WINDOW = 2.0
#: Pictures whose stamp is further than this (s) from the tick are no evidence.
STALE_S = 0.06
MIN_SCORE = 0.5
#: A box this many times as wide as another shows something else (walls are taken for faces).
FAR_LARGER = 3.0
CUT_LEVEL = 28.0

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

    def _run(self, image: Any, model: int, origin: tuple[float, float], zoom: float) -> list[Box]:
        if model not in self._models:
            with quiet_native_stderr():
                import mediapipe as mp

                self._models[model] = mp.solutions.face_detection.FaceDetection(
                    model_selection=model, min_detection_confidence=MIN_SCORE
                )
                result = self._models[model].process(image)
        else:
            result = self._models[model].process(image)
        height, width = image.shape[:2]
        boxes = []
        for found in result.detections or []:
            r = found.location_data.relative_bounding_box
            x0, y0 = r.xmin * width / zoom + origin[0], r.ymin * height / zoom + origin[1]
            boxes.append(
                np.array([x0, y0, x0 + r.width * width / zoom, y0 + r.height * height / zoom])
            )
        return boxes

    def whole(self, image: Any) -> list[Box]:
        height, width = image.shape[:2]
        zoom = min(1.0, 480 / max(height, width))
        small = image
        if zoom < 1:
            size = (round(width * zoom), round(height * zoom))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        boxes = self._run(small, 0, (0.0, 0.0), zoom) + self._run(small, 1, (0.0, 0.0), zoom)
        if not boxes:
            pad = round(0.3 * max(small.shape[:2]))
            wide = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
            boxes = self._run(wide, 0, (-pad / zoom, -pad / zoom), zoom)
        return _distinct(boxes)

    def tiles(self, image: Any) -> list[Box]:
        """Look closer: overlapping squares of a half, then a quarter of the picture's height."""
        height, width = image.shape[:2]
        boxes: list[Box] = []
        for part in (2, 4):
            side = max(height, width * 9 / 16) / part
            if side < 180:
                break
            nx, ny = (int(np.ceil(1.4 * d / side)) for d in (width, height))
            for x in np.linspace(0, width - side, nx):
                for y in np.linspace(0, max(0, height - side), ny):
                    tile = image[int(y) : int(y + side), int(x) : int(x + side)]
                    zoom = min(1.0, 320 / side)
                    if zoom < 1:
                        tile = cv2.resize(
                            tile, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA
                        )
                    boxes += self._run(np.ascontiguousarray(tile), 1, (int(x), int(y)), zoom)
        return _distinct(boxes)

    def close(self) -> None:
        for model in self._models.values():
            model.close()
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


def _forget(mesh: Any) -> None:
    """Make a face mesh search afresh, not where the face was in the last patch.

    A blank picture does it; ``reset`` takes thrice as long and writes to standard error.
    """
    mesh.process(np.zeros((64, 64, 3), np.uint8))


@dataclass(slots=True, eq=False)
class _Track:
    maker: CropMaker
    box: Box
    mesh: Any
    window: tuple[npt.NDArray[np.float64], float]
    lost: int = 0
    age: int = 0
    meshed: int = 0

    def follow(self, image: Any, *, look: bool) -> tuple[FacePatch, Pose | None]:
        centre = (self.box[:2] + self.box[2:]) / 2
        side = WINDOW * float(max(self.box[2:] - self.box[:2]))
        old_centre, old_side = self.window
        moved, zoomed = float(np.abs(centre - old_centre).max()) / side, side / old_side
        if moved > 0.1 or not 0.8 < zoomed < 1.25:
            self.window = (centre, side)
            if self.meshed and (moved > 0.2 or not 0.8 < zoomed < 1.25):
                _forget(self.mesh)
        patch = FacePatch.cut(image, *self.window)
        if not look:
            return patch, None
        with quiet_native_stderr() if self.meshed == 0 else nullcontext():
            found = self.mesh.process(patch.image).multi_face_landmarks
        if not found:
            return patch, None
        raw = np.array([(p.x, p.y, p.z) for p in found[0].landmark[:468]])
        points = raw * patch.image.shape[0] / patch.zoom
        points[:, :2] += patch.origin
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        self.box = np.concatenate([low, high])
        return patch, Pose.from_mesh(points)


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
        self._spare: list[Any] = []
        self._next_id = 0
        self._since_detect = DETECT_EVERY
        self._since_tiles = TILE_EVERY
        self._tick: int | None = None
        self._last_small: npt.NDArray[np.uint8] | None = None

    def push(self, frame: GridFrame) -> Iterator[CropChunk]:
        """Take the next grid frame (ticks rise); yield chunks that became ready."""
        image = frame.image
        jumped = self._tick is not None and frame.tick != self._tick + 1
        self._tick = frame.tick
        if self._is_cut(image) or jumped:
            yield from self._end(list(self._tracks))
        self._since_detect += 1
        self._since_tiles += 1
        if self._since_detect >= DETECT_EVERY or not self._tracks:
            self._since_detect = 0
            self._detect(image)
        fresh = abs(frame.pts_seconds - frame.time_s) <= STALE_S
        for track in self._tracks:
            look = track.age % MESH_EVERY == 0 or track.lost > 0
            patch, pose = track.follow(image, look=look)
            track.age += 1
            if look:
                track.lost = 0 if pose is not None else track.lost + 1
                track.meshed += pose is not None
            kept = track.maker.keep(image, patch, track.box)
            chunk = track.maker.push(frame.tick, kept, track.box, pose, fresh=fresh)
            if chunk is not None:
                yield chunk
        dead = [t for t in self._tracks if t.lost > LOST_AFTER or (t.lost > 2 and t.meshed == 0)]
        yield from self._end(dead + self._doubles(dead))

    def end_tracks(self) -> Iterator[CropChunk]:
        """End all tracks, as at a cut; the next tick may be any."""
        self._last_small = None
        yield from self._end(list(self._tracks))

    def close(self) -> Iterator[CropChunk]:
        """End all tracks and free mediapipe's graphs."""
        yield from self._end(list(self._tracks))
        for mesh in self._spare:
            mesh.close()
        self._spare.clear()
        self._detector.close()

    def _doubles(self, dead: list[_Track]) -> list[_Track]:
        """Younger tracks that came to lie on the face of an older one."""
        live = [t for t in self._tracks if t not in dead]
        return [
            t for i, t in enumerate(live) if any(_overlap(t.box, o.box) > 0.5 for o in live[:i])
        ]

    def _is_cut(self, image: Any) -> bool:
        small = cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA)
        last, self._last_small = self._last_small, np.asarray(small, np.uint8)
        if last is None:
            return False
        return float(np.abs(small.astype(np.int16) - last).mean()) > CUT_LEVEL

    def _detect(self, image: Any) -> None:
        boxes = self._detector.whole(image)
        if self._since_tiles >= TILE_EVERY:
            self._since_tiles = 0
            boxes = _distinct(boxes + self._detector.tiles(image))
        for box in boxes:
            taken = any(_overlap(box, t.box) > 0.15 or _near(box, t.box) for t in self._tracks)
            if not taken and len(self._tracks) < self.max_faces:
                self._tracks.append(self._new_track(box))

    def _new_track(self, box: Box) -> _Track:
        if self._spare:
            mesh = self._spare.pop()
            _forget(mesh)
        else:
            with quiet_native_stderr():
                import mediapipe as mp

                mesh = mp.solutions.face_mesh.FaceMesh(
                    static_image_mode=False,
                    max_num_faces=1,
                    min_detection_confidence=MIN_SCORE,
                    min_tracking_confidence=MIN_SCORE,
                )
                _forget(mesh)
        centre = (box[:2] + box[2:]) / 2
        side = WINDOW * float(max(box[2:] - box[:2]))
        track = _Track(self._crops(self._next_id), box, mesh, (centre, side))
        self._next_id += 1
        return track

    def _end(self, tracks: list[_Track]) -> Iterator[CropChunk]:
        for track in tracks:
            chunk = track.maker.close()
            if chunk is not None and track.meshed > 1:
                yield chunk
            self._spare.append(track.mesh)
        self._tracks = [t for t in self._tracks if t not in tracks]


def mouth_chunks(
    frames: Iterable[GridFrame],
    *,
    max_faces: int = 4,
    crops: Callable[[int], CropMaker] = CropMaker,
) -> Iterator[CropChunk]:
    """Crops of all faces in ``frames`` (ticks rise), mouths unless ``crops`` says else.

    Where ticks jump, tracks end.

    Memory is bounded: chunks of at most some 10 s per face are yielded as they become ready.
    """
    tracker = FaceTracker(max_faces=max_faces, crops=crops)
    try:
        for frame in frames:
            yield from tracker.push(frame)
        yield from tracker.close()
    finally:
        for _ in tracker.close():
            pass
