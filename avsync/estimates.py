"""The constant offset of a grid of scores, what speaks for it, and its calibrated probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.errors import ModelCorruptError
from avsync.offsets import Evidence
from avsync.runtime import Calibration

__all__ = ["NEAR_MS", "Estimate", "clarity", "estimate", "peak", "probability"]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

#: A window agrees with an offset when its own best shift is within this.
AGREE_MS = 60.0
NEAR_MS = 40.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A constant offset and what speaks for it.

    ``offset_ms`` positive = audio leads; ``features`` feed :func:`probability`; ``agreeing``
    counts windows whose own best shift is within 60 ms; ``curve`` (S,) is the mean score;
    ``clarity`` as :func:`clarity`, which the feature of that name is up to a limit.
    """

    offset_ms: float
    features: dict[str, float]
    agreeing: int
    windows: int
    curve: FloatArray
    clarity: float = 0.0


def peak(values: npt.NDArray[np.floating[Any]], best: int) -> float:
    """Index of the maximum near ``best``, to a fraction, by a parabola."""
    if not 0 < best < len(values) - 1:
        return float(best)
    a, b, c = (float(v) for v in values[best - 1 : best + 2])
    bend = a - 2 * b + c
    return best + (0.5 * (a - c) / bend if bend < -1e-9 else 0.0)


def _curve(evidence: Evidence, rows: BoolArray, best: int) -> FloatArray:
    """Mean score (S,) over windows, each from the face that fits best at shift ``best``."""
    at = evidence.scores[:, rows, best]
    at = np.where(np.isfinite(at), at, -np.inf)
    chosen = evidence.scores[at.argmax(0), np.flatnonzero(rows)]
    known = np.isfinite(chosen)
    mean = np.where(known, chosen, 0).sum(0) / np.maximum(known.sum(0), 1)
    thin = known.sum(0) < 0.5 * len(chosen)
    floor = mean[~thin].mean() if (~thin).any() else 0.0
    out: FloatArray = np.where(thin, floor, mean).astype(np.float32)
    return out


def clarity(total: float, logs: FloatArray) -> float:
    """How far the sum ``total`` of one shift a window stands above chance, standard deviations.

    Where the sound belongs to somebody else, the best of all shifts reaches 2 to 4 however many
    windows (``logs`` (W, S)) there are; the posterior's odds grow with them all the same.
    """
    spread = np.sqrt(float(logs.var(1).sum()))
    return (total - float(logs.mean(1).sum())) / spread if spread > 1e-6 else 0.0


def estimate(
    evidence: Evidence,
    calibration: Calibration,
    *,
    rows: BoolArray | None = None,
    tracks: Sequence[int] | None = None,
    at: int | None = None,
) -> Estimate:
    """The constant offset of the windows ``rows`` (default all), at least one of them.

    Args:
        tracks: only these rows of ``scores`` (default all faces).
        at: judge this shift index in place of the best one.
    """
    keep = np.ones(len(evidence), bool) if rows is None else rows
    logs = evidence.log_windows(calibration.scale, tracks, keep)
    total = logs.sum(0)
    best = int(total.argmax()) if at is None else at
    part = evidence
    if tracks is not None:
        part = replace(evidence, scores=evidence.scores[list(tracks)])
    curve = _curve(part, keep, best)
    # The mean curve is smooth where the posterior is already a spike: take its fraction.
    near = range(max(0, best - 1), min(len(curve), best + 2))
    top = max(near, key=lambda s: float(curve[s]))
    place = peak(curve, top)
    around = round(NEAR_MS / evidence.step_ms)
    posterior = np.exp(total - total.max())
    posterior /= posterior.sum()
    mass = float(posterior[max(0, best - around) : best + around + 1].sum())
    limit = AGREE_MS / evidence.step_ms + 1e-6
    says = np.ptp(logs, axis=1) > 1e-6  # a flat window has no best shift of its own
    agreeing = int((says & (np.abs(logs.argmax(1) - best) <= limit)).sum())
    far = np.abs(np.arange(len(curve)) - best) > 2 * around
    margin = float(curve[best] - curve[far].max()) if far.any() else 0.0
    odds = np.log(max(mass, 1e-9)) - np.log(max(1 - mass, 1e-9))
    gap = float(total[best] - total[far].max()) if far.any() else 0.0
    clear = clarity(float(total[best]), logs)
    return Estimate(
        offset_ms=-(place - evidence.reach) * evidence.step_ms,
        features={
            "posterior_log_odds": float(np.clip(odds, -8, 8)),
            "gap": float(np.clip(gap / np.sqrt(len(logs)), -3, 8)),
            "agreeing_share": agreeing / len(logs),
            "margin": margin,
            "clarity": float(np.clip(clear, -3, 12)),
        },
        agreeing=agreeing,
        windows=len(logs),
        curve=curve,
        clarity=clear,
    )


def probability(found: Estimate, calibration: Calibration) -> float:
    """Calibrated P(|error| <= 40 ms) of an estimate.

    Raises:
        ModelCorruptError: the calibration names a feature that is not computed here.
    """
    unknown = [name for name in calibration.features if name not in found.features]
    if unknown:
        raise ModelCorruptError(
            f"the model's calibration rests on {', '.join(unknown)}, which this version of avsync "
            "does not compute; calibrate and export the model again"
        )
    values = [found.features[name] for name in calibration.features]
    z = calibration.weights[0] + float(np.dot(calibration.weights[1:], values))
    return float(1 / (1 + np.exp(-np.clip(z, -30, 30))))
