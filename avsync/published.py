"""What the published models take in: their mels, cepstra, crops and windows, in numpy.

Everything here is at 25 frames/s and 16 kHz. Window ``f`` of the video is frames f … f + 4; the
audio window of frame ``f`` starts where that frame starts.

Sources: VocaLiST (Kadandale et al., Interspeech 2022) and MTDVocaLiST (Chen et al., ICASSP 2024)
for the log-mel and the half faces; SyncNet (Chung and Zisserman, ACCV-W 2016) for the full faces
and the cepstra, which are those of the python_speech_features package with its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from avsync.errors import InvalidOptionError
from avsync.mel import mel_filters

__all__ = [
    "CONVENTIONS",
    "FRAMES",
    "Convention",
    "audio_windows",
    "convention",
    "syncnet_crop",
    "syncnet_mfcc",
    "video_windows",
    "vocalist_mel",
]

FloatArray = npt.NDArray[np.float32]
Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]

SAMPLE_RATE = 16_000
#: Frames a video window holds.
FRAMES = 5
#: Rows transformed at once, so that memory does not grow with the sound's length.
_BLOCK = 2048


@dataclass(frozen=True, slots=True)
class Convention:
    """How a published model wants its input and gives its score.

    face: "half" (rows 48–95 of a 96×96 face: the model sees 48×96) or "full" (224×224).
    side: side of the square face crop in pixels before the halving.
    colour: order of the three channels. peak: the value of the brightest pixel, 255 or 1.
    stacked: True for (15, h, w), frame-major colours; False for (3, 5, h, w).
    audio: which features. bands, columns: shape of an audio window.
    columns_per_frame: feature columns a 25-Hz frame, as numerator and denominator.
    score: "logit" (larger is better) or "distance" (smaller is better).
    """

    face: Literal["half", "full"]
    side: int
    colour: Literal["rgb", "bgr"]
    peak: Literal[1, 255]
    stacked: bool
    audio: Literal["vocalist_mel", "syncnet_mfcc"]
    bands: int
    columns: int
    columns_per_frame: tuple[int, int]
    score: Literal["logit", "distance"]

    @property
    def video_shape(self) -> tuple[int, ...]:
        """Shape of one video window."""
        height = self.side // 2 if self.face == "half" else self.side
        picture = (height, self.side)
        return (3 * FRAMES, *picture) if self.stacked else (3, FRAMES, *picture)

    @property
    def audio_shape(self) -> tuple[int, int, int]:
        """Shape of one audio window: (1, bands, columns)."""
        return (1, self.bands, self.columns)

    def column(self, frame: int) -> int:
        """First feature column of the audio window of a frame: int(3.2 f), or 4 f."""
        numerator, denominator = self.columns_per_frame
        return frame * numerator // denominator

    def audio_count(self, columns: int) -> int:
        """How many frames have a whole audio window within so many feature columns."""
        numerator, denominator = self.columns_per_frame
        spare = columns - self.columns
        return 0 if spare < 0 else ((spare + 1) * denominator - 1) // numerator + 1


CONVENTIONS: dict[str, Convention] = {
    "vocalist": Convention("half", 96, "bgr", 1, True, "vocalist_mel", 80, 16, (16, 5), "logit"),
    "mtdvocalist": Convention(
        "half", 96, "rgb", 255, True, "vocalist_mel", 80, 16, (16, 5), "logit"
    ),
    "syncnet": Convention(
        "full", 224, "bgr", 255, False, "syncnet_mfcc", 13, 20, (4, 1), "distance"
    ),
}


def convention(arch: str) -> Convention:
    """The convention of a published architecture.

    Raises:
        InvalidOptionError: no such architecture.
    """
    if arch not in CONVENTIONS:
        raise InvalidOptionError(f"architecture {arch!r}: choose from {', '.join(CONVENTIONS)}")
    return CONVENTIONS[arch]


def _frames(
    samples: npt.NDArray[np.floating[Any]], size: int, hop: int
) -> npt.NDArray[np.floating[Any]]:
    """Every whole frame (n, size), a view."""
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def vocalist_mel(samples: FloatArray) -> FloatArray:
    """Log-mel of the VocaLiST family: (n,) float32 in ±1 at 16 kHz → (80, 1 + n // 200) float32.

    Column ``c`` is centred on sample 200 c. Periodic Hann window of 800 samples, reflected at
    both ends, magnitude, 80 Slaney bands from 55 to 7600 Hz, 20·log10 − 20 dB, mapped so that
    −100 … 0 dB becomes −4 … 4, and clipped there.

    Raises:
        ValueError: no samples.
    """
    size, hop = 800, 200
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"one-dimensional sound is needed, not shape {samples.shape}")
    padded = np.pad(samples.astype(np.float32, copy=False), size // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    filters = mel_filters(n_fft=size)
    frames = _frames(padded, size, hop)
    out = np.empty((filters.shape[1], len(frames)), np.float32)
    for i in range(0, len(frames), _BLOCK):
        magnitude = np.abs(np.fft.rfft(frames[i : i + _BLOCK] * window, axis=1))
        decibels = 20 * np.log10(np.maximum(magnitude @ filters, 1e-5)) - 20
        out[:, i : i + _BLOCK] = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).T
    return out


@cache
def _mfcc_filters() -> npt.NDArray[np.float64]:
    """26 HTK-scale triangles on the bins of a 512-point FFT: (257, 26), corners on whole bins."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, 28) / 2595) - 1)
    corners = np.floor(513 * hertz / SAMPLE_RATE)
    bins = np.arange(257)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    inside = np.where(bins < centre, rising, falling)
    filters: npt.NDArray[np.float64] = np.where((bins >= left) & (bins < right), inside, 0.0)
    return filters


@cache
def _cepstral_matrix() -> npt.NDArray[np.float64]:
    """Orthonormal DCT-II of 26 bands to 13 cepstra, with lifter 22: (26, 13)."""
    order = np.arange(13)
    matrix = np.cos(np.pi * order[None] * (2 * np.arange(26)[:, None] + 1) / 52) * np.sqrt(2 / 26)
    matrix[:, 0] /= np.sqrt(2)
    lifted: npt.NDArray[np.float64] = matrix * (1 + 11 * np.sin(np.pi * order / 22))
    return lifted


def syncnet_mfcc(samples: Samples) -> FloatArray:
    """Cepstra of SyncNet: (n,) at 16 kHz, float32 in ±1 or int16 → (13, columns) float32.

    Column ``c`` covers samples 160 c … 160 c + 399; zeros follow the last sample. Floats are
    rounded to int16 first, as the published pipeline reads a 16-bit file. Row 0 is the log energy.

    Raises:
        ValueError: no samples.
    """
    size, hop = 400, 160
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"one-dimensional sound is needed, not shape {samples.shape}")
    if samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    count = 1 + max(0, -(-(len(samples) - size) // hop))
    out = np.empty((13, count), np.float32)
    tiny = np.finfo(np.float64).eps
    for i in range(0, count, _BLOCK):
        n = min(_BLOCK, count - i)
        start, stop = i * hop, (i + n - 1) * hop + size
        piece = samples[max(start - 1, 0) : stop].astype(np.float64)
        sharp = piece[1:] - 0.97 * piece[:-1]  # pre-emphasis; the first sample of all stays
        sharp = sharp if start else np.concatenate([piece[:1], sharp])
        sharp = np.concatenate([sharp, np.zeros(stop - start - len(sharp))])
        power = np.abs(np.fft.rfft(_frames(sharp, size, hop), 512, axis=1)) ** 2 / 512
        energy = power.sum(axis=1)
        bands = power @ _mfcc_filters()
        cepstra = np.log(np.where(bands == 0, tiny, bands)) @ _cepstral_matrix()
        cepstra[:, 0] = np.log(np.where(energy == 0, tiny, energy))
        out[:, i : i + n] = cepstra.T
    return out


def video_windows(
    faces: npt.NDArray[np.uint8], first: int, last: int, taken: Convention
) -> FloatArray:
    """Video windows first … last − 1 of consecutive face crops: (last − first, *video_shape).

    faces: (n, side, side, 3) uint8 RGB at 25 Hz. Window ``f`` is frames f … f + 4, so that
    ``last`` is at most n − 4.

    Raises:
        ValueError: crops of another size, or windows beyond the last crop.
    """
    if faces.shape[1:] != (taken.side, taken.side, 3):
        raise ValueError(f"face crops must be (n, {taken.side}, {taken.side}, 3): {faces.shape}")
    if not 0 <= first <= last <= len(faces) - FRAMES + 1:
        raise ValueError(f"windows {first} … {last} of {len(faces)} crops do not exist")
    rows = slice(taken.side // 2, None) if taken.face == "half" else slice(None)
    used = faces[first : last + FRAMES - 1, rows]
    if taken.colour == "bgr":
        used = used[..., ::-1]
    pictures = used.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255 / taken.peak)
    index = np.arange(last - first)[:, None] + np.arange(FRAMES)
    windows: FloatArray = pictures[index]  # (windows, frames, colours, height, width)
    if taken.stacked:
        return windows.reshape(len(windows), *taken.video_shape)
    return np.ascontiguousarray(windows.swapaxes(1, 2))


def audio_windows(features: FloatArray, first: int, last: int, taken: Convention) -> FloatArray:
    """Audio windows of frames first … last − 1: (last − first, 1, bands, columns) float32.

    features: (bands, n), whose column 0 lies at the start of frame 0; windows must be whole:
    ``last`` is at most ``taken.audio_count(n)``.

    Raises:
        ValueError: features of another kind, or windows beyond the last column.
    """
    if features.ndim != 2 or features.shape[0] != taken.bands:
        raise ValueError(f"features must be ({taken.bands}, n), not {features.shape}")
    if not 0 <= first <= last <= taken.audio_count(features.shape[1]):
        raise ValueError(f"windows {first} … {last} of {features.shape[1]} columns do not exist")
    starts = np.array([taken.column(frame) for frame in range(first, last)], np.intp)
    index = starts[:, None] + np.arange(taken.columns)
    windows = features[:, index].transpose(1, 0, 2)[:, None]
    return np.ascontiguousarray(windows, np.float32)


def syncnet_crop(
    box: tuple[float, float, float, float], scale: float = 0.4
) -> tuple[float, float, float, float]:
    """The square that SyncNet sees around a face box, both as (left, top, right, bottom) pixels.

    With r half the longer side of the box: r (1 + scale) to either side of its centre, r above
    it and r (1 + 2 scale) below. Outside the picture the published pipeline paints grey 110, and
    it smooths centre and r over 13 frames by a running median before.
    """
    left, top, right, bottom = box
    r = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - r * (1 + scale), y - r, x + r * (1 + scale), y + r * (1 + 2 * scale)
