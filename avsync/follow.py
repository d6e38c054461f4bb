"""Where a head is between two meshes: what lies between eyes and mouth is found again there.

The head moves in place only; what it turns and nears between two meshes is little where they are
far apart, and interpolated. One small picture of it is compared with each tick's by least squares
(Lucas and Kanade 1981, with a constant for the light; in the form of Baker and Matthews 2004 all
that is solved is solved once).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from avsync.picture import sampled

if TYPE_CHECKING:
    from avsync.crops import FacePatch, Pose

__all__ = ["anchors_between"]

FloatArray = npt.NDArray[np.float64]

#: What is compared, around the anchor (eye distances): left, top, right, bottom; and its pixels
#: per eye distance.
AREA = (-0.72, -0.28, 0.72, 0.5)
PIXELS = 24.0
WIDTH, HEIGHT = round((AREA[2] - AREA[0]) * PIXELS), round((AREA[3] - AREA[1]) * PIXELS)
MIDDLE = np.array([-AREA[0], -AREA[1]]) * PIXELS
#: Steps at most for each tick, and the step (pixels) that is small enough to end them.
STEPS = 3
SMALL_STEP = 0.05
#: Places are not believed when they miss the next mesh by more than this (eye distances).
MISSED = 0.08


def anchors_between(first: Pose, last: Pose, patches: Sequence[FacePatch]) -> FloatArray | None:
    """Anchors (n - 2, 2) in picture pixels of the ticks between two meshes.

    Args:
        patches: grey ones of all n ticks, from that of the first mesh to that of the last.

    Returns:
        None where the head was not found again.
    """
    scale = first.scale / PIXELS
    c, s = np.cos(first.roll) * scale, np.sin(first.roll) * scale
    turn = np.array([[c, -s], [s, c]])

    def seen(patch: FacePatch, anchor: FloatArray) -> npt.NDArray[np.float32]:
        matrix = np.column_stack([turn, anchor - turn @ MIDDLE - patch.origin]) * patch.zoom
        return sampled(patch.image, matrix, WIDTH, HEIGHT).astype(np.float32)

    template = seen(patches[0], first.anchor)
    slopes = [cv2.Sobel(template, cv2.CV_32F, x, 1 - x, scale=1 / 8).ravel() for x in (1, 0)]
    basis = np.stack([*slopes, np.ones(template.size, np.float32)])
    # From how the tick's picture differs to how far it has moved, in picture pixels.
    solve = turn @ np.linalg.inv(basis @ basis.T + 0.01 * np.eye(3))[:2] @ basis
    solve, want = solve.astype(np.float32), template.ravel()
    anchor, places = first.anchor, []
    for patch in patches[1:]:
        for _ in range(STEPS):
            step = solve @ (seen(patch, anchor).ravel() - want)
            anchor = anchor - step
            if float(np.abs(step).sum()) < SMALL_STEP * scale:
                break
        places.append(anchor)
    missed = last.anchor - places.pop()
    if not np.abs(missed).max() < MISSED * first.scale:
        return None
    share = np.arange(1, len(places) + 1)[:, None] / (len(places) + 1)
    found: FloatArray = np.array(places).reshape(-1, 2) + share * missed
    return found
