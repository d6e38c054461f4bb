"""Hard films in small, made of the drawn talker: the right answer or none. The measured table is
docs/hard-cases.md; these keep its builders and a few of its rows from breaking."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsync import SyncDetector
from avsync._paths import bundled_models_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import hard_cases
import hard_films as hf
import hard_scenes as hs

pytestmark = pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)


class OneTalker:
    """The drawn talker takes every part; as somebody else it speaks backwards."""

    def __init__(self, file: Path) -> None:
        take = hf.Take.read(file, "talk", "drawn")
        sound = hf.moved(take.sound, -120.0, take.end_s)  # in step
        times = take.times[:130]
        self.take = replace(take, times=times, sound=sound[:, : round(5.2 * hf.RATE)])
        self.other = replace(self.take, name="other", sound=self.take.sound[:, ::-1].copy())

    def short(self, n: int) -> hf.Take:
        return self.take if n == 0 else self.other

    long = short

    def cartoon(self) -> hf.Take:
        return self.take

    def listener(self) -> hf.Take:
        return replace(self.take, images=self.take.images[:1] * len(self.take.images))


@pytest.fixture(scope="module")
def stock(root: Path) -> OneTalker:
    return OneTalker(root / "examples" / "talk.mp4")


@pytest.fixture(scope="module")
def detector() -> SyncDetector:
    return SyncDetector(provider="cpu", threads=1)


def case(name: str) -> hard_cases.Case:
    return next(c for c in hard_cases.CASES if c.name == name)


@pytest.mark.parametrize(
    ("name", "offset_ms"),
    [
        ("a photo on the wall beside the speaker", 137.0),
        ("telephone (300–3400 Hz, 8 kHz µ-law)", -213.0),
        ("black lead-in of 2.5 s", 71.0),
    ],
)
def test_the_speaker_is_found(
    name: str, offset_ms: float, stock: Any, detector: SyncDetector, tmp_path: Path
) -> None:
    film = case(name).build(stock, 0, offset_ms)
    path = tmp_path / f"film.{film.kind}"
    film.write(path)
    assert detector.score(path).offset_ms == pytest.approx(offset_ms, abs=40)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("a photo only, a voice", "not_speaking"),
        ("off-screen voice, talking face (dubbed)", "ambiguous"),
        ("applause only, talking face", "no_speech"),
    ],
)
def test_nothing_is_claimed(
    name: str, status: str, stock: Any, detector: SyncDetector, tmp_path: Path
) -> None:
    case(name).build(stock, 0, 0.0).write(tmp_path / "film.mkv")
    result = detector.score(tmp_path / "film.mkv")
    assert (result.status.value, result.offset_ms) == (status, None)


def test_offsets_are_no_multiples_of_a_frame() -> None:
    assert all(abs(ms % 40 - 20) < 20 for ms in hard_cases.OFFSETS_MS)
    assert min(hard_cases.OFFSETS_MS) < -300
    assert max(hard_cases.OFFSETS_MS) > 400


@pytest.mark.parametrize("ms", [-213.0, 137.0])
def test_moved_sound_is_exact(ms: float) -> None:
    sound = np.zeros((1, hf.RATE), np.float32)
    sound[0, 24_000] = 1
    assert int(hf.moved(sound, ms, 1.0)[0].argmax()) == 24_000 - round(48 * ms)


def test_every_case_has_a_name_of_its_own_and_says_what_is_wanted() -> None:
    names = [c.name for c in hard_cases.CASES]
    assert len(set(names) - {n for n in names if n.startswith("…")}) >= 55
    assert {c.wanted for c in hard_cases.CASES} == {"offset", "either", "none"}
    assert hs.LONGEST >= 8
