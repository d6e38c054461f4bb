"""Published models in the detector: features in pieces, windows once, scores as evidence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_published import FakePublished, chunk, sound
from hypothesis import given, settings
from hypothesis import strategies as st

from avsync.detector import SyncDetector
from avsync.engines import TokenEngine, load_engine
from avsync.errors import ModelCorruptError, ModelNotFoundError
from avsync.estimates import estimate, probability
from avsync.offsets import MIN_PAIRED, WINDOW_TICKS, gather
from avsync.published import CONVENTIONS, FRAMES, syncnet_mfcc, vocalist_mel
from avsync.published_engine import FeatureStream, PublishedEngine, PublishedTrack
from avsync.result import MIN_WINDOWS
from avsync.runtime import load_model

ARCHS = ["mtdvocalist", "syncnet"]


class TestFeatureStream:
    @settings(max_examples=12)
    @given(sizes=st.lists(st.integers(1, 190_000), max_size=4), arch=st.sampled_from(ARCHS))
    def test_pieces_give_what_the_whole_gives(self, sizes: list[int], arch: str) -> None:
        samples = np.random.default_rng(1).normal(0, 0.1, 500_123).astype(np.float32)
        stream = FeatureStream(CONVENTIONS[arch], 2.0)
        at = 0
        for size in [*sizes, len(samples)]:
            stream.push(samples[at : at + size])
            at += size
        got = stream.close()
        assert got is not None
        whole = syncnet_mfcc(samples) if arch == "syncnet" else vocalist_mel(samples)
        assert got.shape == whole.shape
        assert np.array_equal(got, whole)
        assert stream.first == 50

    @pytest.mark.parametrize("arch", ARCHS)
    def test_sound_between_two_ticks_is_led_in_by_silence(self, arch: str) -> None:
        samples = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
        stream = FeatureStream(CONVENTIONS[arch], 0.055)  # 15 ms into tick 1
        stream.push(samples)
        make = syncnet_mfcc if arch == "syncnet" else vocalist_mel
        assert stream.first == 1
        got = stream.close()
        assert got is not None
        assert np.array_equal(got, make(np.concatenate([np.zeros(240, np.float32), samples])))

    def test_start_before_zero(self) -> None:
        stream = FeatureStream(CONVENTIONS["syncnet"], -0.021)
        assert stream.first == -1
        assert stream.close() is not None

    def test_no_sound(self) -> None:
        assert FeatureStream(CONVENTIONS["syncnet"], 0.0).close() is None


def seen(
    engine: PublishedEngine, first: int, valid: npt.NDArray[np.bool_], pieces: list[int]
) -> PublishedTrack:
    eye = engine.eye(first)
    for low, high in pairwise([0, *pieces, len(valid)]):
        eye.push(chunk(engine, first + low, valid[low:high]))
    track = eye.close(3)
    assert isinstance(track, PublishedTrack)
    return track


@pytest.mark.parametrize("pieces", [[], [1, 2, 3, 40], [50], [37, 74]])
@pytest.mark.parametrize("arch", ARCHS)
def test_each_whole_window_is_encoded_once(arch: str, pieces: list[int]) -> None:
    model = FakePublished(arch)
    engine = PublishedEngine(model)
    valid = np.ones(90, bool)
    valid[[0, 30, 31, 60]] = False
    track = seen(engine, 300, valid, pieces)
    starts = [i for i in range(90 - FRAMES + 1) if valid[i : i + FRAMES].all()]
    assert track.starts.tolist() == [300 + i for i in starts]
    assert model.seen == track.starts.tolist()
    assert (track.id, track.first, track.frames) == (3, 300, 90)
    assert np.array_equal(track.tokens.numpy(), model._token(track.starts))
    engine.rows([track], sound(engine, 290, 110), reach=15)
    assert sorted(model.heard) == list(range(290, 400))  # blocks of the whole sound, once each


@pytest.mark.parametrize("arch", ARCHS)
def test_rows_are_the_pairs_one_by_one(arch: str) -> None:
    model = FakePublished(arch)
    engine = PublishedEngine(model)
    valid = np.ones(200, bool)
    valid[90:96] = False
    track = seen(engine, 40, valid, [50, 100, 150])
    heard = sound(engine, 60, 120, late=2)
    (rows,) = engine.rows([track], heard, reach=4)
    assert rows.shape == (len(track.starts), 9)
    for i, tick in enumerate(track.starts):
        for k in range(9):
            other = int(tick) + k - 4
            if 60 <= other < 180:
                video, audio = model._token(np.array([tick])), model._token(np.array([other - 2]))
                score = model.fuse(video, audio)[0]
                assert rows[i, k] == pytest.approx(-score if arch == "syncnet" else score, rel=1e-5)
            else:
                assert np.isnan(rows[i, k])


def test_two_faces_at_once_share_the_sound() -> None:
    model = FakePublished()
    engine = PublishedEngine(model)
    faces = [seen(engine, first, np.ones(400, bool), [200]) for first in (0, 30)]
    rows = engine.rows(faces, sound(engine, 0, 440), reach=15)
    assert [len(r) for r in rows] == [396, 396]
    assert len(model.heard) == 440  # once for both


def test_few_audio_tokens_are_held_at_once() -> None:
    from avsync.published_engine import BLOCK, _AudioTokens

    engine = PublishedEngine(FakePublished())
    audio = _AudioTokens(engine.model, sound(engine, 0, 5000), keep=100)
    for low in range(0, 4900, 64):
        audio.between(low, low + 94)
        assert len(audio._blocks) * BLOCK <= 100 + 3 * BLOCK


@pytest.mark.parametrize("max_offset_ms", [200.0, 600.0, 3000.0])
@pytest.mark.parametrize("arch", ARCHS)
def test_evidence_is_the_mean_of_the_window_scores(arch: str, max_offset_ms: float) -> None:
    engine = PublishedEngine(FakePublished(arch))
    valid = np.ones(130, bool)
    valid[50:53] = False
    track = seen(engine, 7, valid, [64])
    heard = sound(engine, 5, 120)
    evidence = gather(
        *engine.compare([track], heard, max_offset_ms=max_offset_ms), max_offset_ms=max_offset_ms
    )
    reach = round(max_offset_ms / 40) + 1
    assert (evidence.reach, evidence.step_ms) == (reach, 40)
    (rows,) = engine.rows([track], heard, reach=reach)
    middles = track.starts + 2
    for w, tick in enumerate(evidence.ticks):
        here = (middles >= tick) & (middles < tick + WINDOW_TICKS)
        assert evidence.pairs[0, w] == here.sum()
        known = np.isfinite(rows[here])
        for s in range(2 * reach + 1):
            got = evidence.scores[0, w, s]
            if known[:, s].sum() < MIN_PAIRED * here.sum():
                assert np.isnan(got)
            else:
                assert got == pytest.approx(np.nanmean(rows[here, s]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("late", [-7, 0, 5])
def test_offset_has_the_right_sign_and_size(arch: str, late: int) -> None:
    engine = PublishedEngine(FakePublished(arch, width=40))
    track = seen(engine, 0, np.ones(120, bool), [50, 100])
    pair = engine.compare([track], sound(engine, 0, 120, late=late), max_offset_ms=600)
    found = estimate(gather(*pair, max_offset_ms=600), engine.calibration)
    assert found.offset_ms == pytest.approx(-40 * late, abs=10)  # late sound: audio lags
    assert found.agreeing >= MIN_WINDOWS
    assert 0.9 < probability(found, engine.calibration) <= 0.953  # never surer than that


@pytest.mark.parametrize("arch", ARCHS)
def test_pictures_between_the_ticks_count_by_their_stamps(arch: str) -> None:
    engine = PublishedEngine(FakePublished(arch, width=40))
    eye = engine.eye(0)
    for low in range(0, 120, 40):
        part = chunk(engine, low, np.ones(40, bool))
        eye.push(replace(part, ages=np.full(40, 0.02, np.float32)))
    (track,), heard = engine.compare(
        [eye.close(3)], sound(engine, 0, 120, late=5), max_offset_ms=600
    )
    assert track.ages is not None
    assert track.ages.shape == (120,)
    found = estimate(gather([track], heard, max_offset_ms=600), engine.calibration)
    assert found.offset_ms == pytest.approx(-220, abs=10)  # the lips are 20 ms older still


@pytest.mark.parametrize("arch", ARCHS)
def test_unrelated_sound_gives_no_offset(arch: str) -> None:
    engine = PublishedEngine(FakePublished(arch))
    track = seen(engine, 0, np.ones(120, bool), [50, 100])
    pair = engine.compare([track], sound(engine, 0, 120, late=1000), max_offset_ms=600)
    found = estimate(gather(*pair, max_offset_ms=600), engine.calibration)
    assert probability(found, engine.calibration) < 0.5


def test_progress_reaches_one() -> None:
    engine = PublishedEngine(FakePublished())
    track = seen(engine, 0, np.ones(200, bool), [])
    shares: list[float] = []
    engine.rows([track], sound(engine, 0, 200), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) == 4


def test_results_say_that_nothing_is_calibrated() -> None:
    engine = PublishedEngine(FakePublished("vocalist"))
    assert engine.warnings == ("the probability is not calibrated for the model vocalist-fake",)
    assert engine.calibration.method.startswith("not calibrated")


class TestModelKinds:
    def test_token_models_are_told_apart(self) -> None:
        from tiny_model import TINY

        engine = load_engine(TINY, provider="cpu", threads=1)
        assert isinstance(engine, TokenEngine)
        assert (engine.name, engine.warnings) == ("tiny", ())

    def test_no_model_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"no model\.json"):
            load_model(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 3}', "\xff"])
    def test_description_of_no_kind(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "model.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ModelCorruptError, match="not a model description"):
            load_model(tmp_path)

    def test_published_card_that_is_broken(self, tmp_path: Path) -> None:
        (tmp_path / "model.json").write_text('{"format": "avsync-published-2"}')
        with pytest.raises(ModelCorruptError, match="not a published model's card"):
            SyncDetector(tmp_path)


def test_detector_runs_a_published_engine(tmp_path: Path, monkeypatch: Any) -> None:
    """The whole way with stubs for face and model: no face is found in a test picture."""
    from factory import write_media

    import avsync.detector

    engine = PublishedEngine(FakePublished())
    monkeypatch.setattr(avsync.detector, "load_engine", lambda *a, **k: engine)
    write_media(tmp_path / "a.mp4")
    result = SyncDetector("any").score(tmp_path / "a.mp4")
    assert (result.status.value, result.model) == ("no_face", "mtdvocalist-fake")
