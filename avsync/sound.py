"""Sound on one clock: decoded frames laid out as mono pieces at the wanted rate, gaps filled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from avsync import demux
from avsync.demux import DecodeStats
from avsync.errors import MediaReadError

__all__ = ["SAMPLE_RATE", "AudioPiece", "SoundLine", "Timeline"]

SAMPLE_RATE = 16_000
#: Audio time stamps may wander this far (s) from the sample count (muxers round them).
JITTER_S = 0.012

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """Mono float32 samples, full scale 1; sample ``i`` sounds at ``start_s + i / sample_rate``."""

    start_s: float
    sample_rate: int
    samples: FloatArray

    @property
    def end_s(self) -> float:
        """Time just after the last sample, s."""
        return self.start_s + len(self.samples) / self.sample_rate


class Timeline:
    """Lays runs of samples on an absolute sample grid and cuts it into pieces."""

    def __init__(self, sample_rate: int, piece_s: float) -> None:
        self.rate = sample_rate
        self.size = max(1, int(piece_s * sample_rate + 1e-6))
        self.start: int | None = None
        self.cursor = 0
        self.skip = 0
        self.parts: list[FloatArray] = []
        self.held = 0

    def begin_run(self, start_s: float) -> Iterator[AudioPiece]:
        """Let the next samples start at ``start_s``: zeros in a gap, an overlap is cut off."""
        position = round(start_s * self.rate)
        if self.start is None:
            self.start = self.cursor = position
        gap = position - self.cursor
        self.skip = max(0, -gap)
        while gap > 0:
            n = min(gap, self.size)
            yield from self.append(np.zeros(n, np.float32))
            gap -= n

    def append(self, samples: FloatArray) -> Iterator[AudioPiece]:
        """Add (n,) samples; yield the pieces that became full."""
        if self.skip:
            n = min(self.skip, len(samples))
            self.skip -= n
            samples = samples[n:]
        if not len(samples):
            return
        self.parts.append(samples)
        self.held += len(samples)
        self.cursor += len(samples)
        if self.held >= self.size:
            yield from self.flush(keep=self.held % self.size)

    def flush(self, keep: int = 0) -> Iterator[AudioPiece]:
        """Yield what is held, all but the last ``keep`` samples."""
        if self.start is None or self.held <= keep:
            return
        joined = np.concatenate(self.parts)
        cut = len(joined) - keep
        for i in range(0, cut, self.size):
            part = joined[i : min(i + self.size, cut)]
            yield AudioPiece(self.start / self.rate, self.rate, part)
            self.start += len(part)
        self.parts, self.held = ([joined[cut:]] if keep else []), keep


class _Mono:
    """One run of sound brought to one channel and the wanted sample rate."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        # Stereo is averaged (ffmpeg adds 3 dB); of more channels the centre keeps its level.
        self.gain = np.float32(math.sqrt(0.5) if channels == 2 else 1.0)

    def pour(self, frame: Any, line: Timeline) -> Iterator[AudioPiece]:
        """Lay one decoded frame on the timeline; None pours out the rest."""
        try:
            outs = self.resampler.resample(frame)
        except av.FFmpegError as err:
            reason = demux.reason(err)
            raise MediaReadError(f"the sound cannot be resampled ({reason})") from err
        for out in outs:
            yield from line.append(out.to_ndarray().reshape(-1) * self.gain)


class SoundLine:
    """Lays decoded frames on an absolute sample grid by their stamps, as contiguous pieces.

    Args:
        sample_rate: of what comes out, Hz. piece_s: length of a piece at most, s.
    """

    def __init__(self, sample_rate: int, piece_s: float) -> None:
        self._line = Timeline(sample_rate, piece_s)
        self._mono: _Mono | None = None
        self._kind: tuple[int, str, str] | None = None
        self._start = self._expected = 0.0
        self._counted = 0
        self._filled = 0.0

    @property
    def end_s(self) -> float | None:
        """Time just after the last sample laid down, s; None before the first."""
        line = self._line
        return line.cursor / line.rate if line.start is not None else None

    def stamp(self, pts: float | None, stats: DecodeStats) -> float:
        """The time (s) to place the next frame at: its own, unless that is missing or absurd."""
        jump = 0.0 if pts is None or self._mono is None else pts - self._expected
        if abs(jump) > demux.MAX_GAP_S or self._filled + jump > demux.MAX_GAP_S:
            stats.warn("some time stamps of the sound jump by hours; those were not believed")
            pts, jump = None, 0.0
        self._filled += jump if jump > JITTER_S else 0.0
        return self._expected if pts is None else pts

    def push(self, frame: av.AudioFrame, pts: float) -> Iterator[AudioPiece]:
        """Lay down a frame that starts at ``pts`` (s); yield the pieces that became full."""
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        if self._mono is None or kind != self._kind or abs(pts - self._expected) > JITTER_S:
            if self._mono is not None:
                yield from self._mono.pour(None, self._line)
            self._mono = _Mono(self._line.rate, frame.layout.nb_channels)
            self._kind, self._start, self._counted = kind, pts, 0
            yield from self._line.begin_run(pts)
        self._counted += frame.samples
        self._expected = self._start + self._counted / frame.sample_rate
        frame.pts = None
        yield from self._mono.pour(frame, self._line)

    def close(self) -> Iterator[AudioPiece]:
        """Yield the rest."""
        if self._mono is not None:
            yield from self._mono.pour(None, self._line)
        yield from self._line.flush()
