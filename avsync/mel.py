"""Log-mel features of the avsync models, in numpy.

16 kHz mono in; 80 bands from 55 to 7600 Hz (Slaney scale and area normalisation), 25 ms Hann
windows (400 samples in a 512-point FFT) every 10 ms, natural log of the magnitude, floored.
Column ``c`` is centred on sample ``160 * c``: times are those of the samples, no delay.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "FLOOR",
    "HOP",
    "MEL_BANDS",
    "MEL_HZ",
    "N_FFT",
    "SAMPLE_RATE",
    "MelStream",
    "log_mel",
    "mel_filters",
    "mel_window",
]

SAMPLE_RATE = 16_000
HOP = 160
MEL_HZ = SAMPLE_RATE // HOP
MEL_BANDS = 80
N_FFT = 512
WINDOW = 400
FLOOR = 1e-5
#: Columns that are computed at once: of 2.6 s, some 2 MB.
BLOCK = 256

FloatArray = npt.NDArray[np.float32]


def _hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = hz * 3 / 200
    return np.where(hz < 1000, linear, 15 + np.log(np.maximum(hz, 1e-9) / 1000) * 27 / np.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@cache
def mel_filters(
    *,
    sample_rate: int = SAMPLE_RATE,
    n_fft: int = N_FFT,
    bands: int = MEL_BANDS,
    f_min: float = 55.0,
    f_max: float = 7600.0,
) -> FloatArray:
    """Triangular filters (n_fft // 2 + 1, bands), Slaney scale, each of unit area in Hz."""
    freqs = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    low, high = (float(v) for v in _hz_to_mel(np.array([f_min, f_max])))
    edges = np.linspace(low, high, bands + 2)
    points = _mel_to_hz(edges)
    widths = np.diff(points)
    slopes = points[None, :] - freqs[:, None]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    out: FloatArray = (triangles * (2 / (points[2:] - points[:-2]))).astype(np.float32)
    return out


@cache
def mel_window() -> FloatArray:
    """The Hann window in the middle of an FFT frame, (N_FFT,)."""
    window = np.zeros(N_FFT, np.float32)
    start = (N_FFT - WINDOW) // 2
    window[start : start + WINDOW] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return window


def _columns(samples: FloatArray) -> FloatArray:
    """Mel of every whole FFT frame in ``samples``, hop 160, no padding."""
    if not samples.any():
        columns = max(0, (len(samples) - N_FFT) // HOP + 1)
        return np.full((columns, MEL_BANDS), np.log(np.float32(FLOOR)), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP]
    out = np.empty((len(frames), MEL_BANDS), np.float32)
    for i in range(0, len(frames), BLOCK):
        spectrum = np.abs(np.fft.rfft(frames[i : i + BLOCK] * mel_window(), axis=1))
        out[i : i + BLOCK] = np.log(np.maximum(spectrum.astype(np.float32) @ mel_filters(), FLOOR))
    return out


class MelStream:
    """Log-mel of sound that comes in pieces, on absolute columns.

    Column ``c`` is centred on time ``c / 100`` s of the container's clock, whatever the first
    sample's time; before the first and after the last sample there are zeros.

    Args:
        start_s: time of the first sample, s.
    """

    def __init__(self, start_s: float) -> None:
        position = round(start_s * SAMPLE_RATE)
        #: First column that will come out.
        self.first = -(-position // HOP)
        lead = position - (self.first * HOP - N_FFT // 2)
        self._buffer = np.zeros(lead, np.float32)

    def push(self, samples: FloatArray) -> FloatArray:
        """Add (n,) float32 samples at 16 kHz; get the (m, 80) columns that became complete."""
        self._buffer = np.concatenate([self._buffer, np.asarray(samples, np.float32)])
        if len(self._buffer) < N_FFT:
            return np.empty((0, MEL_BANDS), np.float32)
        out = _columns(self._buffer)
        self._buffer = self._buffer[len(out) * HOP :]
        return out

    def close(self) -> FloatArray:
        """The last columns, whose frames reach beyond the last sample."""
        return self.push(np.zeros(N_FFT // 2, np.float32))


def log_mel(samples: FloatArray) -> FloatArray:
    """Log-mel of (n,) float32 samples at 16 kHz: (1 + n // 160, 80) float32.

    Column ``c`` is centred on sample ``160 c``, that is ``c / 100`` s after the first sample.
    """
    stream = MelStream(0.0)
    return np.concatenate([stream.push(samples), stream.close()])
