"""One clock: frames and samples of any media file, placed in seconds by their own time stamps.

Everything here is in seconds on the container's clock (``pts * time_base`` after ffmpeg has
applied edit lists and codec delay). Nothing is re-based, nothing is counted, nothing is
re-encoded: a file whose picture starts at 1.4 s yields a first frame at 1.4 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsync import demux
from avsync.demux import DecodeStats, seconds
from avsync.errors import MediaReadError
from avsync.grid import GRID_HZ, FrameGrid, GridFrame, ImageArray
from avsync.picture import Picture
from avsync.repeats import frame_look
from avsync.sound import SAMPLE_RATE, AudioPiece, SoundLine

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
    "key_before",
    "probe",
    "read_audio",
    "to_rgb",
]

#: Decoding starts this much (s) before the wanted sound: Opus asks for 80 ms, MP3 borrows bits.
PREROLL_S = 0.1


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
    """An audio stream; ``position`` counts audio streams only (what ``--audio-stream`` takes).

    ``default``: it is the one that players take.
    """

    index: int
    position: int
    codec: str
    sample_rate: int
    channels: int
    start_s: float
    language: str | None
    default: bool = False


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


def probe(path: str | Path) -> MediaInfo:
    """Read what the container declares, decoding nothing.

    Raises:
        MediaNotFoundError: no such file. MediaReadError: not media.
    """
    with demux.opened(path) as container:
        chosen = demux.default_audio(container)
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
                default=i == chosen,
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


def key_before(path: str | Path, at_s: float) -> float | None:
    """Time (s) of the key frame that decoding starts from to reach ``at_s``; None: not known."""
    with demux.opened(path) as container:
        stream = demux.pick_video(container, path)
        demux.seek_before(container, stream, at_s)
        packet = demux.first_key_packet(container, stream)
        return None if packet is None else seconds(packet.pts, packet.time_base)


def _iter_video(
    path: str | Path, start_s: float | None, end_s: float | None, stats: DecodeStats
) -> Iterator[tuple[float, float, Any]]:
    """Yield (pts, duration, av.VideoFrame) in order of presentation, before any conversion."""
    with demux.opened(path) as container:
        stream = demux.pick_video(container, path)
        stats.pixel_aspect = demux.pixel_aspect(stream)
        if start_s is not None:
            demux.seek_before(container, stream, start_s)
        for pts, duration, frame in demux.timed_frames(container, stream, stats):
            if start_s is not None and pts + duration <= start_s:
                continue
            if stats.enough or (end_s is not None and pts >= end_s):
                return
            stats.video_end_s = pts + duration
            yield pts, duration, frame
        if end_s is None:
            demux.check_end(container, stream, stats.video_end_s, "picture", stats)


def to_rgb(frame: Any, max_side: int, *, aspect: float = 1.0) -> ImageArray:
    """A decoded frame upright as (H, W, 3) uint8 RGB, its long side at most ``max_side``.

    ``aspect``: see :meth:`avsync.picture.Picture.from_frame`.
    """
    return Picture.from_frame(frame, max_side, aspect=aspect).rgb()


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
    stats = stats or DecodeStats()
    for pts, duration, frame in _iter_video(path, start_s, end_s, stats):
        yield Frame(pts, duration, to_rgb(frame, max_side, aspect=stats.pixel_aspect))


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
    none (high frame rate, or it repeats the one before: :mod:`avsync.repeats`); frames that serve
    none are never converted.
    """
    stats = stats or DecodeStats()
    grid: FrameGrid[Any] = FrameGrid(rate)
    converted: tuple[float, Picture] | None = None

    def on_ticks(places: Iterator[tuple[int, float, Any]]) -> Iterator[GridFrame]:
        nonlocal converted
        for tick, pts, frame in places:
            if converted is None or converted[0] != pts:
                aspect = stats.pixel_aspect
                converted = pts, Picture.from_frame(frame, max_side, aspect=aspect)
            yield GridFrame(tick, tick / rate, pts, converted[1])

    for pts, duration, frame in _iter_video(path, start_s, end_s, stats):
        yield from on_ticks(grid.push(pts, duration, frame, frame_look(frame)))
    yield from on_ticks(grid.close())


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
    line = SoundLine(sample_rate, piece_s)
    with demux.opened(path) as container:
        stream = demux.pick_audio(container, path, audio_stream)
        if start_s is not None:
            demux.seek_before(container, stream, start_s - PREROLL_S)
        for frame in demux.decode(container, stream, stats):
            if not demux.usable_rate(frame, stats):
                continue
            pts = line.stamp(seconds(frame.pts, frame.time_base), stats)
            if start_s is not None and pts + frame.samples / frame.sample_rate <= start_s:
                continue
            if end_s is not None and pts >= end_s:
                break
            yield from line.push(frame, pts)
        yield from line.close()
        if end_s is None:
            stats.audio_end_s = line.end_s
            demux.check_end(container, stream, stats.audio_end_s, "sound", stats)


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
