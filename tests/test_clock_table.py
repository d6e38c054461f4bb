"""One clock: every container, codec and rate puts flash and click at the same instant.

Known limits are written down with their measured figures in ``LIMITS``, so that a change shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from factory import RATES, AudioSpec, EventMedia, VideoSpec, write_media
from measure import errors_ms

from avsync import media


@dataclass(frozen=True)
class Row:
    """One line of the table: how a file is written."""

    name: str
    video: VideoSpec = field(default_factory=VideoSpec)
    audio: AudioSpec = field(default_factory=AudioSpec)
    start_s: float = 0.0
    options: dict[str, str] = field(default_factory=dict)
    moved: bool = False  # the muxer moves all streams together, to keep decoding times positive

    def write(self, folder: Path) -> EventMedia:
        path = folder / ("clip." + self.name.rsplit(".", 1)[-1])
        return write_media(
            path, video=self.video, audio=self.audio, start_s=self.start_s, options=self.options
        )


PCM = AudioSpec("pcm_s16le")
AAC = AudioSpec("aac")
MP3 = AudioSpec("libmp3lame")
OPUS = AudioSpec("libopus")
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
UNSHIFTED = {"avoid_negative_ts": "disabled"}


def by_rate() -> Iterator[Row]:
    for name, rate in RATES.items():
        yield Row(f"{name} h264 B aac.mp4", VideoSpec(rate=rate, b_frames=2), AAC)
        yield Row(f"{name} h264 opus.mkv", VideoSpec(rate=rate), OPUS)
        yield Row(f"{name} vp9 opus.webm", VideoSpec("libvpx-vp9", rate=rate), OPUS)
        yield Row(f"{name} h264 B mp3.ts", VideoSpec(rate=rate, b_frames=2), MP3, moved=True)
        yield Row(f"{name} h264 pcm.mov", VideoSpec(rate=rate), PCM)
        if name != "vfr":  # AVI has no room for it
            yield Row(f"{name} mpeg4 pcm.avi", VideoSpec("mpeg4", rate=rate), PCM)


def by_start() -> Iterator[Row]:
    b = VideoSpec(b_frames=2)
    for start in (1.4, -0.2):
        for audio in (AAC, OPUS, MP3, PCM):
            for ext in ("mp4", "mkv"):
                yield Row(f"start {start} h264 B {audio.codec}.{ext}", b, audio, start)
        for audio in (AAC, PCM):
            yield Row(f"start {start} h264 {audio.codec}.mov", VideoSpec(), audio, start)
        for video in ("libvpx", "libvpx-vp9"):
            yield Row(f"start {start} {video} opus.webm", VideoSpec(video), OPUS, start)
        for audio in (AAC, MP3, OPUS):
            yield Row(f"start {start} h264 B {audio.codec}.ts", b, audio, start)


def by_container() -> Iterator[Row]:
    plain, b = VideoSpec(), VideoSpec(b_frames=2)
    for audio in (AAC, OPUS, MP3, PCM):
        yield Row(f"edit list h264 B {audio.codec}.mp4", b, audio)
        yield Row(f"h264 B {audio.codec}.mkv", b, audio)
    for audio in (AAC, MP3, PCM):
        yield Row(f"edit list h264 B {audio.codec}.mov", b, audio)
        for codec, frames in (("libx264", 0), ("libx264", 2), ("mpeg4", 2), ("mjpeg", 0)):
            video = VideoSpec(codec, b_frames=frames)
            sound = AudioSpec(audio.codec, trim=True)
            yield Row(f"{codec} {frames}B {audio.codec}.avi", video, sound, 0.0, UNSHIFTED)
    for audio in (AAC, MP3, OPUS):
        yield Row(f"h264 {audio.codec}.ts", plain, audio, moved=True)
    yield Row("vp8 opus.webm", VideoSpec("libvpx"), OPUS)
    yield Row("hevc B aac.mp4", VideoSpec("libx265", b_frames=3), AAC)
    yield Row("hevc B aac.ts", VideoSpec("libx265", b_frames=3), AAC, moved=True)
    yield Row("mpeg2 B mp2.mpg", VideoSpec("mpeg2video", b_frames=2), AudioSpec("mp2"), moved=True)
    yield Row("mpeg2 B mp2.ts", VideoSpec("mpeg2video", b_frames=2), AudioSpec("mp2"), moved=True)
    yield Row("h264 B aac.flv", b, AudioSpec("aac", 44_100), moved=True)
    yield Row("mpeg4 aac.3gp", VideoSpec("mpeg4"), AAC)
    yield Row("no edit list.mp4", b, AAC, options={"use_editlist": "0"}, moved=True)
    yield Row("fragments.mp4", plain, AAC, options={"movflags": FRAGMENTS}, moved=True)
    yield Row("fragments B.mp4", b, AAC, options={"movflags": FRAGMENTS}, moved=True)
    delayed = {"movflags": "frag_keyframe+delay_moov"}
    yield Row("fragments, edit list B.mp4", b, AAC, options=delayed)
    yield Row("index in front.mp4", b, AAC, options={"movflags": "faststart"})
    yield Row("negative offsets.mp4", b, AAC, options={"movflags": "negative_cts_offsets"})


def by_sound() -> Iterator[Row]:
    plain = VideoSpec()
    for ext in ("mp4", "mkv", "ts"):
        moved = ext == "ts"
        yield Row(f"picture late.{ext}", VideoSpec(delay_s=0.5, b_frames=2), AAC, moved=moved)
        yield Row(f"sound late.{ext}", plain, AudioSpec(delay_s=0.3), moved=moved)
        yield Row(f"44.1 kHz mp3.{ext}", plain, AudioSpec("libmp3lame", 44_100), moved=moved)
    yield Row("44.1 kHz aac.mp4", plain, AudioSpec("aac", 44_100))
    yield Row("22.05 kHz mono.mp4", plain, AudioSpec("aac", 22_050, "mono"))
    yield Row("8 kHz pcm.mov", plain, AudioSpec("pcm_s16le", 8_000))
    yield Row("5.1 aac.mp4", plain, AudioSpec("aac", layout="5.1"))
    yield Row("5.1 aac.mkv", plain, AudioSpec("aac", layout="5.1"))
    yield Row("5.1 opus.mkv", plain, AudioSpec("libopus", layout="5.1"))
    yield Row("48 to 44.1 kHz.ts", plain, AudioSpec(change_s=1.5), moved=True)
    yield Row(
        "44.1 to 32 kHz.ts", plain, AudioSpec("aac", 44_100, change_s=1.5, change_rate=32_000)
    )
    yield Row("sloppy stamps.mkv", plain, AudioSpec(jitter_s=0.008))


TABLE = [*by_rate(), *by_start(), *by_container(), *by_sound()]


def test_the_table_is_wide() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE) > 100


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_flash_and_click_meet(row: Row, tmp_path: Path) -> None:
    made = row.write(tmp_path)
    frames = [(f.pts_seconds, f.image.mean()) for f in media.iter_frames(made.path)]
    flashes = [t for t, light in frames if light > 150]
    assert len(flashes) == len(made.events_s)
    assert errors_ms(made.path, flashes) == pytest.approx([0.0] * len(flashes), abs=10.0)
    if not row.moved:
        wanted = [row.start_s + t for t in made.events_s]
        assert flashes == pytest.approx(wanted, abs=1e-3)
    else:
        moves = {round(f - t, 3) for f, t in zip(flashes, made.events_s, strict=True)}
        assert len(moves) == 1
    cut = 5 if row.start_s < 0 and row.name.endswith((".mp4", ".mov")) else 0  # by the edit list
    assert len(frames) == len(made.frame_times_s) - cut


@dataclass(frozen=True)
class Limit:
    """A file whose container does not say what would be needed; ``late_ms`` is what comes out."""

    row: Row
    late_ms: float
    why: str


NO_ROOM = "AVI stores neither the encoder's delay nor when a stream starts"
LIMITS = [
    Limit(Row("h264 aac.avi"), -18.7, NO_ROOM),
    Limit(Row("h264 mp3.avi", audio=MP3), -17.0, NO_ROOM),
    Limit(Row("h264 B aac.avi", VideoSpec(b_frames=2)), 21.3, NO_ROOM),
    Limit(
        Row("h264 B mp3.avi", VideoSpec(b_frames=2), AudioSpec("libmp3lame", 44_100)), 25.1, NO_ROOM
    ),
    Limit(
        Row(
            "fragments, negative offsets.mp4",
            VideoSpec(b_frames=2),
            options={"movflags": "frag_keyframe+delay_moov+negative_cts_offsets"},
        ),
        -40.0,
        "ffmpeg delays the picture of such fragments by the largest negative offset",
    ),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.row.name)
def test_known_limit_is_as_measured(limit: Limit, tmp_path: Path) -> None:
    made = limit.row.write(tmp_path)
    assert errors_ms(made.path) == pytest.approx([limit.late_ms] * 4, abs=1.0), limit.why
