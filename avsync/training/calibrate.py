"""Calibration: what a score curve is worth, fitted on clips whose offset is known.

From every clip, runs of neighbouring windows of many lengths are judged, with the sound moved
by a known number of steps; a share of them gets another clip's sound, where every claim is
wrong. The posterior's scale maximises the likelihood of the true shift of single windows; the
probability is a logistic regression on the posterior's log odds, the gap in nats to the best
shift elsewhere (over the square root of the number of windows), the share of agreeing windows and
the margin of the mean score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from avsync.offsets import AudioTokens, Estimate, TrackTokens, estimate, gather
from avsync.result import MIN_WINDOWS
from avsync.runtime import Calibration

__all__ = ["FEATURES", "NO_WEIGHTS", "expected_calibration_error", "fit_calibration", "logistic"]

FEATURES = ("posterior_log_odds", "gap", "agreeing_share", "margin")
#: Intercept and features before anything is fitted.
NO_WEIGHTS = (0.0,) * (1 + len(FEATURES))
RIGHT_MS = 40.0
FloatArray = npt.NDArray[np.float64]
Pair = tuple[Sequence[TrackTokens], AudioTokens]


def logistic(x: FloatArray, y: FloatArray, *, ridge: float = 1.0) -> FloatArray:
    """Weights (1 + F,), intercept first, of a ridge logistic regression; x (N, F), y (N,) 0/1."""
    design = np.column_stack([np.ones(len(x)), x])
    weights = np.zeros(design.shape[1])
    penalty = np.diag([1e-6, *([ridge] * x.shape[1])])
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - y) + penalty @ weights
        curve = (design * (p * (1 - p))[:, None]).T @ design + penalty
        step = np.linalg.solve(curve, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(weights)


def expected_calibration_error(p: FloatArray, y: FloatArray, bins: int = 10) -> float:
    """Mean |claimed - observed| over equally filled bins."""
    order = np.argsort(p)
    parts = [i for i in np.array_split(order, bins) if len(i)]
    return float(sum(abs(p[i].mean() - y[i].mean()) * len(i) for i in parts) / len(p))


def fit_calibration(
    clips: Sequence[Pair],
    *,
    max_offset_ms: float = 600.0,
    late_ms: Sequence[float] | None = None,
    seed: int = 0,
    runs_a_clip: int = 24,
    mismatched: float = 0.25,
) -> tuple[Calibration, dict[str, float]]:
    """Fit on ``clips`` (tracks, sound) whose sound is ``late_ms`` late (default 0, in sync).

    Returns:
        The calibration, and its figures on the same runs: count, accuracy, ECE.
    """
    rng = np.random.default_rng(seed)
    late = np.zeros(len(clips)) if late_ms is None else np.asarray(late_ms)
    scale = _fit_scale(clips, late, max_offset_ms)
    trial = Calibration(scale=scale, features=FEATURES, weights=NO_WEIGHTS, method="")
    rows, right = [], []
    wide_ms = 2 * max_offset_ms
    for i, (tracks, audio) in enumerate(clips):
        other = clips[(i + int(rng.integers(1, len(clips)))) % len(clips)][1]
        other = replace(other, first=tracks[0].first * audio.phases)
        own_grid = gather(tracks, audio, max_offset_ms=wide_ms)
        false_grid = gather(tracks, other, max_offset_ms=wide_ms)
        step = own_grid.step_ms
        reach = round(max_offset_ms / step) + 1
        for n in range(runs_a_clip):
            false = n < mismatched * runs_a_clip
            grid = false_grid if false else own_grid
            limit = grid.reach - reach
            moved = int(rng.integers(-limit, limit + 1))
            low = grid.reach - reach - moved
            scores = grid.scores[:, :, low : low + 2 * reach + 1]
            evidence = replace(grid, scores=scores, reach=reach)
            if len(evidence) < MIN_WINDOWS or not np.isfinite(scores).any((0, 2)).all():
                continue
            longest = min(len(evidence), 16)
            length = round(float(np.exp(rng.uniform(np.log(MIN_WINDOWS), np.log(longest + 0.49)))))
            start = int(rng.integers(0, len(evidence) - length + 1))
            keep = np.zeros(len(evidence), bool)
            keep[start : start + length] = True
            found: Estimate = estimate(evidence, trial, rows=keep)
            rows.append([found.features[name] for name in FEATURES])
            truth = -moved * step - late[i]
            right.append(not false and abs(found.offset_ms - truth) <= RIGHT_MS)
    x, y = np.array(rows, float), np.array(right, float)
    weights = logistic(x, y)
    p = 1 / (1 + np.exp(-np.column_stack([np.ones(len(x)), x]) @ weights))
    figures = {
        "runs": float(len(y)),
        "right": float(y.mean()),
        "ece": expected_calibration_error(p, y),
        "brier": float(np.mean((p - y) ** 2)),
    }
    method = (
        f"logistic regression on {len(y)} runs of 3 to 16 windows (0.6 s) of {len(clips)} clips, "
        f"a quarter of them with another clip's sound; ECE {figures['ece']:.3f} on the same runs"
    )
    return (
        Calibration(
            scale=scale,
            features=FEATURES,
            weights=tuple(float(w) for w in weights),
            method=method,
        ),
        figures,
    )


def _fit_scale(clips: Sequence[Pair], late: FloatArray, max_offset_ms: float) -> float:
    """The scale under which single windows give their true shift the greatest likelihood."""
    gathered = [gather(tracks, audio, max_offset_ms=max_offset_ms) for tracks, audio in clips]
    best = (-np.inf, 10.0)
    for scale in np.geomspace(4, 80, 25):
        total = 0.0
        for evidence, own in zip(gathered, late, strict=True):
            if len(evidence):
                true = evidence.reach + round(own / evidence.step_ms)
                total += float(evidence.log_windows(float(scale))[:, true].sum())
        best = max(best, (total, float(scale)))
    return best[1]
