"""Calibration: what a score curve is worth, fitted on clips whose offset is known.

From every clip, runs of neighbouring windows of many lengths, up to all there are, are judged with
the sound moved by a known number of steps; a share of them gets another clip's sound, where every
claim is wrong. The posterior's scale maximises the likelihood of the true shift of single windows;
the probability is a logistic regression on the posterior's log odds, the gap in nats to the best
shift elsewhere (over the square root of the number of windows), the share of agreeing windows, the
margin of the mean score, and how far the best shift stands above chance (clarity), which unlike
the others does not grow with the number of windows when the sound is a stranger's.

What it claims is checked by cross-fitting: every run is judged by scale and weights that were
fitted on other clips (or groups of clips) only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from avsync.estimates import Estimate, estimate
from avsync.offsets import AudioTokens, Evidence, TrackTokens, gather
from avsync.result import MIN_WINDOWS
from avsync.runtime import Calibration

__all__ = [
    "FEATURES",
    "NO_WEIGHTS",
    "Reliability",
    "expected_calibration_error",
    "fit_calibration",
    "logistic",
    "rising",
]

FEATURES = ("posterior_log_odds", "gap", "agreeing_share", "margin", "clarity")
#: Intercept and features before anything is fitted.
NO_WEIGHTS = (0.0,) * (1 + len(FEATURES))
RIGHT_MS = 40.0
#: A clip's truth is known to about this at best (ms), a quarter of the time between its pictures.
#: A run whose error lies so near to RIGHT_MS is neither right nor wrong and is left out, lest one
#: clip at 39 or 41 ms decide what the score of all others means.
TRUTH_MS = 10.0
#: Shorter runs have at most this many windows; a third of all runs take the whole clip.
LONGEST_RUN = 16
WHOLE_SHARE = 1 / 3
#: Strangers whose sound a clip is given.
STRANGERS = 3
SCALES = np.geomspace(4, 80, 25)
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Pair = tuple[Sequence[TrackTokens], AudioTokens]


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was claimed and what came true, each run judged by a fit without its clip.

    ``said`` (N,) probabilities; ``right`` (N,) within 40 ms; ``false`` (N,) another's sound.
    """

    said: FloatArray
    right: BoolArray
    false: BoolArray

    def figures(self, gate: float = 0.8) -> dict[str, float]:
        """Count, accuracy, ECE, Brier score, and shares claimed (probability >= ``gate``)."""
        y = self.right.astype(float)
        claimed = self.said >= gate
        own = ~self.false
        return {
            "runs": float(len(y)),
            "right": float(y.mean()),
            "ece": expected_calibration_error(self.said, y),
            "brier": float(np.mean((self.said - y) ** 2)),
            "claimed_of_own": float(claimed[own].mean()) if own.any() else 0.0,
            "claimed_of_strangers": float(claimed[self.false].mean()) if self.false.any() else 0.0,
            "claims_right": float(self.right[claimed].mean()) if claimed.any() else 1.0,
        }


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


def rising(x: FloatArray, y: FloatArray) -> FloatArray:
    """As :func:`logistic`, but no weight of a feature is negative: more evidence, more belief.

    Features are alike (correlated), so that an unbound fit sets one against another, which does
    harm away from the runs it was fitted on; those that would be negative are left out in turn.
    """
    kept = list(range(x.shape[1]))
    while True:
        found = logistic(x[:, kept], y)
        if not kept or found[1:].min() >= 0:
            break
        kept.pop(int(found[1:].argmin()))
    weights = np.zeros(1 + x.shape[1])
    weights[0] = found[0]
    weights[[1 + k for k in kept]] = found[1:]
    return weights


def expected_calibration_error(p: FloatArray, y: FloatArray, bins: int = 10) -> float:
    """Mean |claimed - observed| over equally filled bins."""
    order = np.argsort(p)
    parts = [i for i in np.array_split(order, bins) if len(i)]
    return float(sum(abs(p[i].mean() - y[i].mean()) * len(i) for i in parts) / len(p))


@dataclass(frozen=True, slots=True)
class _Run:
    """Windows ``keep`` of a grid; ``truth_ms`` None when the sound is a stranger's."""

    clip: int
    evidence: Evidence
    keep: BoolArray
    truth_ms: float | None


def fit_calibration(
    clips: Sequence[Pair],
    *,
    max_offset_ms: float = 600.0,
    late_ms: Sequence[float] | None = None,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    runs_a_clip: int = 24,
    mismatched: float = 1 / 3,
    folds: int = 5,
) -> tuple[Calibration, Reliability]:
    """Fit on ``clips`` (tracks, sound) whose sound is ``late_ms`` late (default 0, in sync).

    Args:
        late_ms: NaN where a clip's own offset is not known: then it gets strangers' sound only.
        groups: what each clip shares with others (its speaker), for cross-fitting and so that no
            clip gets its own speaker's sound as a stranger's; default each by itself.
        mismatched: share of runs with another clip's sound.
        folds: so many parts of the groups are left out in turn.

    Returns:
        The calibration, fitted on all runs, and how reliable it is by cross-fitting.
    """
    rng = np.random.default_rng(seed)
    late = np.zeros(len(clips)) if late_ms is None else np.asarray(late_ms, float)
    _, group = np.unique([str(g) for g in groups or range(len(clips))], return_inverse=True)
    likelihood = _likelihood(clips, late, max_offset_ms)
    runs: list[_Run] = []
    for i in range(len(clips)):
        runs += _clip_runs(clips, i, late[i], group, rng, max_offset_ms, runs_a_clip, mismatched)
    of = np.array([group[run.clip] for run in runs])
    order = rng.permutation(int(group.max()) + 1)
    tables: dict[float, tuple[FloatArray, BoolArray, BoolArray]] = {}

    def table(scale: float) -> tuple[FloatArray, BoolArray, BoolArray]:
        if scale not in tables:
            tables[scale] = _judge(runs, scale)
        return tables[scale]

    said = np.zeros(len(runs))
    for part in np.array_split(order, min(folds, len(order))):
        out = np.isin(of, part)
        if not out.any() or out.all():
            continue
        scale = float(SCALES[likelihood[~np.isin(group, part)].sum(0).argmax()])
        x, y, clear = table(scale)
        others = clear & ~out
        said[out] = _claim(x[out], rising(x[others], y[others].astype(float)))
    scale = float(SCALES[likelihood.sum(0).argmax()])
    x, y, clear = table(scale)
    false = np.array([run.truth_ms is None for run in runs])
    said, x, y, false = said[clear], x[clear], y[clear], false[clear]
    checked = Reliability(said=said, right=y, false=false)
    figures = checked.figures()
    method = (
        f"logistic regression on {len(y)} runs of 3 windows (0.6 s) to whole clips of "
        f"{len(clips)} clips, {100 * false.mean():.0f} % of them with another clip's sound, "
        f"{len(runs) - len(y)} left out {RIGHT_MS - TRUTH_MS:g} to {RIGHT_MS + TRUTH_MS:g} ms off; "
        f"ECE {figures['ece']:.3f} by cross-fitting over {min(folds, len(order))} parts"
    )
    weights = rising(x, y.astype(float))
    fitted = Calibration(
        scale=scale,
        features=FEATURES,
        weights=tuple(float(w) for w in weights),
        method=method,
    )
    return fitted, checked


def _claim(x: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.column_stack([np.ones(len(x)), x]) @ weights)))


def _judge(runs: Sequence[_Run], scale: float) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Features (N, F) of runs under a scale, if the offset found is right, and if that is clear."""
    trial = Calibration(scale=scale, features=FEATURES, weights=NO_WEIGHTS, method="")
    rows, off = [], []
    for run in runs:
        found: Estimate = estimate(run.evidence, trial, rows=run.keep)
        rows.append([found.features[name] for name in FEATURES])
        off.append(np.inf if run.truth_ms is None else abs(found.offset_ms - run.truth_ms))
    error = np.array(off, float)
    return np.array(rows, float), error <= RIGHT_MS, np.abs(error - RIGHT_MS) > TRUTH_MS


def _clip_runs(
    clips: Sequence[Pair],
    i: int,
    late_ms: float,
    group: npt.NDArray[np.intp],
    rng: np.random.Generator,
    max_offset_ms: float,
    count: int,
    mismatched: float,
) -> list[_Run]:
    tracks, audio = clips[i]
    wide_ms = 2 * max_offset_ms
    others = np.flatnonzero(group != group[i])
    picked = rng.permutation(others)[:STRANGERS]
    false_grids = []
    for j in picked:
        sound = replace(clips[j][1], first=tracks[0].first * audio.phases)
        false_grids.append(gather(tracks, sound, max_offset_ms=wide_ms))
    own_grid = gather(tracks, audio, max_offset_ms=wide_ms)
    runs = []
    for n in range(count):
        false = n < round(mismatched * count)
        if (false and not false_grids) or (not false and np.isnan(late_ms)):
            continue
        grid = false_grids[n % len(false_grids)] if false else own_grid
        reach = round(max_offset_ms / grid.step_ms) + 1
        limit = grid.reach - reach
        moved = int(rng.integers(-limit, limit + 1))
        low = grid.reach - reach - moved
        scores = grid.scores[:, :, low : low + 2 * reach + 1]
        evidence = replace(grid, scores=scores, reach=reach)
        whole = rng.random() < WHOLE_SHARE
        if len(evidence) < MIN_WINDOWS or not np.isfinite(scores).any((0, 2)).all():
            continue
        longest = min(len(evidence), LONGEST_RUN)
        length = round(float(np.exp(rng.uniform(np.log(MIN_WINDOWS), np.log(longest + 0.49)))))
        length = len(evidence) if whole else length
        start = int(rng.integers(0, len(evidence) - length + 1))
        keep = np.zeros(len(evidence), bool)
        keep[start : start + length] = True
        runs.append(_Run(i, evidence, keep, None if false else -moved * grid.step_ms - late_ms))
    return runs


def _likelihood(clips: Sequence[Pair], late: FloatArray, max_offset_ms: float) -> FloatArray:
    """Log likelihood (clips, scales) of the true shift of each clip's single windows."""
    out = np.zeros((len(clips), len(SCALES)))
    for i, ((tracks, audio), own) in enumerate(zip(clips, late, strict=True)):
        if np.isnan(own):
            continue
        evidence = gather(tracks, audio, max_offset_ms=max_offset_ms)
        if len(evidence):
            true = evidence.reach + round(own / evidence.step_ms)
            for k, scale in enumerate(SCALES):
                out[i, k] = evidence.log_windows(float(scale))[:, true].sum()
    return out
