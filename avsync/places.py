"""Where the mouth is in each picture, for callers that crop (and differentiate) for themselves.

A *place* is a (2, 3) matrix from crop pixels to picture pixels, whole numbers being the pixels'
middles; the crop is :data:`avsync.crops.CROP_HEIGHT` x :data:`avsync.crops.CROP_WIDTH`, and models
look at its middle. Scale, roll and smoothing are those of :mod:`avsync.crops`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.crops import CropMaker, FacePatch, Pose, crop_matrix
from avsync.errors import InvalidArrayError
from avsync.media import GridFrame

__all__ = ["find_mouths", "mouth_places"]

FloatArray = npt.NDArray[np.float32]
MESH_POINTS = 468


def mouth_places(meshes: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Places from face meshes of your own.

    Args:
        meshes: (T, 468, 2 or 3) points of mediapipe's face mesh in picture pixels, 25 a second;
            NaN where a face was not found.

    Returns:
        (T, 2, 3) float32; NaN only where no face was found in half a second either way.

    Raises:
        InvalidArrayError: another shape.
    """
    if meshes.ndim != 3 or meshes.shape[1] < MESH_POINTS or meshes.shape[2] not in (2, 3):
        raise InvalidArrayError(
            f"meshes must be (T, {MESH_POINTS}, 2 or 3) points in pixels, not {meshes.shape}"
        )
    points = np.asarray(meshes[:, :MESH_POINTS], np.float64)
    maker = _PlaceMaker(track=0)
    patch = FacePatch(np.zeros((1, 1, 3), np.uint8), np.zeros(2), 1.0)
    for tick, mesh in enumerate(points):
        pose = Pose.from_mesh(mesh) if np.isfinite(mesh).all() else None
        maker.push(tick, patch, np.zeros(4), pose)
    maker.close()
    return np.array(maker.places, np.float32).reshape(-1, 2, 3)


def find_mouths(frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Places of the mouth that is seen longest, as the detector would crop it.

    Args:
        frames: (T, H, W, 3) uint8 RGB at 25 fps.

    Returns:
        places (T, 2, 3) float32, NaN outside the face's time; seen (T,) bool.

    Raises:
        InvalidArrayError: another shape or type.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise InvalidArrayError(
            f"frames must be (T, H, W, 3) uint8 RGB, not {frames.shape} {frames.dtype}"
        )
    from avsync.faces import mouth_chunks

    makers: dict[int, _PlaceMaker] = {}

    def maker(track: int) -> _PlaceMaker:
        makers[track] = _PlaceMaker(track)
        return makers[track]

    first: dict[int, int] = {}
    valid: dict[int, list[npt.NDArray[np.bool_]]] = {}
    for chunk in mouth_chunks(_on_grid(frames), crops=maker):
        first.setdefault(chunk.track, chunk.first)
        valid.setdefault(chunk.track, []).append(chunk.valid)
    places = np.full((len(frames), 2, 3), np.nan, np.float32)
    seen = np.zeros(len(frames), bool)
    if first:
        longest = max(first, key=lambda track: sum(int(v.sum()) for v in valid[track]))
        found = np.concatenate(valid[longest])
        span = slice(first[longest], first[longest] + len(found))
        places[span], seen[span] = makers[longest].places[: len(found)], found
    return places, seen


def _on_grid(frames: npt.NDArray[np.uint8]) -> Iterator[GridFrame]:
    for tick, image in enumerate(frames):
        yield GridFrame(tick, tick / 25, tick / 25, image)


@dataclass(slots=True)
class _PlaceMaker(CropMaker):
    """Keeps each tick's matrix in place of drawing the crop."""

    places: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def draw(self, patch: FacePatch, pose: Pose | None) -> npt.NDArray[np.uint8]:
        self.places.append(np.full((2, 3), np.nan) if pose is None else crop_matrix(pose))
        return np.zeros((1, 1), np.uint8)
