"""Clips with a known offset, in every container that ``avsync fix`` writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
from factory import AudioSpec, EventMedia, VideoSpec, write_media

__all__ = ["CASES", "EVENTS_S", "B", "clip", "digest", "hashes"]

EVENTS_S = (0.75, 1.31, 1.95, 2.55)
PLAIN, B = VideoSpec(), VideoSpec(b_frames=2)
UNSHIFTED = {"avoid_negative_ts": "disabled"}
#: By ending, what makes a writer leave the clock as it is.
OPTIONS = {"avi": UNSHIFTED, "mpg": {"preload": "0"}}
CASES: dict[str, tuple[str, VideoSpec, AudioSpec]] = {
    "aac.mp4": ("mp4", B, AudioSpec("aac")),
    "mp3.mp4": ("mp4", PLAIN, AudioSpec("libmp3lame")),
    "pcm.mov": ("mov", B, AudioSpec("pcm_s16le")),
    "aac.mkv": ("mkv", B, AudioSpec("aac")),
    "flac.mkv": ("mkv", PLAIN, AudioSpec("flac")),
    "opus.webm": ("webm", VideoSpec("libvpx"), AudioSpec("libopus")),
    "aac.ts": ("ts", B, AudioSpec("aac")),
    "mp3.avi": ("avi", VideoSpec("mpeg4"), AudioSpec("libmp3lame", trim=True)),
    "wma.wmv": ("wmv", VideoSpec("wmv2"), AudioSpec("wmav2")),
    "mp2.mpg": ("mpg", VideoSpec("mpeg2video", b_frames=2), AudioSpec("mp2")),
    "pcm.mxf": ("mxf", VideoSpec("mpeg2video", b_frames=2), AudioSpec("pcm_s16le")),
    "pcm.avi": ("avi", VideoSpec("mpeg4"), AudioSpec("pcm_s16le")),
}


def clip(folder: Path, name: str = "aac.mp4", offset_ms: float = 0.0) -> EventMedia:
    """A clip whose sound leads by ``offset_ms``."""
    ending, video, audio = CASES[name]
    late = AudioSpec(audio.codec, trim=audio.trim, shift_s=-offset_ms / 1000)
    path = folder / f"clip.{ending}"
    return write_media(
        path, video=video, audio=late, events_s=EVENTS_S, options=OPTIONS.get(ending)
    )


def hashes(path: Path, kind: str = "video") -> list[str]:
    """Of each packet of a kind, after its stream's number among those of the kind."""
    with av.open(str(path)) as film:
        streams = [s for s in film.streams if s.type == kind]
        return [
            f"{streams.index(p.stream)} {hashlib.sha256(bytes(p)).hexdigest()}"
            for p in film.demux(streams)
            if p.size
        ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
