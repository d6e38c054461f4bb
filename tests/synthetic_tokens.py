"""Tokens of a speaker who was never filmed: unit vectors with a known offset between them.

What is said is a smooth random path (Gaussian noise smoothed by 25 ms, so that two instants 40 ms
apart have a cosine of about a half, as real tokens do). The video samples it at its ticks, the
sound ``late_ms`` later at its steps; both get noise of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from avsync.offsets import AudioTokens, TrackTokens
from avsync.runtime import Calibration

__all__ = ["CALIBRATION", "Speaker", "hear", "look"]

Floats = npt.NDArray[np.float64]
Late = float | Callable[[Floats], Floats]

#: Set by hand: sure of clear peaks, doubtful of flat curves.
CALIBRATION = Calibration(
    scale=20.0,
    features=("posterior_log_odds", "agreeing_share", "margin"),
    weights=(-4.0, 0.5, 3.0, 8.0),
    method="set by hand for tests",
)

FINE_HZ = 200
SMOOTH_S = 0.025
DIM = 32
MARGIN_S = 12.0


class Speaker:
    """A path through (DIM,) space from ``-12 s`` to ``seconds + 12 s``."""

    def __init__(self, seconds: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        count = round((seconds + 2 * MARGIN_S) * FINE_HZ)
        white = rng.standard_normal((count, DIM))
        reach = round(4 * SMOOTH_S * FINE_HZ)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (SMOOTH_S * FINE_HZ)) ** 2)
        kernel /= np.sqrt((kernel**2).sum())
        padded = np.pad(white, ((reach, reach), (0, 0)), mode="wrap")
        self.path: Floats = sum(k * padded[i : i + count] for i, k in enumerate(kernel))

    def at(self, times_s: Floats) -> Floats:
        """(N, DIM) at the given instants."""
        place = (np.asarray(times_s, float) + MARGIN_S) * FINE_HZ
        low = np.floor(place).astype(int)
        part = (place - low)[:, None]
        return (1 - part) * self.path[low] + part * self.path[low + 1]


def _unit(x: Floats, noise: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    x = x + noise * rng.standard_normal(x.shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def look(
    speaker: Speaker,
    ticks: int,
    *,
    first: int = 0,
    id: int = 0,
    noise: float = 0.7,
    seed: int = 1,
    ages_s: Floats | float = 0.0,
) -> TrackTokens:
    """What the lips show from tick ``first`` on, all of it seen, in pictures ``ages_s`` old."""
    times = (first + np.arange(ticks)) / 25 - ages_s
    tokens = _unit(speaker.at(times), noise, np.random.default_rng(seed))
    ages = np.broadcast_to(ages_s, (ticks,)).astype(np.float32)
    return TrackTokens(id, first, tokens, np.ones(ticks, bool), ages)


def hear(
    speaker: Speaker,
    ticks: int,
    late_ms: Late = 0.0,
    *,
    first: int = 0,
    phases: int = 2,
    noise: float = 0.7,
    seed: int = 2,
) -> AudioTokens:
    """The sound from tick ``first`` on, ``late_ms`` (a number or f(time in s)) after the lips."""
    times = (first * phases + np.arange(ticks * phases)) / (25 * phases)
    late = late_ms(times) if callable(late_ms) else np.full(len(times), float(late_ms))
    tokens = _unit(speaker.at(times - late / 1000), noise, np.random.default_rng(seed))
    return AudioTokens(first * phases, phases, tokens, np.ones(len(tokens), np.float32))
