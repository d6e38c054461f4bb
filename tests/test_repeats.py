"""Repeated pictures: found in any rate, whatever the encoder; nothing else is taken for one."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avsync import SyncDetector
from avsync.arrays import grid_frames
from avsync.media import iter_frames, iter_grid_frames, read_audio
from avsync.repeats import RepeatFilter, frame_look, thinned


def mouth(number: int, opening: float, *, noise: float = 0.0) -> np.ndarray:
    """A grey picture (72, 96, 3) with a dark mouth, open by ``opening`` (0 to 1)."""
    rng = np.random.default_rng(number)
    picture = np.full((72, 96, 3), 150.0)
    picture[40 : 44 + round(12 * opening), 40:60] = 20 + 100 * opening
    return (picture + rng.normal(0, noise, picture.shape)).clip(0, 255).astype(np.uint8)


def talk(count: int, *, noise: float = 0.0) -> list[np.ndarray]:
    """Pictures whose mouth moves from each to the next."""
    return [mouth(n, 0.37 * n % 1, noise=noise) for n in range(count)]


def shown(source: list[Any], fps: float, rate: float) -> tuple[list[Any], list[float]]:
    """The source's pictures in a film of ``rate``: the last one that is due, and their stamps."""
    count = int(len(source) / fps * rate)
    places = [int(n / rate * fps + 1e-9) for n in range(count)]
    return [source[p] for p in places], [n / rate for n in range(count)]


def kept(pictures: list[np.ndarray], stamps: list[float]) -> list[float]:
    """Stamps of those that are not left out."""
    known = RepeatFilter()
    pairs = zip(stamps, pictures, strict=True)
    return [t for t, picture in pairs if not known.is_repeat(t, thinned(picture))]


class TestFilter:
    @pytest.mark.parametrize("noise", [0.0, 1.0])
    @pytest.mark.parametrize(
        ("fps", "rate"), [(25, 60), (30, 60), (15, 30), (12.5, 25), (24, 60), (10, 30)]
    )
    def test_only_the_first_of_each_is_left(self, fps: float, rate: float, noise: float) -> None:
        pictures, stamps = shown(talk(100, noise=noise), fps, rate)
        first = [math.ceil(n * rate / fps - 1e-9) / rate for n in range(100)]
        late = [t for t in kept(pictures, stamps) if t > 1]
        assert late == pytest.approx([t for t in first if t > 1])

    @pytest.mark.parametrize("noise", [0.0, 2.0])
    def test_new_pictures_all_count(self, noise: float) -> None:
        stamps = [n / 25 for n in range(100)]
        assert kept(talk(100, noise=noise), stamps) == stamps

    def test_one_in_five_is_left(self) -> None:
        pictures, stamps = shown(talk(80), 24, 30)
        assert kept(pictures, stamps) == stamps

    def test_what_rests_counts_as_it_is_shown(self) -> None:
        still = [mouth(0, 0.3)] * 100
        stamps = [n / 25 for n in range(100)]
        assert kept(still, stamps) == stamps

    def test_a_pause_within_talk_is_seen_at_least_each_tenth_of_a_second(self) -> None:
        source = talk(40)
        pictures, stamps = shown([*source, *[source[-1]] * 40, *source], 25, 50)
        found = kept(pictures, stamps)
        assert max(np.diff(found)) <= 0.121

    def test_another_size_begins_anew(self) -> None:
        known = RepeatFilter()
        assert not known.is_repeat(0.0, thinned(mouth(0, 0.1)))
        assert not known.is_repeat(0.04, thinned(mouth(0, 0.1)[:40]))


class TestLook:
    @pytest.mark.parametrize(
        "form",
        [
            "yuv420p",
            "yuvj420p",
            "nv12",
            "yuv422p10le",
            "p010le",
            "rgb24",
            "bgr0",
            "yuyv422",
            "gray",
        ],
    )
    def test_any_layout_tells_repeats_from_others(self, form: str) -> None:
        one, two = (
            frame_look(av.VideoFrame.from_ndarray(mouth(0, o), "rgb24").reformat(format=form))
            for o in (0.2, 0.9)
        )
        assert one is not None
        assert two is not None
        assert one.dtype == np.uint8
        assert one.shape == (72, {"rgb24": 288, "bgr0": 384, "yuyv422": 192}.get(form, 96))
        assert np.abs(one.astype(int) - two).max() > 50

    def test_large_pictures_are_thinned(self) -> None:
        look = frame_look(av.VideoFrame(1920, 1080, "yuv420p"))
        assert look is not None
        assert look.shape == (180, 320)

    def test_what_is_not_known_is_left_alone(self) -> None:
        assert frame_look(av.VideoFrame(64, 48, "yuv420p10be")) is None


def write(path: Path, pictures: list[np.ndarray], rate: int, codec: str) -> Path:
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_500_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for n, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("mpeg4", "avi")])
def test_the_grid_takes_first_showings_of_a_film(codec: str, ending: str, tmp_path: Path) -> None:
    pictures, _ = shown(talk(75, noise=1.0), 25, 60)
    film = write(tmp_path / f"film.{ending}", pictures, 60, codec)
    grid = [g for g in iter_grid_frames(film) if 1.0 < g.time_s < 2.9]
    begin = next(iter_grid_frames(film)).pts_seconds
    for g in grid:
        first = math.ceil((g.tick / 25 - begin) * 60 - 1e-6) / 60 + begin
        assert g.pts_seconds == pytest.approx(first, abs=0.002)


def test_arrays_are_treated_alike() -> None:
    pictures, stamps = shown(talk(75), 12.5, 25)
    grid = [g for g in grid_frames(np.stack(pictures), fps=25) if g.time_s > 1]
    assert {round(g.pts_seconds * 25) % 2 for g in grid} == {0}
    assert abs(np.mean([g.age for g in grid])) < 0.021
    assert stamps[1] == 0.04


def test_a_film_of_60_with_25_new_ones_gets_the_same_answer(root: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = root / "examples" / "talk.mp4"
    frames = [f.image for f in iter_frames(source, end_s=5.0)]
    sound = read_audio(source, sample_rate=16_000, end_s=5.0)
    audio: dict[str, Any] = {
        "audio": sound.samples,
        "sample_rate": 16_000,
        "audio_start_s": sound.start_s,
    }
    detector = SyncDetector(provider="cpu", threads=1)
    plain = detector.score_arrays(frames, fps=25, **audio)
    pictures, _ = shown(frames, 25, 60)
    assert plain.offset_ms is not None
    assert detector.score_arrays(pictures, fps=60, **audio).offset_ms == pytest.approx(
        plain.offset_ms, abs=8
    )
