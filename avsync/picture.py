"""A decoded picture that is converted only where it is looked at.

Most of a large picture is nobody's face: bringing all of it to RGB costs as much as decoding it.
A :class:`Picture` keeps the decoder's planes and converts regions, or a small copy, on demand.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ImageArray", "Picture"]

ImageArray = npt.NDArray[np.uint8]

#: Formats whose planes are read as they are: full-size luma, chroma halved both ways.
PLANAR = ("yuv420p", "yuvj420p")
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
#: Luma 16..235 to 0..255.
STRETCH = (((np.arange(256) - 16) * (255 / 219)).round().clip(0, 255)).astype(np.uint8)


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
    def from_frame(cls, frame: Any, max_side: int) -> Picture:
        """From an ``av.VideoFrame``, its long side scaled down to ``max_side`` at most."""
        scale = min(1.0, max_side / max(frame.width, frame.height))
        width = max(2, round(frame.width * scale))
        height = max(2, round(frame.height * scale))
        turns = round(frame.rotation / 90) % 4
        area = "AREA" if scale < 1 else None
        if frame.format.name not in PLANAR or turns or width % 2 or height % 2:
            rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=area)
            return cls.of(np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb)
        full = frame.format.name == "yuvj420p" or frame.color_range == FULL_RANGE
        if scale < 1:
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

    def region(self, left: int, top: int, right: int, bottom: int) -> ImageArray:
        """(h, w, 3) uint8 RGB of a rectangle that lies within the picture."""
        if self._rgb is not None:
            return self._rgb[top:bottom, left:right]
        y, u, v = self._planes
        x0, y0 = left // 2, top // 2
        x1, y1 = (right + 1) // 2, (bottom + 1) // 2
        out = self._converted(y[2 * y0 : 2 * y1, 2 * x0 : 2 * x1], u[y0:y1, x0:x1], v[y0:y1, x0:x1])
        return out[top - 2 * y0 : bottom - 2 * y0, left - 2 * x0 : right - 2 * x0]

    def grey(self, left: int, top: int, right: int, bottom: int) -> ImageArray:
        """(h, w) uint8 luma, 0..255, of a rectangle that lies within the picture."""
        if self._rgb is not None:
            part = self._rgb[top:bottom, left:right]
            return np.asarray(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), np.uint8)
        part = self._planes[0][top:bottom, left:right]
        part = np.ascontiguousarray(part)
        return part if self._full else np.asarray(cv2.LUT(part, STRETCH), np.uint8)

    def small(self, width: int, height: int, *, step: int = 1) -> ImageArray:
        """The whole picture brought down to (height, width, 3) uint8 RGB, both sides even.

        ``step``: only every so many-th pixel of every so many-th row goes into it.
        """
        if self._rgb is not None:
            return _shrunk(self._rgb[::step, ::step], width, height)
        y, u, v = self._planes
        half = max(1, step // 2)
        return self._converted(
            _shrunk(y[::step, ::step], width, height),
            _shrunk(u[::half, ::half], width // 2, height // 2),
            _shrunk(v[::half, ::half], width // 2, height // 2),
        )

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


def _shrunk(image: ImageArray, width: int, height: int) -> ImageArray:
    tall, wide = image.shape[:2]
    if (wide, tall) == (width, height):
        return image
    way = cv2.INTER_AREA if wide >= width and tall >= height else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=way)
    return np.asarray(small, np.uint8)
