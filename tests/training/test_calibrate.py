"""Calibration on tokens whose truth is known: what it claims is what comes true.

Calibration itself needs no torch.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tokens import Speaker, hear, look

from avsync.estimates import clarity, estimate, probability
from avsync.offsets import gather
from avsync.result import MIN_WINDOWS
from avsync.runtime import Calibration
from avsync.training.calibrate import (
    FEATURES,
    RIGHT_MS,
    TRUTH_MS,
    Pair,
    Reliability,
    expected_calibration_error,
    fit_calibration,
    logistic,
    rising,
)

Floats = npt.NDArray[np.float64]


@cache
def clips(count: int, seed: int, late_ms: float = 0.0) -> tuple[Pair, ...]:
    """Speakers of 4 to 10 s, from clear ones to ones that hardly speak to the lips."""
    rng = np.random.default_rng(seed)
    out: list[Pair] = []
    for i in range(count):
        ticks = int(rng.integers(100, 250))
        noise = float(np.exp(rng.uniform(np.log(1.0), np.log(6.0))))
        speaker = Speaker(ticks / 25, 1000 * seed + i)
        video = look(speaker, ticks, noise=noise, seed=2 * i)
        out.append(([video], hear(speaker, ticks, late_ms, noise=noise, seed=2 * i + 1)))
    return tuple(out)


@cache
def fitted() -> tuple[Calibration, Reliability]:
    return fit_calibration(clips(60, 1))


def claims(calibration: Calibration, pairs: tuple[Pair, ...]) -> tuple[Floats, Floats]:
    """Probability and truth of runs of 3 to 12 windows of other clips, moved at random."""
    rng = np.random.default_rng(5)
    said, right = [], []
    for i, (tracks, audio) in enumerate(pairs):
        for n in range(8):
            sound = pairs[i - 1][1] if n < 2 else audio
            steps = int(rng.integers(-25, 26))
            moved = type(sound)(sound.first + steps, 2, sound.tokens, sound.speech)
            evidence = gather(tracks, moved, max_offset_ms=600)
            length = int(rng.integers(MIN_WINDOWS, 13))
            if len(evidence) < length:
                continue
            start = int(rng.integers(0, len(evidence) - length + 1))
            index = np.arange(len(evidence))
            found = estimate(
                evidence, calibration, rows=(index >= start) & (index < start + length)
            )
            off = abs(found.offset_ms + 20 * steps)
            if n >= 2 and abs(off - RIGHT_MS) <= TRUTH_MS:
                continue  # the probability says nothing of those, neither right nor wrong
            said.append(probability(found, calibration))
            right.append(n >= 2 and off <= 40)
    return np.array(said), np.array(right, float)


class TestFit:
    def test_what_comes_out(self) -> None:
        calibration, checked = fitted()
        figures = checked.figures()
        assert calibration.features == FEATURES
        assert len(calibration.weights) == 1 + len(FEATURES)
        assert 4 <= calibration.scale <= 80
        assert figures["runs"] > 800
        assert 0.4 < figures["right"] < 0.7  # a third is false by design
        assert f"{figures['runs']:.0f} runs" in calibration.method
        assert f"ECE {figures['ece']:.3f}" in calibration.method

    def test_error_is_small_by_cross_fitting(self) -> None:
        _, checked = fitted()
        figures = checked.figures()
        assert figures["ece"] < 0.06
        assert figures["brier"] < 0.12
        assert figures["claimed_of_strangers"] < 0.02
        assert figures["claims_right"] > 0.9
        assert not checked.right[checked.false].any()

    def test_each_run_is_judged_without_its_own_clip(self) -> None:
        """With two groups, what is said of one comes from a fit on the other alone."""
        pairs = clips(24, 1)
        groups = [i % 2 for i in range(24)]
        _, checked = fit_calibration(pairs, groups=groups, folds=2)
        assert checked.said.std() > 0.1
        # With all in one part, nothing is left to fit on, and nothing is said.
        _, nothing = fit_calibration(pairs, groups=groups, folds=1)
        assert not nothing.said.any()

    def test_clips_of_unknown_offset_give_strangers_only(self) -> None:
        late = [0.0] * 12 + [float("nan")] * 12
        _, checked = fit_calibration(clips(24, 1), late_ms=late)
        _, known = fit_calibration(clips(24, 1)[:12], late_ms=late[:12])
        assert checked.false.mean() > known.false.mean() + 0.1
        assert (~checked.false).sum() == pytest.approx((~known.false).sum(), rel=0.05)

    def test_no_stranger_of_the_same_group(self) -> None:
        _, checked = fit_calibration(clips(6, 1), groups=["one"] * 6, folds=2)
        assert not checked.false.any()

    def test_error_is_small_on_other_clips(self) -> None:
        calibration, _ = fitted()
        said, right = claims(calibration, clips(60, 2))
        assert len(said) > 300
        assert 0.3 < right.mean() < 0.8
        assert expected_calibration_error(said, right, bins=6) < 0.08
        # And it tells the two apart: nine in ten of those sure are right, few of those unsure.
        assert right[said > 0.9].mean() > 0.9
        assert right[said < 0.2].mean() < 0.2

    def test_offsets_of_the_clips_are_taken_into_account(self) -> None:
        """Clips known to be 120 ms late, and so stated, calibrate as those in step do."""
        late, _ = fit_calibration(clips(30, 1, 120.0), late_ms=[120.0] * 30)
        plain, _ = fit_calibration(clips(30, 1))
        assert late.scale == pytest.approx(plain.scale, rel=0.3)
        _, wrong = fit_calibration(clips(30, 1, 120.0))
        assert wrong.right.mean() < 0.1

    def test_what_lies_on_the_edge_of_right_does_not_count(self) -> None:
        """Half of the clips 40 ms late, and not so stated: neither right nor wrong."""
        _, plain = fit_calibration(clips(30, 1))
        calibration, checked = fit_calibration(clips(30, 1)[:15] + clips(30, 1, 40.0)[15:])
        own, all_own = checked.right[~checked.false], plain.right[~plain.false]
        assert 0.45 * len(all_own) < len(own) < 0.85 * len(all_own)
        left_out = len(plain.right) - len(checked.right)
        assert f"{len(checked.right)} runs" in calibration.method
        assert "left out 30 to 50 ms off" in calibration.method
        assert left_out > 0.3 * len(all_own) / 2

    def test_same_seed_same_answer(self) -> None:
        a, _ = fit_calibration(clips(12, 3), seed=4)
        b, _ = fit_calibration(clips(12, 3), seed=4)
        assert a == b

    def test_more_noise_gives_a_smaller_scale(self) -> None:
        scales = []
        for noise in (0.5, 3.0):
            pairs = []
            for i in range(10):
                speaker = Speaker(6, 50 + i)
                pairs.append(([look(speaker, 150, noise=noise)], hear(speaker, 150, noise=noise)))
            scales.append(fit_calibration(pairs, runs_a_clip=8)[0].scale)
        # Scores of clear tokens are larger, so the same evidence needs less scale per unit;
        # what must hold is that the logit of a typical peak (scale x peak) falls with noise.
        peaks = [0.8, 0.1]
        assert scales[0] * peaks[0] > 2 * scales[1] * peaks[1]


class TestLogistic:
    def test_finds_the_weights_that_made_the_data(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((20_000, 2))
        z = -0.7 + x @ np.array([1.5, -0.4])
        y = (rng.random(20_000) < 1 / (1 + np.exp(-z))).astype(float)
        np.testing.assert_allclose(logistic(x, y), [-0.7, 1.5, -0.4], atol=0.08)

    def test_is_the_minimum(self) -> None:
        """The gradient of the penalised likelihood is nought there."""
        rng = np.random.default_rng(1)
        x, y = rng.standard_normal((60, 3)), (rng.random(60) < 0.4).astype(float)
        w = logistic(x, y, ridge=2.0)
        design = np.column_stack([np.ones(60), x])
        gradient = design.T @ (1 / (1 + np.exp(-design @ w)) - y) + [0, 2, 2, 2] * w
        np.testing.assert_allclose(gradient, 0, atol=1e-4)

    def test_rising_leaves_out_what_would_fall(self) -> None:
        rng = np.random.default_rng(3)
        x = rng.standard_normal((4000, 3))
        z = x @ np.array([2.0, -1.0, 0.5])
        y = (rng.random(4000) < 1 / (1 + np.exp(-z))).astype(float)
        weights = rising(x, y)
        assert weights[2] == 0
        np.testing.assert_allclose(weights[[0, 1, 3]], logistic(x[:, [0, 2]], y))
        np.testing.assert_allclose(rising(x[:, [0, 2]], y), logistic(x[:, [0, 2]], y))
        assert rising(-np.abs(x[:, :1]), (np.abs(x[:, 0]) > 1).astype(float))[1:].tolist() == [0]

    def test_separable_data_stay_finite(self) -> None:
        x = np.linspace(-1, 1, 40)[:, None]
        w = logistic(x, (x[:, 0] > 0).astype(float))
        assert np.isfinite(w).all()
        assert 1 < w[1] < 50


class TestError:
    def test_by_hand(self) -> None:
        p = np.array([0.1, 0.1, 0.9, 0.9])
        y = np.array([0.0, 1.0, 1.0, 1.0])
        assert expected_calibration_error(p, y, bins=2) == pytest.approx((0.4 + 0.1) / 2)

    @settings(max_examples=50)
    @given(
        p=st.lists(st.floats(0, 1), min_size=1, max_size=60),
        seed=st.integers(0, 100),
        bins=st.integers(1, 12),
    )
    def test_bounds(self, p: list[float], seed: int, bins: int) -> None:
        said = np.array(p)
        y = (np.random.default_rng(seed).random(len(p)) < 0.5).astype(float)
        error = expected_calibration_error(said, y, bins)
        assert 0 <= error <= 1
        # One bin is the difference of the means; more bins see at least that.
        assert error >= abs(said.mean() - y.mean()) - 1e-9

    def test_true_probabilities_have_little_error(self) -> None:
        rng = np.random.default_rng(2)
        p = rng.random(20_000)
        assert expected_calibration_error(p, (rng.random(20_000) < p).astype(float)) < 0.02


class TestPlot:
    def test_is_a_small_picture(self, tmp_path: Path) -> None:
        from avsync.training.reliability import plot_reliability

        file = tmp_path / "reliability.png"
        plot_reliability(fitted()[1], file)
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < 60_000


class TestClarity:
    def test_chance_stays_low_however_long_and_a_speaker_rises(self) -> None:
        """What the verdict's gate rests on: of strangers, length makes no difference."""
        calibration, _ = fitted()
        low, high = [], []
        for seconds in (10, 40, 120):
            ticks = 25 * seconds
            for seed in range(4):
                one, other = Speaker(seconds, 10 + seed), Speaker(seconds, 90 + seed)
                video = look(one, ticks, noise=2.0, seed=seed)
                for who, found in ((one, high), (other, low)):
                    sound = hear(who, ticks, 80, noise=2.0, seed=seed + 50)
                    logs = gather([video], sound, max_offset_ms=600).log_windows(calibration.scale)
                    found.append(clarity(float(logs.sum(0).max()), logs))
        assert max(low) < 5
        assert min(high) > 8
        assert np.mean(high[-4:]) > 2.5 * np.mean(high[:4])  # the root of 12 is 3.5

    def test_by_hand(self) -> None:
        logs = np.array([[0.0, 2.0], [0.0, 4.0]], np.float32)
        # Means 1 and 2, variances 1 and 4.
        assert clarity(6.0, logs) == pytest.approx(3 / np.sqrt(5))
        assert clarity(0.0, np.zeros((3, 5), np.float32)) == 0
