"""What must hold whatever is measured: moving the sound moves the answer, and nothing else does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tokens import CALIBRATION, Speaker, hear, look
from token_streams import stream_audio

from avsync.estimates import Estimate, estimate
from avsync.mel import MelStream, log_mel
from avsync.offsets import WINDOW_TICKS, TrackTokens, gather
from avsync.result import Tolerance
from avsync.runtime import SyncModel
from avsync.segments import find_drift, find_pieces
from avsync.sound import Timeline
from avsync.speech import SpeechGate
from avsync.verdict import TrackSight, judge

SPEAKER = Speaker(12.0, seed=5)
OTHER = Speaker(12.0, seed=6)
FACE = look(SPEAKER, 200)
SOUND = hear(SPEAKER, 200, 30.0)
STRANGER = hear(OTHER, 200, 0.0)


def found(tracks: list[TrackTokens], sound: object, max_offset_ms: float = 600.0) -> Estimate:
    evidence = gather(tracks, sound, max_offset_ms=max_offset_ms)  # type: ignore[arg-type]
    return estimate(evidence, CALIBRATION)


@settings(max_examples=15)
@given(steps=st.integers(-20, 20), stranger=st.booleans())
def test_sound_moved_by_steps_moves_every_score_by_them(steps: int, stranger: bool) -> None:
    """Right or wrong, the grid is the same one, moved."""
    sound = STRANGER if stranger else SOUND
    wide = gather([FACE], sound, max_offset_ms=1200)
    moved = gather([FACE], replace(sound, first=sound.first + steps), max_offset_ms=600)
    low = wide.reach - moved.reach - steps
    inner = slice(3, -3)  # windows at the ends lose what has no pair any more
    np.testing.assert_allclose(
        moved.scores[:, inner],
        wide.scores[:, inner, low : low + moved.scores.shape[2]],
        atol=1e-5,
    )


@settings(max_examples=15)
@given(steps=st.integers(-20, 20))
def test_offset_moves_by_what_the_sound_moves(steps: int) -> None:
    before = found([FACE], SOUND)
    after = found([FACE], replace(SOUND, first=SOUND.first + steps))
    assert abs(after.offset_ms - (before.offset_ms - 20 * steps)) < 4  # later: leads by less


@settings(max_examples=15)
@given(windows=st.integers(-500, 500_000))
def test_the_containers_clock_does_not_matter(windows: int) -> None:
    """Lips and sound later by the same whole windows: the same answer to the bit."""
    by = windows * WINDOW_TICKS
    before = found([FACE], SOUND)
    after = found([replace(FACE, first=by)], replace(SOUND, first=SOUND.first + 2 * by))
    assert after.offset_ms == before.offset_ms
    assert after.features == before.features


@settings(max_examples=15)
@given(order=st.permutations([0, 1, 2]), speaks=st.integers(0, 2))
def test_the_order_of_faces_does_not_matter(order: list[int], speaks: int) -> None:
    faces = [look(OTHER, 200, id=k, seed=20 + k, noise=3.0) for k in range(3)]
    faces[speaks] = replace(FACE, id=speaks)
    before, after = found(faces, SOUND), found([faces[k] for k in order], SOUND)
    assert abs(before.offset_ms - after.offset_ms) < 0.01
    assert before.agreeing == after.agreeing
    assert abs(before.features["clarity"] - after.features["clarity"]) < 1e-3


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), faces=st.integers(1, 3), reach=st.sampled_from([600.0, 4000.0]))
def test_strangers_are_not_claimed(seed: int, faces: int, reach: float) -> None:
    tracks = [look(Speaker(8.0, seed + k), 150, id=k, seed=seed + k) for k in range(faces)]
    sound = hear(Speaker(8.0, seed + 9), 150, seed=seed)
    sights = [TrackSight(k, 0.0, 6.0, 99.0, (0.0, 0.0, 9.0, 9.0), 0.1, 6.0) for k in range(faces)]
    tolerance = Tolerance.parse("ebu")
    common = {
        "path": "a",
        "model": "m",
        "tolerance": tolerance,
        "max_offset_ms": reach,
        "speech_s": 6.0,
    }
    result = judge(
        tracks,
        sights,
        sound,
        calibration=CALIBRATION,
        max_offset_ms=reach,
        tolerance=tolerance,
        common=common,
    )
    assert result.offset_ms is None, result.describe()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(4, 60),
    lift=st.floats(-50, 50),
    turn=st.integers(0, 40),
)
def test_pieces_hang_on_no_level_and_no_place(
    seed: int, count: int, lift: float, turn: int
) -> None:
    """All logs higher, or all shifts turned round: the same cuts. And any cuts cover everything."""
    logs = np.random.default_rng(seed).normal(-4, 2, (count, 41)).astype(np.float32)
    logs[: count // 2, 11] += 6
    logs[count // 2 :, 25] += 6
    spans, gain = find_pieces(logs)
    assert [s[0] for s in spans] == [0, *(s[1] for s in spans[:-1])]
    assert spans[-1][1] == count
    assert gain >= -1e-3
    again, same = find_pieces(np.roll(logs + np.float32(lift), turn, axis=1))
    assert again == spans
    assert abs(same - gain) < 0.05


@settings(max_examples=6)
@given(rate=st.sampled_from([-300.0, -200.0, 200.0, 300.0]), steps=st.integers(-8, 8))
def test_drift_is_the_same_wherever_it_starts(rate: float, steps: int) -> None:
    speaker = Speaker(60.0, seed=8)
    sound = hear(speaker, 1500, lambda t: -rate * t / 60, noise=0.4)
    evidence = gather(
        [look(speaker, 1500, noise=0.4)],
        replace(sound, first=sound.first + steps),
        max_offset_ms=900,
    )
    drift = find_drift(evidence, evidence.log_windows(CALIBRATION.scale))
    assert drift is not None
    assert abs(drift.ms_per_min - rate) < 15
    assert abs((drift.offset_ms_start + drift.offset_ms_end) / 2 + 20 * steps - rate / 2) < 20


@settings(max_examples=60)
@given(
    runs=st.lists(st.tuples(st.integers(-300, 900), st.integers(1, 500)), min_size=1, max_size=8),
    piece=st.integers(1, 400),
    start=st.integers(-2000, 10**9),
)
def test_timeline_lays_runs_where_they_belong(
    runs: list[tuple[int, int]], piece: int, start: int
) -> None:
    """Gaps become zeros; of a run that reaches back, what is over already is cut off."""
    rate = 1000
    line = Timeline(rate, piece / rate)
    expected = np.zeros(0, np.float32)
    got = []
    for n, (gap, length) in enumerate(runs):
        place = (0 if n == 0 else gap) + len(expected)
        samples = np.arange(1, length + 1, dtype=np.float32) + 1000 * n
        got += [*line.begin_run((start + place) / rate), *line.append(samples)]
        fill = np.zeros(max(0, place - len(expected)), np.float32)
        expected = np.concatenate([expected, fill, samples[max(0, len(expected) - place) :]])
    got += list(line.flush())
    assert all(0 < len(p.samples) <= piece for p in got)
    sizes = np.cumsum([0, *(len(p.samples) for p in got)])
    assert [p.start_s for p in got] == [(start + int(s)) / rate for s in sizes[:-1]]
    np.testing.assert_array_equal(np.concatenate([p.samples for p in got]), expected)


@settings(max_examples=8)
@given(blocks=st.lists(st.integers(0, 60), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_hours_of_silence_are_encoded_once(blocks: list[int], seed: int) -> None:
    """Any mixture of sound and digital silence gives what one run over all of it gives."""
    model = SyncModel(Path(__file__).parent / "data" / "tiny_model", provider="cpu", threads=1)
    rng = np.random.default_rng(seed)
    silent = np.full((1, 80), -11.5, np.float32)
    parts = [rng.normal(-5, 3, (33, 80)).astype(np.float32)]
    for n in blocks:
        parts += [np.repeat(silent, 10 * n, axis=0), rng.normal(-5, 3, (20, 80)).astype(np.float32)]
    mel = np.concatenate(parts)
    _, whole = stream_audio(model, mel, 0, [], block=10**6)
    _, streamed = stream_audio(model, mel, 0, [50] * 40, block=8)
    np.testing.assert_allclose(streamed, whole, atol=2e-5)


def test_an_hour_of_zeros_costs_next_to_nothing() -> None:
    gate, mels = SpeechGate(0.0), MelStream(0.0)
    zeros = np.zeros(160_000, np.float32)
    begin = time.process_time()
    columns = 0
    for _ in range(360):
        gate.push(zeros)
        mel = mels.push(zeros)
        columns += len(mel)
        assert (mel == mel[0]).all()
    assert time.process_time() - begin < 3
    assert columns == 360_000 - 1
    np.testing.assert_array_equal(mel[0], log_mel(zeros)[50])
    assert gate.speech_s == 0
    assert gate.at(0, 25, 90_000).sum() == 0
