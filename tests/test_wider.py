"""Sound that is seconds off is found by a second, wider search; strangers' voices are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic_tokens import CALIBRATION, Speaker, hear, look

from avsync import Status, SyncDetector, SyncResult, looks, whole
from avsync.engines import TokenEngine
from avsync.looks import WIDE_LOOKS, Watcher
from avsync.media import DecodeStats, iter_frames, probe, read_audio
from avsync.result import Curve, Segment, Tolerance
from avsync.verdict import TrackSight
from avsync.wider import SURE_WINDOWS, WIDE_MS, first_near

SIGHT = TrackSight(0, 0.0, 20.0, 100.0, (0, 0, 100, 100), 0.05, 20.0)


def judged(sound: Any, *, widens: bool, count: int = 250) -> SyncResult:
    engine = object.__new__(TokenEngine)
    engine.name, engine.calibration, engine.warnings, engine.seeing = "m", CALIBRATION, (), 1.0
    detector: Any = SimpleNamespace(
        engine=engine, max_offset_ms=600.0, tolerance=Tolerance.parse("ebu"), widens=widens
    )
    faces = [look(Speaker(10), count)]
    return whole.judged(detector, faces, [SIGHT], sound, 10.0, {"path": "a", "model": "m"})


class TestJudged:
    @pytest.mark.parametrize("late_ms", [-4300.0, -1230.0, 2340.0, 4400.0])
    def test_what_is_seconds_off_is_found(self, late_ms: float) -> None:
        sound = hear(Speaker(10), 250, late_ms)
        near = judged(sound, widens=False)
        assert (near.status, near.max_offset_ms) == (Status.ambiguous, 600.0)
        found = judged(sound, widens=True)
        assert found.offset_ms == pytest.approx(-late_ms, abs=5)
        assert found.max_offset_ms == WIDE_MS
        assert found.warnings == ("nothing stood out within ±600 ms; searched to ±5000 ms",)
        assert found.curve is not None
        assert max(found.curve.shift_ms) == WIDE_MS

    def test_what_is_near_is_told_as_before(self) -> None:
        sound = hear(Speaker(10), 250, 120.0)
        assert judged(sound, widens=True) == judged(sound, widens=False)

    @pytest.mark.parametrize("seed", range(1, 7))
    def test_a_strangers_voice_stays_ambiguous(self, seed: int) -> None:
        found = judged(hear(Speaker(10, seed), 250), widens=True)
        assert (found.status, found.max_offset_ms) == (Status.ambiguous, 600.0)
        assert found.warnings == ()

    def test_sound_beside_a_short_picture(self) -> None:
        sound = hear(Speaker(10), 75, 2500.0)
        sound = replace(sound, speech=np.where(np.arange(len(sound.speech)) < 60, 0, sound.speech))
        found = judged(sound, widens=True, count=75)
        assert found.offset_ms is None or found.offset_ms == pytest.approx(-2500, abs=5)


def result(status: Status, **more: Any) -> SyncResult:
    if status.judged:
        offset_ms = 0.0 if status is Status.in_sync else 2000.0
        more = {"offset_ms": offset_ms, "probability": 0.9, "windows": SURE_WINDOWS} | more
    if status is Status.drift:
        more["drift_ms_per_min"] = 20.0
    return SyncResult(path="a", status=status, model="m", **more)


@pytest.mark.parametrize("status", [s for s in Status if s not in ("ambiguous", "too_short")])
def test_only_what_is_open_is_searched_for(status: Status) -> None:
    near = result(status)
    assert first_near(near, lambda ms: pytest.fail(f"searched to {ms}")) is near


class TestThin:
    """An offset that rests on few windows must stand among the shifts of the wide search too."""

    NEAR = result(Status.out_of_sync, windows=4)

    def test_confirmed(self) -> None:
        far = result(Status.out_of_sync, windows=4, offset_ms=2030.0, max_offset_ms=WIDE_MS)
        assert first_near(self.NEAR, lambda _: far) is self.NEAR
        apart = far.model_copy(update={"offset_ms": -900.0, "segments": self.segments(2000.0)})
        assert first_near(self.NEAR, lambda _: apart) is self.NEAR

    def segments(self, offset_ms: float) -> tuple[Segment, ...]:
        return (Segment(start_s=0, end_s=3, offset_ms=offset_ms, probability=0.9, track=0),)

    def test_not_confirmed(self) -> None:
        far = result(Status.ambiguous, max_offset_ms=WIDE_MS)
        assert first_near(self.NEAR, lambda _: far) is far

    @pytest.mark.parametrize(
        ("peak_ms", "probability", "kept"),
        [(1990.0, 0.9, True), (1990.0, 0.7, False), (0.0, 0.9, False)],
    )
    def test_too_few_windows_agree_but_the_curve_does(
        self, peak_ms: float, probability: float, kept: bool
    ) -> None:
        curve = Curve(shift_ms=(-3000.0, peak_ms, 3000.0), score=(0.1, 0.4, 0.2))
        far = result(Status.ambiguous, probability=probability, curve=curve)
        assert (first_near(self.NEAR, lambda _: far) is self.NEAR) == kept

    def test_another_one_stands_out_farther(self) -> None:
        far = result(Status.out_of_sync, windows=5, offset_ms=-3000.0, max_offset_ms=WIDE_MS)
        found = first_near(self.NEAR, lambda _: far)
        assert found.offset_ms == -3000.0
        assert found.warnings == ("nothing stood out within ±600 ms; searched to ±5000 ms",)


class TestLongFiles:
    """A file in pieces: first a few stretches within ±5 s, then what was asked for."""

    def asked(
        self, monkeypatch: pytest.MonkeyPatch, *, around: bool, finds: bool
    ) -> tuple[SyncResult, list[tuple[str, float, int | None]]]:
        calls: list[tuple[str, float, int | None]] = []

        def here_and_there(watcher: Watcher, **options: Any) -> list[Any]:
            calls.append(("around", watcher.max_offset_ms, options.get("most")))
            return []

        def everywhere(watcher: Watcher, progress: Any = None) -> list[Any]:
            calls.append(("all", watcher.max_offset_ms, None))
            return []

        def verdict(watcher: Watcher, *_: Any, **__: Any) -> SyncResult:
            far = finds and watcher.max_offset_ms == WIDE_MS
            return result(Status.out_of_sync if far else Status.ambiguous)

        monkeypatch.setattr(looks, "look_around", here_and_there)
        monkeypatch.setattr(looks, "look_at_all", everywhere)
        monkeypatch.setattr(Watcher, "_judged", verdict)
        detector: Any = SimpleNamespace(max_offset_ms=600.0, widens=True, budget_s=None)
        info: Any = SimpleNamespace(start_s=0.0, duration_s=900.0)
        watcher = Watcher(detector, "a", info, audio_stream=0, stats=DecodeStats())
        return watcher.score({"path": "a"}, around=around), calls

    def test_around(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found, calls = self.asked(monkeypatch, around=True, finds=True)
        assert found.offset_ms == 2000
        assert calls == [("around", 600.0, None), ("around", WIDE_MS, WIDE_LOOKS)]

    def test_all_of_it_only_where_a_few_looks_found_something(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, calls = self.asked(monkeypatch, around=False, finds=True)
        assert found.offset_ms == 2000
        assert [name for name, *_ in calls] == ["all", "around", "all"]
        found, calls = self.asked(monkeypatch, around=False, finds=False)
        assert found.status is Status.ambiguous
        assert [name for name, *_ in calls] == ["all", "around"]


def test_the_sample_with_its_sound_seconds_late(root: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = root / "examples" / "talk.mp4"
    frames = [f.image for f in iter_frames(path)]
    sound = read_audio(path, sample_rate=16_000)
    options: dict[str, Any] = {"fps": 25, "sample_rate": 16_000}
    late = options | {"audio_start_s": sound.start_s + 1.9}
    detector = SyncDetector(provider="cpu", threads=1)
    found = detector.score_arrays(frames, sound.samples, **late)
    plain = detector.score(path)
    assert plain.offset_ms is not None
    assert found.offset_ms == pytest.approx(plain.offset_ms - 1900, abs=15)
    strict = SyncDetector(provider="cpu", threads=1, max_offset_ms=600)
    assert strict.score_arrays(frames, sound.samples, **late).status is Status.ambiguous
    assert probe(path).duration_s == pytest.approx(8, abs=0.5)
