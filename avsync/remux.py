"""Copy a film packet by packet into a new file, its sound moved in time.

Nothing but the time stamps of the chosen audio streams changes; every other packet keeps its bytes
and its time. How the move is stored depends on the container:

- MP4, MOV: an edit list. Sound that moves before zero is skipped by the player but stays in the
  file, packet by packet.
- Matroska, WebM, MPEG-TS: the packets' own time stamps. Matroska has no negative times (players
  drop such blocks), so sound that would begin before zero is encoded anew without that part.
- AVI stores no start times at all: the sound is always encoded anew, padded or trimmed.

Times are seconds on the container's clock; a positive shift makes the sound later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av

from avsync import demux
from avsync.errors import AVSyncError, InvalidOptionError, MediaReadError
from avsync.reaudio import AudioEncoder, Stretch, encoder_for

__all__ = [
    "MUXERS",
    "Copied",
    "Digest",
    "MediaWriteError",
    "Method",
    "Moved",
    "muxer_for",
    "read_digests",
    "write_moved",
]

Method = Literal["edit_list", "time_stamps", "encoded_anew"]

#: File name endings that can be written, and ffmpeg's name of the muxer.
MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
    ".mts": "mpegts",
    ".avi": "avi",
}
_FAMILIES = {"mp4": "mov", "webm": "matroska"}
#: MPEG-TS keeps its clock; MP4 and Matroska keep negative time stamps, which become edit lists
#: and codec delays.
_NEGATIVE = {"avoid_negative_ts": "disabled"}
_OPTIONS = {"mpegts": {"mpegts_copyts": "1", "max_delay": "700000"}, "avi": {}}
#: So many packets of a stream are known by their own hash, to see how far they moved.
_KNOWN = 4096
#: Sound may begin this much (s) before zero: time stamps are rounded to 1 ms.
_ROUNDING_S = 6e-4


class MediaWriteError(AVSyncError, OSError):
    """The new file cannot be written: disk full, no permission, or no room in the container."""


def _blake() -> Any:
    return hashlib.blake2b(digest_size=16)


@dataclass(slots=True)
class Digest:
    """What a stream holds: packets, a hash of all their bytes in order, and time stamps (s)."""

    codec: str
    kind: str
    cover: bool = False
    packets: int = 0
    hash: Any = field(default_factory=_blake)
    first_s: float | None = None
    known: dict[bytes, float | None] = field(default_factory=dict)
    """The time stamps of the first packets by their hash; None when several are alike."""

    def add(self, packet: Any) -> None:
        """Take in one packet."""
        data = bytes(packet)
        self.packets += 1
        self.hash.update(data)
        time = demux.seconds(packet.dts if packet.pts is None else packet.pts, packet.time_base)
        if self.first_s is None:
            self.first_s = time
        if len(self.known) < _KNOWN:
            name = hashlib.blake2b(data, digest_size=16).digest()
            self.known[name] = None if name in self.known else time

    def same(self, other: Digest) -> bool:
        """Whether both hold the same bytes, in as many packets (PCM may be cut anywhere)."""
        if self.hash.digest() != other.hash.digest():
            return False
        return self.packets == other.packets or self.codec.startswith("pcm_")

    def moved_s(self, other: Digest) -> float | None:
        """How much later (s, median) ``other`` has the packets that both hold."""
        moves = []
        for name, time in self.known.items():
            later = other.known.get(name)
            if time is not None and later is not None:
                moves.append(later - time)
        return sorted(moves)[len(moves) // 2] if moves else None


@dataclass(frozen=True, slots=True)
class Moved:
    """One audio stream that was moved; ``index`` is its number in the source."""

    index: int
    position: int
    codec: str
    method: Method
    shift_s: float
    encoder: str | None = None
    start_s: float | None = None
    """Where the sound begins, when it was encoded anew."""


@dataclass(slots=True)
class Copied:
    """What was written. ``sent`` goes by the number of the source's streams.

    ``order`` and ``covers`` are these numbers in the order in which the new file has the streams;
    what has no packets of its own (attachments, chapters) does not count.
    """

    muxer: str
    same_family: bool
    moved: list[Moved] = field(default_factory=list)
    sent: dict[int, Digest] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    covers: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def muxer_for(path: Path) -> str:
    """The muxer for a file name.

    Raises:
        InvalidOptionError: this kind of file cannot be written.
    """
    muxer = MUXERS.get(path.suffix.lower())
    if muxer is None:
        raise InvalidOptionError(
            f"{path.name}: cannot write this kind of file; the name must end in one of "
            f"{', '.join(MUXERS)}"
        )
    return muxer


def _family(name: str) -> str:
    first = name.split(",")[0]
    return _FAMILIES.get(first, first)


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else str(stream.name)


def _is_cover(stream: Any) -> bool:
    return bool(stream.type == "video" and demux.is_attached(stream))


def _digest(stream: Any) -> Digest:
    return Digest(_codec(stream), stream.type, _is_cover(stream))


def _is_attachment(stream: Any) -> bool:
    return bool(stream.type == "attachment")


def _is_chapter_text(stream: Any) -> bool:
    """QuickTime keeps chapters in a text track, which ffmpeg shows but does not read."""
    return bool(stream.type == "data" and stream.discard == av.stream.Discard.all)


def _is_timecode(stream: Any) -> bool:
    """A QuickTime timecode track: its writer needs a frame rate that PyAV cannot set."""
    return bool(stream.type == "data" and not stream.name and "timecode" in stream.metadata)


@dataclass(slots=True)
class _Lane:
    """One stream on its way."""

    target: Any
    ticks: int = 0
    encoder: AudioEncoder | None = None


class _Writer:
    """Makes the streams of the new file in the source's order and carries the packets over."""

    def __init__(self, film: Any, source: Path, out: Any, copied: Copied) -> None:
        self.film, self.source, self.out, self.copied = film, source, out, copied
        self.lanes: dict[int, _Lane] = {}
        self.packets = _readable(film, source)
        self.ahead: list[Any] = []
        self.pictures: dict[int, bytes] = {}

    def read_covers(self) -> None:
        """Matroska's covers are attachments; ffmpeg shows them as video, their packet first."""
        covers = {s.index for s in self.film.streams.video if demux.is_attached(s)}
        if self.copied.muxer != "matroska" or not covers:
            return
        while covers - self.pictures.keys():
            packet = next(self.packets, None)
            if packet is None:
                return
            if packet.stream_index in covers:
                self.pictures.setdefault(packet.stream_index, bytes(packet))
            else:
                self.ahead.append(packet)

    def add(self, stream: Any, moved: Moved | None, stretch: Stretch | None) -> None:
        """Add the stream that takes ``stream``'s packets."""
        if stream.index in self.pictures:
            meta = stream.metadata
            kind = _codec(stream).replace("mjpeg", "jpeg")
            name = meta.get("filename") or f"cover.{kind.replace('jpeg', 'jpg')}"
            mime = meta.get("mimetype") or f"image/{kind}"
            target = self.out.add_attachment(name, mime, self.pictures[stream.index])
            target.metadata.update({**meta, "filename": name, "mimetype": mime})
            return
        if moved is not None and moved.encoder is not None:
            encoder = AudioEncoder(
                self.out,
                stream,
                moved.encoder,
                start_s=moved.start_s or 0.0,
                shift_s=moved.shift_s,
                stretch=stretch,
                aligned=self.copied.muxer == "avi",
            )
            lane = _Lane(encoder.stream, encoder=encoder)
        else:
            lane = _Lane(self._copy(stream))
            if moved is not None:
                lane.ticks = round(moved.shift_s / stream.time_base)
            if not _is_attachment(stream):
                self.copied.sent[stream.index] = _digest(stream)
        self.lanes[stream.index] = lane
        if not _is_attachment(stream):
            covers = _is_cover(stream)
            (self.copied.covers if covers else self.copied.order).append(stream.index)

    def _copy(self, stream: Any) -> Any:
        try:
            target = self.out.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.FFmpegError) as err:
            raise MediaWriteError(
                f"{self.source}: stream {stream.index} ({stream.type}, {_codec(stream)}) has no "
                f"place in a {self.out.format.name} file, and nothing is left out"
            ) from err
        target.metadata.update(stream.metadata)
        target.disposition = stream.disposition
        if self.copied.same_family:
            if stream.codec_context is not None and self.copied.muxer != "mpegts":
                target.codec_context.codec_tag = stream.codec_context.codec_tag
            if self.copied.muxer == "mpegts":
                target.id = stream.id
        return target

    def pour(self, progress: Callable[[float], None] | None) -> None:
        """Carry all packets over."""
        whole = (self.film.duration or 0) * 1e-6
        start = (self.film.start_time or 0) * 1e-6
        for n, packet in enumerate(self._all()):
            lane = self.lanes.get(packet.stream_index)
            if lane is None:
                continue
            if progress is not None and whole and n % 256 == 0:
                now = demux.seconds(packet.dts, packet.time_base)
                if now is not None:
                    progress(min(1.0, max(0.0, (now - start) / whole)))
            ended = not packet.size and packet.pts is None and packet.dts is None
            if lane.encoder is not None:
                for fresh in lane.encoder.feed(None if ended else packet):
                    self.out.mux_one(fresh)
            elif not ended:
                self._send(packet, lane)
        damaged = sum(lane.encoder.bad_packets for lane in self.lanes.values() if lane.encoder)
        if damaged:
            self.copied.warnings.append(
                f"{damaged} packets of sound could not be decoded and are silence now"
            )

    def _all(self) -> Iterator[Any]:
        yield from self.ahead
        yield from self.packets

    def _send(self, packet: Any, lane: _Lane) -> None:
        self.copied.sent[packet.stream_index].add(packet)
        if lane.ticks:
            packet.pts = None if packet.pts is None else packet.pts + lane.ticks
            packet.dts = None if packet.dts is None else packet.dts + lane.ticks
        if packet.pts is None and packet.dts is None:  # a cover
            packet.pts = packet.dts = 0
        packet.stream = lane.target
        self.out.mux_one(packet)


def _readable(film: Any, source: Path) -> Iterator[Any]:
    """The packets of a film, ffmpeg's errors turned into ours."""
    packets = film.demux()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as err:
            raise MediaReadError(
                f"{source}: breaks off ({demux.reason(err)}); mend the file first"
            ) from err
        yield packet


def _plan(
    film: Any, stream: Any, muxer: str, shift_s: float, stretch: Stretch | None, reencode: bool
) -> Moved:
    """How one audio stream is moved: by its time stamps where the container can, else anew."""
    position = next(i for i, s in enumerate(film.streams.audio) if s.index == stream.index)
    codec = _codec(stream)
    start = demux.seconds(stream.start_time, stream.time_base) or 0.0
    early = start + shift_s < min(0.0, start) - _ROUNDING_S
    anew = reencode or muxer == "avi" or stretch is not None
    if not anew and not (early and muxer in ("matroska", "webm")):
        method: Method = "edit_list" if muxer in ("mp4", "mov") else "time_stamps"
        held = float(round(shift_s / stream.time_base) * stream.time_base)
        return Moved(stream.index, position, codec, method, held)
    begin = 0.0
    if muxer != "avi":
        starts = [start] + [
            demux.seconds(s.start_time, s.time_base) or 0.0
            for s in film.streams.video
            if not demux.is_attached(s)
        ]
        begin = max(0.0, min(starts))
    encoder = encoder_for(codec, muxer)
    return Moved(stream.index, position, codec, "encoded_anew", shift_s, encoder, begin)


def write_moved(
    source: Path,
    target: Path,
    *,
    shift_s: float,
    audio_stream: int | None = None,
    reencode: bool = False,
    stretch: Stretch | None = None,
    progress: Callable[[float], None] | None = None,
) -> Copied:
    """Write ``source`` to ``target`` with its sound ``shift_s`` later (negative: earlier).

    Args:
        target: its ending chooses the container; a file there is written over.
        audio_stream: move this one only (0 is the first); default all audio streams.
        reencode: encode the sound anew even where time stamps would do, padded or trimmed so
            that it begins with the picture, exact to the sample.
        stretch: undo a drift as well (encodes anew).
        progress: called with the share done, 0..1.

    Raises:
        MediaNotFoundError, MediaReadError: the source is not there, or not media, or breaks off.
        InvalidOptionError: no such audio stream, or no such kind of file.
        MediaWriteError: disk full, or a stream that the container cannot hold.
    """
    muxer = muxer_for(target)
    with demux.opened(source) as film:
        if not film.streams.audio or audio_stream is not None:
            chosen = [demux.pick_audio(film, source, audio_stream)]
        else:
            chosen = list(film.streams.audio)
        copied = Copied(muxer, _family(film.format.name) == _family(muxer))
        for stream in chosen:
            copied.moved.append(_plan(film, stream, muxer, shift_s, stretch, reencode))
        options = dict(_OPTIONS.get(muxer, _NEGATIVE))
        if muxer in ("mp4", "mov"):
            # Edit lists count in the film's unit, a millisecond unless told: take a sample.
            options["movie_timescale"] = str(chosen[0].codec_context.sample_rate or 1000)
            options["write_tmcd"] = "0"
        plans = {m.index: m for m in copied.moved}
        with (
            _writing(target),
            av.open(str(target), "w", format=muxer, container_options=options) as out,
        ):
            writer = _Writer(film, source, out, copied)
            writer.read_covers()
            out.metadata.update(film.metadata)
            out.set_chapters(film.chapters())
            for stream in film.streams:
                if _is_timecode(stream):
                    code = stream.metadata["timecode"]
                    copied.warnings.append(f"the timecode track ({code}) could not be carried over")
                elif not _is_chapter_text(stream):
                    writer.add(stream, plans.get(stream.index), stretch)
            writer.pour(progress)
    return copied


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn ffmpeg's errors of the writing side into ours."""
    try:
        yield
    except AVSyncError:
        raise
    except (av.FFmpegError, OSError, ValueError) as err:
        raise MediaWriteError(f"{target.name}: cannot be written ({demux.reason(err)})") from err


def read_digests(path: Path, *, whole: bool = False) -> list[Digest]:
    """What a file's streams hold, in their order; nothing is decoded.

    Attachments and chapters, which have no packets, are left out.

    Args:
        whole: read past edit lists (MP4, MOV): all packets that are stored.

    Raises:
        MediaReadError: not media, or it breaks off.
    """
    options = {"ignore_editlist": "1"} if whole else {}
    try:
        film = av.open(str(path), metadata_errors="ignore", options=options)
    except (av.FFmpegError, ValueError) as err:
        raise MediaReadError(f"{path}: cannot be read ({demux.reason(err)})") from err
    with film:
        found = {
            s.index: _digest(s)
            for s in film.streams
            if not _is_attachment(s) and not _is_chapter_text(s)
        }
        for packet in _readable(film, path):
            stored = packet.size or packet.pts is not None or packet.dts is not None
            if stored and packet.stream_index in found:
                found[packet.stream_index].add(packet)
        return list(found.values())
