"""Log-mel: against librosa and against hand-made facts; in pieces, on absolute columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avsync.mel import FLOOR, HOP, MEL_BANDS, MEL_HZ, MelStream, log_mel, mel_filters

RATE = 16_000
Samples = npt.NDArray[np.float32]


def noise(count: int, seed: int = 0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def click_at(sample: int, count: int) -> Samples:
    out = np.zeros(count, np.float32)
    out[sample] = 1.0
    return out


def centre_column(mel: Samples) -> float:
    """The energy-weighted mean column of a lone click."""
    power = np.exp(mel.astype(np.float64)).sum(1) - np.exp(mel.astype(np.float64)).sum(1).min()
    return float((power * np.arange(len(mel))).sum() / power.sum())


def test_constants_are_those_documented() -> None:
    assert (HOP, MEL_HZ, MEL_BANDS) == (160, 100, 80)


def test_equals_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    t = np.arange(RATE * 2) / RATE
    sweep = 0.3 * np.sin(2 * np.pi * (100 * t + 1500 * t**2)).astype(np.float32)
    samples = sweep + noise(len(sweep))
    want = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=512, win_length=400, hop_length=160, window="hann",
        center=True, pad_mode="constant", power=1.0, n_mels=80, fmin=55.0, fmax=7600.0,
        htk=False, norm="slaney",
    )  # fmt: skip
    got = log_mel(samples)
    assert got.dtype == np.float32
    assert got.shape == (201, 80)
    np.testing.assert_allclose(got, np.log(np.maximum(want.T, FLOOR)), atol=2e-4)


def test_filters_equal_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    for options in ({"fmin": 55.0, "fmax": 7600.0}, {"fmin": 0.0, "fmax": 8000.0}):
        want = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=80, norm="slaney", **options).T
        got = mel_filters(f_min=options["fmin"], f_max=options["fmax"])
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-8)


def test_filters_by_known_facts() -> None:
    filters = mel_filters()
    assert filters.shape == (257, 80)
    assert filters.min() == 0
    freqs = np.arange(257) * 31.25
    # Nothing from outside 55..7600 Hz, and the wide filters have an area of one hertz each.
    assert filters[freqs < 55].max() == 0
    assert filters[freqs > 7600].max() == 0
    np.testing.assert_allclose(filters[:, 40:].sum(0) * 31.25, 1, atol=0.05)
    # Slaney's scale: 1000 Hz is mel 15, 6400 Hz is mel 42 (15 + 27).
    low, high = 55 * 3 / 200, 15 + 27 * np.log(7.6) / np.log(6.4)
    band = round((15 - low) / (high - low) * 81) - 1
    assert abs(freqs[filters[:, band].argmax()] - 1000) <= 31.25


@pytest.mark.parametrize("hz", [250, 1000, 3000, 6000])
def test_a_tone_shows_in_its_own_band(hz: int) -> None:
    tone = np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32)
    mel = log_mel(tone)[50]
    assert abs(int(mel.argmax()) - int(mel_filters()[round(hz / 31.25)].argmax())) <= 1
    # By hand: 400 samples around sample 8000 under a periodic Hann window, zero-padded to 512.
    heard = tone[7800:8200] * np.hanning(401)[:400]
    want = np.log(np.maximum(np.abs(np.fft.rfft(heard, 512)) @ mel_filters(), FLOOR))
    np.testing.assert_allclose(mel, want, atol=2e-3)
    # A unit sine has magnitude sum(window) / 2 = 100 at its peak: the level is absolute.
    assert np.abs(np.fft.rfft(heard, 512)).max() == pytest.approx(100, rel=0.01)


def test_twice_the_amplitude_is_log_2_more() -> None:
    samples = noise(RATE)
    np.testing.assert_allclose(log_mel(2 * samples) - log_mel(samples), np.log(2), atol=1e-4)


def test_silence_is_the_floor() -> None:
    assert np.all(log_mel(np.zeros(1600, np.float32)) == np.float32(np.log(FLOOR)))
    assert log_mel(np.zeros(1600, np.float32)).shape == (11, 80)


@pytest.mark.parametrize("count", [0, 1, 159, 160, 161, 511, 512, 4000])
def test_number_of_columns(count: int) -> None:
    assert log_mel(noise(count)).shape == (1 + count // 160, 80)


def test_column_is_centred_on_its_sample() -> None:
    mel = log_mel(click_at(160 * 30, 16_000))
    assert centre_column(mel) == pytest.approx(30, abs=1e-3)
    # The 25-ms window reaches 12.5 ms either side: one column, not two.
    heard = np.flatnonzero(mel.max(1) > np.log(FLOOR) + 1)
    assert heard.tolist() == [29, 30, 31]


@pytest.mark.parametrize("start_s", [0.0, 0.004, 1.4, 0.0100625, -0.2, -0.0213, -3.33333, 7.123456])
def test_columns_are_on_the_containers_clock(start_s: float) -> None:
    """A click that sounds at a known time peaks at 100 x that time, wherever the sound starts."""
    sample = 3000
    stream = MelStream(start_s)
    mel = np.concatenate([stream.push(click_at(sample, 8000)), stream.close()])
    when = start_s + sample / RATE
    assert stream.first + centre_column(mel) == pytest.approx(100 * when, abs=0.05)
    first, last = stream.first / 100, (stream.first + len(mel) - 1) / 100
    assert start_s - 1e-4 <= first < start_s + 0.0101
    assert start_s + 0.5 - 0.0101 < last <= start_s + 0.5 + 1e-4


@pytest.mark.parametrize("start_s", [0.37, -0.37])
def test_whole_columns_of_start_shift_the_index_only(start_s: float) -> None:
    samples = noise(5000)
    stream = MelStream(start_s)
    mel = np.concatenate([stream.push(samples), stream.close()])
    assert stream.first == round(100 * start_s)
    np.testing.assert_allclose(mel, log_mel(samples), atol=1e-5)


@settings(max_examples=60)
@given(
    start=st.integers(-40_000, 40_000),
    sizes=st.lists(st.integers(0, 1400), min_size=1, max_size=12),
)
def test_pieces_give_what_the_whole_gives(start: int, sizes: list[int]) -> None:
    samples = noise(sum(sizes), seed=len(sizes))
    whole, pieces = MelStream(start / RATE), MelStream(start / RATE)
    want = np.concatenate([whole.push(samples), whole.close()])
    parts, at = [], 0
    for size in sizes:
        parts.append(pieces.push(samples[at : at + size]))
        at += size
    got = np.concatenate([*parts, pieces.close()])
    assert pieces.first == whole.first == -(-start // HOP)
    assert all(p.shape[1:] == (MEL_BANDS,) for p in parts)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)  # BLAS rounds by the matrix's height


def test_columns_come_as_soon_as_their_frame_is_whole() -> None:
    stream = MelStream(0.0)
    assert len(stream.push(noise(255))) == 0  # column 0 looks 256 samples ahead
    assert len(stream.push(noise(1))) == 1
    assert len(stream.push(noise(160))) == 1
    assert len(stream.push(noise(1600))) == 10


def test_memory_does_not_grow() -> None:
    stream = MelStream(0.003)
    for _ in range(50):
        stream.push(noise(1600))
    assert len(stream._buffer) < 512
