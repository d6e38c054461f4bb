"""Take the codec's delay out of a Matroska or WebM file that was just written.

Matroska's CodecDelay names sound at a stream's beginning that is not to be heard. Where a stream
begins later than zero Chromium leaves that much out and plays what follows too early by it. There
the delay serves no purpose: what it would hide is silence, and comes after more silence. The
writer puts such packets where they sound without a delay, and here the delay is set to nothing, in
CodecDelay and in the head that Opus carries (players want both alike).

Source: RFC 8794 (EBML), RFC 9559 (Matroska), RFC 7845 (Opus).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from avsync import demux

__all__ = ["clear_codec_delay", "delay_to_take_out"]

_SEGMENT, _TRACKS, _ENTRY, _CRC = 0x18538067, 0x1654AE6B, 0xAE, 0xBF
_NUMBER, _DELAY, _PRIVATE = 0xD7, 0x56AA, 0x63A2
#: The list of tracks comes first in files that ffmpeg writes; so many bytes hold it.
_HEAD = 1 << 20
_TICK_S = 1e-3


def delay_to_take_out(stream: Any, shift_s: float) -> int:
    """The codec's delay in ticks, when the first packet of a moved stream begins at zero or later.

    ffmpeg's writer adds it to every time stamp of the stream.
    """
    context = stream.codec_context
    delay_s = context.delay / (context.sample_rate or 1)
    start_s = demux.seconds(stream.start_time, stream.time_base) or 0.0
    return 0 if start_s + shift_s < delay_s + _TICK_S else round(delay_s / stream.time_base)


def clear_codec_delay(path: Path, numbers: Collection[int]) -> None:
    """Set the codec's delay of some tracks (numbered from 1; may be none) to zero, in place.

    Raises:
        ValueError: not a file with a list of tracks at its beginning.
        OSError: it cannot be read or written.
    """
    if not numbers:
        return
    with path.open("r+b") as stream:
        data = bytearray(stream.read(_HEAD))
        start, end = next(
            (span for top, *span in _children(data, 0, len(data)) if top == _SEGMENT), (0, 0)
        )
        tracks = next(
            (span for name, *span in _children(data, start, end) if name == _TRACKS), None
        )
        if tracks is None or tracks[1] > len(data):
            raise ValueError(f"{path}: no list of tracks at the beginning")
        first, last = tracks
        for name, low, high in list(_children(data, first, last)):
            if name == _ENTRY:
                _clear(data, low, high, numbers)
        for name, low, high in _children(data, first, last):
            if name == _CRC:  # over all that follows it
                data[low:high] = zlib.crc32(data[high:last]).to_bytes(4, "little")
        stream.seek(first)
        stream.write(data[first:last])


def _clear(data: bytearray, low: int, high: int, numbers: Collection[int]) -> None:
    entry = {name: (a, b) for name, a, b in _children(data, low, high)}
    a, b = entry.get(_NUMBER, (0, 0))
    if int.from_bytes(data[a:b], "big") not in numbers:
        return
    a, b = entry.get(_DELAY, (0, 0))
    data[a:b] = bytes(b - a)
    a, b = entry.get(_PRIVATE, (0, 0))
    if data[a : a + 8] == b"OpusHead":
        data[a + 10 : a + 12] = bytes(2)


def _children(data: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The elements from ``at`` to ``end``: (name, where its content begins, where it ends)."""
    while at < min(end, len(data)) - 1:
        size = 9 - data[at].bit_length()
        name = int.from_bytes(data[at : at + size], "big")
        at += size
        size = 9 - data[at].bit_length()
        if size > 8:
            raise ValueError("not a Matroska file")
        length = int.from_bytes(data[at : at + size], "big") & ((1 << 7 * size) - 1)
        at += size
        stop = end if length == (1 << 7 * size) - 1 else at + length
        yield name, at, stop
        at = stop
