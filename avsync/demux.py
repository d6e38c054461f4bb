"""Opening, choosing a stream, seeking and decoding: what lies under :mod:`avsync.media`.

Time stamps come out as the container means them. Two kinds of container need help: those that
store no presentation times (AVI), and those that leave the first frames without any (negative
times in Matroska).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av

from avsync import remote
from avsync.errors import AVSyncError, InvalidOptionError, MediaNotFoundError, MediaReadError

__all__ = [
    "MAX_GAP_S",
    "DecodeStats",
    "check_end",
    "decode",
    "default_audio",
    "first_key_packet",
    "is_attached",
    "opened",
    "pick_audio",
    "pick_video",
    "readable",
    "reason",
    "seconds",
    "seek_before",
    "timed_frames",
    "usable_rate",
    "with_codecs",
]

#: A jump in time stamps beyond this (s) is a broken time stamp, not a gap worth filling; nor is
#: more filled in a file's sound in all.
MAX_GAP_S = 3600.0
#: Pictures of more pixels than this are not decoded (8K has 33 million): a forged header asks for
#: gigabytes.
MAX_PIXELS = 1 << 26
#: Pixels whose sides differ by less than this share are taken for square.
ASPECT_SLACK = 0.03
#: Sound of other sample rates (Hz) is left out: a forged 1 Hz would become hours of it.
SAMPLE_RATES = (1_000, 1_536_000)
#: How many frames without a time stamp are kept back until one with a stamp dates them.
MAX_UNDATED = 32
#: How far (s) before the wanted time a seek aims, until it lands on a packet that is early enough.
SEEK_BACK_S = (0.0, 1.0, 4.0, 16.0, 64.0)


@dataclass(slots=True)
class DecodeStats:
    """What decoding met on the way; ``warnings`` are sentences fit for a person.

    Who sets ``enough`` ends the decoding of the picture with the next frame. ``pixel_aspect``: how
    much wider than high the picture's pixels are meant to be.
    """

    warnings: list[str] = field(default_factory=list)
    video_end_s: float | None = None
    audio_end_s: float | None = None
    bad_packets: int = 0
    enough: bool = False
    pixel_aspect: float = 1.0

    def warn(self, text: str) -> None:
        """Keep a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def add(self, other: DecodeStats) -> None:
        """Take in what the decoding of another stream of the file met."""
        for text in other.warnings:
            self.warn(text)
        self.bad_packets += other.bad_packets
        if other.video_end_s is not None:
            self.video_end_s = other.video_end_s
        if other.audio_end_s is not None:
            self.audio_end_s = other.audio_end_s


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a file, or a URL (:mod:`avsync.remote`), for reading.

    Raises:
        MediaNotFoundError: no such file, or a folder. MediaReadError: empty, or not media.
        DependencyMissingError: a URL, and what reads it is not installed.
    """
    name = str(path)
    with contextlib.ExitStack() as stack:
        source: Any = name
        if remote.through_fsspec(name):
            source = stack.enter_context(remote.opened_url(name))
        elif not remote.is_url(name):
            _check_file(name)
        try:
            container = av.open(
                source, metadata_errors="ignore", options={"max_pixels": str(MAX_PIXELS)}
            )
        except (av.FFmpegError, ValueError) as err:
            if isinstance(err, AVSyncError):
                raise
            raise MediaReadError(
                f"{name}: not a media file that can be read ({reason(err)}); check it with ffprobe"
            ) from err
        yield stack.enter_context(container)


def _check_file(name: str) -> None:
    file = Path(name)
    if not file.exists():
        raise MediaNotFoundError(f"{name}: no such file")
    if file.is_dir():
        raise MediaNotFoundError(f"{name}: is a folder; give a media file")
    if file.stat().st_size == 0:
        raise MediaReadError(f"{name}: the file is empty")


def reason(err: BaseException) -> str:
    """Return ffmpeg's words for what went wrong, in lower case."""
    text = getattr(err, "strerror", None) or str(err)
    return text.split(":")[0].strip().lower() or type(err).__name__


def seconds(pts: int | None, time_base: Fraction | None) -> float | None:
    """Return a time stamp in seconds on the container's clock."""
    if pts is None or time_base is None:
        return None
    return pts * time_base.numerator / time_base.denominator  # as exact as the fraction's float


_UNKNOWN = SimpleNamespace(name="unknown", width=0, height=0, sample_rate=0, channels=0)


def with_codecs(streams: Any) -> list[tuple[Any, Any]]:
    """Streams with their codec contexts, or what stands for that of an unknown codec."""
    return [(s, s.codec_context or _UNKNOWN) for s in streams]


def usable_rate(frame: Any, stats: DecodeStats) -> bool:
    """Tell whether sound can have a frame's sample rate; if not, warn."""
    if SAMPLE_RATES[0] <= frame.sample_rate <= SAMPLE_RATES[1]:
        return True
    stats.warn("sound of an impossible sample rate was left out")
    return False


def is_attached(stream: Any) -> bool:
    """Tell whether a video stream is a cover picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def pick_video(container: Any, path: str | Path) -> Any:
    """Return the first video stream that is no cover picture.

    Raises:
        MediaReadError: there is none, or its codec is not known.
    """
    for stream in container.streams.video:
        if not is_attached(stream):
            return readable(stream, path)
    raise MediaReadError(f"{path}: has no video stream")


def pixel_aspect(stream: Any) -> float:
    """How much wider than high the pixels of a video stream are meant to be; 1 where in doubt."""
    told = float(stream.sample_aspect_ratio or 1)
    return told if 0.25 <= told <= 4 and abs(told - 1) > ASPECT_SLACK else 1.0


def readable(stream: Any, path: str | Path) -> Any:
    """Return the stream, when ffmpeg knows its codec.

    Raises:
        MediaReadError: it does not.
    """
    if stream.codec_context is None:
        raise MediaReadError(
            f"{path}: the {stream.type} stream {stream.index} has a codec that ffmpeg does not "
            "know; convert the file, or see with ffprobe whether it is damaged"
        )
    return stream


def default_audio(container: Any) -> int:
    """Position, among the audio streams, of the one that players take: marked default or first."""
    marked = av.stream.Disposition.default
    streams = container.streams.audio
    return next((i for i, s in enumerate(streams) if s.disposition & marked), 0)


def pick_audio(container: Any, path: str | Path, position: int | None) -> Any:
    """Return the audio stream at ``position``; without one the default stream, else the first.

    Raises:
        MediaReadError: there is none, or its codec is not known. InvalidOptionError: none at
            that position.
    """
    streams = container.streams.audio
    if not streams:
        raise MediaReadError(f"{path}: has no audio stream")
    if position is None:
        position = default_audio(container)
    if not 0 <= position < len(streams):
        raise InvalidOptionError(
            f"{path}: audio stream {position} was asked for; it has {len(streams)} (0 is the first)"
        )
    return readable(streams[position], path)


def seek_before(container: Any, stream: Any, start_s: float) -> None:
    """Move to a packet of ``stream`` from which decoding reaches ``start_s`` whole.

    ffmpeg's seeks land on the key frames of one stream, or on no key frame (MPEG-TS), so the
    place is tried out and moved back until it is early enough; at last to the beginning.
    """
    for back in SEEK_BACK_S:
        target = int((start_s - back) / stream.time_base)
        try:
            container.seek(target, stream=stream, backward=True)
            first = next((p for p in container.demux(stream) if p.is_keyframe), None)
            pts = None if first is None else first.dts if first.pts is None else first.pts
            found = None if first is None else seconds(pts, first.time_base)
            if found is not None and found <= start_s:
                container.seek(target, stream=stream, backward=True)
                return
        except av.FFmpegError:
            continue
    container.seek(container.start_time or 0, backward=True, any_frame=True)


def first_key_packet(container: Any, stream: Any) -> Any:
    """The next key frame's packet of a stream, None where there is none."""
    try:
        return next((p for p in container.demux(stream) if p.is_keyframe), None)
    except av.FFmpegError:
        return None


class _Slots:
    """Presentation times for a container that stores packets in order of decoding, and no more.

    An AVI file gives every packet one slot of time. What ffmpeg offers as presentation times
    there is a guess that is late by one or two frames, or runs backwards, when there are (or
    could be) B-frames. The pictures leave the decoder in the order of their presentation, so
    the n-th picture belongs to the n-th slot.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self.slots: deque[int] = deque()

    def feed(self, packet: Any) -> None:
        if packet.dts is not None and packet.size:
            self.slots.append(packet.dts)

    def place(self, frames: list[Any], flushing: bool) -> None:
        """Give the frames that one packet released their slots' times."""
        if frames and not flushing:  # packets that released no frame leave their slots unused
            while len(self.slots) > self.context.reorder_depth + len(frames):
                self.slots.popleft()
        for frame in frames:
            if self.slots:
                frame.pts = self.slots.popleft()


def decode(
    container: Any, stream: Any, stats: DecodeStats, slots: _Slots | None = None
) -> Iterator[Any]:
    """Decode one stream to its end, stepping over packets that cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as err:
            stats.warn(f"the file breaks off ({reason(err)}); what could be decoded was used")
            packet = None
        if packet is not None and packet.is_corrupt:
            stats.warn("the file breaks off or is damaged; what could be decoded was used")
        try:
            if slots is not None and packet is not None:
                slots.feed(packet)
            frames = stream.codec_context.decode(packet)
            if slots is not None:
                slots.place(frames, flushing=packet is None or not packet.size)
            yield from frames
        except av.EOFError:
            return
        except av.FFmpegError:
            stats.bad_packets += 1
            stats.warn("some packets could not be decoded and were stepped over")
        if packet is None:
            return


def timed_frames(
    container: Any, stream: Any, stats: DecodeStats
) -> Iterator[tuple[float, float, Any]]:
    """Yield (pts, duration, av.VideoFrame) of a video stream; pts always rise.

    Frames before the first time stamp are dated back from it; a stream without any (raw H.264)
    starts at 0. Frames whose stamps run backwards are left out.
    """
    slots = _Slots(stream.codec_context) if container.format.name == "avi" else None
    stream.thread_type = "AUTO" if slots is None else "SLICE"
    # Pictures that no other is made from are left as blocky as they were sent: a tenth of the time.
    stream.codec_context.options = {**stream.codec_context.options, "skip_loop_filter": "noref"}
    usual = float(1 / stream.average_rate) if stream.average_rate else 0.04
    undated: list[Any] = []
    last: float | None = None
    for frame in decode(container, stream, stats, slots):
        pts = seconds(frame.pts, frame.time_base)
        if last is None and pts is None and len(undated) < MAX_UNDATED:
            undated.append(frame)
            continue
        first = pts if pts is not None else len(undated) * usual
        for i, early in enumerate(undated):
            last = first - (len(undated) - i) * usual
            yield last, usual, early
        undated.clear()
        if pts is None or (last is not None and pts - last > MAX_GAP_S):
            pts = first if last is None else last + usual
        if last is not None and pts <= last:
            if pts < last:
                stats.warn("some time stamps of the picture run backwards; those were left out")
            continue
        last = pts
        yield pts, seconds(frame.duration, frame.time_base) or usual, frame
    for i, early in enumerate(undated):
        yield i * usual, usual, early


def check_end(
    container: Any, stream: Any, end_s: float | None, what: str, stats: DecodeStats
) -> None:
    """Warn when a stream ends long before the file says it does (MPEG-TS does not say).

    Where the file says only how long it is as a whole, another stream may go on to there.
    """
    own = _declared_end(container, stream)
    declared = own
    if declared is None and container.duration:
        declared = float((container.start_time or 0) + container.duration) * 1e-6
    if end_s is None or declared is None or end_s >= declared - max(1.0, 0.02 * declared):
        return
    if own is None and _reaches(container, declared - 1):
        return
    stats.warn(f"the {what} ends at {end_s:.1f} s though the file declares {declared:.1f} s")


def _declared_end(container: Any, stream: Any) -> float | None:
    length = stream.duration or 0
    if container.format.name == "avi":  # there ffmpeg cuts the duration to the file's size
        length = max(length, stream.frames)
    if length and stream.time_base:
        return float(((stream.start_time or 0) + length) * stream.time_base)
    return None


def _reaches(container: Any, end_s: float) -> bool:
    """Whether any stream has packets up to ``end_s``; the container is read anew from near it."""
    try:
        container.seek(max(0, int((end_s - 1) * 1_000_000)), backward=True)
        for packet in container.demux():
            at = seconds(packet.pts, packet.time_base)
            if at is not None and at + (seconds(packet.duration, packet.time_base) or 0) >= end_s:
                return True
    except av.FFmpegError:
        pass
    return False
