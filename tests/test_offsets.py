"""Offsets from tokens whose offset is known: size, sign, edges, several faces, agreement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tokens import CALIBRATION, Speaker, hear, look

from avsync.errors import ModelCorruptError
from avsync.estimates import Estimate, estimate, peak, probability
from avsync.offsets import (
    DOUBT,
    MIN_PAIRED,
    MIN_TICKS,
    RIVAL_SHARPNESS,
    WINDOW_TICKS,
    AudioTokens,
    Evidence,
    TrackTokens,
    gather,
    window_scores,
)
from avsync.runtime import Calibration

Floats = npt.NDArray[np.float32]


def measured(late_ms: float, *, seed: int = 0, **options: float) -> Estimate:
    """The estimate for 10 s of a speaker whose sound comes ``late_ms`` after the lips."""
    speaker = Speaker(10, seed)
    phases = int(options.pop("phases", 2))
    max_offset_ms = options.pop("max_offset_ms", 600)
    noise = options.pop("noise", 0.7)
    video = look(speaker, 250, noise=noise, seed=seed + 1)
    sound = hear(speaker, 250, late_ms, phases=phases, noise=noise, seed=seed + 2)
    return estimate(gather([video], sound, max_offset_ms=max_offset_ms), CALIBRATION)


def flat(windows: int = 8, reach: int = 31, tracks: int = 1) -> Evidence:
    """A grid of noughts, to be filled by hand; 20 ms a step."""
    return Evidence(
        track_ids=tuple(range(tracks)),
        ticks=np.arange(windows, dtype=np.int64) * WINDOW_TICKS,
        scores=np.zeros((tracks, windows, 2 * reach + 1), np.float32),
        pairs=np.full((tracks, windows), WINDOW_TICKS, np.int64),
        reach=reach,
        step_ms=20.0,
        seen_windows=windows,
    )


class TestKnownOffsets:
    @pytest.mark.parametrize("late_ms", [0, 40, -40, 120, -260, 400, -580, 600, -600])
    def test_whole_steps(self, late_ms: float) -> None:
        found = measured(late_ms)
        assert found.offset_ms == pytest.approx(-late_ms, abs=3)
        assert found.windows == 17  # 250 ticks in windows of 15, the last of 10
        assert found.agreeing >= 16
        assert probability(found, CALIBRATION) > 0.99

    @pytest.mark.parametrize("late_ms", [5.0, 13.3, -10.0, 27.7, -133.3, 333.3, -591.0])
    def test_fractions_of_a_step(self, late_ms: float) -> None:
        assert measured(late_ms).offset_ms == pytest.approx(-late_ms, abs=3)

    @pytest.mark.parametrize(("phases", "tolerance"), [(1, 6), (2, 3), (4, 3)])
    def test_any_number_of_phases(self, phases: int, tolerance: float) -> None:
        for late_ms in (-213.0, 0.0, 90.0):
            found = measured(late_ms, phases=phases)
            assert found.offset_ms == pytest.approx(-late_ms, abs=tolerance)

    def test_without_bias_in_much_noise(self) -> None:
        errors = [measured(late, seed=s, noise=1.5).offset_ms + late
                  for s, late in enumerate([-300.0, -110, -7, 0, 7, 110, 300] * 2)]  # fmt: skip
        assert np.abs(errors).max() < 15
        assert abs(np.mean(errors)) < 2.5

    def test_far_offsets_on_request(self) -> None:
        found = measured(4321.0, max_offset_ms=5000)
        assert found.offset_ms == pytest.approx(-4321, abs=3)
        found = measured(-9000.0, max_offset_ms=10_000)
        # One second of ten is left in common: 2 windows of 17, which is no claim.
        assert found.agreeing < 3

    @pytest.mark.parametrize("moved", [7, -7])
    def test_sign_positive_means_audio_leads(self, moved: int) -> None:
        """The sound's stamps moved by 7 steps of 20 ms: later sound is a negative offset."""
        speaker = Speaker(10)
        video, sound = look(speaker, 250), hear(speaker, 250)
        later = replace(sound, first=sound.first + moved)
        found = estimate(gather([video], later, max_offset_ms=600), CALIBRATION)
        assert found.offset_ms == pytest.approx(-20 * moved, abs=3)

    def test_shifts_ms_say_what_users_see(self) -> None:
        evidence = flat(reach=3)
        assert evidence.shifts_ms.tolist() == [60, 40, 20, 0, -20, -40, -60]
        evidence.scores[:, :, 1] = 1.0
        assert estimate(evidence, CALIBRATION).offset_ms == pytest.approx(40, abs=0.01)

    @pytest.mark.parametrize("first", [-203, 1, 14, 1507])
    def test_any_first_tick(self, first: int) -> None:
        """Clocks that begin anywhere: windows lie on the clock, not on the track."""
        speaker = Speaker(80)
        video = replace(look(speaker, 200), first=first)
        sound = hear(speaker, 200, 80)
        sound = replace(sound, first=2 * first)
        evidence = gather([video], sound, max_offset_ms=600)
        assert np.all(evidence.ticks % WINDOW_TICKS == 0)
        assert estimate(evidence, CALIBRATION).offset_ms == pytest.approx(-80, abs=3)

    def test_other_peoples_sound_is_no_offset(self) -> None:
        claims = 0
        for seed in range(20):
            video = look(Speaker(10, 2 * seed), 250, seed=seed)
            sound = hear(Speaker(10, 2 * seed + 1), 250, seed=seed + 100)
            found = estimate(gather([video], sound, max_offset_ms=600), CALIBRATION)
            claims += probability(found, CALIBRATION) > 0.5 and found.agreeing >= 3
        assert claims <= 1


def naive(track: TrackTokens, audio: AudioTokens, window: int, shift: int) -> tuple[float, int]:
    """Mean cosine of a window's seen ticks with the sound ``shift`` steps later, by hand."""
    found, seen = [], 0
    for tick in range(window * WINDOW_TICKS, (window + 1) * WINDOW_TICKS):
        i = tick - track.first
        if 0 <= i < len(track.tokens) and track.valid[i]:
            seen += 1
            j = tick * audio.phases + shift - audio.first
            if 0 <= j < len(audio.tokens):
                found.append(float(track.tokens[i] @ audio.tokens[j]))
    enough = seen >= MIN_TICKS and found and len(found) >= MIN_PAIRED * seen
    return (float(np.mean(found)) if enough else np.nan), seen


class TestGather:
    @settings(max_examples=40)
    @given(
        ticks=st.integers(1, 50),
        first=st.integers(-40, 40),
        audio_first=st.integers(-90, 90),
        steps=st.integers(1, 120),
        phases=st.sampled_from([1, 2, 4]),
        max_offset_ms=st.sampled_from([40.0, 130.0, 400.0]),
        seed=st.integers(0, 5),
    )
    def test_equals_counting_by_hand(
        self,
        ticks: int,
        first: int,
        audio_first: int,
        steps: int,
        phases: int,
        max_offset_ms: float,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        valid = rng.random(ticks) < 0.9
        track = TrackTokens(0, first, rng.standard_normal((ticks, 3)).astype("f4"), valid)
        tokens = rng.standard_normal((steps, 3)).astype("f4")
        audio = AudioTokens(audio_first, phases, tokens, np.ones(steps, np.float32))
        evidence = gather([track], audio, max_offset_ms=max_offset_ms)
        assert evidence.reach * evidence.step_ms >= max_offset_ms
        rows = {}
        for window in range(first // WINDOW_TICKS, (first + ticks - 1) // WINDOW_TICKS + 1):
            row = [
                naive(track, audio, window, s) for s in range(-evidence.reach, evidence.reach + 1)
            ]
            if np.isfinite([v for v, _ in row]).any():
                rows[window * WINDOW_TICKS] = row
        assert evidence.ticks.tolist() == sorted(rows)
        assert evidence.seen_windows == len(rows)
        for i, tick in enumerate(evidence.ticks.tolist()):
            want = [v for v, _ in rows[tick]]
            np.testing.assert_allclose(evidence.scores[0, i], want, atol=1e-5)
            assert evidence.pairs[0, i] == rows[tick][0][1]

    def test_rivals_by_hand(self) -> None:
        rng = np.random.default_rng(5)
        valid = rng.random(80) < 0.9
        mouths, tokens = (rng.standard_normal((n, 8)).astype("f4") for n in (80, 200))
        mouths /= np.linalg.norm(mouths, axis=1, keepdims=True)
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        track = TrackTokens(0, 7, mouths, valid)
        audio = AudioTokens(-6, 2, tokens, np.ones(200, np.float32))
        alone = window_scores(track, audio, 45, 4)
        found = window_scores(track, audio, 45, 4, rivals=10)
        assert alone is not None
        assert found is not None
        around = [t for t in range(35, 70) if valid[t - 7]]
        for s in range(-4, 5):
            less = []
            for tick in (t for t in around if 45 <= t < 60):
                sound = tokens[2 * tick + s + 6]
                fits = [
                    np.exp(RIVAL_SHARPNESS * float(track.tokens[t - 7] @ sound)) for t in around
                ]
                less.append(np.log(np.mean(fits)) / RIVAL_SHARPNESS)
            assert found[0][s + 4] == pytest.approx(alone[0][s + 4] - np.mean(less), abs=1e-4)
        assert found[1] == alone[1]

    def test_shape_and_search_range(self) -> None:
        speaker = Speaker(4)
        evidence = gather([look(speaker, 100)], hear(speaker, 100), max_offset_ms=600)
        assert evidence.scores.shape == (1, 7, 63)  # ±600 ms in steps of 20, and one beyond
        assert (evidence.reach, evidence.step_ms) == (31, 20.0)
        assert evidence.pairs.tolist() == [[15] * 6 + [10]]
        assert len(evidence) == 7

    def test_beyond_the_sound_is_unknown_never_zero(self) -> None:
        """4 s of lips, 2 s of sound: pairs that the sound does not reach carry no score."""
        speaker = Speaker(4)
        video, sound = look(speaker, 100), hear(speaker, 50)
        evidence = gather([video], sound, max_offset_ms=600)
        # The last window that the sound reaches, 0.62 s early, has 6 of 15 ticks before 2.62 s.
        assert evidence.ticks.tolist() == [0, 15, 30, 45, 60]
        unknown = ~np.isfinite(evidence.scores[0])
        # First window (ticks 0..14): from -19 steps on, 10 of its 15 ticks lack a partner.
        assert unknown[0].tolist() == [s < -18 for s in range(-31, 32)]
        # Second (15..29) and third (30..44) windows: sound ends at step 100.
        assert unknown[1].tolist() == [s < -31 for s in range(-31, 32)]
        assert unknown[2].tolist() == [s > 100 - 71 for s in range(-31, 32)]
        assert not np.any(evidence.scores[0] == 0)

    def test_windows_without_any_pair_are_left_out(self) -> None:
        speaker = Speaker(30)
        evidence = gather([look(speaker, 700)], hear(speaker, 250), max_offset_ms=600)
        assert np.isfinite(evidence.scores).any((0, 2)).all()
        assert evidence.ticks.max() < 250 + 16 + 15

    def test_sound_elsewhere_gives_nothing(self) -> None:
        speaker = Speaker(4)
        sound = replace(hear(speaker, 100), first=100_000)
        evidence = gather([look(speaker, 100)], sound, max_offset_ms=600)
        assert len(evidence) == evidence.seen_windows == 0
        assert evidence.scores.shape == (1, 0, 63)

    def test_windows_without_speech_are_seen_but_not_used(self) -> None:
        speaker = Speaker(12)
        sound = hear(speaker, 300)
        sound.speech[: 2 * 150] = 0
        evidence = gather([look(speaker, 300)], sound, max_offset_ms=200)
        assert evidence.seen_windows == 20
        # The window from 5.4 s on reaches 0.2 s into the speech that begins at 6 s.
        assert evidence.ticks.tolist() == list(range(135, 300, 15))

    def test_a_fifth_of_speech_is_enough(self) -> None:
        speaker = Speaker(6)
        for share, kept in ((0.25, 10), (0.15, 0)):
            sound = hear(speaker, 150)
            sound.speech[:] = np.arange(300) % 20 < 20 * share
            evidence = gather([look(speaker, 150)], sound, max_offset_ms=600)
            assert (len(evidence), evidence.seen_windows) == (kept, 10)

    def test_windows_with_too_few_seen_ticks_are_left_out(self) -> None:
        speaker = Speaker(2)
        video = look(speaker, 45)
        video.valid[15 : 15 + 15 - MIN_TICKS + 1] = False  # 7 left
        video.valid[30 : 30 + 15 - MIN_TICKS] = False  # 8 left
        evidence = gather([video], hear(speaker, 45), max_offset_ms=200)
        assert evidence.ticks.tolist() == [0, 30]
        assert evidence.pairs.tolist() == [[15, 8]]

    def test_invalid_tokens_have_no_say(self) -> None:
        speaker = Speaker(6)
        video, sound = look(speaker, 150), hear(speaker, 150, 100)
        video.valid[np.arange(150) % 3 == 0] = False
        spoilt = replace(video, tokens=video.tokens.copy())
        spoilt.tokens[~video.valid] = np.nan
        a = gather([video], sound, max_offset_ms=600)
        b = gather([spoilt], sound, max_offset_ms=600)
        np.testing.assert_array_equal(a.scores, b.scores)
        assert estimate(a, CALIBRATION).offset_ms == pytest.approx(-100, abs=4)


class TestAges:
    """Pictures lie between the ticks: their own time stamps count."""

    @pytest.mark.parametrize("late_ms", [0.0, -113.0, 260.0])
    @pytest.mark.parametrize("age_ms", [-20.0, -13.0, 7.0, 20.0, 31.0])
    @pytest.mark.parametrize(("phases", "tolerance"), [(1, 5.0), (2, 2.5)])
    def test_age_makes_no_difference(
        self, age_ms: float, late_ms: float, phases: int, tolerance: float
    ) -> None:
        speaker = Speaker(10)
        video = look(speaker, 250, ages_s=age_ms / 1000)
        sound = hear(speaker, 250, late_ms, phases=phases)
        found = estimate(gather([video], sound, max_offset_ms=600), CALIBRATION)
        assert found.offset_ms == pytest.approx(-late_ms, abs=tolerance)

    @pytest.mark.parametrize("fps", [12.5, 15, 23.976, 24, 29.97, 30, 50])
    @pytest.mark.parametrize("start_s", [0.0, 0.013, 0.02])
    def test_any_frame_rate_and_start(self, fps: float, start_s: float) -> None:
        speaker = Speaker(10)
        ticks = np.arange(250) / 25
        stamps = start_s + np.round((ticks - start_s) * fps - 1e-6) / fps
        video = look(speaker, 250, ages_s=ticks - stamps)
        found = estimate(gather([video], hear(speaker, 250), max_offset_ms=600), CALIBRATION)
        assert found.offset_ms == pytest.approx(0.0, abs=3.0)

    def test_scores_move_by_whole_steps_and_by_cubics_between(self) -> None:
        track = TrackTokens(0, 0, np.ones((15, 1), np.float32), np.ones(15, bool))
        sound = AudioTokens(-40, 2, np.zeros((120, 1), np.float32), np.ones(120, np.float32))
        sound.tokens[:, 0] = (np.arange(120) / 100) ** 2  # a parabola: cubics are exact
        plain, _ = window_scores(track, sound, 0, 10) or (np.empty(0), 0)
        for steps in (1.0, 0.25, -0.5, -2.0):
            ages = np.full(15, steps * 0.02, np.float32)
            moved, seen = window_scores(replace(track, ages=ages), sound, 0, 10) or (plain, 0)
            assert seen == 15
            places = np.arange(21) - steps
            within = (places >= 0) & (places <= 20)
            assert np.isfinite(moved).tolist() == within.tolist()
            wanted = np.polyval(np.polyfit(np.arange(21.0), plain, 2), places)
            inner = (places >= 1) & (places <= 19)
            np.testing.assert_allclose(moved[inner], wanted[inner], atol=1e-5)

    def test_only_pictures_that_are_seen_count(self) -> None:
        speaker = Speaker(4)
        video, sound = look(speaker, 15, noise=0.0), hear(speaker, 100, noise=0.0)
        ages = np.where(np.arange(15) < 5, 0.5, 0.0).astype(np.float32)
        seen = np.arange(15) >= 5
        plain = window_scores(replace(video, valid=seen), sound, 0, 10)
        aged = window_scores(replace(video, valid=seen, ages=ages), sound, 0, 10)
        assert plain is not None
        assert aged is not None
        np.testing.assert_array_equal(plain[0], aged[0])


class TestMissingEdges:
    @pytest.mark.parametrize("late_ms", [-500, -240, 0, 240, 500])
    @pytest.mark.parametrize("cut", ["sound ends early", "sound starts late", "lips end early"])
    def test_offset_is_right_with_an_edge_missing(self, late_ms: float, cut: str) -> None:
        speaker = Speaker(10, seed=4)
        video, sound = look(speaker, 250), hear(speaker, 250, late_ms)
        if cut == "sound ends early":
            sound = AudioTokens(0, 2, sound.tokens[:240], sound.speech[:240])
        elif cut == "sound starts late":
            sound = AudioTokens(260, 2, sound.tokens[260:], sound.speech[260:])
        else:
            video = TrackTokens(0, 0, video.tokens[:100], video.valid[:100])
        found = estimate(gather([video], sound, max_offset_ms=600), CALIBRATION)
        assert found.offset_ms == pytest.approx(-late_ms, abs=5)
        assert found.agreeing >= 3

    def test_short_clips_do_not_favour_the_middle(self) -> None:
        """Where nothing matches, answers are spread out: more pairs do not make a shift win."""
        found = []
        for seed in range(60):
            video = look(Speaker(2, 2 * seed), 45, seed=seed)
            sound = hear(Speaker(2, 2 * seed + 1), 45, seed=seed + 100)
            found.append(estimate(gather([video], sound, max_offset_ms=600), CALIBRATION).offset_ms)
        inner = np.mean(np.abs(found) <= 300)
        assert 0.3 < inner < 0.8

    def test_silence_appended_as_tokens_changes_nothing(self) -> None:
        """Tokens of silence, all alike, after the speech: no evidence for any shift."""
        speaker = Speaker(10, seed=6)
        video, sound = look(speaker, 250), hear(speaker, 120, 60)
        still = np.repeat(sound.tokens[:1], 260, 0)
        longer = AudioTokens(
            0, 2, np.concatenate([sound.tokens, still]),
            np.concatenate([sound.speech, np.zeros(260, np.float32)]),
        )  # fmt: skip
        a = estimate(gather([video], sound, max_offset_ms=600), CALIBRATION)
        b = estimate(gather([video], longer, max_offset_ms=600), CALIBRATION)
        assert a.offset_ms == pytest.approx(-60, abs=3)
        assert b.offset_ms == pytest.approx(-60, abs=3)


class TestSeveralFaces:
    def faces(self, speaking: int, late_ms: float = 140.0) -> tuple[Evidence, list[TrackTokens]]:
        people = [Speaker(12, seed=s) for s in (20, 21, 22)]
        tracks = [look(p, 300, id=10 + i, seed=i) for i, p in enumerate(people)]
        sound = hear(people[speaking], 300, late_ms)
        return gather(tracks, sound, max_offset_ms=600), tracks

    @pytest.mark.parametrize("speaking", [0, 1, 2])
    def test_who_speaks_decides(self, speaking: int) -> None:
        evidence, _ = self.faces(speaking)
        assert evidence.track_ids == (10, 11, 12)
        found = estimate(evidence, CALIBRATION)
        assert found.offset_ms == pytest.approx(-140, abs=4)
        assert found.agreeing >= 18
        alone = [
            probability(estimate(evidence, CALIBRATION, tracks=[k]), CALIBRATION) for k in range(3)
        ]
        assert int(np.argmax(alone)) == speaking
        assert alone[speaking] > 0.95
        assert sorted(alone)[1] < 0.5

    def test_speakers_that_take_turns(self) -> None:
        one, two = Speaker(12, 30), Speaker(12, 31)
        first, second = hear(one, 300, -90), hear(two, 300, -90)
        tokens = np.concatenate([first.tokens[:300], second.tokens[300:]])
        sound = replace(first, tokens=tokens)
        tracks = [look(one, 300, id=0, seed=5), look(two, 300, id=1, seed=6)]
        found = estimate(gather(tracks, sound, max_offset_ms=600), CALIBRATION)
        assert found.offset_ms == pytest.approx(90, abs=4)
        assert found.agreeing >= 18
        for track in tracks:
            half = estimate(gather([track], sound, max_offset_ms=600), CALIBRATION)
            assert half.agreeing <= 13

    def test_tracks_at_different_times(self) -> None:
        """Faces that are not there carry no evidence; those that are, do."""
        one, two = Speaker(12, 40), Speaker(12, 41)
        a = replace(look(one, 300), tokens=look(one, 300).tokens[:120], valid=np.ones(120, bool))
        b = TrackTokens(1, 150, look(two, 300).tokens[150:], np.ones(150, bool))
        sound = hear(one, 300, 40)
        evidence = gather([a, b], sound, max_offset_ms=600)
        assert np.isnan(evidence.scores[0, evidence.ticks >= 120]).all()
        assert np.isnan(evidence.scores[1, evidence.ticks < 150]).all()
        assert evidence.pairs[0].tolist() == [15] * 8 + [0] * 10
        assert estimate(evidence, CALIBRATION).offset_ms == pytest.approx(-40, abs=4)


class TestEstimate:
    def test_agreement_counts_windows_within_60_ms(self) -> None:
        evidence = flat(windows=9, reach=31)
        for window, shift in enumerate([30, 30, 30, 30, 33, 27, 34, 26, 5]):
            evidence.scores[0, window, shift] = 1.0
        found = estimate(evidence, CALIBRATION)
        assert (found.agreeing, found.windows) == (6, 9)
        assert found.features["agreeing_share"] == pytest.approx(6 / 9)
        assert found.offset_ms == pytest.approx(20, abs=1)

    def test_windows_without_evidence_do_not_agree(self) -> None:
        """Three windows with a peak at the very edge, five where nothing is known."""
        evidence = flat(windows=8, reach=31)
        evidence.scores[0, :3, 0] = 1.0
        evidence.scores[0, 3:] = np.nan
        assert estimate(evidence, CALIBRATION).agreeing == 3

    def test_rows_choose_windows(self) -> None:
        evidence = flat(windows=8)
        evidence.scores[0, :4, 10] = 1.0
        evidence.scores[0, 4:, 50] = 1.0
        for rows, offset in ((np.arange(8) < 4, 420), (np.arange(8) >= 4, -380)):
            found = estimate(evidence, CALIBRATION, rows=rows)
            assert found.offset_ms == pytest.approx(offset, abs=0.01)
            assert (found.windows, found.agreeing) == (4, 4)

    def test_a_given_shift_is_judged_in_place_of_the_best(self) -> None:
        evidence = flat(windows=6)
        evidence.scores[0, :, 20] = 1.0
        found = estimate(evidence, CALIBRATION, at=40)
        assert found.agreeing == 0
        assert found.features["margin"] == pytest.approx(-1.0)
        assert found.features["posterior_log_odds"] == -8
        assert probability(found, CALIBRATION) < 0.001

    def test_posterior_of_one_window_by_hand(self) -> None:
        """One window, one score of 1/2 among noughts: softmax with a tenth of uniform."""
        evidence = flat(windows=1, reach=10)
        evidence.scores[0, 0, 12] = 0.5
        scale = CALIBRATION.scale
        soft = np.exp(scale * 0.5) / (np.exp(scale * 0.5) + 20)
        rest = (1 - soft) / 20
        mix = 0.9 * np.array([soft, rest]) + 0.1 / 21
        logs = evidence.log_windows(scale)
        np.testing.assert_allclose(logs[0, 12], np.log(mix[0]), rtol=1e-4)
        np.testing.assert_allclose(logs[0, 3], np.log(mix[1]), rtol=1e-4)
        near = mix[0] + 4 * mix[1]  # within 40 ms: two steps either side
        found = estimate(evidence, CALIBRATION)
        assert found.features["posterior_log_odds"] == pytest.approx(
            np.log(near / (1 - near)), rel=1e-3
        )
        assert found.features["margin"] == pytest.approx(0.5)

    def test_windows_of_a_long_film_by_themselves(self) -> None:
        """Hundreds at once, some of them, or each alone: the same."""
        evidence = flat(windows=600, tracks=2)
        rng = np.random.default_rng(0)
        evidence.scores[:] = rng.uniform(-1, 1, evidence.scores.shape)
        rows = rng.uniform(size=600) < 0.5
        logs = evidence.log_windows(20.0)
        np.testing.assert_array_equal(evidence.log_windows(20.0, rows=rows), logs[rows])
        for w in (0, 255, 256, 511, 512, 599):
            one = np.arange(600) == w
            np.testing.assert_array_equal(
                evidence.log_windows(20.0, [1], one), evidence.log_windows(20.0, [1])[[w]]
            )
            np.testing.assert_array_equal(evidence.log_windows(20.0, rows=one), logs[[w]])

    def test_few_seen_ticks_weigh_less(self) -> None:
        evidence = flat(windows=2)
        evidence.scores[0, :, 5] = 0.5
        evidence.pairs[0, 1] = 8
        logs = evidence.log_windows(4.0)
        assert logs[0, 5] > logs[1, 5]

    def test_one_window_cannot_rule_a_shift_out(self) -> None:
        evidence = flat(windows=5)
        evidence.scores[0, :4, 20] = 0.5
        evidence.scores[0, 4, 50] = 1.0
        evidence.scores[0, 4, 20] = -1.0
        assert evidence.log_windows(80.0).min() >= np.log(DOUBT / 63) - 1e-4
        assert estimate(evidence, CALIBRATION).offset_ms == pytest.approx(220, abs=1)

    @settings(max_examples=50)
    @given(
        scores=st.lists(st.floats(-1, 1), min_size=63, max_size=63),
        scale=st.floats(1, 80),
        hidden=st.sets(st.integers(0, 62), max_size=40),
    )
    def test_log_windows_are_distributions(
        self, scores: list[float], scale: float, hidden: set[int]
    ) -> None:
        evidence = flat(windows=1, tracks=2)
        evidence.scores[0, 0] = scores
        evidence.scores[1] = np.nan
        evidence.pairs[1] = 0
        evidence.scores[0, 0, sorted(hidden)] = np.nan
        mass = np.exp(evidence.log_windows(scale).astype(float))
        assert mass.sum() == pytest.approx(1, abs=1e-4)
        assert mass.min() >= DOUBT / 63 * 0.999
        known = np.setdiff1d(np.arange(63), sorted(hidden))
        # Unknown shifts count as the known ones' mean: never the best, never the worst.
        assert mass[0, known].max() >= mass[0].max() - 1e-6
        assert mass[0, known].min() <= mass[0].min() + 1e-6

    @given(
        middle=st.floats(-0.5, 0.5),
        height=st.floats(-1, 1),
        bend=st.floats(0.01, 5),
        best=st.integers(1, 9),
    )
    def test_peak_of_a_parabola_is_exact(
        self, middle: float, height: float, bend: float, best: int
    ) -> None:
        values = (height - bend * (np.arange(11) - best - middle) ** 2).astype(np.float64)
        assert peak(values, best) == pytest.approx(best + middle, abs=1e-6)

    def test_peak_at_the_edge_and_on_a_plain(self) -> None:
        ramp = np.arange(5, dtype=np.float32)
        assert peak(ramp, 4) == 4
        assert peak(ramp, 0) == 0
        assert peak(np.zeros(5, np.float32), 2) == 2


class TestProbability:
    FOUND = Estimate(0.0, {"a": 2.0, "b": -1.0}, 3, 3, np.zeros(3, np.float32))

    def test_is_the_logistic_of_the_weighted_features(self) -> None:
        c = Calibration(scale=1, features=("b", "a"), weights=(0.5, 3.0, 1.0), method="")
        assert probability(self.FOUND, c) == pytest.approx(1 / (1 + np.exp(-(0.5 - 3.0 + 2.0))))

    def test_does_not_overflow(self) -> None:
        for weight, want in ((1e6, 1.0), (-1e6, 0.0)):
            c = Calibration(scale=1, features=("a",), weights=(0.0, weight), method="")
            assert probability(self.FOUND, c) == pytest.approx(want, abs=1e-12)

    def test_a_feature_of_another_version_is_said(self) -> None:
        c = Calibration(scale=1, features=("a", "moon"), weights=(0.0, 1.0, 1.0), method="")
        with pytest.raises(ModelCorruptError, match="rests on moon, which this version"):
            probability(self.FOUND, c)

    def test_falls_with_noise(self) -> None:
        sure = [probability(measured(50, noise=n, seed=3), CALIBRATION) for n in (0.5, 3, 12)]
        assert sure == sorted(sure, reverse=True)
        assert sure[0] > 0.99
        assert sure[-1] < 0.5
