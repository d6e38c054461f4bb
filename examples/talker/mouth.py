"""What is seen between parted lips: darkness, teeth, tongue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from .net import INNER

if TYPE_CHECKING:
    from .face import Talker

__all__ = ["Teeth", "fill_mouth"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_HALF_X, _HALF_Y, _SCALE = 0.36, 0.20, 360.0  # of the teeth's picture: eye distances, pixels each
_DARK = np.array([62.0, 27.0, 25.0], dtype=np.float32)
_TONGUE = np.array([176.0, 96.0, 94.0], dtype=np.float32)


@dataclass
class Teeth:
    """The upper teeth as a picture in face axes about (middle_x, seam_y).

    colour: float32 (h, w, 3), 0–255; cover: float32 (h, w), 0–1; edge_y: where the incisors end,
    in eye distances below the seam of the closed lips.
    """

    colour: Floats
    cover: Floats
    edge_y: float

    @classmethod
    def of(cls, talker: Talker) -> Teeth:
        """From the portrait if it smiles with its teeth bare, else drawn."""
        if talker.source_gap > 0.05:
            teeth = cls._from_portrait(talker)
            if teeth is not None:
                return teeth
        return cls._drawn()

    @classmethod
    def _from_portrait(cls, talker: Talker) -> Teeth | None:
        height, width = int(2 * _HALF_Y * _SCALE), int(2 * _HALF_X * _SCALE)
        corners = np.array([[-_HALF_X, -_HALF_Y], [_HALF_X, -_HALF_Y], [-_HALF_X, _HALF_Y]])
        corners += np.array([talker.middle_x, talker.seam_y])
        depth = np.full((3, 1), talker.rest[13, 2])
        pixels = talker.to_pixels(np.concatenate([corners, depth], axis=1))[:, :2]
        ends = np.array([[0, 0], [width, 0], [0, height]], dtype=np.float32)
        affine = cv2.getAffineTransform(ends, pixels.astype(np.float32))
        colour = cv2.warpAffine(
            talker.image,
            affine,
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ).astype(np.float32)
        ring = talker.rest[INNER, :2] - (talker.middle_x, talker.seam_y)
        ring = ((ring + np.array([_HALF_X, _HALF_Y])) * _SCALE * 16).astype(np.int32)
        inside = np.zeros((height, width), np.uint8)
        cv2.fillPoly(inside, [ring], (255,), lineType=cv2.LINE_AA, shift=4)
        inside = np.asarray(cv2.erode(inside, np.ones((5, 5), np.uint8)), np.uint8)
        bright = colour.min(axis=2)
        share = float((bright[inside > 0] > 110).mean()) if (inside > 0).any() else 0.0
        if share < 0.3:
            return None
        cover = np.clip((bright - 85) / 50, 0, 1) * (inside > 0)
        solid = (cover > 0.6).astype(np.uint8)
        rows = np.flatnonzero(solid[:, width // 2 - 12 : width // 2 + 12].any(axis=1))
        if not len(rows):
            return None
        edge = float(rows[-1] / _SCALE - _HALF_Y)
        # The teeth go on upwards, under the lip: repeat the topmost row that is seen.
        for column in range(width):
            seen = np.flatnonzero(solid[:, column])
            if len(seen):
                top = min(int(seen[0]) + 3, int(seen[-1]))
                colour[:top, column] = colour[top, column] * np.array([0.98, 0.95, 0.95])
                cover[:top, column] = 1.0
        cover = np.asarray(cv2.GaussianBlur(cover.astype(np.float32), (0, 0), 2.0), np.float32)
        colour = np.asarray(cv2.GaussianBlur(colour, (0, 0), 0.8), np.float32)
        return cls(colour, cover, edge)

    @classmethod
    def _drawn(cls) -> Teeth:
        height, width = int(2 * _HALF_Y * _SCALE), int(2 * _HALF_X * _SCALE)
        colour = np.zeros((height, width, 3), np.float32)
        colour[:] = (225, 214, 196)
        cover = np.zeros((height, width), np.uint8)
        edge = 0.030
        left = 0.0
        for breadth, lift in ((0.092, 0.0), (0.070, 0.006), (0.072, 0.002), (0.060, 0.008)):
            for side in (-1, 1):
                x0, x1 = sorted((side * (left + 0.003), side * (left + breadth - 0.003)))
                a = (int((x0 + _HALF_X) * _SCALE), 0)
                b = (
                    int((x1 + _HALF_X) * _SCALE),
                    int((edge - lift - 0.10 * left + _HALF_Y) * _SCALE),
                )
                cv2.rectangle(cover, a, b, 255, -1)
                shade = 1.0 - 0.9 * left
                colour[:, a[0] : b[0]] *= shade
            left += breadth
        smooth = cv2.GaussianBlur(cover, (0, 0), 4.0)
        soft = np.clip((smooth.astype(np.float32) - 90) / 70, 0, 1)
        return cls(colour, np.asarray(cv2.GaussianBlur(soft, (0, 0), 1.2), np.float32), edge)


def fill_mouth(
    talker: Talker, canvas: Floats, ring: Doubles, mouth: dict[str, float], pose: Doubles
) -> Floats:
    """Paint the inside of the mouth into ``canvas`` (float32 (H·s, W·s, 3), changed in place).

    ``ring``: the inner border of the lips in pixels of the canvas (n, 2); ``pose`` as in
    :meth:`talker.face.Talker.frame`.
    """
    scale = talker.unit * talker.oversample  # pixels of the canvas in an eye distance
    low = np.floor(ring.min(axis=0) - 0.10 * scale).astype(int)
    high = np.ceil(ring.max(axis=0) + 0.10 * scale).astype(int)
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, (canvas.shape[1], canvas.shape[0]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return canvas
    local = ring - (x0, y0)
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.round(local * 16).astype(np.int32)], (255,), cv2.LINE_AA, shift=4)
    seam = np.round(local * 16).astype(np.int32)
    thin = max(1, round(0.006 * scale))
    cv2.polylines(mask, [seam], True, (255,), thin, cv2.LINE_AA, shift=4)
    cover = cv2.GaussianBlur(mask, (0, 0), 0.005 * scale).astype(np.float32)[:, :, None] / 255

    face = _face_axes(talker, pose, x0, y0, x1, y1)
    inside = np.empty((*mask.shape, 3), np.float32)
    inside[:] = _DARK
    gap, jaw = mouth["gap"], mouth["jaw"]
    _tongue(inside, face, gap, jaw, mouth["tongue"])
    drop = jaw - 0.012
    _lower_teeth(talker.teeth, inside, face, drop)
    _paste(talker.teeth, inside, face, 1.0)
    # Shade: the lips shut the light out, most near the upper lip and in the corners.
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    light = np.clip(depth / (0.030 * scale), 0, 1) ** 0.7
    light = 0.32 + 0.68 * light * np.clip(0.45 + gap / 0.07, 0, 1)
    light *= 1 - 0.25 * mouth["round"]
    light *= 1 - 0.45 * np.clip(np.abs(face[:, :, 0]) / 0.22, 0, 1) ** 2
    inside *= cv2.GaussianBlur(light.astype(np.float32), (0, 0), 0.008 * scale)[:, :, None]
    region = canvas[y0:y1, x0:x1]
    dim = 1 - 0.22 * cv2.GaussianBlur(cover[:, :, 0], (0, 0), 0.012 * scale)[:, :, None]
    region[:] = region * dim * (1 - cover) + inside * cover
    return canvas


def _face_axes(talker: Talker, pose: Doubles, x0: int, y0: int, x1: int, y1: int) -> Floats:
    """Face axes about the mouth for pixels of the canvas: (h, w, 2), the head's motion undone."""
    centre = np.array([talker.middle_x, talker.seam_y, talker.rest[13, 2] + 0.06])
    probes = centre + np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]])
    posed = talker.to_pixels(talker.pose_points(probes, np.ones(3), pose))[:, :2]
    posed = posed * talker.oversample
    forward = np.stack([posed[1] - posed[0], posed[2] - posed[0]], axis=1) / 0.2
    back = np.linalg.inv(forward)
    x, y = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
    offset = np.stack([x - posed[0, 0], y - posed[0, 1]], axis=2)
    face: Floats = (offset @ back.T).astype(np.float32)
    return face


def _sample(teeth: Teeth, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    at_x, at_y = (x + _HALF_X) * _SCALE, (y + _HALF_Y) * _SCALE
    colour = cv2.remap(teeth.colour, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.remap(teeth.cover, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(colour, np.float32), np.asarray(cover, np.float32)


def _paste(teeth: Teeth, inside: Floats, face: Floats, light: float) -> None:
    colour, cover = _sample(teeth, face[:, :, 0], face[:, :, 1])
    inside[:] = inside + cover[:, :, None] * (light * colour - inside)


def _lower_teeth(teeth: Teeth, inside: Floats, face: Floats, drop: float) -> None:
    """The upper teeth upside down, narrower, moving with the jaw."""
    top = teeth.edge_y + drop
    y = (teeth.edge_y - 1.15 * (face[:, :, 1] - top)).astype(np.float32)
    colour, cover = _sample(teeth, (1.3 * face[:, :, 0]).astype(np.float32), y)
    inside[:] = inside + cover[:, :, None] * (0.70 * colour - inside)


def _tongue(inside: Floats, face: Floats, gap: float, jaw: float, tip: float) -> None:
    """An ellipse behind the lower teeth; its tip rises to the upper ones."""
    centre_y = 0.03 + 0.9 * jaw + 0.045 * (1 - tip)
    half_y = 0.050 + 0.02 * tip
    reach = (face[:, :, 0] / 0.15) ** 2 + ((face[:, :, 1] - centre_y) / half_y) ** 2
    cover = np.clip((1.1 - reach) / 0.5, 0, 1) * (0.65 + 0.30 * tip) * min(1.0, gap / 0.05)
    inside[:] = inside + cover[:, :, None] * (_TONGUE - inside)
