"""One clock: frames and samples of any media file, placed in seconds by their own time stamps.

Everything here is in seconds on the container's clock (``pts * time_base`` after ffmpeg has
applied edit lists and codec delay). Nothing is re-based, nothing is counted, nothing is
re-encoded: a file whose picture starts at 1.4 s yields a first frame at 1.4 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from avsync import demux
from avsync.demux import DecodeStats, seconds
from avsync.errors import MediaReadError

__all__ = [
    "AudioInfo",
    "AudioPiece",
    "DecodeStats",
    "Frame",
    "GridFrame",
    "MediaInfo",
    "VideoInfo",
    "iter_audio",
    "iter_frames",
    "iter_grid_frames",
    "probe",
    "read_audio",
]

GRID_HZ = 25.0
SAMPLE_RATE = 16_000
#: Audio time stamps may wander this far (s) from the sample count (muxers round them).
JITTER_S = 0.012
#: A picture holds for this long (s) at most; then there is none until the next one.
MAX_HOLD_S = 2.0
#: Decoding starts this much (s) before the wanted sound: Opus asks for 80 ms, MP3 borrows bits.
PREROLL_S = 0.1

FloatArray = npt.NDArray[np.float32]
ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video stream as stored (``width``, ``height`` before any rotation for display)."""

    index: int
    codec: str
    width: int
    height: int
    fps: float | None
    start_s: float
    attached_picture: bool


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """An audio stream; ``position`` counts audio streams only (what ``--audio-stream`` takes)."""

    index: int
    position: int
    codec: str
    sample_rate: int
    channels: int
    start_s: float
    language: str | None


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a container declares. Times in seconds on its clock; ``duration_s`` may be unknown."""

    path: str
    container: str
    start_s: float
    duration_s: float | None
    video: tuple[VideoInfo, ...]
    audio: tuple[AudioInfo, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: ``image`` (H, W, 3) uint8 RGB, upright, shown from ``pts_seconds`` on."""

    pts_seconds: float
    duration_seconds: float
    image: ImageArray


@dataclass(frozen=True, slots=True)
class GridFrame:
    """The picture nearest to ``time_s = tick / rate``; its own stamp is ``pts_seconds``."""

    tick: int
    time_s: float
    pts_seconds: float
    image: ImageArray


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


def probe(path: str | Path) -> MediaInfo:
    """Read what the container declares, decoding nothing.

    Raises:
        MediaNotFoundError: no such file. MediaReadError: not media.
    """
    with demux.opened(path) as container:
        video = tuple(
            VideoInfo(
                index=s.index,
                codec=c.name,
                width=c.width,
                height=c.height,
                fps=float(s.average_rate) if s.average_rate else None,
                start_s=seconds(s.start_time, s.time_base) or 0.0,
                attached_picture=demux.is_attached(s),
            )
            for s, c in demux.with_codecs(container.streams.video)
        )
        audio = tuple(
            AudioInfo(
                index=s.index,
                position=i,
                codec=c.name,
                sample_rate=c.sample_rate or 0,
                channels=c.channels or 0,
                start_s=seconds(s.start_time, s.time_base) or 0.0,
                language=s.language,
            )
            for i, (s, c) in enumerate(demux.with_codecs(container.streams.audio))
        )
        micro = 1e-6
        return MediaInfo(
            path=str(path),
            container=container.format.name,
            start_s=(container.start_time or 0) * micro,
            duration_s=container.duration * micro if container.duration else None,
            video=video,
            audio=audio,
        )


def _iter_video(
    path: str | Path, start_s: float | None, end_s: float | None, stats: DecodeStats
) -> Iterator[tuple[float, float, Any]]:
    """Yield (pts, duration, av.VideoFrame) in order of presentation, before any conversion."""
    with demux.opened(path) as container:
        stream = demux.pick_video(container, path)
        if start_s is not None:
            demux.seek_before(container, stream, start_s)
        for pts, duration, frame in demux.timed_frames(container, stream, stats):
            if start_s is not None and pts + duration <= start_s:
                continue
            if end_s is not None and pts >= end_s:
                return
            stats.video_end_s = pts + duration
            yield pts, duration, frame
        if end_s is None:
            demux.check_end(container, stream, stats.video_end_s, "picture", stats)


def _to_rgb(frame: Any, max_side: int) -> ImageArray:
    scale = min(1.0, max_side / max(frame.width, frame.height))
    width = max(2, round(frame.width * scale))
    height = max(2, round(frame.height * scale))
    image = frame.to_ndarray(
        format="rgb24", width=width, height=height, interpolation="AREA" if scale < 1 else None
    )
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def iter_frames(
    path: str | Path,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    max_side: int = 1920,
    stats: DecodeStats | None = None,
) -> Iterator[Frame]:
    """Yield every frame, upright, as RGB, its long side scaled down to ``max_side`` at most.

    Raises:
        MediaNotFoundError, MediaReadError: no such file, not media, no video stream.
    """
    for pts, duration, frame in _iter_video(path, start_s, end_s, stats or DecodeStats()):
        yield Frame(pts, duration, _to_rgb(frame, max_side))


def iter_grid_frames(
    path: str | Path,
    *,
    rate: float = GRID_HZ,
    start_s: float | None = None,
    end_s: float | None = None,
    max_side: int = 1920,
    stats: DecodeStats | None = None,
) -> Iterator[GridFrame]:
    """Sample the picture on the grid ``tick / rate`` by nearest time stamp.

    Ticks are absolute (tick 0 is time 0 of the container's clock) and consecutive; only where no
    frame comes for more than 4 s do they jump. A frame may serve several ticks (low frame rate) or
    none (high frame rate); frames that serve none are never converted.
    """
    held: tuple[float, float, Any] | None = None
    tick = 0
    for item in chain(_iter_video(path, start_s, end_s, stats or DecodeStats()), [None]):
        far = False
        if held is not None:
            end = held[0] + max(held[1], 1 / rate) / 2 if item is None else (held[0] + item[0]) / 2
            far = end > held[0] + MAX_HOLD_S
            image: ImageArray | None = None
            while tick / rate < min(end, held[0] + MAX_HOLD_S):
                if image is None:
                    image = _to_rgb(held[2], max_side)
                yield GridFrame(tick, tick / rate, held[0], image)
                tick += 1
        if item is not None and (held is None or far):
            tick = math.ceil((item[0] - 0.5 / rate) * rate - 1e-6)
        held = item


class _Timeline:
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
        if self.start is None or self.held <= keep:
            return
        joined = np.concatenate(self.parts)
        cut = len(joined) - keep
        for i in range(0, cut, self.size):
            part = joined[i : min(i + self.size, cut)]
            yield AudioPiece(self.start / self.rate, self.rate, part)
            self.start += len(part)
        self.parts, self.held = ([joined[cut:]] if keep else []), keep


def iter_audio(
    path: str | Path,
    *,
    audio_stream: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    piece_s: float = 10.0,
    start_s: float | None = None,
    end_s: float | None = None,
    stats: DecodeStats | None = None,
) -> Iterator[AudioPiece]:
    """Yield the sound as contiguous mono pieces of at most ``piece_s``, gaps filled with zeros.

    Args:
        audio_stream: which audio stream (0 is the first); default the one marked default.
        start_s, end_s: only this part (container's clock); the first piece may start a
            codec frame earlier or later.

    Raises:
        MediaNotFoundError, MediaReadError (no audio stream), InvalidOptionError.
    """
    stats = stats or DecodeStats()
    line = _Timeline(sample_rate, piece_s)
    with demux.opened(path) as container:
        stream = demux.pick_audio(container, path, audio_stream)
        if start_s is not None:
            demux.seek_before(container, stream, start_s - PREROLL_S)
        mono: _Mono | None = None
        layout: tuple[int, str, str] | None = None
        run_start = 0.0
        counted = 0
        filled = 0.0
        for frame in demux.decode(container, stream, stats):
            if not demux.usable_rate(frame, stats):
                continue
            expected = run_start + counted / frame.sample_rate
            pts = seconds(frame.pts, frame.time_base)
            jump = 0.0 if pts is None or mono is None else pts - expected
            if abs(jump) > demux.MAX_GAP_S or filled + jump > demux.MAX_GAP_S:
                stats.warn("some time stamps of the sound jump by hours; those were not believed")
                pts, jump = None, 0.0
            pts = expected if pts is None else pts
            filled += jump if jump > JITTER_S else 0.0
            if start_s is not None and pts + frame.samples / frame.sample_rate <= start_s:
                continue
            if end_s is not None and pts >= end_s:
                break
            kind = (frame.sample_rate, frame.format.name, frame.layout.name)
            if mono is None or kind != layout or abs(pts - expected) > JITTER_S:
                if mono is not None:
                    yield from mono.pour(None, line)
                mono = _Mono(sample_rate, frame.layout.nb_channels)
                layout, run_start, counted = kind, pts, 0
                yield from line.begin_run(pts)
            counted += frame.samples
            frame.pts = None
            yield from mono.pour(frame, line)
        if mono is not None:
            yield from mono.pour(None, line)
        yield from line.flush()
        if end_s is None:
            stats.audio_end_s = line.cursor / sample_rate if line.start is not None else None
            demux.check_end(container, stream, stats.audio_end_s, "sound", stats)


class _Mono:
    """One run of sound brought to one channel and the wanted sample rate."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        # Stereo is averaged (ffmpeg adds 3 dB); of more channels the centre keeps its level.
        self.gain = np.float32(math.sqrt(0.5) if channels == 2 else 1.0)

    def pour(self, frame: Any, line: _Timeline) -> Iterator[AudioPiece]:
        """Lay one decoded frame on the timeline; None pours out the rest."""
        try:
            outs = self.resampler.resample(frame)
        except av.FFmpegError as err:
            reason = demux.reason(err)
            raise MediaReadError(f"the sound cannot be resampled ({reason})") from err
        for out in outs:
            yield from line.append(out.to_ndarray().reshape(-1) * self.gain)


def read_audio(
    path: str | Path,
    *,
    audio_stream: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    start_s: float | None = None,
    end_s: float | None = None,
    stats: DecodeStats | None = None,
) -> AudioPiece:
    """The whole sound (or the part from ``start_s`` to ``end_s``) as one piece; see iter_audio."""
    pieces = list(
        iter_audio(
            path,
            audio_stream=audio_stream,
            sample_rate=sample_rate,
            start_s=start_s,
            end_s=end_s,
            stats=stats,
        )
    )
    if not pieces:
        raise MediaReadError(f"{path}: the audio stream holds no sound that can be decoded")
    samples = np.concatenate([p.samples for p in pieces])
    return AudioPiece(pieces[0].start_s, sample_rate, samples)
