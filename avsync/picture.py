"""A decoded picture that is converted only where it is looked at.

Most of a large picture is nobody's face: bringing all of it to RGB costs as much as decoding it.
A :class:`Picture` keeps the decoder's planes and converts regions, or a small copy, on demand.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ImageArray", "Picture", "sampled"]

ImageArray = npt.NDArray[np.uint8]

#: Formats whose planes are read as they are: full-size luma, chroma halved both ways.
PLANAR = ("yuv420p", "yuvj420p")
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
#: Luma 16..235 to 0..255.
STRETCH = (((np.arange(256) - 16) * (255 / 219)).round().clip(0, 255)).astype(np.uint8)


def sampled(
    image: ImageArray,
    matrix: npt.NDArray[np.float64],
    width: int,
    height: int,
    *,
    beyond: int | None = None,
) -> ImageArray:
    """(height, width[, 3]) uint8 whose pixel (x, y) is that of ``image`` at matrix @ (x, y, 1).

    ``matrix`` (2, 3). ``beyond``: the grey outside ``image``; None: its nearest pixel.
    """
    out = cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if beyond is None else cv2.BORDER_CONSTANT,
        borderValue=(beyond or 0,) * 3,
    )
    return np.asarray(out, np.uint8)


class Picture:
    """One upright picture; ``shape`` is (height, width) in pixels.

    Make one with :meth:`of` from an RGB array or with :meth:`from_frame` from a decoded frame.
    Arrays that come out are not to be written to.
    """

    def __init__(
        self, rgb: ImageArray | None, planes: tuple[ImageArray, ...], full_range: bool
    ) -> None:
        self._rgb = rgb
        self._planes = planes
        self._full = full_range
        tall, wide = (planes[0] if rgb is None else rgb).shape[:2]
        self.shape: tuple[int, int] = (tall, wide)

    @classmethod
    def of(cls, rgb: ImageArray) -> Picture:
        """From (H, W, 3) uint8 RGB."""
        return cls(rgb, (), True)

    @classmethod
    def from_frame(cls, frame: Any, max_side: int, *, aspect: float = 1.0) -> Picture:
        """From an ``av.VideoFrame``, its long side scaled down to ``max_side`` at most.

        ``aspect``: how much wider than high a pixel of the frame is meant to be; those of the
        picture are square, so that faces are not squeezed.
        """
        wide = frame.width if aspect == 1 else 2 * round(frame.width * aspect / 2)
        scale = min(1.0, max_side / max(wide, frame.height))
        width = max(2, round(wide * scale))
        height = max(2, round(frame.height * scale))
        turns = round(frame.rotation / 90) % 4
        area = "AREA" if scale < 1 else None
        if frame.format.name not in PLANAR or turns or width % 2 or height % 2:
            rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=area)
            return cls.of(np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb)
        full = frame.format.name == "yuvj420p" or frame.color_range == FULL_RANGE
        if (width, height) != (frame.width, frame.height):
            frame = frame.reformat(width, height, format=frame.format.name, interpolation=area)
        planes = []
        for i, plane in enumerate(frame.planes):
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            planes.append(rows[: height >> (i > 0), : width >> (i > 0)])
        return cls(None, tuple(planes), full)

    def rgb(self) -> ImageArray:
        """All of it, (H, W, 3) uint8 RGB."""
        if self._rgb is None:
            self._rgb = self._converted(*self._planes)
        return self._rgb

    def region(
        self, left: int, top: int, right: int, bottom: int, *, shrink: int = 1
    ) -> ImageArray:
        """(h, w, 3) uint8 RGB of a rectangle that lies within the picture.

        ``shrink``: squares of so many pixels become one; both sides hold whole ones.
        """
        if self._rgb is not None:
            return _averaged(self._rgb[top:bottom, left:right], shrink)
        y, u, v = self._planes
        x0, y0 = left // 2, top // 2
        x1, y1 = (right + 1) // 2, (bottom + 1) // 2
        out = self._converted(y[2 * y0 : 2 * y1, 2 * x0 : 2 * x1], u[y0:y1, x0:x1], v[y0:y1, x0:x1])
        out = out[top - 2 * y0 : bottom - 2 * y0, left - 2 * x0 : right - 2 * x0]
        return _averaged(out, shrink)

    def grey(self, left: int, top: int, right: int, bottom: int, *, shrink: int = 1) -> ImageArray:
        """(h, w) uint8 luma, 0..255, as :meth:`region`; an array of its own."""
        if self._rgb is not None:
            part = _averaged(self._rgb[top:bottom, left:right], shrink)
            return np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), np.uint8)
        part = _averaged(self._planes[0][top:bottom, left:right], shrink)
        return part.copy() if self._full else np.asarray(cv2.LUT(part, STRETCH), np.uint8)

    def small(self, shrink: int) -> ImageArray:
        """The whole picture brought down, (h, w, 3) uint8 RGB, h and w even and not 0.

        ``shrink``: squares of so many pixels become one; what is left over at the right and at
        the bottom is left out.
        """
        height, width = self._smaller(shrink)
        if self._rgb is not None:
            return _reduced(self._rgb, width, height, shrink)
        y, *colours = self._planes
        halves = (_reduced(c, width // 2, height // 2, shrink) for c in colours)
        return self._converted(_reduced(y, width, height, shrink), *halves)

    def sketch(self, shrink: int) -> ImageArray:
        """The whole picture as :meth:`small` has it, (h, w) uint8 luma 0..255.

        Two rows of each square count: a third of the time, to see whether pictures differ.
        """
        height, width = self._smaller(shrink)
        if self._rgb is not None:
            thin = _reduced(self._rgb, width, height, shrink, rows=2)
            return np.asarray(cv2.cvtColor(thin, cv2.COLOR_RGB2GRAY), np.uint8)
        thin = _reduced(self._planes[0], width, height, shrink, rows=2)
        return thin if self._full else np.asarray(cv2.LUT(thin, STRETCH), np.uint8)

    def _smaller(self, shrink: int) -> tuple[int, int]:
        height, width = (max(2, side // shrink // 2 * 2) for side in self.shape)
        return height, width

    def _converted(self, y: ImageArray, u: ImageArray, v: ImageArray) -> ImageArray:
        height, width = y.shape
        if self._full:
            size = (width, height)
            parts = [y, *(cv2.resize(c, size, interpolation=cv2.INTER_LINEAR) for c in (v, u))]
            return np.asarray(cv2.cvtColor(cv2.merge(parts), cv2.COLOR_YCrCb2RGB), np.uint8)
        count = y.size
        packed = np.empty(count + 2 * u.size, np.uint8)
        packed[:count].reshape(y.shape)[:] = y
        packed[count : count + u.size].reshape(u.shape)[:] = u
        packed[count + u.size :].reshape(v.shape)[:] = v
        whole = packed.reshape(height * 3 // 2, width)
        return np.asarray(cv2.cvtColor(whole, cv2.COLOR_YUV2RGB_I420), np.uint8)


def _averaged(image: ImageArray, shrink: int) -> ImageArray:
    """Squares of ``shrink`` pixels as one each; by halves where that goes, which is quick."""
    while shrink > 1:
        step = 2 if shrink % 2 == 0 else shrink
        size = (image.shape[1] // step, image.shape[0] // step)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        shrink //= step
    return image


def _reduced(
    image: ImageArray, width: int, height: int, shrink: int, rows: int | None = None
) -> ImageArray:
    image = image[: height * shrink, : width * shrink]
    whole = image.shape[:2] == (height * shrink, width * shrink)  # not where it is a few rows high
    if whole and (rows is None or rows >= shrink):
        return _averaged(image, shrink)
    thin = image[:: shrink // rows][: height * rows] if whole and rows is not None else image
    return np.asarray(cv2.resize(thin, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
