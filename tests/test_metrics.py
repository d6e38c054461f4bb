"""LSE-D and LSE-C: the published definition, which sound a track meets, who may be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from factory import write_media
from fake_published import FakePublished, chunk, sound
from tiny_model import TINY

import avsync.detector
from avsync.errors import InvalidOptionError, MediaNotFoundError, ModelNotFoundError
from avsync.metrics import LipSyncMeter, lse, lse_of_distances, track_distances
from avsync.published_engine import PublishedEngine, PublishedSound, PublishedTrack


def published(lip: npt.NDArray[Any], voice: npt.NDArray[Any]) -> tuple[float, float, int]:
    """The public evaluation, written out: zeros around the sound, mean, minimum, lower median."""
    padded = np.pad(voice, ((15, 15), (0, 0)))
    rows = [[np.linalg.norm(lip[i] - padded[i + s]) for s in range(31)] for i in range(len(lip))]
    mean = np.mean(rows, axis=0)
    best = int(np.argmin(mean))
    return float(mean[best]), float(np.sort(mean)[15] - mean[best]), 15 - best


def test_measures_by_hand() -> None:
    distances = np.full((4, 31), 9.0, np.float32)
    distances[:, :10] = 11.0
    distances[:, 12] = [6, 7, 8, 7]
    assert lse_of_distances(distances) == (7.0, 2.0, 3)  # 3 frames earlier fits: audio leads


@pytest.mark.parametrize("shape", [(0, 31), (5, 30), (31,)])
def test_measures_need_whole_rows(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="31"):
        lse_of_distances(np.zeros(shape, np.float32))


def face(engine: PublishedEngine, first: int, frames: int) -> PublishedTrack:
    eye = engine.eye(first)
    eye.push(chunk(engine, first, np.ones(frames, bool)))
    track = eye.close(0)
    assert isinstance(track, PublishedTrack)
    return track


@pytest.mark.parametrize("late", [-3, 0, 6])
def test_a_whole_file_is_measured_as_published(late: int) -> None:
    model = FakePublished("syncnet", width=20)
    engine = PublishedEngine(model)
    track, heard = face(engine, 0, 80), sound(engine, 0, 75, late=late)  # 80 frames: 75 windows
    distances = track_distances(model, track, heard)
    ticks = np.arange(75)
    want = published(model._token(ticks), model._token(ticks - late))
    assert lse_of_distances(distances) == pytest.approx(want, rel=1e-5)
    assert want[2] == -late


def test_a_track_meets_the_sound_of_its_own_time_only() -> None:
    model = FakePublished("syncnet", width=20)
    engine = PublishedEngine(model)
    track, heard = face(engine, 100, 60), sound(engine, 20, 400, late=2)
    ticks = np.arange(100, 155)
    want = published(model._token(ticks), model._token(ticks - 2))
    got = lse_of_distances(track_distances(model, track, heard))
    assert got == pytest.approx(want, rel=1e-5)


def test_a_track_that_begins_before_the_sound() -> None:
    model = FakePublished("syncnet", width=20)
    engine = PublishedEngine(model)
    distances = track_distances(model, face(engine, 0, 60), sound(engine, 30, 400))
    ticks = np.arange(30, 55)
    want = published(model._token(ticks), model._token(ticks))
    assert len(distances) == 25
    assert lse_of_distances(distances) == pytest.approx(want, rel=1e-5)
    assert not len(track_distances(model, face(engine, 0, 20), sound(engine, 30, 400)))


class TestWhoIsAsked:
    @pytest.mark.parametrize("model", [None, "default", ""])
    def test_no_weights(self, model: str | None) -> None:
        with pytest.raises(ModelNotFoundError, match="need SyncNet's weights, which avsync does"):
            lse("a.mp4", model)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"no model\.json"):
            lse("a.mp4", tmp_path)

    def test_avsyncs_own_model(self) -> None:
        with pytest.raises(InvalidOptionError, match="holds tiny; only what SyncNet's weights"):
            lse("a.mp4", TINY)

    def test_vocalist(self, monkeypatch: Any) -> None:
        engine = PublishedEngine(FakePublished("mtdvocalist"))
        monkeypatch.setattr(avsync.detector, "load_engine", lambda *a, **k: engine)
        with pytest.raises(InvalidOptionError, match="holds mtdvocalist-fake; only what SyncNet"):
            LipSyncMeter("some")


class TestFiles:
    @pytest.fixture
    def meter(self, monkeypatch: Any) -> LipSyncMeter:
        engine = PublishedEngine(FakePublished("syncnet", width=20))
        monkeypatch.setattr(avsync.detector, "load_engine", lambda *a, **k: engine)
        return LipSyncMeter("some")

    def test_nothing_to_measure(self, meter: LipSyncMeter, tmp_path: Path) -> None:
        write_media(tmp_path / "a.mp4")
        write_media(tmp_path / "mute.mp4", audio=None)
        write_media(tmp_path / "blind.m4a", video=None)
        for name, status in (
            ("a.mp4", "no_face"),
            ("mute.mp4", "no_audio"),
            ("blind.m4a", "no_video"),
        ):
            found = meter.measure(tmp_path / name)
            assert found.status is not None
            assert found.status.value == status
            assert found.reason
            assert (found.lse_d, found.lse_c, found.offset_ms, found.tracks) == (None,) * 3 + ((),)

    def test_no_file(self, meter: LipSyncMeter) -> None:
        with pytest.raises(MediaNotFoundError):
            meter.measure("none.mp4")

    def test_a_file_is_the_mean_of_its_faces(
        self, meter: LipSyncMeter, monkeypatch: Any, tmp_path: Path
    ) -> None:
        write_media(tmp_path / "a.mp4")
        engine = meter._engine
        faces = [face(engine, 0, 80), face(engine, 100, 60), face(engine, 170, 20)]
        heard: PublishedSound = sound(engine, 0, 300, late=-4)
        monkeypatch.setattr(meter._detector, "_hear", lambda *a: (heard, 1.0))
        monkeypatch.setattr(meter._detector, "_see", lambda *a: (faces, []))
        found = meter.measure(tmp_path / "a.mp4")
        assert [t.windows for t in found.tracks] == [75, 55]  # the third is shorter than 1 s
        assert [t.offset_frames for t in found.tracks] == [4, 4]
        assert [(t.start_s, t.end_s) for t in found.tracks] == [(0, 3.2), (4, 6.4)]
        assert found.lse_d == pytest.approx(np.mean([t.lse_d for t in found.tracks]), abs=2e-5)
        assert found.lse_c == pytest.approx(np.mean([t.lse_c for t in found.tracks]), abs=2e-5)
        assert (found.offset_frames, found.offset_ms, found.status) == (4, 160, None)
        assert found.model == "syncnet-fake"
        assert type(found).model_validate_json(found.model_dump_json()) == found

    def test_faces_that_are_too_short(
        self, meter: LipSyncMeter, monkeypatch: Any, tmp_path: Path
    ) -> None:
        write_media(tmp_path / "a.mp4")
        engine = meter._engine
        monkeypatch.setattr(meter._detector, "_hear", lambda *a: (sound(engine, 0, 300), 1.0))
        monkeypatch.setattr(meter._detector, "_see", lambda *a: ([face(engine, 0, 24)], []))
        found = meter.measure(tmp_path / "a.mp4")
        assert found.status is not None
        assert found.status.value == "too_short"
