"""Every status that evidence can lead to, and what a result says with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from factory import AudioSpec, VideoSpec, write_media
from synthetic_tokens import CALIBRATION, Speaker, hear, look
from tiny_model import TINY

from avsync.offsets import AudioTokens, TrackTokens
from avsync.result import MIN_WINDOWS, Status, SyncResult, Tolerance
from avsync.runtime import Calibration
from avsync.verdict import MIN_SPEECH_S, STILL_MOUTH, TrackSight, judge

Floats = npt.NDArray[np.float64]


def sight(track: TrackTokens, *, motion: float = 0.05) -> TrackSight:
    return TrackSight(
        id=track.id,
        start_s=track.first / 25,
        end_s=(track.first + len(track.tokens)) / 25,
        face_px=120.0,
        box=(10.0, 20.0, 130.0, 150.0),
        mouth_motion=motion,
        seen_s=float(track.valid.sum()) / 25,
    )


def verdict(
    tracks: Sequence[TrackTokens],
    sound: AudioTokens,
    *,
    tolerance: str | tuple[float, float] = "ebu",
    motion: float = 0.05,
    max_offset_ms: float = 600.0,
    calibration: Calibration = CALIBRATION,
    cuts: Sequence[float] = (),
    **common: Any,
) -> SyncResult:
    facts = {"path": "talk.mp4", "model": "test", "speech_s": 9.0, "duration_s": 10.0} | common
    return judge(
        tracks,
        [sight(t, motion=motion) for t in tracks],
        sound,
        calibration=calibration,
        max_offset_ms=max_offset_ms,
        tolerance=Tolerance.parse(tolerance),
        common=facts | {"max_offset_ms": max_offset_ms, "tolerance": Tolerance.parse(tolerance)},
        cuts=cuts,
    )


def talk(
    seconds: float,
    late_ms: float | Callable[[Floats], Floats] = 0.0,
    *,
    seed: int = 0,
    noise: float = 1.0,
    **options: Any,
) -> SyncResult:
    speaker, ticks = Speaker(seconds, seed), round(25 * seconds)
    video = look(speaker, ticks, noise=noise, seed=seed + 1)
    return verdict([video], hear(speaker, ticks, late_ms, noise=noise, seed=seed + 2), **options)


def strangers(seconds: float, seed: int, **options: Any) -> SyncResult:
    """A face that moves its lips, and another person's voice."""
    ticks = round(25 * seconds)
    video = look(Speaker(seconds, 2 * seed), ticks, seed=seed)
    sound = hear(Speaker(seconds, 2 * seed + 1), ticks, seed=seed + 100)
    return verdict([video], sound, **options)


class TestInAndOutOfSync:
    def test_in_sync(self) -> None:
        found = talk(10, 20)
        assert found.status is Status.in_sync
        assert found.offset_ms == pytest.approx(-20, abs=4)
        assert found.direction == "audio_lags"
        assert found.probability is not None
        assert found.probability > 0.95
        assert found.windows >= 15
        assert found.reason is None
        assert found.drift_ms_per_min is None

    @pytest.mark.parametrize("late_ms", [-200.0, 200.0, 580.0])
    def test_out_of_sync(self, late_ms: float) -> None:
        found = talk(10, late_ms)
        assert found.status is Status.out_of_sync
        assert found.offset_ms == pytest.approx(-late_ms, abs=4)
        assert found.direction == ("audio_leads" if late_ms < 0 else "audio_lags")

    @pytest.mark.parametrize(
        ("tolerance", "offset_ms", "status"),
        [
            ("ebu", 30, Status.in_sync),
            ("ebu", 52, Status.out_of_sync),
            ("ebu", -52, Status.in_sync),
            ("ebu", -70, Status.out_of_sync),
            ("itu", -115, Status.in_sync),
            ("atsc", 25, Status.out_of_sync),
            ((10, 300), -290, Status.in_sync),
            ((10, 300), 20, Status.out_of_sync),
        ],
    )
    def test_tolerance_decides(
        self, tolerance: str | tuple[float, float], offset_ms: float, status: Status
    ) -> None:
        found = talk(10, -offset_ms, tolerance=tolerance)
        assert found.status is status
        assert found.offset_ms == pytest.approx(offset_ms, abs=4)

    def test_one_segment_over_the_windows_used(self) -> None:
        found = talk(12, 80)
        (segment,) = found.segments
        assert (segment.start_s, segment.end_s) == (0.0, 12.0)
        assert segment.offset_ms == found.offset_ms
        assert segment.probability == found.probability
        assert segment.track == 0

    def test_curve_peaks_at_the_offset_and_keeps_to_the_range(self) -> None:
        found = talk(10, 120, max_offset_ms=400)
        assert found.curve is not None
        shifts, scores = np.array(found.curve.shift_ms), np.array(found.curve.score)
        np.testing.assert_allclose(shifts, np.arange(-400, 401, 20), atol=1e-6)
        assert shifts[scores.argmax()] == -120
        assert scores.max() > 0.3
        assert (
            np.abs(np.delete(scores, range(scores.argmax() - 4, scores.argmax() + 5))).max() < 0.2
        )

    def test_facts_are_passed_on(self) -> None:
        found = talk(10, warnings=("the file is cut off after 9.9 s",), path="a/b.mkv")
        assert found.warnings == ("the file is cut off after 9.9 s",)
        assert (found.path, found.model, found.speech_s, found.duration_s) == (
            "a/b.mkv", "test", 9.0, 10.0,
        )  # fmt: skip

    def test_result_survives_json(self) -> None:
        found = talk(10, 120)
        assert SyncResult.model_validate_json(found.model_dump_json()) == found


class TestTracks:
    def test_the_face_that_speaks_is_named(self) -> None:
        people = [Speaker(12, s) for s in (50, 51, 52)]
        tracks = [look(p, 300, id=i, seed=i) for i, p in enumerate(people)]
        found = verdict(tracks, hear(people[1], 300, -100))
        assert found.status is Status.out_of_sync
        assert found.offset_ms == pytest.approx(100, abs=4)
        assert [s.track for s in found.segments] == [1]
        speaking = [t.speaking for t in found.tracks]
        assert None not in speaking
        assert speaking[1] > 0.9
        assert max(speaking[0], speaking[2]) < 0.3
        assert found.tracks[1].score > 0.3

    def test_tracks_are_described(self) -> None:
        found = talk(10)
        (track,) = found.tracks
        assert (track.id, track.start_s, track.end_s, track.face_px) == (0, 0.0, 10.0, 120.0)
        assert track.box == (10.0, 20.0, 130.0, 150.0)

    def test_a_face_seen_for_a_moment_is_not_rated(self) -> None:
        speaker = Speaker(10, 3)
        brief = look(Speaker(10, 4), 7, first=100, id=1)
        found = verdict([look(speaker, 250), brief], hear(speaker, 250))
        assert found.status is Status.in_sync
        assert found.tracks[1].speaking is None
        assert found.tracks[1].score is None


class TestUnjudged:
    def check(self, found: SyncResult, status: Status) -> None:
        assert found.status is status
        assert found.offset_ms is None
        assert found.direction is None
        assert found.drift_ms_per_min is None
        assert found.segments == ()
        assert found.reason

    def test_no_face(self) -> None:
        found = verdict([], hear(Speaker(10), 250))
        self.check(found, Status.no_face)
        assert found.tracks == ()

    @pytest.mark.parametrize("speech_s", [0.0, MIN_SPEECH_S - 0.01])
    def test_no_speech(self, speech_s: float) -> None:
        found = talk(10, speech_s=speech_s)
        self.check(found, Status.no_speech)
        assert found.speech_s == pytest.approx(speech_s)
        assert len(found.tracks) == 1

    def test_no_face_comes_before_no_speech(self) -> None:
        self.check(verdict([], hear(Speaker(10), 250), speech_s=0.0), Status.no_face)

    @pytest.mark.parametrize("seconds", [0.2, 1.0, 1.4])
    def test_too_short(self, seconds: float) -> None:
        found = talk(seconds)
        self.check(found, Status.too_short)
        assert f"{seconds:.1f} s; 1.8 s together" in str(found.reason)

    def test_long_enough(self) -> None:
        assert talk(3.0, 100).status is Status.out_of_sync

    def test_too_short_for_lack_of_speech_beside_the_face(self) -> None:
        speaker = Speaker(12)
        sound = hear(speaker, 300)
        sound.speech[120:] = 0
        found = verdict([look(speaker, 120, first=180)], sound)
        self.check(found, Status.too_short)
        assert "too little speech" in str(found.reason)

    def test_too_short_for_lack_of_sound_beside_the_face(self) -> None:
        speaker = Speaker(40)
        found = verdict([look(speaker, 200, first=800)], hear(speaker, 250))
        self.check(found, Status.too_short)

    def test_ambiguous_a_strangers_voice(self) -> None:
        for seed in range(20):
            found = strangers(10, seed)
            self.check(found, Status.ambiguous)
            assert "no shift stands out" in str(found.reason)
            assert found.probability is not None
            assert found.probability < 0.5
            assert found.curve is not None

    @pytest.mark.parametrize("seconds", [30, 90, 300])
    def test_length_does_not_make_strangers_fit(self, seconds: int) -> None:
        """A dubbed film: the odds of its best shift grow with every window, its clarity does not.

        Nor may it be cut, or tilted, until something fits.
        """
        rash = CALIBRATION.model_copy(update={"scale": 33.0, "weights": (-1.3, 0.6, 0.4, 0.0)})
        found = [
            strangers(seconds, s, calibration=rash) for s in range(8, 12 if seconds > 90 else 28)
        ]
        assert sum(f.status is not Status.ambiguous for f in found) <= 1
        assert max(len(f.segments) for f in found) <= 1
        assert all(f.drift_ms_per_min is None for f in found)

    def test_a_faint_speaker_is_judged_in_the_long_run(self) -> None:
        """Where two seconds say nothing, twenty do."""
        assert talk(20, 150, noise=4.0).offset_ms == pytest.approx(-150, abs=15)

    def test_not_speaking(self) -> None:
        found = strangers(10, 1, motion=STILL_MOUTH / 2)
        self.check(found, Status.not_speaking)
        assert "no visible mouth moves" in str(found.reason)

    def test_a_mouth_that_moves_little_but_in_step_is_judged(self) -> None:
        assert talk(10, 100, motion=STILL_MOUTH / 2).status is Status.out_of_sync

    def test_fewer_than_three_agreeing_windows_claim_nothing(self) -> None:
        """Two windows of speech in step, the rest noise: two agreeing by chance is no proof."""
        speaker = Speaker(10, 8)
        video, sound = look(speaker, 250), hear(speaker, 250, 100)
        noise = look(Speaker(10, 9), 250, seed=5).tokens
        tokens = np.where(np.arange(250)[:, None] < 30, video.tokens, noise)
        found = verdict([replace(video, tokens=tokens)], sound)
        self.check(found, Status.ambiguous)

    def test_an_offset_beyond_the_range_is_not_claimed(self) -> None:
        for late_ms in (219.0, -219.0):
            found = talk(10, late_ms, max_offset_ms=200)
            assert found.status is Status.ambiguous
        assert talk(10, 800.0).status is Status.ambiguous


class TestChanges:
    def test_a_jump_gives_two_segments(self) -> None:
        found = talk(40, lambda t: np.where(t < 20, 0.0, 200.0))
        assert found.status is Status.out_of_sync
        first, second = found.segments
        assert first.offset_ms == pytest.approx(0, abs=5)
        assert second.offset_ms == pytest.approx(-200, abs=5)
        assert first.end_s == pytest.approx(20, abs=0.7)
        assert second.start_s == first.end_s
        assert (first.start_s, second.end_s) == (0.0, pytest.approx(40, abs=0.61))
        assert found.drift_ms_per_min is None
        assert found.windows >= 60

    def test_stretches_between_given_cuts_are_judged_by_themselves(self) -> None:
        """Too little moved to be found as a jump, and yet it is told apart: -15 ms, then +15."""
        found = talk(30, lambda t: np.where(t < 14.4, 15.0, -15.0))
        assert len(found.segments) == 1
        speaker = Speaker(30, 0)
        video = look(speaker, 750, seed=1)
        sound = hear(speaker, 750, lambda t: np.where(t < 14.4, 15.0, -15.0), seed=2)
        cut = verdict([video], sound, cuts=(14.4, 28.9))
        offsets = [(s.start_s < 14, s.offset_ms) for s in cut.segments]
        assert offsets == [
            (True, pytest.approx(-15, abs=5)),
            (False, pytest.approx(15, abs=5)),
        ]  # and 1.1 s at the end are no three windows

    def test_the_longer_piece_gives_the_files_offset(self) -> None:
        found = talk(40, lambda t: np.where(t < 12, 0.0, 200.0))
        assert found.offset_ms == pytest.approx(-200, abs=5)

    def test_out_of_sync_when_only_the_shorter_piece_is(self) -> None:
        found = talk(40, lambda t: np.where(t < 28, 0.0, 200.0))
        assert found.status is Status.out_of_sync
        assert found.offset_ms == pytest.approx(0, abs=5)
        assert len(found.segments) == 2

    def test_no_change_gives_one_segment(self) -> None:
        for seed in range(6):
            found = talk(60, 30, seed=seed, noise=2.0)
            assert found.status is Status.in_sync
            assert len(found.segments) == 1
            assert found.drift_ms_per_min is None

    def test_drift(self) -> None:
        """100 ms over four minutes, the sound ever earlier."""
        found = talk(240, lambda t: -25 * t / 60, duration_s=240.0)
        assert found.status is Status.drift
        assert found.drift_ms_per_min == pytest.approx(25, abs=1.5)
        assert found.offset_ms == pytest.approx(50, abs=6)  # in the middle of the file
        assert len(found.segments) == 1
        assert "drifts by +2" in found.describe()

    def test_drift_within_the_tolerance_is_in_sync_and_said(self) -> None:
        found = talk(240, lambda t: 10 + 25 * (t - 120) / 60, tolerance=(200, 200))
        assert found.status is Status.in_sync
        assert found.drift_ms_per_min == pytest.approx(-25, abs=1.5)

    def test_fast_drift_both_ways(self) -> None:
        for rate in (150.0, -150.0):
            found = talk(90, lambda t, r=rate: -r * (t - 45) / 60)
            assert found.status is Status.drift
            assert found.drift_ms_per_min == pytest.approx(rate, abs=5)
            assert found.offset_ms == pytest.approx(0, abs=8)

    def test_drift_is_claimed_with_as_many_windows_as_any_offset(self) -> None:
        found = talk(60, lambda t: -100 * t / 60)
        assert found.windows >= MIN_WINDOWS
        assert found.windows > 80


class TestDetectorStatuses:
    """The two statuses that are settled before there is evidence."""

    def score(self, path: Path) -> SyncResult:
        pytest.importorskip("onnxruntime")
        from avsync import SyncDetector

        return SyncDetector(TINY, provider="cpu", threads=1).score(path)

    def test_no_audio(self, tmp_path: Path) -> None:
        file = write_media(tmp_path / "a.mp4", video=VideoSpec(), audio=None).path
        found = self.score(file)
        assert (found.status, found.offset_ms) == (Status.no_audio, None)

    def test_no_video(self, tmp_path: Path) -> None:
        file = write_media(tmp_path / "a.mp4", video=None, audio=AudioSpec()).path
        found = self.score(file)
        assert (found.status, found.offset_ms) == (Status.no_video, None)

    def test_no_face_in_a_real_file(self, tmp_path: Path) -> None:
        found = self.score(write_media(tmp_path / "a.mp4").path)
        assert (found.status, found.model) == (Status.no_face, "tiny")
