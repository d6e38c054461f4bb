"""Arrays in: what is refused, how frames and samples are placed, and the same answer as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import TINY

from avsync import AVSyncError, InvalidArrayError, Status, SyncDetector
from avsync.arrays import grid_frames, mouth_crops, sound_pieces
from avsync.media import iter_frames, read_audio

RATE = 48_000


def pictures(count: int, side: int = 8) -> np.ndarray:
    """Frame ``i`` is all ``i``."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 3)
    )


class TestGrid:
    def test_25_fps_is_the_grid(self) -> None:
        grid = list(grid_frames(pictures(10), fps=25))
        assert [g.tick for g in grid] == list(range(10))
        assert [int(g.image[0, 0, 0]) for g in grid] == list(range(10))

    def test_50_fps_takes_every_other_and_12_5_each_twice(self) -> None:
        shown = [int(g.image[0, 0, 0]) for g in grid_frames(pictures(20), fps=50)]
        assert shown == list(range(0, 20, 2))
        shown = [int(g.image[0, 0, 0]) for g in grid_frames(pictures(5), fps=12.5)]
        assert shown[:9] == [0, 1, 1, 2, 2, 3, 3, 4, 4] or shown[:9] == [0, 0, 1, 1, 2, 2, 3, 3, 4]

    @settings(max_examples=40)
    @given(st.lists(st.integers(5, 300), min_size=2, max_size=40), st.integers(-2000, 2000))
    def test_any_stamps_show_the_nearest_frame(self, steps: list[int], start: int) -> None:
        stamps = (start + np.cumsum(steps)) / 1000
        for g in grid_frames(iter(pictures(len(stamps), 2)), pts=stamps.tolist()):
            nearest = np.abs(stamps - g.time_s).min()
            assert abs(g.pts_seconds - g.time_s) <= nearest + 1e-9
            assert g.image[0, 0, 0] == int(np.argmin(np.abs(stamps - g.pts_seconds)))

    def test_large_pictures_are_scaled_down(self) -> None:
        frames = np.zeros((2, 1200, 2400, 3), np.uint8)
        assert next(grid_frames(frames, fps=25)).image.shape == (960, 1920, 3)

    def test_frames_are_taken_as_they_are_needed(self) -> None:
        taken: list[int] = []

        def frames() -> Any:
            for i in range(50):
                taken.append(i)
                yield pictures(1)[0]

        next(grid_frames(frames(), fps=25))
        assert len(taken) < 4


FRAMES = np.zeros((10, 8, 8, 3), np.uint8)
FRAME_FAULTS: list[tuple[Any, dict[str, Any], str]] = [
    (FRAMES, {}, "neither was given"),
    (FRAMES, {"fps": 25, "pts": range(10)}, "both were given"),
    (FRAMES, {"fps": 0}, "fps must be"),
    (FRAMES, {"fps": float("nan")}, "fps must be"),
    (FRAMES, {"fps": "25"}, "fps must be"),
    (FRAMES, {"pts": [0, 0.04, 0.04]}, r"pts\[2\] is 0.04 s after 0.04 s"),
    (FRAMES, {"pts": [0, float("inf")]}, r"pts\[1\] is inf"),
    (FRAMES, {"pts": [0.0, 0.04, 0.08]}, "holds 3 times, but there are more frames"),
    (FRAMES, {"pts": np.arange(12) / 25}, r"more times than there are frames \(10\)"),
    (FRAMES, {"pts": np.zeros((10, 1))}, r"shape \(10, 1\)"),
    (FRAMES, {"pts": 0.04}, "one time in seconds a frame"),
    (FRAMES.astype(np.float32), {"fps": 25}, "frame 0 is float32.*multiply by 255"),
    (FRAMES[..., 0], {"fps": 25}, r"frames has the shape \(10, 8, 8\)"),
    (FRAMES[..., :1], {"fps": 25}, r"frame 0 has the shape \(8, 8, 1\)"),
    (iter([FRAMES[0], FRAMES[0, 0]]), {"fps": 25}, "frame 1 has the shape"),
    (FRAMES[:0], {"fps": 25}, "frames has the shape"),
    (iter([]), {"fps": 25}, "there are no frames"),
    ("talk.mp4", {"fps": 25}, "must be an array"),
]


@pytest.mark.parametrize(("frames", "times", "message"), FRAME_FAULTS)
def test_frames_that_make_no_sense(frames: Any, times: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArrayError, match=message):
        list(grid_frames(frames, **times))


SOUND = np.zeros(1000, np.float32)
SOUND_FAULTS: list[tuple[Any, Any, str]] = [
    (np.where(np.arange(1000) == 700, np.nan, SOUND), 16_000, "NaN or infinity, first in .* 700"),
    (SOUND.astype(np.int32), 16_000, "int32"),
    (SOUND.reshape(2, 500), 16_000, r"shape \(2, 500\).*transpose"),
    (SOUND.reshape(10, 10, 10), 16_000, "shape"),
    (SOUND + 20_000, 16_000, "reaches 20000.*divide by 32768"),
    (SOUND, 16, "sample_rate must be"),
    (SOUND, 44_100.5, "sample_rate must be"),
    (SOUND, None, "sample_rate .* must be given"),
    (SOUND, True, "sample_rate must be"),
    (SOUND, "48000", "sample_rate must be"),
]


@pytest.mark.parametrize(("audio", "rate", "message"), SOUND_FAULTS)
def test_sound_that_makes_no_sense(audio: Any, rate: Any, message: str) -> None:
    with pytest.raises(InvalidArrayError, match=message):
        list(sound_pieces(audio, sample_rate=rate))


def joined(audio: np.ndarray, rate: int, start_s: float = 0.0) -> tuple[float, np.ndarray]:
    pieces = list(sound_pieces(audio, sample_rate=rate, start_s=start_s))
    return pieces[0].start_s, np.concatenate([p.samples for p in pieces])


class TestSound:
    def test_types_and_channels_say_the_same(self) -> None:
        wave = (0.5 * np.sin(np.arange(16_000) * 0.1)).astype(np.float32)
        _, plain = joined(wave, 16_000)
        np.testing.assert_allclose(plain, wave, atol=1e-6)
        _, short = joined((wave * 32768).astype(np.int16), 16_000)
        np.testing.assert_allclose(short, wave, atol=1e-4)
        for channels in (2, 3):
            several = np.zeros((16_000, channels))
            several[:, 0] = wave
            np.testing.assert_allclose(joined(several, 16_000)[1], wave / channels, atol=1e-5)

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
    def test_a_click_stays_where_it_is_at_any_rate(self, rate: int) -> None:
        audio = np.zeros(2 * rate, np.float32)
        audio[round(1.3 * rate)] = 1.0
        start, sound = joined(audio, rate, 0.7)
        assert start + np.abs(sound).argmax() / 16_000 == pytest.approx(2.0, abs=0.0004)
        assert len(sound) == pytest.approx(32_000, abs=32)

    def test_long_sound_comes_in_blocks_without_a_seam(self) -> None:
        wave = np.sin(np.arange(20 * RATE) * 0.02).astype(np.float32)
        _, sound = joined(wave, RATE)
        expected = np.sin(np.arange(len(sound)) * 0.06)
        np.testing.assert_allclose(sound[50:-50], expected[50:-50], atol=2e-3)


class TestCrops:
    def test_the_models_own_crop_is_taken_as_it_is(self) -> None:
        rng = np.random.default_rng(0)
        crops = rng.integers(0, 255, (12, 64, 96), np.uint8)
        (chunk,) = mouth_crops(crops, fps=25)
        np.testing.assert_array_equal(chunk.crops[:, 8:72, 8:104], crops)
        assert (chunk.first, chunk.last, chunk.valid.all()) == (0, True, True)
        assert chunk.eye_px[0] == pytest.approx(88)

    def test_size_colour_and_type_do_not_matter(self) -> None:
        y, x = np.mgrid[0:64, 0:96]
        crop = (127 + 60 * np.sin(x / 20) * np.cos(y / 15)).astype(np.uint8)
        big = np.kron(crop, np.ones((3, 3), np.uint8))
        (want,) = mouth_crops(crop[None], fps=25)
        for other in (big, big / 255.0, np.repeat(big[..., None], 3, 2), big[..., None]):
            (got,) = mouth_crops(np.asarray(other)[None], fps=25)
            assert np.abs(got.crops[0].astype(int) - want.crops[0]).max() <= 3

    def test_a_wider_crop_is_cut_down(self) -> None:
        crop = np.zeros((100, 200), np.uint8)
        crop[30:70, 70:130] = 255
        (chunk,) = mouth_crops(crop[None], fps=25, width_in_eyes=200 / 88)
        # one pixel of this crop is one of the house's; its centre is the house's centre
        assert chunk.crops[0, 20:60, 26:86].min() == 255
        assert chunk.crops[0].astype(bool).sum() == 40 * 60

    def test_holes_are_not_seen(self) -> None:
        pts = [*np.arange(10) / 25, *(1 + np.arange(10) / 25)]
        flags = np.ones(20, bool)
        flags[3] = False
        (chunk,) = mouth_crops(pictures(20)[..., 0], pts=pts, valid=flags)
        assert len(chunk) == 35
        seen = np.flatnonzero(~chunk.valid).tolist()
        assert seen[0] == 3
        assert seen[1:] == list(range(11, 24))

    @pytest.mark.parametrize(
        ("mouths", "options", "message"),
        [
            (np.zeros((5, 8, 8, 4), np.uint8), {}, "crop 0 has the shape"),
            (np.zeros((5, 8, 8), np.int16), {}, "crop 0 is int16"),
            (np.full((5, 8, 8), 128.0), {}, "must lie in 0 to 1"),
            (np.zeros((5, 8, 8), np.uint8), {"valid": np.ones(4, bool)}, "4 flags for 5"),
            (np.zeros((5, 8, 8), np.uint8), {"valid": np.ones(5)}, "one bool a crop"),
            (np.zeros((5, 8, 8), np.uint8), {"width_in_eyes": 0}, "width_in_eyes"),
        ],
    )
    def test_crops_that_make_no_sense(
        self, mouths: np.ndarray, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidArrayError, match=message):
            list(mouth_crops(mouths, fps=25, **options))


@pytest.fixture(scope="module")
def tiny() -> SyncDetector:
    pytest.importorskip("onnxruntime")
    return SyncDetector(TINY, provider="cpu", threads=1)


class TestTokens:
    def test_sound_tokens_are_on_whole_ticks(self, tiny: SyncDetector) -> None:
        wave = np.random.default_rng(0).normal(0, 0.1, 3 * 16_000).astype(np.float32)
        whole = tiny.embed_audio(wave, sample_rate=16_000)
        assert (whole.first_tick, whole.tokens.dtype, whole.track) == (0, np.float32, None)
        assert whole.tokens.shape == (75, 16)
        np.testing.assert_allclose(whole.pts_seconds, np.arange(75) / 25)
        np.testing.assert_allclose(np.linalg.norm(whole.tokens, axis=1), 1, atol=1e-5)
        # the same sound 1.013 s later on the clock: the first whole tick after it is 26
        moved = tiny.embed_audio(wave, sample_rate=16_000, audio_start_s=1.013)
        assert moved.start_s == 1.04
        later = tiny.embed_audio(wave[432:], sample_rate=16_000, audio_start_s=1.04)
        np.testing.assert_allclose(moved.tokens[5:60], later.tokens[5:60], atol=1e-3)

    def test_too_little_sound_gives_no_tokens(self, tiny: SyncDetector) -> None:
        assert tiny.embed_audio(np.zeros(0, np.int16), sample_rate=16_000).tokens.shape == (0, 16)

    def test_a_file_has_its_own_times(self, tiny: SyncDetector, tmp_path: Path) -> None:
        for call in (
            lambda: tiny.embed_video(tmp_path / "a.mp4", fps=25),
            lambda: tiny.embed_audio(tmp_path / "a.mp4", sample_rate=16_000),
            lambda: tiny.score_grid(tmp_path / "a.mp4", np.zeros(5)),
        ):
            with pytest.raises(InvalidArrayError, match="file has its own"):
                call()

    def test_no_face_and_no_sound(self, tiny: SyncDetector) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
        assert tiny.embed_video(noise, fps=25) == ()
        quiet = tiny.score_arrays(noise, np.zeros(0), fps=25, sample_rate=16_000)
        assert (quiet.status, quiet.path) == (Status.no_audio, "<arrays>")
        blank = tiny.score_arrays(noise, np.zeros(40_000), fps=25, sample_rate=16_000)
        assert blank.status is Status.no_face
        grid = tiny.score_grid(noise, np.zeros(40_000), fps=25, sample_rate=16_000)
        assert grid.scores.shape == (0, 61)
        assert (grid.shift_ms[0], grid.shift_ms[-1]) == (-600, 600)

    def test_crops_of_nothing_are_judged_ambiguous_or_silent(self, tiny: SyncDetector) -> None:
        rng = np.random.default_rng(1)
        crops = rng.integers(0, 255, (100, 64, 96), np.uint8)
        found = tiny.score_crops(crops, rng.normal(0, 0.1, 64_000), fps=25, sample_rate=16_000)
        assert found.status in (Status.no_speech, Status.ambiguous, Status.too_short)
        assert found.tracks[0].box == (0, 0, 96, 64)


@pytest.fixture(scope="module")
def default() -> SyncDetector:
    pytest.importorskip("onnxruntime")
    return SyncDetector(provider="cpu", threads=1)


@pytest.fixture(scope="module")
def of_arrays(root: Path) -> dict[str, Any]:
    """The first five seconds of the sample."""
    path = root / "examples" / "talk.mp4"
    frames = list(iter_frames(path, end_s=5.0))
    sound = read_audio(path, sample_rate=RATE, end_s=5.0)
    return {
        "frames": [f.image for f in frames],
        "audio": sound.samples,
        "pts": [f.pts_seconds for f in frames],
        "sample_rate": RATE,
        "audio_start_s": sound.start_s,
    }


class TestTheSample:
    """examples/talk.mp4, whose sound is 120 ms early; its first five seconds."""

    def test_the_answer_moves_with_the_sound(
        self, default: SyncDetector, of_arrays: dict[str, Any]
    ) -> None:
        found = default.score_arrays(**of_arrays)
        assert found.offset_ms == pytest.approx(120, abs=25)
        late = of_arrays | {"audio_start_s": of_arrays["audio_start_s"] + 0.2}
        moved = default.score_arrays(**late)
        assert moved.offset_ms == pytest.approx(found.offset_ms - 200, abs=10)

    @pytest.mark.parametrize("move_s", [0.0195, 0.0205, 0.03])
    def test_where_the_ticks_lie_makes_no_difference(
        self, default: SyncDetector, of_arrays: dict[str, Any], move_s: float
    ) -> None:
        found = default.score_arrays(**of_arrays)
        pts = [t + move_s for t in of_arrays["pts"]]
        start_s = of_arrays["audio_start_s"] + move_s
        moved = default.score_arrays(**of_arrays | {"pts": pts, "audio_start_s": start_s})
        assert moved.offset_ms == pytest.approx(found.offset_ms, abs=5)
        (face,) = default.embed_video(of_arrays["frames"], pts=pts)
        assert face.pts_seconds[10:20] == pytest.approx(pts[10:20], abs=1e-6)

    def test_tokens_grid_and_crops_agree(
        self, default: SyncDetector, of_arrays: dict[str, Any]
    ) -> None:
        from avsync.faces import mouth_chunks

        frames, pts = of_arrays["frames"], of_arrays["pts"]
        sound = {k: of_arrays[k] for k in ("audio", "sample_rate", "audio_start_s")}
        chunks = list(mouth_chunks(grid_frames(frames, pts=pts)))
        crops = np.concatenate([c.crops for c in chunks])[:, 8:72, 8:104]
        ticks = (chunks[0].first + np.arange(len(crops))) / 25
        cropped = default.score_crops(crops, pts=ticks, **sound)
        assert cropped.offset_ms == pytest.approx(120, abs=25)

        grid = default.score_grid(frames, pts=pts, **sound)
        assert grid.scores.shape == (len(grid.window_start_s), len(grid.shift_ms))
        peak = grid.shift_ms[np.nanmean(grid.scores, axis=0).argmax()]
        assert peak == pytest.approx(cropped.offset_ms, abs=25)

        (face,) = default.embed_video(frames, pts=pts)
        heard = default.embed_audio(of_arrays["audio"], sample_rate=RATE)
        assert face.tokens.shape[1] == heard.tokens.shape[1] == 256
        # the sound is 120 ms early: three ticks before the lips
        means = {
            shift: float(np.sum(face.tokens[10:100] * heard.tokens[10 + shift : 100 + shift]) / 90)
            for shift in (-9, -6, -3, 0, 3, 6)
        }
        assert max(means, key=means.__getitem__) == -3


def test_the_error_is_ours() -> None:
    assert issubclass(InvalidArrayError, AVSyncError)
    assert issubclass(InvalidArrayError, ValueError)
