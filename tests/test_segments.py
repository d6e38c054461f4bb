"""Offsets that change: a jump, a drift, and nothing where nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tokens import CALIBRATION, Speaker, hear, look

from avsync.estimates import estimate
from avsync.offsets import Evidence, gather
from avsync.segments import CHANGE_COST, find_drift, find_pieces

Floats = npt.NDArray[np.float64]


def grid(
    seconds: float, late_ms: float | Callable[[Floats], Floats], *, seed: int = 0, noise: float = 1
) -> Evidence:
    speaker = Speaker(seconds, seed)
    ticks = round(25 * seconds)
    video = look(speaker, ticks, noise=noise, seed=seed + 1)
    sound = hear(speaker, ticks, late_ms, noise=noise, seed=seed + 2)
    return gather([video], sound, max_offset_ms=600)


def logs_of(evidence: Evidence) -> npt.NDArray[np.float32]:
    return evidence.log_windows(CALIBRATION.scale)


def offset_of(evidence: Evidence, span: tuple[int, int]) -> float:
    index = np.arange(len(evidence))
    rows = (index >= span[0]) & (index < span[1])
    return estimate(evidence, CALIBRATION, rows=rows).offset_ms


class TestPieces:
    @pytest.mark.parametrize("jump_ms", [200.0, -200.0, 80.0])
    def test_a_jump_in_the_middle(self, jump_ms: float) -> None:
        """The sound moves by 200 ms at 15 s: two pieces, cut there, each with its own offset."""
        evidence = grid(30, lambda t: np.where(t < 15, 40.0, 40.0 + jump_ms))
        pieces, gain = find_pieces(logs_of(evidence))
        assert len(pieces) == 2
        (start, cut), (again, end) = pieces
        assert (start, again, end) == (0, cut, len(evidence))
        # Windows are 0.6 s long; the one that spans the jump may go to either side.
        assert evidence.ticks[cut] / 25 == pytest.approx(15, abs=0.7)
        assert offset_of(evidence, pieces[0]) == pytest.approx(-40, abs=5)
        assert offset_of(evidence, pieces[1]) == pytest.approx(-40 - jump_ms, abs=5)
        assert gain > 20

    def test_there_and_back(self) -> None:
        evidence = grid(36, lambda t: np.where((t > 12) & (t < 24), 250.0, 0.0))
        pieces, _ = find_pieces(logs_of(evidence))
        assert [round(offset_of(evidence, p), -1) + 0 for p in pieces] == [0, -250, 0]
        cuts = [float(evidence.ticks[p[0]]) / 25 for p in pieces[1:]]
        np.testing.assert_allclose(cuts, [12, 24], atol=0.7)

    @pytest.mark.parametrize("noise", [0.7, 1.5, 3.0])
    def test_nothing_changes_nothing_is_found(self, noise: float) -> None:
        for seed in range(8):
            evidence = grid(40, 120.0, seed=seed, noise=noise)
            pieces, gain = find_pieces(logs_of(evidence))
            assert pieces == [(0, len(evidence))]
            assert gain == pytest.approx(0, abs=1e-3)

    def test_two_odd_windows_are_no_piece(self) -> None:
        """1.2 s of something else (another voice, music) do not cut a file."""
        evidence = grid(30, lambda t: np.where((t > 15) & (t < 16.2), 300.0, 0.0))
        assert len(find_pieces(logs_of(evidence))[0]) == 1

    @settings(max_examples=60)
    @given(
        states=st.integers(2, 4),
        count=st.integers(1, 6),
        seed=st.integers(0, 10_000),
        spread=st.sampled_from([1.0, 10.0, 40.0]),
    )
    def test_viterbi_equals_trying_every_path(
        self, states: int, count: int, seed: int, spread: float
    ) -> None:
        rng = np.random.default_rng(seed)
        logs = (-spread * rng.random((count, states))).astype(np.float32)
        pieces, gain = find_pieces(logs)

        def value(path: tuple[int, ...]) -> float:
            changes = sum(a != b for a, b in pairwise(path))
            return float(logs[np.arange(count), list(path)].sum()) - CHANGE_COST * changes

        best = max(product(range(states), repeat=count), key=value)
        assert gain == pytest.approx(value(best) - float(logs.sum(0).max()), abs=1e-3)
        assert pieces[0][0] == 0
        assert pieces[-1][1] == count
        assert all(a[1] == b[0] for a, b in pairwise(pieces))
        edges = [0, *(i for i in range(1, count) if best[i] != best[i - 1]), count]
        assert pieces == list(pairwise(edges))


class TestDrift:
    @pytest.mark.parametrize("rate", [25.0, -25.0, 60.0])
    def test_100_ms_over_some_minutes(self, rate: float) -> None:
        """``rate`` ms a minute more lead (the sound ever earlier) over four minutes."""
        evidence = grid(240, lambda t: -rate * t / 60)
        drift = find_drift(evidence, logs_of(evidence))
        assert drift is not None
        assert drift.ms_per_min == pytest.approx(rate, abs=1.5)
        assert drift.offset_ms_start == pytest.approx(0, abs=5)
        assert drift.offset_ms_end == pytest.approx(4 * rate, abs=5)
        assert drift.gain > 20

    def test_on_top_of_an_offset(self) -> None:
        evidence = grid(120, lambda t: 200 - 90 * t / 60)
        drift = find_drift(evidence, logs_of(evidence))
        assert drift is not None
        assert drift.ms_per_min == pytest.approx(90, abs=2)
        assert drift.offset_ms_start == pytest.approx(-200, abs=5)
        assert drift.offset_ms_end == pytest.approx(-20, abs=5)

    @pytest.mark.parametrize("noise", [0.7, 1.5, 3.0, 30.0])
    def test_no_drift_no_finding(self, noise: float) -> None:
        for seed in range(4):
            evidence = grid(60, -80.0, seed=seed, noise=noise)
            assert find_drift(evidence, logs_of(evidence)) is None

    def test_a_drift_that_does_not_matter_is_none(self) -> None:
        """30 ms in two minutes are below what is called a drift."""
        evidence = grid(120, lambda t: -15 * t / 60)
        assert find_drift(evidence, logs_of(evidence)) is None

    def test_a_jump_is_better_told_as_two_pieces(self) -> None:
        evidence = grid(60, lambda t: np.where(t < 30, 0.0, 200.0))
        logs = logs_of(evidence)
        drift, (pieces, gain) = find_drift(evidence, logs), find_pieces(logs)
        assert len(pieces) == 2
        assert drift is None or drift.gain < gain

    def test_short_files_have_no_drift(self) -> None:
        evidence = grid(18, lambda t: -200 * t / 60)
        assert find_drift(evidence, logs_of(evidence)) is None

    def test_speech_here_and_there_is_enough(self) -> None:
        """Windows at uneven times: the line is laid over time, not over their count."""
        evidence = grid(240, lambda t: -30 * t / 60)
        keep = (np.arange(len(evidence)) < 60) | (np.arange(len(evidence)) % 9 == 0)
        sparse = Evidence(
            track_ids=evidence.track_ids,
            ticks=evidence.ticks[keep],
            scores=evidence.scores[:, keep],
            pairs=evidence.pairs[:, keep],
            reach=evidence.reach,
            step_ms=evidence.step_ms,
            seen_windows=evidence.seen_windows,
        )
        drift = find_drift(sparse, logs_of(sparse))
        assert drift is not None
        assert drift.ms_per_min == pytest.approx(30, abs=4)
