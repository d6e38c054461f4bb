"""Sound in pieces, frames on the grid, choice of streams. The clock itself: test_clock_table."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import factory
import numpy as np
import pytest
from factory import RATES, AudioSpec, VideoSpec, write_media
from hypothesis import given, settings
from hypothesis import strategies as st
from measure import click_near, errors_ms, flash_times

from avsync import media, sound
from avsync.errors import InvalidOptionError, MediaReadError

PCM = AudioSpec("pcm_s16le")
AAC = AudioSpec("aac")
MP3 = AudioSpec("libmp3lame")
OPUS = AudioSpec("libopus")


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
    line = sound.Timeline(16_000, 1.0)
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
    line = sound.Timeline(100, size / 100)
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
        patch.setattr(media, "frame_look", lambda _: None)
        patch.setattr(
            media.Picture,
            "from_frame",
            lambda frame, side, aspect: media.Picture.of(np.full((1, 1, 3), frame % 256)),
        )
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


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    ("aspect", "rotation", "shape"),
    [
        (Fraction(64, 45), 0, (64, 136, 3)),  # PAL for 16:9
        (Fraction(8, 9), 0, (64, 86, 3)),  # NTSC for 4:3
        (Fraction(64, 45), 90, (136, 64, 3)),
        (Fraction(4059, 4060), 0, (64, 96, 3)),  # as good as square
        (Fraction(1, 9), 0, (64, 96, 3)),  # not believed
    ],
)
def test_pixels_come_square(
    name: str, aspect: Fraction, rotation: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    if rotation and name.endswith(".ts"):
        pytest.skip("MPEG-TS stores no rotation")
    spec = VideoSpec(aspect=aspect, rotation=rotation, picture=lambda t, flash: corners())
    made = write_media(tmp_path / name, video=spec, duration_s=0.4)
    image = next(media.iter_frames(made.path)).image
    assert image.shape == shape
    assert image.flags.c_contiguous
    grid = next(media.iter_grid_frames(made.path))
    assert grid.image.shape == shape
    assert colour(grid.image, "bl" if rotation else "tl") == "red"
    small = next(media.iter_frames(made.path, max_side=48)).image
    assert max(small.shape) == 48


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
