"""New faces for a corpus: the lips of one clip re-rendered on the face of another by mesh warping.

Motion and voice stay those of the driving clip, so that what is in sync stays so. The face is one
still of another clip whose mouth is shut: its skin follows the driver's mesh (a thin-plate spline
through points around mouth, nose and chin, proportions adapted), and the driver's own lips, or only
what lies between them, are warped into place and brought to the other's brightness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from avsync.blas import one_blas_thread
from avsync.crops import (
    CROP_HEIGHT,
    CROP_WIDTH,
    CropArray,
    CropChunk,
    CropMaker,
    FacePatch,
    Pose,
    crop_matrix,
)
from avsync.errors import AVSyncError
from avsync.faces import FaceTracker, mouth_chunks
from avsync.media import GridFrame
from avsync.training.data import ClipFeatures, extract, in_processes, load_features, save_features

__all__ = [
    "POINTS",
    "Gallery",
    "MeshedClip",
    "build_meshes",
    "build_rerendered",
    "meshed",
    "rerendered",
    "turned",
]

FloatArray = npt.NDArray[np.float64]

#: Face-mesh indices: lips inside and out, in order around the mouth.
INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
#: Skin: a ring around the lips, under the nose, cheeks, chin and jaw.
RING = (57, 186, 92, 165, 167, 164, 393, 391, 322, 410, 287, 273, 335, 406, 313, 18, 83, 182, 106)
CHEEKS = (43, 2, 98, 327, 205, 425, 207, 427, 212, 432, 202, 422, 204, 424, 194, 418, 200, 199)
JAW = (152, 148, 377, 176, 400, 149, 378, 150, 379, 136, 365, 172, 397)
POINTS = (*INNER, *OUTER, *RING, *CHEEKS, *JAW)
#: Parts of POINTS, and single ones: lips inside, corners of the mouth, the middle above the lip.
INSIDE, LIPS, AROUND = slice(0, 20), slice(20, 40), slice(40, 59)
MOUTH, SKIN = slice(0, 59), slice(59, None)
UPPER, LOWER = 5, 15
LEFT, RIGHT, PHILTRUM = 20, 30, 45
#: Share of a driver's ticks that must have a mesh.
MESHED = 0.9
#: Ticks that are meshed of clips that only lend a face.
STILL_TICKS = 40
#: Share of new clips that keep the driver's lips, not only what lies between them.
LIPS_SHARE = 0.6
#: By how much (see :func:`turned`) a driver's head may turn, and a face may be turned otherwise.
TURNS = 0.2
ALIKE = 0.06
#: The spline need not meet the points to the pixel: they tremble.
STIFF = 2.0
#: The spline is worked out on a grid of this step (px) and smoothed in between.
STEP = 8
#: Stays where it is: beyond the crop's corners and the middles of its sides.
FRAME = np.array(
    [(x, y) for x in (-8, CROP_WIDTH / 2, CROP_WIDTH + 8) for y in (-8, 40, CROP_HEIGHT + 8)]
)[[0, 1, 2, 3, 5, 6, 7, 8]]

_KNOT_SHAPE = (CROP_HEIGHT // STEP + 1, CROP_WIDTH // STEP + 1)
_KNOTS = np.stack(
    np.meshgrid(np.arange(_KNOT_SHAPE[1]) * STEP, np.arange(_KNOT_SHAPE[0]) * STEP), -1
).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class MeshedClip:
    """A clip's features and its mesh: ``points`` (T, len(POINTS), 2) in the pixels of its crops.

    NaN where the mesh found no face.
    """

    features: ClipFeatures
    points: npt.NDArray[np.float32]

    def save(self, file: str | Path) -> None:
        """Write ``file`` (``.npz``): the features and, as ``points``, the mesh."""
        save_features(self.features, file, points=self.points.astype(np.float16))

    @classmethod
    def load(cls, file: str | Path) -> MeshedClip:
        """The inverse of :meth:`save`."""
        with np.load(file) as z:
            return cls(load_features(file), z["points"].astype(np.float32))


def meshed(path: str | Path, clip: str, *, ticks: int | None = None) -> MeshedClip | None:
    """Crop a clip with a mesh at each tick; of its first ``ticks`` only. None without a face.

    Raises:
        AVSyncError: the file cannot be read.
    """
    tracker = _MeshingTracker()
    features = extract(
        path, clip, cropped=lambda frames: mouth_chunks(islice(frames, ticks), tracker=tracker)
    )
    return None if features is None else MeshedClip(features, tracker.points(features))


class _MeshingTracker(FaceTracker):
    """Meshes each face at each tick, and keeps the meshes and the places of the crops."""

    def __init__(self) -> None:
        super().__init__(crops=self._recorder)
        self.raw: dict[tuple[int, int], FloatArray] = {}
        self.recorders: list[_Recorder] = []

    def _recorder(self, track: int) -> CropMaker:
        self.recorders.append(_Recorder(track))
        return self.recorders[-1]

    def push(self, frame: GridFrame) -> Iterator[CropChunk]:
        for track in self._tracks:
            track.due = 0
        yield from super().push(frame)
        for track in self._tracks:
            if track.raw is not None and not track.lost:
                self.raw[track.maker.track, frame.tick] = track.raw[:, :2]

    def points(self, features: ClipFeatures) -> npt.NDArray[np.float32]:
        """Of the track that the features are of."""
        ticks = len(features.crops)
        maker = next(
            m for m in self.recorders if m._first == features.first and len(m.matrices) == ticks
        )
        out = np.full((ticks, len(POINTS), 2), np.nan, np.float32)
        for i, matrix in enumerate(maker.matrices):
            raw = self.raw.get((maker.track, features.first + i))
            if raw is not None:
                out[i] = (raw[list(POINTS)] - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        return out


class _Recorder(CropMaker):
    """Keeps where each crop lay in the picture."""

    def __init__(self, track: int) -> None:
        super().__init__(track)
        self.matrices: list[FloatArray] = []

    def draw(self, patch: FacePatch, pose: Pose | None) -> CropArray:
        self.matrices.append(np.full((2, 3), np.nan) if pose is None else crop_matrix(pose))
        return super().draw(patch, pose)


@one_blas_thread
def rerendered(driver: MeshedClip, face: MeshedClip, *, lips: bool = True) -> ClipFeatures | None:
    """The features of ``driver`` with the face of ``face``; None where either has too few meshes.

    Args:
        lips: the driver's lips and what lies between them are taken over, else only the latter.
    """
    still, rest = _shut(face), _shut(driver)
    if still is None or rest is None or np.isfinite(driver.points[:, 0, 0]).mean() < MESHED:
        return None
    moved = _held(driver.points)
    ratio = float(np.clip(_width(face.points[still]) / _width(driver.points[rest]), 0.75, 1.33))
    wanted = face.points[still] + ratio * (moved - driver.points[rest])
    picture = face.features.crops[still].astype(np.float32)
    gain = _brightness(picture, face.points[still][AROUND]) / _brightness(
        driver.features.crops[rest].astype(np.float32), driver.points[rest][AROUND]
    )
    gain = float(np.clip(gain, 0.5, 2.0))
    crops = np.empty_like(driver.features.crops)
    for t in range(len(crops)):
        skin = _drawn(picture, wanted[t], face.points[still])
        own = driver.features.crops[t].astype(np.float32) * gain
        mouth = _drawn(own, wanted[t][MOUTH], moved[t][MOUTH])
        share = _mask(wanted[t][LIPS if lips else INSIDE], grow=3 if lips else 0)
        crops[t] = np.clip(skin + share * (mouth - skin), 0, 255)
    return replace(driver.features, crops=crops)


def turned(points: npt.NDArray[np.float32]) -> FloatArray:
    """How far heads (…, len(POINTS), 2) are turned: where the philtrum lies between the corners.

    0 in the middle, ±0.5 over a corner of the mouth.
    """
    left, right, middle = (points[..., i, 0] for i in (LEFT, RIGHT, PHILTRUM))
    return np.asarray((middle - left) / np.maximum(right - left, 1e-3) - 0.5, np.float64)


def _shut(clip: MeshedClip) -> int | None:
    """The tick at which the mouth is about the least open, the head as most of the time."""
    gap = np.linalg.norm(clip.points[:, LOWER] - clip.points[:, UPPER], axis=-1)
    seen = np.isfinite(gap) & clip.features.valid
    if seen.sum() < 10:
        return None
    skin = clip.points[:, SKIN].mean((1, 2))
    away = np.abs(skin - np.median(skin[seen]))
    return int(np.where(seen, gap + 0.3 * away, np.inf).argmin())


def _held(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Holes filled in between neighbours."""
    known = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    flat = points.reshape(len(points), -1)
    filled = [np.interp(np.arange(len(points)), known, column[known]) for column in flat.T]
    return np.stack(filled, 1).reshape(points.shape).astype(np.float32)


def _width(points: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(points[LEFT] - points[RIGHT])) + 1e-6


def _brightness(picture: npt.NDArray[np.float32], points: npt.NDArray[np.float32]) -> float:
    x, y = np.round(points).astype(int).T
    return float(picture[y.clip(0, CROP_HEIGHT - 1), x.clip(0, CROP_WIDTH - 1)].mean()) + 8.0


def _bend(away: FloatArray) -> FloatArray:
    """The thin-plate spline's kernel r² log r of differences (…, 2)."""
    square = (away**2).sum(-1)
    return 0.5 * square * np.log(square + 1e-9)


def _drawn(
    picture: npt.NDArray[np.float32], there: FloatArray, here: FloatArray
) -> npt.NDArray[np.float32]:
    """The picture warped so that what lies at points ``here`` comes to lie ``there``."""
    ends = np.concatenate([there, FRAME])
    moves = np.concatenate([here - there, np.zeros_like(FRAME)])
    n = len(ends)
    plane = np.column_stack([np.ones(n), ends])
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = _bend(ends[:, None] - ends[None]) + STIFF * np.eye(n)
    system[:n, n:], system[n:, :n] = plane, plane.T
    weights = np.linalg.solve(system, np.concatenate([moves, np.zeros((3, 2))]))
    spread = _bend(_KNOTS[:, None] - ends[None]) @ weights[:n]
    spread += np.column_stack([np.ones(len(_KNOTS)), _KNOTS]) @ weights[n:]
    coarse = spread.reshape(*_KNOT_SHAPE, 2).astype(np.float32)
    x, y = cv2.split(_places(coarse))
    out = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.float32)


def _places(coarse: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Where to look for each pixel, (height, width, 2) x y, from moves at the knots."""
    finer = np.array([[1 / STEP, 0, 0], [0, 1 / STEP, 0]])
    size = (CROP_WIDTH, CROP_HEIGHT)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moves = cv2.warpAffine(coarse, finer, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    own = np.stack(np.meshgrid(np.arange(CROP_WIDTH), np.arange(CROP_HEIGHT)), -1)
    return np.asarray(own + moves, np.float32)


def _mask(outline: FloatArray, *, grow: int) -> npt.NDArray[np.float32]:
    """1 inside a closed outline (n, 2), softly 0 beyond; ``grow`` widens it (px)."""
    mask: Any = np.zeros((CROP_HEIGHT, CROP_WIDTH), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
    if grow:
        mask = cv2.dilate(mask, np.ones((2 * grow + 1, 2 * grow + 1), np.uint8))
    soft = cv2.GaussianBlur(mask, (0, 0), 2.0 if grow else 1.0)
    return np.asarray(soft, np.float32) / 255


class Gallery:
    """Faces to choose from.

    Args:
        clips: those in which no mouth is ever shut are left out. who: whose face a clip shows, by
            its id; a driver gets nobody's own face.
    """

    def __init__(self, clips: Sequence[MeshedClip], who: Mapping[str, str]) -> None:
        stills = [(c, _shut(c)) for c in clips]
        self.who = who
        self.clips = [c for c, still in stills if still is not None]
        self.turned = np.array([float(turned(c.points[s])) for c, s in stills if s is not None])
        self.shown = np.array([who[c.features.clip] for c in self.clips])

    def face_for(self, driver: MeshedClip, rng: np.random.Generator) -> MeshedClip | None:
        """Another's face that is turned as the driver's head is; None where there is none.

        A head that turns while it talks gets no other face: a still does not turn with it.
        """
        own = turned(driver.points)
        own = own[np.isfinite(own)]
        if not len(own) or np.ptp(np.quantile(own, [0.05, 0.95])) > TURNS:
            return None
        alike = np.abs(self.turned - np.median(own)) <= ALIKE
        found = np.flatnonzero(alike & (self.shown != self.who[driver.features.clip]))
        return self.clips[int(rng.choice(found))] if len(found) else None


def build_meshes(files: Mapping[str, Path], out: Path, *, whole: Collection[str], jobs: int) -> int:
    """Mesh clips by id, those not in ``whole`` for a still only; returns how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [
        (str(file), clip, str(out / f"{clip}.npz"), None if clip in whole else STILL_TICKS)
        for clip, file in files.items()
        if not (out / f"{clip}.npz").exists()
    ]
    for _ in in_processes(_mesh_one, todo, jobs=jobs):
        pass
    return sum((out / f"{clip}.npz").exists() for clip in files)


def _mesh_one(path: str, clip: str, file: str, ticks: int | None) -> None:
    with contextlib.suppress(AVSyncError):  # what cannot be read is no face to choose
        found = meshed(path, clip, ticks=ticks)
        if found is not None:
            found.save(file)


def build_rerendered(
    meshes: Path, out: Path, drivers: Sequence[str], who: Mapping[str, str], *, seed: int, jobs: int
) -> int:
    """One new clip a driver, named as it is, in ``out``; returns how many there are.

    What of the lips is the driver's own, and whose face it gets, depends on ``seed``.
    """
    out.mkdir(parents=True, exist_ok=True)
    clips = {f.stem: MeshedClip.load(f) for f in sorted(meshes.glob("*.npz"))}
    gallery = Gallery(list(clips.values()), who)
    rng = np.random.default_rng(seed)
    todo = []
    for clip in drivers:
        face = gallery.face_for(clips[clip], rng) if clip in clips else None
        lips = bool(rng.random() < LIPS_SHARE)
        if face is not None and not (out / f"{clip}.npz").exists():
            files = (meshes / clip, meshes / face.features.clip, out / clip)
            todo.append((*(f"{file}.npz" for file in files), lips))
    for _ in in_processes(_render_one, todo, jobs=jobs):
        pass
    return sum(1 for _ in out.glob("*.npz"))


def _render_one(driver: str, face: str, file: str, lips: bool) -> None:
    made = rerendered(MeshedClip.load(driver), MeshedClip.load(face), lips=lips)
    if made is not None:
        save_features(made, file)
