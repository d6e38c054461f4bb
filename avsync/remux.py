"""Copy a film packet by packet into a new file, its sound moved in time.

Nothing but the time stamps of the chosen audio streams changes; every other packet keeps its bytes
and its time. How the move is stored depends on the container (:mod:`avsync.containers`); of sound
that begins later than zero in Matroska its codec's delay is taken out (:mod:`avsync.matroska`).

Times are seconds on the container's clock; a positive shift makes the sound later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import av

from avsync import demux
from avsync.containers import ALIGNED, MUXERS, Moved, family, muxer_for, options_for, plan
from avsync.digests import (
    Digest,
    codec_of,
    digest_of,
    index_in_front,
    is_attachment,
    is_chapter_text,
    is_cover,
    is_navigation,
    is_timecode,
    packets_of,
)
from avsync.errors import AVSyncError, MediaReadError
from avsync.matroska import clear_codec_delay, delay_to_take_out
from avsync.reaudio import AudioEncoder, Stretch
from avsync.splice import Piece

__all__ = ["Copied", "MediaWriteError", "write_moved"]


class MediaWriteError(AVSyncError, OSError):
    """The new file cannot be written: disk full, no permission, or no room in the container."""


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


@dataclass(slots=True)
class _Lane:
    """One stream on its way."""

    source: Any
    target: Any
    ticks: int = 0
    hidden: int = 0  # what the writer adds for a codec's delay that is to be taken out
    end_s: float = 0.0
    encoder: AudioEncoder | None = None


class _Writer:
    """Makes the streams of the new file in the source's order and carries the packets over."""

    def __init__(self, film: Any, source: str | Path, out: Any, copied: Copied) -> None:
        self.film, self.source, self.out, self.copied = film, source, out, copied
        self.lanes: dict[int, _Lane] = {}
        self.packets = packets_of(film, source)
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

    def add(
        self,
        stream: Any,
        moved: Moved | None,
        stretch: Stretch | None,
        pieces: Sequence[Piece],
    ) -> None:
        """Add the stream that takes ``stream``'s packets."""
        if stream.index in self.pictures:
            meta = stream.metadata
            kind = codec_of(stream).replace("mjpeg", "jpeg")
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
                pieces=pieces,
                aligned=self.copied.muxer in ALIGNED,
            )
            lane = _Lane(stream, encoder.stream, encoder=encoder)
        else:
            lane = _Lane(stream, self._copy(stream))
            if moved is not None:
                lane.ticks = round(moved.shift_s / stream.time_base)
                if self.copied.muxer in ("matroska", "webm"):
                    lane.hidden = delay_to_take_out(stream, moved.shift_s)
                    lane.ticks -= lane.hidden
            if not is_attachment(stream):
                self.copied.sent[stream.index] = digest_of(stream)
        self.lanes[stream.index] = lane
        if not is_attachment(stream):
            covers = is_cover(stream)
            (self.copied.covers if covers else self.copied.order).append(stream.index)

    def _copy(self, stream: Any) -> Any:
        try:
            target = self.out.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.FFmpegError) as err:
            raise MediaWriteError(
                f"{self.source}: stream {stream.index} ({stream.type}, {codec_of(stream)}) has no "
                f"place in a {self.out.format.name} file, and nothing is left out"
            ) from err
        target.metadata.update(stream.metadata)
        target.disposition = stream.disposition
        muxer = self.copied.muxer
        if self.copied.same_family:
            alike = MUXERS.get(Path(self.source).suffix.lower()) == muxer
            if stream.codec_context is not None and alike and muxer not in ("mpegts", "vob"):
                target.codec_context.codec_tag = stream.codec_context.codec_tag
            if muxer == "mpegts":
                target.id = stream.id
        return target

    def pour(self, progress: Callable[[float], None] | None, partial: bool) -> None:
        """Carry all packets over."""
        whole = (self.film.duration or 0) * 1e-6
        start = (self.film.start_time or 0) * 1e-6
        for n, packet in enumerate(chain(self.ahead, self.packets)):
            lane = self.lanes.get(packet.stream_index)
            if lane is None:
                continue
            if progress is not None and whole and n % 256 == 0:
                now = demux.seconds(packet.dts, packet.time_base)
                if now is not None:
                    progress(min(1.0, max(0.0, (now - start) / whole)))
            if not packet.size and packet.pts is None and packet.dts is None:
                continue  # PyAV's sign that a stream has ended
            if lane.encoder is None:
                self._send(packet, lane)
            else:
                self._encode(packet, lane.encoder)
        pictures = [n for n in self.lanes.values() if n.source.type == "video"]
        for lane in self.lanes.values():
            if lane.encoder is not None:
                if self.copied.muxer == "mxf":  # where sound ends the film ends
                    lane.encoder.until_s = max((n.end_s for n in pictures), default=0.0)
                self._encode(None, lane.encoder)
            self._count_hidden(lane)
        self._check_end(partial)
        if damaged := sum(n.encoder.bad_packets for n in self.lanes.values() if n.encoder):
            self.copied.warnings.append(
                f"{damaged} packets of sound could not be decoded and are silence now"
            )

    def _check_end(self, partial: bool) -> None:
        """Stop, or warn, when the picture ends long before the file says it does."""
        stats = demux.DecodeStats()
        for stream in self.film.streams.video:
            lane = self.lanes.get(stream.index)
            if lane is not None and not is_cover(stream):
                demux.check_end(self.film, stream, lane.end_s, "picture", stats)
        if stats.warnings and not partial:
            raise MediaReadError(
                f"{self.source}: breaks off: {stats.warnings[0]}; nothing was written "
                "(--force copies what is there)"
            )
        self.copied.warnings += stats.warnings

    def _count_hidden(self, lane: _Lane) -> None:
        """Warn of packets that are listed but were not given out by ffmpeg."""
        sent = self.copied.sent.get(lane.source.index)
        if sent is None or self.film.format.name.split(",")[0] != "mov":
            return
        hidden = lane.source.frames - sent.packets
        if hidden > 0 and sent.kind in ("audio", "video") and not sent.codec.startswith("pcm_"):
            self.copied.warnings.append(
                f"{hidden} packets of stream {lane.source.index}, which the file's own edit list "
                "hides or its damage, were not carried over"
            )

    def _encode(self, packet: Any | None, encoder: AudioEncoder) -> None:
        for fresh in encoder.feed(packet):
            self.out.mux_one(fresh)

    def _send(self, packet: Any, lane: _Lane) -> None:
        self.copied.sent[packet.stream_index].add(packet)
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is not None:
            end = float((pts + (packet.duration or 0)) * packet.time_base)
            lane.end_s = max(lane.end_s, end)
        if lane.ticks:
            packet.pts = None if packet.pts is None else packet.pts + lane.ticks
            packet.dts = None if packet.dts is None else packet.dts + lane.ticks
        if packet.pts is None and packet.dts is None:  # a cover
            packet.pts = packet.dts = 0
        packet.stream = lane.target
        self.out.mux_one(packet)


def write_moved(
    source: str | Path,
    target: Path,
    *,
    shift_s: float,
    audio_stream: int | None = None,
    reencode: bool = False,
    stretch: Stretch | None = None,
    pieces: Sequence[Piece] = (),
    partial: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Copied:
    """Write ``source`` to ``target`` with its sound ``shift_s`` later (negative: earlier).

    Args:
        target: its ending chooses the container; a file there is written over.
        audio_stream: move this one only (0 is the first); default all audio streams.
        reencode: encode the sound anew even where time stamps would do, padded or trimmed so
            that it begins with the picture, exact to the sample.
        stretch: undo a drift as well (encodes anew).
        pieces: parts of the film with a shift each, the first one's ``shift_s`` (encodes anew).
        partial: copy what there is of a file that breaks off.
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
            chosen = [demux.readable(s, source) for s in film.streams.audio]
        copied = Copied(muxer, family(film.format.name) == family(muxer))
        for stream in chosen:
            anew = reencode or stretch is not None or bool(pieces)
            copied.moved.append(plan(film, stream, muxer, shift_s, anew))
        options = options_for(muxer)
        if muxer in ("mp4", "mov"):
            # Edit lists count in the film's unit, a millisecond unless told: take a sample.
            options["movie_timescale"] = str(chosen[0].codec_context.sample_rate or 1000)
            options["write_tmcd"] = "0"
            if copied.same_family and index_in_front(source):
                options["movflags"] = "faststart"
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
                if is_timecode(stream):
                    code = stream.metadata["timecode"]
                    copied.warnings.append(f"the timecode track ({code}) could not be carried over")
                elif is_navigation(stream):
                    copied.warnings.append("the disc's navigation was left out")
                elif not is_chapter_text(stream):
                    writer.add(stream, plans.get(stream.index), stretch, pieces)
            writer.pour(progress, partial)
        with _writing(target):
            late = [lane.target.index + 1 for lane in writer.lanes.values() if lane.hidden]
            clear_codec_delay(target, late)
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
