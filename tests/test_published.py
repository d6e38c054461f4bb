"""The published input features against the libraries that the published models were made with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avsync.errors import InvalidOptionError
from avsync.published import (
    CONVENTIONS,
    audio_windows,
    convention,
    syncnet_crop,
    syncnet_mfcc,
    video_windows,
    vocalist_mel,
)

RATE = 16_000


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A gliding harmonic tone that comes and goes, some noise, a click, a second of silence."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 30))
    y = 0.1 * tone * (1 + np.sin(2 * np.pi * 3 * t)) + 0.01 * rng.standard_normal(len(t))
    y[len(y) // 3] = 0.9
    y[2 * len(y) // 3 : 2 * len(y) // 3 + RATE] = 0
    return y.astype(np.float32)


@pytest.mark.parametrize("seconds", [0.03, 1.0, 3.21, 30.0])
def test_mel_is_librosas(seconds: float) -> None:
    librosa = pytest.importorskip("librosa")
    y = sound(seconds)
    power = librosa.feature.melspectrogram(
        y=np.pad(y, 400, mode="reflect"),
        sr=RATE,
        n_fft=800,
        hop_length=200,
        window="hann",
        center=False,
        power=1.0,
        n_mels=80,
        fmin=55,
        fmax=7600,
        htk=False,
        norm="slaney",
    )
    expected = np.clip(8 * (20 * np.log10(np.maximum(power, 1e-5)) - 20 + 100) / 100 - 4, -4, 4)
    got = vocalist_mel(y)
    assert got.shape == expected.shape == (80, 1 + len(y) // 200)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-3


def test_mel_of_a_tone_by_hand() -> None:
    """A sine of amplitude a has magnitude a·800/4 in its bin behind a Hann window."""
    t = np.arange(RATE) / RATE
    got = vocalist_mel((0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32))
    column = got[:, 40]
    from avsync.mel import mel_filters

    magnitude = np.zeros(401)
    magnitude[49:52] = 0.5 * 800 / 4 * np.array([0.5, 1.0, 0.5])  # Hann: half to either side
    bands = magnitude @ mel_filters(n_fft=800)
    expected = np.clip(8 * (20 * np.log10(np.maximum(bands, 1e-5)) + 80) / 100 - 4, -4, 4)
    assert np.abs(column - expected)[expected > -2].max() < 1e-3
    assert vocalist_mel(np.zeros(1000, np.float32)).max() == -4


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 16000, 500_007])
def test_mfcc_is_python_speech_features(samples: int) -> None:
    psf = pytest.importorskip("python_speech_features")
    y = np.rint(sound(samples / RATE + 0.01)[:samples] * 32768).astype(np.int16)
    expected = psf.mfcc(y, RATE).T
    got = syncnet_mfcc(y)
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-3


def test_mfcc_rounds_floats_to_16_bits() -> None:
    y = sound(2.0)
    whole = np.clip(np.rint(y.astype(float) * 32768), -32768, 32767).astype(np.int16)
    assert np.array_equal(syncnet_mfcc(y), syncnet_mfcc(whole))
    loud = np.full(800, 1.5, np.float32)
    assert np.array_equal(syncnet_mfcc(loud), syncnet_mfcc(np.full(800, 32767, np.int16)))


def test_mfcc_of_silence_is_the_floor() -> None:
    got = syncnet_mfcc(np.zeros(1000, np.int16))
    floor = math.log(np.finfo(float).eps)
    assert got[0] == pytest.approx(np.full(got.shape[1], floor), rel=1e-6)
    assert np.abs(got[1:]).max() < 1e-4


@pytest.mark.parametrize("features", [vocalist_mel, syncnet_mfcc])
def test_no_sound_is_refused(features: object) -> None:
    for bad in (np.zeros(0, np.float32), np.zeros((2, 800), np.float32)):
        with pytest.raises(ValueError, match="sound"):
            features(bad)  # type: ignore[operator]


def test_columns_of_a_frame() -> None:
    mel, mfcc = convention("vocalist"), convention("syncnet")
    assert [mel.column(f) for f in range(7)] == [0, 3, 6, 9, 12, 16, 19]
    assert all(mel.column(f) == int(3.2 * f) for f in range(100_000))
    assert [mfcc.column(f) for f in range(4)] == [0, 4, 8, 12]


@pytest.mark.parametrize("arch", CONVENTIONS)
def test_audio_count_is_the_number_of_whole_windows(arch: str) -> None:
    taken = convention(arch)
    for columns in range(60):
        whole = sum(taken.column(f) + taken.columns <= columns for f in range(60))
        assert taken.audio_count(columns) == whole


@pytest.mark.parametrize("arch", CONVENTIONS)
def test_audio_windows_are_slices(arch: str) -> None:
    taken = convention(arch)
    features = np.arange(taken.bands * 50, dtype=np.float32).reshape(taken.bands, 50)
    count = taken.audio_count(50)
    got = audio_windows(features, 2, count, taken)
    assert got.shape == (count - 2, *taken.audio_shape)
    for i, frame in enumerate(range(2, count)):
        start = taken.column(frame)
        assert np.array_equal(got[i, 0], features[:, start : start + taken.columns])
    with pytest.raises(ValueError, match="do not exist"):
        audio_windows(features, 0, count + 1, taken)
    with pytest.raises(ValueError, match="features must be"):
        audio_windows(features.T, 0, 1, taken)


@pytest.mark.parametrize("arch", CONVENTIONS)
def test_video_windows_hold_the_right_frame_colour_and_pixel(arch: str) -> None:
    taken = convention(arch)
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 256, (8, taken.side, taken.side, 3), dtype=np.uint8)
    got = video_windows(faces, 1, 4, taken)
    assert got.shape == (3, *taken.video_shape)
    assert got.dtype == np.float32
    top = 48 if arch != "syncnet" else 0
    for window, frame, colour in ((0, 0, 0), (1, 3, 2), (2, 4, 1)):
        source = {"rgb": colour, "bgr": 2 - colour}[taken.colour]
        pixel = faces[1 + window + frame, top + 7, 11, source] / (255 / taken.peak)
        place = (3 * frame + colour,) if arch != "syncnet" else (colour, frame)
        assert got[(window, *place, 7, 11)] == pytest.approx(pixel)
    with pytest.raises(ValueError, match="do not exist"):
        video_windows(faces, 0, 5, taken)
    with pytest.raises(ValueError, match="face crops must be"):
        video_windows(faces[:, 1:], 0, 1, taken)


def test_conventions_are_the_published_ones() -> None:
    rows = {
        name: (c.colour, c.peak, c.video_shape, c.audio_shape) for name, c in CONVENTIONS.items()
    }
    assert rows == {
        "vocalist": ("bgr", 1, (15, 48, 96), (1, 80, 16)),
        "mtdvocalist": ("rgb", 255, (15, 48, 96), (1, 80, 16)),
        "syncnet": ("bgr", 255, (3, 5, 224, 224), (1, 13, 20)),
    }
    with pytest.raises(InvalidOptionError, match="vocalist"):
        convention("wav2lip")


def test_syncnet_crop() -> None:
    assert syncnet_crop((100, 50, 200, 130)) == pytest.approx((80, 40, 220, 180))
