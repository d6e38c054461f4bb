"""One clock: every container, codec and rate puts flash and click at the same instant.

Known limits are written down with their measured figures in ``LIMITS``, so that a change shows.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from factory import RATES, AudioSpec, EventMedia, VideoSpec, write_media
from hypothesis import given, settings
from hypothesis import strategies as st

from avsync import media
from avsync.errors import InvalidOptionError, MediaNotFoundError, MediaReadError

HALF_WINDOW_S = 0.25
SMOOTH = 33  # samples, 2 ms at 16 kHz: the envelope of a 2.5-kHz burst


def flash_times(path: Path, **options: Any) -> list[float]:
    """The time stamps of the white frames."""
    return [f.pts_seconds for f in media.iter_frames(path, **options) if f.image.mean() > 150]


def click_near(sound: media.AudioPiece, instant: float) -> float:
    """The time (s) at which the envelope peaks within 0.25 s of ``instant``."""
    rate = sound.sample_rate
    lo = max(0, round((instant - HALF_WINDOW_S - sound.start_s) * rate))
    hi = round((instant + HALF_WINDOW_S - sound.start_s) * rate)
    envelope = np.convolve(np.abs(sound.samples[lo:hi]), np.ones(SMOOTH) / SMOOTH, "same")
    assert envelope.max() > 0.03, f"no click near {instant:.3f} s"
    return sound.start_s + (lo + int(envelope.argmax())) / rate


def errors_ms(path: Path, flashes: list[float] | None = None, **options: Any) -> list[float]:
    """Click minus flash, in ms, for each flash (positive: the sound is late)."""
    flashes = flash_times(path) if flashes is None else flashes
    sound = media.read_audio(path, **options)
    return [1000 * (click_near(sound, t) - t) for t in flashes]


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


@pytest.mark.parametrize("shift_ms", [-330.0, -90.0, 45.0, 170.0])
def test_a_shift_is_seen_as_it_is(shift_ms: float, tmp_path: Path) -> None:
    events = (0.6, 1.7, 2.9)
    made = write_media(
        tmp_path / "a.mp4", audio=AudioSpec(shift_s=shift_ms / 1000), events_s=events
    )
    sound = media.read_audio(made.path)
    late = [1000 * (click_near(sound, t + shift_ms / 1000) - t) for t in flash_times(made.path)]
    assert late == pytest.approx([shift_ms] * 3, abs=1.0)


# Sound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.ts", "libmp3lame")]
)
def test_gap_becomes_zeros(name: str, codec: str, tmp_path: Path) -> None:
    def hum(t: np.ndarray) -> np.ndarray:
        return 0.3 * np.sin(2 * np.pi * 440 * t) + factory.click_track(t, (0.4, 2.64))

    spec = AudioSpec(codec, signal=hum, gap_s=(1.2, 1.8))
    made = write_media(tmp_path / name, audio=spec, events_s=(0.4, 2.64))
    sound = media.read_audio(made.path)
    flashes = flash_times(made.path)
    moved = flashes[0] - made.events_s[0]

    def level(a: float, b: float) -> float:
        lo, hi = (round((t + moved - sound.start_s) * 16_000) for t in (a, b))
        return float(np.abs(sound.samples[lo:hi]).mean())

    inner = (1.2 + 0.07, 1.8 - 0.05)  # packets that touch the edge stay; codecs ring a little
    assert level(*inner) == 0.0
    assert level(0.8, 1.1) > 0.15
    assert level(1.95, 2.4) > 0.15
    clicks = [click_near(sound, t) - t for t in flashes]
    assert clicks == pytest.approx([0.0, 0.0], abs=0.003)


@pytest.mark.parametrize("piece_s", [0.1, 0.37, 1.0, 10.0])
def test_pieces_are_contiguous_and_bounded(piece_s: float, tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mkv", audio=AudioSpec(gap_s=(0.8, 2.2)), start_s=1.4)
    pieces = list(media.iter_audio(made.path, piece_s=piece_s))
    size = int(piece_s * 16_000)
    assert all(0 < len(p.samples) <= size for p in pieces)
    assert all(len(p.samples) == size for p in pieces[:-1])
    assert all(p.samples.dtype == np.float32 and p.sample_rate == 16_000 for p in pieces)
    for before, after in pairwise(pieces):
        assert after.start_s == pytest.approx(before.end_s, abs=1e-9)
    assert pieces[0].start_s == pytest.approx(1.4, abs=2e-3)
    assert pieces[-1].end_s == pytest.approx(1.4 + 3.2, abs=0.03)
    whole = media.read_audio(made.path)
    assert whole.start_s == pieces[0].start_s
    np.testing.assert_array_equal(whole.samples, np.concatenate([p.samples for p in pieces]))


@pytest.mark.parametrize(
    ("name", "audio", "start_s", "wanted"),
    [
        ("a.mp4", AAC, 0.0, 0.0),
        ("a.mp4", AudioSpec("pcm_s16le", delay_s=0.3), 0.0, 0.3),
        ("a.mkv", AAC, 1.4, 1.4),
        ("a.mkv", AudioSpec("aac", delay_s=0.5), 1.4, 1.9),
        ("a.mkv", AAC, -0.2, -0.2),
        ("a.mkv", MP3, 0.0, 0.0),
        ("a.webm", OPUS, 0.0, 0.0),
        ("a.mov", PCM, 1.4, 1.4),
        ("a.ts", AAC, 1.4, 1.4 - 1024 / 48_000),  # MPEG-TS plays the encoder's delay
    ],
)
def test_sound_starts_where_the_container_says(
    name: str, audio: AudioSpec, start_s: float, wanted: float, tmp_path: Path
) -> None:
    video = VideoSpec("libvpx") if name.endswith("webm") else VideoSpec()
    made = write_media(tmp_path / name, video=video, audio=audio, start_s=start_s, duration_s=1.5)
    sound = media.read_audio(made.path)
    assert sound.start_s == pytest.approx(wanted, abs=1.1e-3)  # Matroska counts milliseconds
    declared = media.probe(made.path).audio[0].start_s
    assert declared == pytest.approx(wanted, abs=0.025)  # may name the encoder's delay


def test_other_sample_rate_keeps_the_times(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4")
    for rate in (8_000, 22_050, 48_000):
        sound = media.read_audio(made.path, sample_rate=rate)
        assert len(sound.samples) == pytest.approx(3.2 * rate, rel=1e-3)
        peaks = [click_near(sound, t) - t for t in made.events_s]
        assert peaks == pytest.approx([0.0] * 4, abs=0.002)


def test_loudness_survives(tmp_path: Path) -> None:
    def tone(t: np.ndarray) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * t)

    for codec in ("pcm_s16le", "aac"):
        for layout in ("mono", "stereo", "5.1"):  # 5.1 has it in the centre
            spec = AudioSpec(codec, layout=layout, signal=tone)
            made = write_media(tmp_path / "a.mkv", video=None, audio=spec, duration_s=1.5)
            middle = media.read_audio(made.path).samples[8_000:16_000]
            level = float(np.sqrt(np.mean(middle**2)))
            assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.02), (codec, layout)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_audio_stream_is_chosen(name: str, tmp_path: Path) -> None:
    specs = [
        AudioSpec("aac", language="eng"),
        AudioSpec("libopus", language="deu", shift_s=0.15),
        AudioSpec("libmp3lame", 44_100, "mono", language="fra", shift_s=-0.1),
    ]
    made = write_media(tmp_path / name, audio=specs)
    infos = media.probe(made.path).audio
    assert [(a.position, a.language) for a in infos] == [(0, "eng"), (1, "deu"), (2, "fra")]
    assert [(a.codec[:3], a.sample_rate, a.channels) for a in infos] == [
        ("aac", 48_000, 2),
        ("opu", 48_000, 2),
        ("mp3", 44_100, 1),
    ]
    flashes = flash_times(made.path)
    for choice, late in ((None, 0.0), (0, 0.0), (1, 150.0), (2, -100.0)):
        found = errors_ms(made.path, flashes, audio_stream=choice)
        assert found == pytest.approx([late] * 4, abs=2.0), choice
    with pytest.raises(InvalidOptionError, match=r"audio stream 3 was asked for; it has 3"):
        media.read_audio(made.path, audio_stream=3)
    with pytest.raises(InvalidOptionError):
        next(media.iter_audio(made.path, audio_stream=-1))


def test_long_sound_is_read_in_bounded_memory(tmp_path: Path) -> None:
    def noise(t: np.ndarray) -> np.ndarray:
        return np.random.default_rng(3).uniform(-0.3, 0.3, len(t))

    spec = AudioSpec("pcm_s16le", 16_000, "mono", signal=noise)
    made = write_media(tmp_path / "a.mkv", video=None, audio=spec, duration_s=240)
    tracemalloc.start()
    try:
        total = sum(len(p.samples) for p in media.iter_audio(made.path, piece_s=2.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 240 * 16_000
    assert peak < 1_500_000  # the whole sound is 15 MB


def test_an_hour_of_gap_is_poured_in_pieces() -> None:
    line = media._Timeline(16_000, 1.0)
    assert list(line.begin_run(0.0)) == []
    tracemalloc.start()
    try:
        sizes = [len(p.samples) for p in line.begin_run(3600.0)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [16_000] * 3600
    assert peak < 1_000_000


@settings(max_examples=60)
@given(
    runs=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 120)), min_size=1, max_size=6),
    size=st.integers(7, 90),
    block=st.integers(5, 50),
)
def test_timeline_lays_runs_where_they_belong(
    runs: list[tuple[int, int]], size: int, block: int
) -> None:
    """Against a plain model: one array, zeros in gaps, the earlier run wins an overlap."""
    line = media._Timeline(100, size / 100)
    assert line.size == size
    first = runs[0][0]
    model = np.zeros(0, np.float32)
    pieces: list[media.AudioPiece] = []
    for number, (at, length) in enumerate(runs, start=1):
        samples = np.full(length, number, np.float32)
        pieces += line.begin_run(at / 100)
        for i in range(0, length, block):
            pieces += line.append(samples[i : i + block])
        gap = at - first - len(model)
        model = np.concatenate([model, np.zeros(max(0, gap), np.float32), samples[max(0, -gap) :]])
    pieces += line.flush()
    joined = np.concatenate([p.samples for p in pieces]) if pieces else np.zeros(0, np.float32)
    np.testing.assert_array_equal(joined, model)
    assert all(len(p.samples) <= size for p in pieces)
    position = first
    for piece in pieces:
        assert piece.start_s == pytest.approx(position / 100)
        position += len(piece.samples)


# Pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", list(RATES))
def test_frames_carry_their_own_stamps(rate: str, tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", video=VideoSpec(rate=RATES[rate]), start_s=1.4)
    frames = list(media.iter_frames(made.path))
    assert [f.pts_seconds for f in frames] == pytest.approx(
        [1.4 + t for t in made.frame_times_s], abs=1e-3
    )
    assert all(f.image.shape == (64, 96, 3) and f.image.dtype == np.uint8 for f in frames)
    steps = np.diff([f.pts_seconds for f in frames])
    np.testing.assert_allclose([f.duration_seconds for f in frames[:-1]], steps, atol=2e-3)


@pytest.mark.parametrize("start_s", [0.0, 1.4, -0.2])
@pytest.mark.parametrize("rate", ["23.976", "25", "60", "vfr"])
def test_grid_takes_the_nearest_frame(rate: str, start_s: float, tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mkv", video=VideoSpec(rate=RATES[rate]), start_s=start_s)
    stamps = np.array([f.pts_seconds for f in media.iter_frames(made.path)])
    grid = list(media.iter_grid_frames(made.path))
    ticks = [g.tick for g in grid]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert all(g.time_s == g.tick / 25 for g in grid)
    assert abs(ticks[0] / 25 - stamps[0]) <= 0.5 / 25 + 1e-6
    assert 0 <= ticks[-1] / 25 - stamps[-1] + 0.04 <= 0.08
    for g in grid:
        assert abs(g.pts_seconds - g.time_s) <= np.abs(stamps - g.time_s).min() + 1e-9
    white = [g.time_s for g in grid if g.image.mean() > 150]
    if rate != "60":  # at 60 fps a single frame can fall between two ticks
        for event in made.events_s:
            assert min(abs(w - event - start_s) for w in white) <= 0.0205


def test_grid_at_another_rate(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", video=VideoSpec(rate=RATES["50"]))
    grid = list(media.iter_grid_frames(made.path, rate=50.0))
    assert [g.tick for g in grid] == list(range(160))
    assert [g.pts_seconds for g in grid] == pytest.approx([n / 50 for n in range(160)], abs=1e-4)


@settings(max_examples=60)
@given(
    steps=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    start=st.integers(-3000, 5000),
    rate=st.sampled_from([25.0, 50.0, 10.0]),
)
def test_grid_of_any_stamps(steps: list[int], start: int, rate: float) -> None:
    """Ticks are consecutive, cover the stream, and each shows a frame that is nearest to it."""
    stamps = (start + np.cumsum(steps)) / 1000

    def frames(*_: object) -> Iterator[tuple[float, float, int]]:
        for i, t in enumerate(stamps):
            yield float(t), 0.04, i

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "_iter_video", frames)
        patch.setattr(media, "_to_rgb", lambda frame, side: np.full((1, 1, 3), frame % 256))
        grid = list(media.iter_grid_frames("any", rate=rate))
    ticks = [g.tick for g in grid]
    if not ticks:  # a lone frame may lie too far from any tick only if it is shorter than a tick
        assert len(stamps) == 1
        return
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert ticks[0] - 1 < stamps[0] * rate <= ticks[0] + 0.51
    assert ticks[-1] + 1 >= stamps[-1] * rate - 1e-6
    for g in grid:
        distance = np.abs(stamps - g.time_s)
        assert abs(g.pts_seconds - g.time_s) <= distance.min() + 1e-9
        assert g.image[0, 0, 0] == int(np.argmin(np.abs(stamps - g.pts_seconds))) % 256


def corners(width: int = 96, height: int = 64) -> np.ndarray:
    """Red in the upper left, green in the lower left, dark elsewhere."""
    image = np.full((height, width, 3), 30, np.uint8)
    image[: height // 4, : width // 4] = (250, 20, 20)
    image[-(height // 4) :, : width // 4] = (20, 250, 20)
    return image


def colour(image: np.ndarray, corner: str) -> str:
    y = 4 if corner[0] == "t" else image.shape[0] - 5
    x = 4 if corner[1] == "l" else image.shape[1] - 5
    red, green, _ = (int(v) for v in image[y, x])
    return "red" if red > 150 > green else "green" if green > 150 > red else "dark"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize(
    ("rotation", "shape", "red", "green"),
    [
        (0, (64, 96, 3), "tl", "bl"),
        (90, (96, 64, 3), "bl", "br"),  # counter-clockwise, as ffmpeg's display matrix
        (180, (64, 96, 3), "br", "tr"),
        (-90, (96, 64, 3), "tr", "tl"),
    ],
)
def test_pictures_come_upright(
    name: str, rotation: int, shape: tuple[int, ...], red: str, green: str, tmp_path: Path
) -> None:
    spec = VideoSpec(rotation=rotation, picture=lambda t, flash: corners())
    made = write_media(tmp_path / name, video=spec, duration_s=0.4)
    image = next(media.iter_frames(made.path)).image
    assert image.shape == shape
    assert image.flags.c_contiguous
    assert (colour(image, red), colour(image, green)) == ("red", "green")
    small = next(media.iter_grid_frames(made.path, max_side=48)).image
    assert small.shape == (shape[0] // 2, shape[1] // 2, 3)
    assert (colour(small, red), colour(small, green)) == ("red", "green")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_cover_is_not_taken_for_the_picture(name: str, tmp_path: Path) -> None:
    made = write_media(tmp_path / name, cover=True)
    video = media.probe(made.path).video
    assert [v.attached_picture for v in video] == [False, True]
    assert len(list(media.iter_frames(made.path))) == 80
    assert errors_ms(made.path) == pytest.approx([0.0] * 4, abs=10.0)


def test_song_with_a_cover_has_no_video(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp3", video=None, audio=MP3, cover=True)
    assert [v.attached_picture for v in media.probe(made.path).video] == [True]
    with pytest.raises(MediaReadError, match="has no video stream"):
        next(media.iter_frames(made.path))
    sound = media.read_audio(made.path)
    peaks = [click_near(sound, t + sound.start_s) - sound.start_s for t in made.events_s]
    assert peaks == pytest.approx(made.events_s, abs=0.002)


# Parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.mp4", VideoSpec(b_frames=2), AAC),
        ("a.mkv", VideoSpec(b_frames=2), OPUS),
        ("a.ts", VideoSpec(b_frames=2), MP3),
        ("a.avi", VideoSpec("mpeg4", b_frames=2, keyframe_every=12), PCM),
        ("a.avi", VideoSpec("libx264", b_frames=2), PCM),
        ("a.webm", VideoSpec("libvpx-vp9"), OPUS),
    ],
    ids=["mp4", "mkv", "ts", "avi mpeg4", "avi h264", "webm"],
)
def test_a_part_has_the_times_of_the_whole(
    name: str, video: VideoSpec, audio: AudioSpec, tmp_path: Path
) -> None:
    made = write_media(
        tmp_path / name, video=video, audio=audio, duration_s=6, events_s=(0.9, 2.1, 3.3, 4.4, 5.3)
    )
    whole = flash_times(made.path)
    assert len(whole) == 5
    for start in (0.1, 0.77, 1.9, 2.75, 4.0, 4.37):
        inside = [t for t in whole if start + 0.1 < t < start + 1.4]
        got = flash_times(made.path, start_s=start, end_s=start + 1.5)
        assert [t for t in got if start + 0.1 < t < start + 1.4] == pytest.approx(inside, abs=1e-3)
        frames = [
            f.pts_seconds for f in media.iter_frames(made.path, start_s=start, end_s=start + 1)
        ]
        assert frames[0] <= max(start, whole[0] - made.events_s[0]) + 1e-3
        assert start + 1 - 0.05 < frames[-1] < start + 1
        sound = media.read_audio(made.path, start_s=start, end_s=start + 1.5)
        assert sound.start_s <= start + 1e-3
        assert sound.end_s >= start + 1.5 - 1e-3
        clicks = [click_near(sound, t) - t for t in inside if start + 0.25 < t < start + 1.25]
        assert clicks == pytest.approx([0.0] * len(clicks), abs=0.003)


# Probe and faults -------------------------------------------------------------------------------


def test_probe_tells_what_is_there(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mkv", start_s=1.4, audio=AudioSpec(language="ger"))
    info = media.probe(made.path)
    assert info.path == str(made.path)
    assert "matroska" in info.container
    assert info.start_s == pytest.approx(1.4, abs=2e-3)
    (video,), (audio,) = info.video, info.audio
    assert (video.codec, video.width, video.height, video.fps) == ("h264", 96, 64, 25.0)
    assert video.start_s == pytest.approx(1.4)
    assert not video.attached_picture
    assert (audio.codec, audio.sample_rate, audio.channels, audio.language) == (
        "aac",
        48_000,
        2,
        "ger",
    )


@pytest.mark.parametrize("read", [media.probe, media.read_audio])
def test_faults_have_their_errors(read: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"nowhere\.mp4: no such file"):
        read(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read(tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(MediaReadError, match="the file is empty"):
        read(empty)
    text = factory.write_text_named_mp4(tmp_path / "text.mp4")
    with pytest.raises(MediaReadError, match=r"text\.mp4: not a media file"):
        read(text)
    cut = factory.truncate(write_media(tmp_path / "cut.mp4").path, 0.5)
    with pytest.raises(ValueError, match=r"cut\.mp4: not a media file"):
        read(cut)


def test_missing_streams_are_said(tmp_path: Path) -> None:
    mute = write_media(tmp_path / "mute.mp4", audio=None, duration_s=0.4).path
    blind = write_media(tmp_path / "blind.m4a", video=None, duration_s=0.4).path
    assert media.probe(mute).audio == ()
    assert media.probe(blind).video == ()
    with pytest.raises(MediaReadError, match=r"mute\.mp4: has no audio stream"):
        media.read_audio(mute)
    with pytest.raises(MediaReadError, match=r"blind\.m4a: has no video stream"):
        next(media.iter_frames(blind))
    assert len(list(media.iter_frames(mute))) == 10
    assert media.read_audio(blind).end_s == pytest.approx(0.4, abs=0.025)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("a.avi", {}),
        ("a.mp4", {"movflags": "faststart"}),
        ("a.mp4", {"movflags": FRAGMENTS}),
        ("a.webm", {}),
    ],
)
def test_a_cut_file_gives_what_there_is_and_says_so(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    webm = name.endswith("webm")
    path = write_media(
        tmp_path / name,
        video=VideoSpec("libvpx" if webm else "libx264", keyframe_every=25),
        audio=OPUS if webm else AAC,
        duration_s=8,
        events_s=(0.5, 1.3),
        options=options,
    ).path
    sound, picture = media.DecodeStats(), media.DecodeStats()
    assert media.read_audio(path, stats=sound).end_s == pytest.approx(8, abs=0.1)
    assert len(list(media.iter_frames(path, stats=picture))) == 200
    assert sound.warnings == picture.warnings == []

    factory.truncate(path, 0.6)
    both = media.DecodeStats()
    frames = list(media.iter_frames(path, stats=both))
    heard = media.read_audio(path, stats=both)
    assert 30 < len(frames) < 190
    assert frames[-1].pts_seconds == pytest.approx(len(frames) / 25, abs=0.1)
    assert 1.0 < heard.end_s < 7.0
    assert both.video_end_s == pytest.approx(frames[-1].pts_seconds + 0.04, abs=0.01)
    assert both.audio_end_s == pytest.approx(heard.end_s)
    assert any("breaks off" in w or "though the file declares" in w for w in both.warnings)


def test_damaged_packets_are_stepped_over(tmp_path: Path) -> None:
    def hum(t: np.ndarray) -> np.ndarray:
        return 0.3 * np.sin(2 * np.pi * 440 * t) + factory.click_track(t, factory.EVENTS_S)

    made = write_media(tmp_path / "a.ts", audio=AudioSpec(signal=hum), events_s=(0.4, 2.64))
    data = bytearray(made.path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 40 * 188] = bytes(40 * 188)
    made.path.write_bytes(bytes(data))
    stats = media.DecodeStats()
    flashes = flash_times(made.path, stats=stats)
    sound = media.read_audio(made.path, stats=stats)
    assert stats.warnings
    assert len(flashes) == 2
    assert flashes[1] - flashes[0] == pytest.approx(2.24, abs=1e-3)
    assert sound.end_s == pytest.approx(flashes[0] - 0.4 + 3.2, abs=0.05)
    assert click_near(sound, flashes[1]) == pytest.approx(flashes[1], abs=0.01)


def test_a_very_short_clip(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", duration_s=0.3, events_s=(0.12,))
    assert len(list(media.iter_frames(made.path))) == 7
    assert [g.tick for g in media.iter_grid_frames(made.path)] == list(range(7))
    assert errors_ms(made.path) == pytest.approx([0.0], abs=10.0)


def test_silence_is_zeros(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", audio=AudioSpec(signal=np.zeros_like), duration_s=1.0)
    sound = media.read_audio(made.path)
    assert len(sound.samples) == pytest.approx(16_000, abs=400)
    assert float(np.abs(sound.samples).max()) < 1e-4
