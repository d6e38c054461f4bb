"""What each kind of file can say about when its sound begins, and so how sound is moved in it.

- MP4, MOV: an edit list. Sound that moves before zero is skipped by the player but stays in the
  file, packet by packet.
- Matroska, WebM, MPEG-TS, MPEG-PS, ASF: the packets' own time stamps. But for MPEG-TS these know
  no negative times (Matroska's players drop such blocks, MPEG-PS wraps around), so sound that would
  begin before zero is encoded anew without that part.
- AVI and MXF store no start times at all: the sound is always encoded anew, padded or trimmed; of
  PCM every sample stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avsync import demux
from avsync.digests import codec_of
from avsync.errors import InvalidOptionError
from avsync.reaudio import encoder_for

__all__ = ["ALIGNED", "MUXERS", "Method", "Moved", "family", "muxer_for", "options_for", "plan"]

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
    ".wmv": "asf",
    ".asf": "asf",
    ".mpg": "vob",
    ".mpeg": "vob",
    ".vob": "vob",
    ".mxf": "mxf",
}
_FAMILIES = {"mp4": "mov", "webm": "matroska", "vob": "mpeg"}
#: MPEG-TS keeps its clock; MP4 and Matroska keep negative time stamps, which become edit lists
#: and codec delays.
_NEGATIVE = {"avoid_negative_ts": "disabled"}
_OPTIONS = {"mpegts": {"mpegts_copyts": "1", "max_delay": "700000"}, "avi": {}}
_NO_START = ("avi", "mxf")
_NO_NEGATIVE = ("matroska", "webm", "asf", "vob")
#: Those that know no encoder's delay.
ALIGNED = (*_NO_START, "asf", "vob")
#: Sound may begin this much (s) before zero: time stamps are rounded to 1 ms.
_ROUNDING_S = 6e-4


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


def family(name: str) -> str:
    """What muxers and demuxers of the same kind of file have in common."""
    first = name.split(",")[0]
    return _FAMILIES.get(first, first)


def options_for(muxer: str) -> dict[str, str]:
    """What a muxer is told so that it leaves time stamps as they are."""
    return dict(_OPTIONS.get(muxer, _NEGATIVE))


def plan(film: Any, stream: Any, muxer: str, shift_s: float, anew: bool) -> Moved:
    """How one audio stream is moved: by its time stamps where the container can, else anew."""
    position = next(i for i, s in enumerate(film.streams.audio) if s.index == stream.index)
    codec = codec_of(stream)
    start = demux.seconds(stream.start_time, stream.time_base) or 0.0
    early = start + shift_s < min(0.0, start) - _ROUNDING_S
    if not (anew or muxer in _NO_START) and not (early and muxer in _NO_NEGATIVE):
        method: Method = "edit_list" if muxer in ("mp4", "mov") else "time_stamps"
        held = float(round(shift_s / stream.time_base) * stream.time_base)
        return Moved(stream.index, position, codec, method, held)
    begin = 0.0
    if muxer != "avi":
        starts = [
            demux.seconds(s.start_time, s.time_base) or 0.0
            for s in film.streams.video
            if not demux.is_attached(s)
        ]
        begin = max(0.0, min(starts if starts and muxer == "mxf" else [start, *starts]))
    encoder = encoder_for(codec, muxer)
    return Moved(stream.index, position, codec, "encoded_anew", shift_s, encoder, begin)
