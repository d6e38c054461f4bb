"""What the streams of a file hold: a hash of every byte, and the packets' time stamps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from avsync import demux, remote
from avsync.errors import MediaReadError

__all__ = [
    "Digest",
    "codec_of",
    "digest_of",
    "index_in_front",
    "is_attachment",
    "is_chapter_text",
    "is_cover",
    "is_navigation",
    "is_timecode",
    "packets_of",
    "read_digests",
]

#: So many packets of a stream are known by their own hash, to see how far they moved.
_KNOWN = 4096


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

    def later_s(self, other: Digest) -> float | None:
        """How much later (s, median) ``other`` has the packets that both hold.

        When no packet is unlike all others, the first one tells.
        """
        moves = []
        for name, time in self.known.items():
            later = other.known.get(name)
            if time is not None and later is not None:
                moves.append(later - time)
        if moves:
            return sorted(moves)[len(moves) // 2]
        if self.first_s is None or other.first_s is None:
            return None
        return other.first_s - self.first_s


def codec_of(stream: Any) -> str:
    """The codec's name, whatever decodes it."""
    context = stream.codec_context
    if context is not None:
        return str(context.codec.canonical_name)
    return str(getattr(stream, "name", None) or "unknown codec")


def is_cover(stream: Any) -> bool:
    """Whether a stream is a cover picture."""
    return bool(stream.type == "video" and demux.is_attached(stream))


def digest_of(stream: Any) -> Digest:
    """An empty digest for a stream."""
    return Digest(codec_of(stream), stream.type, is_cover(stream))


def is_attachment(stream: Any) -> bool:
    """Whether a stream is an attached file, which has no packets."""
    return bool(stream.type == "attachment")


def is_chapter_text(stream: Any) -> bool:
    """QuickTime keeps chapters in a text track, which ffmpeg shows but does not read."""
    return bool(stream.type == "data" and stream.discard == av.stream.Discard.all)


def index_in_front(source: str | Path) -> bool:
    """Whether an MP4 or MOV file has its index before its data, so that it plays while loading."""
    url = str(source)
    with (
        remote.opened_url(url) if remote.through_fsspec(url) else Path(source).open("rb") as stream
    ):
        for _ in range(64):
            head = stream.read(16)
            size, name = int.from_bytes(head[:4], "big"), head[4:8]
            if len(head) < 16 or name == b"mdat":
                return False
            if name == b"moov":
                return True
            if size == 1:
                size = int.from_bytes(head[8:], "big")
            if size < 16:
                return False
            stream.seek(size - 16, 1)
    return False


def is_timecode(stream: Any) -> bool:
    """A QuickTime timecode track: its writer needs a frame rate that PyAV cannot set."""
    return bool(stream.type == "data" and not stream.name and "timecode" in stream.metadata)


def is_navigation(stream: Any) -> bool:
    """What leads a DVD player through its disc: places in a file that is another one now."""
    return bool(stream.type == "data" and stream.name == "dvd_nav_packet")


def packets_of(film: Any, source: str | Path) -> Iterator[Any]:
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
        streams = list(film.streams)
        if film.format.name == "mpeg":  # it lists them as they come
            streams.sort(key=lambda s: s.id)
        found = {
            s.index: digest_of(s)
            for s in streams
            if not is_attachment(s) and not is_chapter_text(s)
        }
        for packet in packets_of(film, path):
            stored = packet.size or packet.pts is not None or packet.dts is not None
            if stored and packet.stream_index in found:
                found[packet.stream_index].add(packet)
        return list(found.values())
