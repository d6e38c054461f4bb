"""Frames and sound that a program holds, placed on one clock as a file's would be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from avsync.crops import CROP_HEIGHT, CROP_WIDTH, EYE_DISTANCE_PX, CropChunk, crop_of
from avsync.errors import InvalidArrayError
from avsync.grid import GRID_HZ, STALE_S, FrameGrid, GridFrame, ImageArray
from avsync.repeats import thinned
from avsync.sound import SAMPLE_RATE, AudioPiece, SoundLine

__all__ = [
    "MOUTH_WIDTH",
    "check_frame",
    "check_sample_rate",
    "check_samples",
    "grid_frames",
    "mouth_crops",
    "sound_pieces",
    "to_audio_frame",
]

MAX_SIDE = 1920
#: Layouts that ffmpeg mixes down properly; other counts of channels are averaged.
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
MAX_CHANNELS = 32
SAMPLE_RATES = (4_000, 384_000)
#: A float sample beyond this is no sample of full scale 1.
MAX_LEVEL = 8.0
#: Samples that are taken at once.
BLOCK = 4 * SAMPLE_RATE
CHUNK = 250
MOUTH_WIDTH = 96 / EYE_DISTANCE_PX
"""Width of a mouth crop as the bundled model sees it, in distances of the outer eye corners."""


def check_frame(frame: Any, number: int) -> ImageArray:
    """The frame, when it is a picture: (H, W, 3) uint8 RGB, its long side at most 1920.

    Raises:
        InvalidArrayError: anything else; larger pictures are scaled down.
    """
    image = np.asarray(frame)
    if image.dtype != np.uint8:
        hint = "; multiply by 255" if image.dtype.kind == "f" else ""
        raise InvalidArrayError(
            f"frame {number} is {image.dtype}; frames must be uint8 RGB, 0 to 255{hint}"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InvalidArrayError(
            f"frame {number} has the shape {image.shape}; frames must be (height, width, 3) RGB"
        )
    scale = MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(image)


def _stamps(fps: Any, pts: Any) -> Iterator[float]:
    """Time stamps (s) of the frames, checked as they come."""
    if (fps is None) == (pts is None):
        both = "both were" if fps is not None else "neither was"
        raise InvalidArrayError(
            f"the frames' times must be given by either fps or pts (seconds); {both} given"
        )
    if fps is not None:
        if not (isinstance(fps, numbers.Real) and 0.5 <= float(fps) <= 1000):
            raise InvalidArrayError(f"fps must be a number from 0.5 to 1000, not {fps!r}")
        return (n / float(fps) for n, _ in enumerate(repeat(None)))
    if isinstance(pts, (str, bytes)) or not isinstance(pts, Iterable):
        raise InvalidArrayError(f"pts must hold one time in seconds a frame, not {pts!r}")
    if isinstance(pts, np.ndarray) and pts.ndim != 1:
        raise InvalidArrayError(f"pts has the shape {pts.shape}; one time a frame is needed")
    return _rising(pts)


def _rising(pts: Iterable[Any]) -> Iterator[float]:
    last = -math.inf
    for n, value in enumerate(pts):
        try:
            time_s = float(value)
        except (TypeError, ValueError) as err:
            raise InvalidArrayError(f"pts[{n}] is {value!r}, not a time in seconds") from err
        if not math.isfinite(time_s):
            raise InvalidArrayError(f"pts[{n}] is {time_s}, not a time in seconds")
        if time_s <= last:
            raise InvalidArrayError(
                f"pts must rise from frame to frame: pts[{n}] is {time_s:g} s after {last:g} s"
            )
        last = time_s
        yield time_s


def _check_stack(frames: Any, what: str, dims: tuple[int, ...], shape: str) -> Any:
    if isinstance(frames, np.ndarray):
        if frames.ndim not in dims or 0 in frames.shape:
            raise InvalidArrayError(
                f"{what} has the shape {frames.shape}; it must be {shape}, or give an iterator"
            )
    elif isinstance(frames, (str, bytes)) or not isinstance(frames, Iterable):
        raise InvalidArrayError(f"{what} must be an array {shape} or an iterator, not {frames!r}")
    return frames


def _paired(images: Iterable[Any], stamps: Iterator[float]) -> Iterator[tuple[float, Any]]:
    """(time, frame); as many times as frames, or an error."""
    for n, image in enumerate(images):
        try:
            yield next(stamps), image
        except StopIteration:
            raise InvalidArrayError(
                f"pts holds {n} times, but there are more frames; one a frame is needed"
            ) from None


def _check_spent(count: int, stamps: Iterator[float], endless: bool) -> None:
    if count == 0:
        raise InvalidArrayError("there are no frames")
    if not endless and next(stamps, None) is not None:
        raise InvalidArrayError(f"pts holds more times than there are frames ({count})")


def _on_grid(
    images: Iterable[Any], fps: float | None, pts: Any
) -> Iterator[tuple[int, float, Any, int]]:
    """(tick, stamp, frame, its number): each tick's nearest frame."""
    stamps = _stamps(fps, pts)
    grid: FrameGrid[tuple[int, Any]] = FrameGrid()
    count, last, usual = 0, None, 1 / GRID_HZ
    for time_s, image in _paired(images, stamps):
        usual = usual if last is None else time_s - last
        for tick, stamp, (number, held) in grid.push(time_s, usual, (count, image), _look(image)):
            yield tick, stamp, held, number
        count, last = count + 1, time_s
    _check_spent(count, stamps, fps is not None)
    for tick, stamp, (number, held) in grid.close():
        yield tick, stamp, held, number


def _look(image: Any) -> ImageArray | None:
    """What :class:`FrameGrid` compares, of what may not have been checked yet."""
    picture = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size > 0
    return thinned(image) if picture and image.ndim in (2, 3) else None


def grid_frames(
    frames: npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]],
    *,
    fps: float | None = None,
    pts: Iterable[float] | None = None,
) -> Iterator[GridFrame]:
    """Sample frames on the 25-Hz grid by nearest stamp, as a file's are.

    Args:
        frames: (T, H, W, 3) uint8 RGB, or an iterator over (H, W, 3).
        fps: frames a second; frame ``i`` is at ``i / fps`` s. pts: or each frame's time, s.

    Raises:
        InvalidArrayError: a frame is no picture, or the times make no sense.
    """
    images = _check_stack(frames, "frames", (4,), "(frames, height, width, 3)")
    known: tuple[int, ImageArray] | None = None
    for tick, stamp, image, number in _on_grid(images, fps, pts):
        if known is None or known[0] != number:
            known = number, check_frame(image, number)
        yield GridFrame(tick, tick / GRID_HZ, stamp, known[1])


def check_sample_rate(sample_rate: Any) -> int:
    """A sample rate in Hz.

    Raises:
        InvalidArrayError: no whole number from 4,000 to 384,000.
    """
    if sample_rate is None:
        raise InvalidArrayError("the audio's sample_rate (Hz) must be given")
    low, high = SAMPLE_RATES
    whole = isinstance(sample_rate, numbers.Real) and float(sample_rate).is_integer()
    if isinstance(sample_rate, bool) or not whole or not low <= sample_rate <= high:
        raise InvalidArrayError(
            f"sample_rate must be a whole number of Hz from {low} to {high}, not {sample_rate!r}"
        )
    return int(sample_rate)


def check_samples(audio: Any) -> npt.NDArray[Any]:
    """Samples as (N, channels) float32 or int16.

    Args:
        audio: (N,) or (N, channels); float of full scale 1, or int16.

    Raises:
        InvalidArrayError: another type or shape, NaN, or floats that are no samples.
    """
    samples = np.asarray(audio)
    if samples.dtype not in (np.float32, np.float64, np.int16):
        raise InvalidArrayError(
            f"the audio is {samples.dtype}; it must be int16, or float32 or float64 in -1 to 1"
        )
    if samples.ndim not in (1, 2):
        raise InvalidArrayError(
            f"the audio has the shape {samples.shape}; it must be (samples,) or (samples, channels)"
        )
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise InvalidArrayError(
            f"the audio has the shape {samples.shape}: {samples.shape[1]} channels; "
            "it must be (samples, channels), transpose it?"
        )
    if samples.dtype != np.int16:
        bad = ~np.isfinite(samples)
        if bad.any():
            n = int(np.flatnonzero(bad.reshape(len(samples), -1).any(1))[0])
            raise InvalidArrayError(f"the audio holds NaN or infinity, first in sample {n}")
        top = float(np.abs(samples).max(initial=0.0))
        if top > MAX_LEVEL:
            raise InvalidArrayError(
                f"the audio reaches {top:g}; float samples must lie in -1 to 1 "
                "(divide by 32768, or give int16)"
            )
        samples = samples.astype(np.float32, copy=False)
    return samples if samples.ndim == 2 else samples[:, None]


def to_audio_frame(samples: npt.NDArray[Any], sample_rate: int) -> av.AudioFrame:
    """Checked samples (N, channels) as a frame of ffmpeg's."""
    if samples.shape[1] not in LAYOUTS:
        full = 32768.0 if samples.dtype == np.int16 else 1.0
        samples = (samples.mean(1, keepdims=True) / full).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples).reshape(1, -1),
        format="s16" if samples.dtype == np.int16 else "flt",
        layout=LAYOUTS[samples.shape[1]],
    )
    frame.sample_rate = sample_rate
    return frame


def sound_pieces(
    audio: npt.NDArray[Any], *, sample_rate: int | None, start_s: float = 0.0
) -> Iterator[AudioPiece]:
    """Samples as mono pieces at 16 kHz, by the way a file's sound takes.

    Args:
        audio: (N,) or (N, channels), float32 or float64 in -1 to 1, or int16.
        start_s: time of the first sample on the frames' clock.

    Raises:
        InvalidArrayError: see :func:`check_samples` and :func:`check_sample_rate`.
    """
    samples, rate = check_samples(audio), check_sample_rate(sample_rate)
    if not math.isfinite(start_s):
        raise InvalidArrayError(f"audio_start_s must be a time in seconds, not {start_s}")
    line = SoundLine(SAMPLE_RATE, 10.0)
    for i in range(0, len(samples), BLOCK):
        yield from line.push(to_audio_frame(samples[i : i + BLOCK], rate), start_s + i / rate)
    yield from line.close()


def mouth_crops(
    mouths: npt.NDArray[Any] | Iterable[npt.NDArray[Any]],
    *,
    fps: float | None = None,
    pts: Iterable[float] | None = None,
    valid: Any = None,
    width_in_eyes: float = MOUTH_WIDTH,
) -> Iterator[CropChunk]:
    """A caller's mouth crops on the 25-Hz grid, scaled to the house's crop.

    Args:
        mouths: (T, H, W), (T, H, W, 1) grey or (T, H, W, 3) RGB; uint8, or float in 0 to 1.
        valid: (T,) bool, False where the mouth was not seen; default all True.
        width_in_eyes: width of a crop in distances between the outer eye corners.

    Raises:
        InvalidArrayError: as for frames.
    """
    images = _check_stack(mouths, "mouths", (3, 4), "(frames, height, width[, 3])")
    if not (math.isfinite(width_in_eyes) and 0.2 <= width_in_eyes <= 10):
        raise InvalidArrayError(f"width_in_eyes must be from 0.2 to 10, not {width_in_eyes}")
    if valid is not None:
        valid = np.asarray(valid)
        if valid.dtype != np.bool_ or valid.ndim != 1:
            raise InvalidArrayError(
                f"valid must hold one bool a crop, not {valid.dtype} of the shape {valid.shape}"
            )
        if isinstance(mouths, np.ndarray) and len(valid) != len(mouths):
            raise InvalidArrayError(f"valid holds {len(valid)} flags for {len(mouths)} crops")
    known: tuple[int, ImageArray, tuple[int, ...]] | None = None
    track = 0
    ready: list[tuple[int, ImageArray, bool, tuple[int, ...], float]] = []
    for tick, stamp, image, number in _on_grid(images, fps, pts):
        if known is None or known[0] != number:
            grey = _grey(image, number)
            known = number, _house_crop(grey, width_in_eyes), grey.shape
        age = tick / GRID_HZ - stamp
        seen = abs(age) <= STALE_S
        if valid is not None:
            if number >= len(valid):
                raise InvalidArrayError(f"valid holds {len(valid)} flags; there are more crops")
            seen = seen and bool(valid[number])
        jumped = bool(ready) and tick != ready[-1][0] + 1
        if jumped or len(ready) == CHUNK:
            yield _chunk(ready, track, width_in_eyes, last=jumped)
            track, ready = track + jumped, []
        ready.append((tick, known[1], seen, known[2], age))
    if ready:
        yield _chunk(ready, track, width_in_eyes, last=True)


def _grey(crop: Any, number: int) -> ImageArray:
    image = np.asarray(crop)
    colour = image.ndim == 3 and image.shape[2] in (1, 3)
    if not (image.ndim == 2 or colour) or 0 in image.shape:
        raise InvalidArrayError(
            f"crop {number} has the shape {image.shape}; crops must be (height, width), grey, "
            "or (height, width, 3), RGB"
        )
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= -0.01 and image.max() <= 1.01):
            raise InvalidArrayError(f"crop {number}: float crops must lie in 0 to 1")
        image = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise InvalidArrayError(
            f"crop {number} is {image.dtype}; crops must be uint8, or float in 0 to 1"
        )
    if colour:
        if image.shape[2] == 3:
            image = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY))
        else:
            image = image[:, :, 0]
    return np.ascontiguousarray(image)


def _house_crop(grey: ImageArray, width_in_eyes: float) -> ImageArray:
    """The crop scaled about its centre to (CROP_HEIGHT, CROP_WIDTH); its edge goes on outside."""
    zoom = EYE_DISTANCE_PX * width_in_eyes / grey.shape[1]
    if zoom < 0.75:
        size = (max(1, round(grey.shape[1] * zoom)), max(1, round(grey.shape[0] * zoom)))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        zoom = 1.0
    middle = np.array([(CROP_WIDTH - 1) / 2, (CROP_HEIGHT - 1) / 2])
    own = np.array([(grey.shape[1] - 1) / 2, (grey.shape[0] - 1) / 2])
    matrix = np.column_stack([np.eye(2) / zoom, own - middle / zoom])
    return crop_of(grey, matrix)


def _chunk(
    ready: list[tuple[int, ImageArray, bool, tuple[int, ...], float]],
    track: int,
    width: float,
    *,
    last: bool,
) -> CropChunk:
    n = len(ready)
    boxes = np.array([(0, 0, shape[1], shape[0]) for *_, shape, _ in ready], np.float32)
    return CropChunk(
        track=track,
        first=ready[0][0],
        crops=np.stack([crop for _, crop, *_ in ready]),
        valid=np.array([seen for _, _, seen, *_ in ready], bool),
        boxes=boxes,
        opening=np.full(n, np.nan, np.float32),
        eye_px=boxes[:, 2] / np.float32(width),
        ages=np.array([age for *_, age in ready], np.float32),
        last=last,
    )
