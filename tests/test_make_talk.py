"""The talking portrait of examples/: times of phonemes, lips, samples and frames."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest

from avsync.errors import DependencyMissingError, InvalidOptionError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLIP = EXAMPLES / "talk.mp4"
LIPS_TOP, LIPS_BOTTOM, EYE_LEFT, EYE_RIGHT = 13, 14, 33, 263

needs_voice = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="espeakng-loader is not installed (extra: examples)",
)
needs_portrait = pytest.mark.skipif(
    importlib.util.find_spec("skimage") is None,
    reason="scikit-image is not installed (extra: examples)",
)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_talk", EXAMPLES / "make_talk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # puts examples/ on the path, for its folder talker/
    return module


make_talk = _load()
voice: Any = sys.modules["talker.voice"]
lips: Any = sys.modules["talker.lips"]
face: Any = sys.modules["talker.face"]
Phoneme = voice.Phoneme


@pytest.fixture(scope="module")
def spoken() -> tuple[np.ndarray, int, list[Any]]:
    speech: tuple[np.ndarray, int, list[Any]] = voice.speak(make_talk.TEXT)
    return speech


@pytest.fixture(scope="module")
def portrait() -> tuple[np.ndarray, np.ndarray]:
    image = make_talk.portrait()
    return image, make_talk.landmarks_of(image)


def openings(frames: list[np.ndarray]) -> np.ndarray:
    """Distance of the lips in eye distances, by mediapipe, each frame on its own."""
    import mediapipe as mp

    out = []
    with mp.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        for frame in frames:
            found = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
            assert found, "no face in a rendered frame"
            side = frame.shape[0]
            p = np.array([(q.x * side, q.y * side) for q in found[0].landmark])
            gap = np.linalg.norm(p[LIPS_TOP] - p[LIPS_BOTTOM])
            out.append(gap / np.linalg.norm(p[EYE_LEFT] - p[EYE_RIGHT]))
    return np.array(out)


def decode_sound(path: Path) -> tuple[float, int, np.ndarray]:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    start = float(frames[0].pts * frames[0].time_base)
    samples = np.concatenate([f.to_ndarray()[0] for f in frames])
    return start, frames[0].sample_rate, samples


# Voice


@needs_voice
def test_phonemes_lie_end_to_end_over_the_whole_sound(
    spoken: tuple[np.ndarray, int, list[Any]],
) -> None:
    samples, rate, phonemes = spoken
    assert samples.dtype == np.float32
    assert 0.1 < np.abs(samples).max() <= 1
    assert phonemes[0].start_s == 0
    assert phonemes[-1].end_s == pytest.approx(len(samples) / rate, abs=0.002)
    for one, following in pairwise(phonemes):
        assert one.end_s == following.start_s
        assert one.end_s > one.start_s
    text = "".join(p.symbol for p in phonemes)
    assert text.startswith("bɑːb")
    assert text.endswith("fɑːɹm")


@needs_voice
def test_closures_are_quiet_and_pauses_silent(spoken: tuple[np.ndarray, int, list[Any]]) -> None:
    samples, rate, phonemes = spoken
    level = voice.band_level(samples, rate)
    loud = np.percentile(level, 90)
    stops = [p for p in phonemes[1:] if p.symbol[:1] in set("pbt") and p.symbol]
    assert len(stops) >= 12
    inner = [
        np.median(level[int(1000 * p.start_s) + 8 : max(int(1000 * p.end_s) - 4, 0)])
        for p in stops
        if p.end_s - p.start_s > 0.02
    ]
    assert np.median(inner) < loud - 25
    assert np.mean(np.array(inner) < loud - 15) > 0.9
    for pause in (p for p in phonemes if not p.symbol and p.end_s - p.start_s > 0.1):
        low, high = int(rate * (pause.start_s + 0.03)), int(rate * (pause.end_s - 0.01))
        assert np.abs(samples[low:high]).max() < 0.01


@needs_voice
def test_sound_rises_at_the_release_of_p_before_a_vowel(
    spoken: tuple[np.ndarray, int, list[Any]],
) -> None:
    samples, rate, phonemes = spoken
    level = voice.band_level(samples, rate)
    pairs = pairwise(phonemes)
    releases = [a.end_s for a, b in pairs if a.symbol == "p" and b.symbol[:1] in set("æaɪʊə")]
    assert len(releases) >= 3
    for release in releases:
        at = int(1000 * release)
        assert level[at + 4 : at + 14].max() - level[max(at - 14, 0) : at - 4].min() > 9


@needs_voice
def test_an_unknown_voice_is_an_option_error() -> None:
    with pytest.raises(InvalidOptionError, match="no voice"):
        voice.speak("Hello", voice="xx-none")


def test_refine_moves_a_stop_from_its_burst_to_its_closure() -> None:
    rate = 16_000
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.2, rate).astype(np.float32)
    sound[int(0.40 * rate) : int(0.48 * rate)] = 0  # closure before the mark at 0.48
    marks = [(0, "ɑː"), (int(0.48 * rate), "p"), (int(0.51 * rate), "a")]
    first, stop, last = voice.refine(marks, sound, rate)
    assert (first.symbol, stop.symbol, last.symbol) == ("ɑː", "p", "a")
    assert stop.start_s == pytest.approx(0.40, abs=0.008)
    assert stop.end_s == pytest.approx(0.48, abs=0.008)
    assert last.start_s == stop.end_s
    assert last.end_s == pytest.approx(1.0)


# Lips


def test_lips_close_for_p_b_m_and_open_for_vowels() -> None:
    track = []
    for k, stop in enumerate("pbm"):
        start = 0.3 * k
        track += [Phoneme("ɑː", start, start + 0.22), Phoneme(stop, start + 0.22, start + 0.30)]
    track.append(Phoneme("ɑː", 0.9, 1.1))
    middle_of_stops = np.array([0.26, 0.56, 0.86]) - lips.LEAD_S
    middle_of_vowels = np.array([0.41, 0.71, 1.01]) - lips.LEAD_S
    assert lips.lip_track(track, middle_of_stops).gap.max() < 0.002
    assert lips.lip_track(track, middle_of_stops).press.min() > 0.5
    assert lips.lip_track(track, middle_of_vowels).gap.min() > 0.12
    assert lips.lip_track(track, [-0.5, 1.9]).gap.max() < 0.01  # at rest


def test_lips_go_ahead_by_the_lead_alone() -> None:
    times = np.arange(0, 1, 0.01)
    track = [Phoneme("ɑː", 0.2, 0.45), Phoneme("m", 0.45, 0.52), Phoneme("uː", 0.52, 0.8)]
    early = lips.lip_track(track, times, lead_s=0.04)
    exact = lips.lip_track(track, times + 0.04, lead_s=0.0)
    np.testing.assert_allclose(early.gap, exact.gap, atol=1e-3)
    closed = times[np.flatnonzero(lips.lip_track(track, times, lead_s=0.0).gap < 0.002)]
    inside = closed[(closed > 0.4) & (closed < 0.6)]
    assert inside.mean() == pytest.approx(0.485, abs=0.01)  # the middle of the closure


def test_rounded_vowels_are_narrow_and_spread_ones_wide() -> None:
    def width(symbol: str) -> float:
        track = lips.lip_track([Phoneme(symbol, 0.0, 0.3)], [0.15 - lips.LEAD_S])
        return float(track.half_width[0])

    assert width("uː") < width("oʊ") < width("ɑː") < width("iː")


# Sound and file


def test_resampling_moves_nothing() -> None:
    time = np.arange(22_050) / 22_050
    bump = np.exp(-0.5 * ((time - 0.5) / 0.002) ** 2).astype(np.float32)
    out = make_talk.resample(bump, 22_050, 48_000)
    assert len(out) == 48_000
    expected = np.exp(-0.5 * ((np.arange(48_000) / 48_000 - 0.5) / 0.002) ** 2)
    np.testing.assert_allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("start_s", [0.28, 0.4, -0.1])
def test_sound_is_placed_to_the_sample(start_s: float) -> None:
    rate = 8_000
    speech = np.zeros(rate, np.float32)
    speech[4_000] = 1.0
    out = make_talk.place_sound(speech, start_s, 2.0, rate, np.random.default_rng(0))
    assert len(out) == 2 * rate
    assert int(np.argmax(np.abs(out))) == round(start_s * rate) + 4_000


def test_written_file_keeps_flash_and_click_together(tmp_path: Path) -> None:
    fps, rate, seconds, flash = 25, 48_000, 2.0, 30
    frames = [np.full((64, 64, 3), 20, np.uint8) for _ in range(int(seconds * fps))]
    frames[flash][:] = 235
    time = np.arange(int(seconds * rate)) / rate - flash / fps
    click = (0.7 * np.exp(-0.5 * (time / 0.002) ** 2) * np.cos(2 * np.pi * 1000 * time)).astype(
        np.float32
    )
    path = tmp_path / "a.mp4"
    make_talk.write_mp4(path, frames, fps, click, rate)
    with av.open(str(path)) as container:
        video = list(container.decode(video=0))
    light = [f.to_ndarray(format="gray").mean() for f in video]
    shown = float(video[int(np.argmax(light))].pts * video[0].time_base)
    start, found_rate, samples = decode_sound(path)
    heard = start + np.argmax(np.abs(samples)) / found_rate
    assert shown == pytest.approx(flash / fps, abs=1e-6)
    assert heard == pytest.approx(shown, abs=0.002)
    assert start == pytest.approx(0.0, abs=1e-3)


# The committed clip


def test_the_committed_clip_is_as_described() -> None:
    assert CLIP.stat().st_size < 500_000
    with av.open(str(CLIP)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height, video.average_rate) == (384, 384, 25)
        assert audio.sample_rate == 48_000
        assert video.frames == 200
        assert float(container.duration) / 1e6 == pytest.approx(8.0, abs=0.05)
    start, rate, samples = decode_sound(CLIP)
    assert start == pytest.approx(0.0, abs=1e-3)
    level = np.abs(samples)
    begins = start + np.flatnonzero(level > 0.05 * level.max())[0] / rate
    assert begins == pytest.approx(make_talk.LEAD_IN_S - make_talk.OFFSET_MS / 1000, abs=0.03)


@needs_voice
def test_the_committed_clip_has_sound_120_ms_early_and_lips_in_place(
    spoken: tuple[np.ndarray, int, list[Any]],
) -> None:
    samples, rate, phonemes = spoken
    start, found_rate, sound = decode_sound(CLIP)
    hop = found_rate // 1000
    heard = np.sqrt(np.convolve(sound**2, np.ones(10 * hop), "same"))[::hop]
    speech = make_talk.resample(samples, rate, found_rate)
    spoken_level = np.sqrt(np.convolve(speech**2, np.ones(10 * hop), "same"))[::hop]
    heard, spoken_level = heard - heard.mean(), spoken_level - spoken_level.mean()
    shift = int(np.argmax(np.correlate(heard, spoken_level, "valid"))) / 1000 + start
    assert shift == pytest.approx(0.4 - 0.120, abs=0.004)
    with av.open(str(CLIP)) as container:
        frames = [f for k, f in enumerate(container.decode(video=0)) if k % 2 == 0]
    times = np.array([float(f.pts * f.time_base) for f in frames])
    measured = openings([f.to_ndarray(format="rgb24") for f in frames])

    def agreement(later_s: float) -> float:
        driven = lips.lip_track(phonemes, times - make_talk.LEAD_IN_S - later_s).gap
        return float(np.corrcoef(measured, driven)[0, 1])

    steps = np.arange(-0.2, 0.201, 0.02)
    agreements = [agreement(step) for step in steps]
    assert max(agreements) > 0.9
    assert abs(steps[int(np.argmax(agreements))]) <= 0.02


# Picture


@needs_portrait
@needs_voice
def test_rendered_mouth_opens_as_driven(
    spoken: tuple[np.ndarray, int, list[Any]], portrait: tuple[np.ndarray, np.ndarray]
) -> None:
    phonemes = spoken[2]
    rng = np.random.default_rng(5)
    frames = list(face.render(*portrait, phonemes, 25.0, rng, duration_s=2.4, speech_start_s=0.2))
    assert len(frames) == 60
    assert frames[0].shape == (384, 384, 3)
    assert frames[0].dtype == np.uint8
    driven = lips.lip_track(phonemes, np.arange(60) / 25 - 0.2).gap
    measured = openings(frames)
    assert np.corrcoef(measured, driven)[0, 1] > 0.9
    slope = np.polyfit(driven, measured, 1)[0]
    assert 0.7 < slope < 1.3  # not only in step but of the right size


@needs_portrait
def test_same_seed_same_frames(portrait: tuple[np.ndarray, np.ndarray]) -> None:
    track = [Phoneme("ɑː", 0.0, 0.1)]
    one, two = (
        list(face.render(*portrait, track, 25.0, np.random.default_rng(3), duration_s=0.12))
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[0], one[1])


@needs_portrait
def test_a_portrait_with_closed_lips_gets_drawn_teeth(
    portrait: tuple[np.ndarray, np.ndarray],
) -> None:
    rest = lips.lip_track([], [0.0]).at(0)
    closed = face.Talker(*portrait).frame(rest)
    talker = face.Talker(closed, make_talk.landmarks_of(closed))
    assert talker.source_gap < 0.04
    wide = talker.frame({**rest, "gap": 0.16, "jaw": 0.12})
    shut, opened = openings([talker.frame(rest), wide])
    assert shut < 0.05
    assert opened == pytest.approx(0.16, abs=0.04)
    blinking = talker.frame(rest, blink=1.0)
    assert np.abs(blinking.astype(int) - talker.frame(rest)).max() > 40


# Command line and faults


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DependencyMissingError, match=r"avsync\[examples\]"):
        make_talk.portrait()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(voice, "_espeak", None)
    with pytest.raises(DependencyMissingError, match=r"avsync\[examples\]"):
        voice.speak("Hello")


def test_senseless_options_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.mp4"
    assert make_talk.main(["-o", str(out), "--offset-ms", "20000"]) == 2
    assert make_talk.main(["-o", str(tmp_path / "a.avi")]) == 2
    assert make_talk.main(["-o", str(out), "--seconds", "0"]) == 2
    assert "offset" in capsys.readouterr().err
    assert not out.exists()


@needs_portrait
@needs_voice
def test_command_writes_a_clip_of_the_length_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "a.mp4"
    args = ["-o", str(out), "--offset-ms", "-80", "--seconds", "1.2"]
    assert make_talk.main(args) == 0
    assert "sound late by 80 ms" in capsys.readouterr().out
    start, rate, samples = decode_sound(out)
    assert (len(samples) / rate + start) == pytest.approx(1.2, abs=0.03)
    level = np.abs(samples)
    begins = start + np.flatnonzero(level > 0.05 * level.max())[0] / rate
    assert begins == pytest.approx(0.48, abs=0.03)
    with av.open(str(out)) as container:
        assert container.streams.video[0].frames == 30
