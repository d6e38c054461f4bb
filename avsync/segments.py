"""Offsets that change: cuts with their own offset, and clocks that drift apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from avsync.estimates import clarity, peak
from avsync.offsets import TICK_MS, WINDOW_TICKS, Evidence

__all__ = ["CHOSEN_CLARITY", "Drift", "find_drift", "find_pieces"]

FloatArray = npt.NDArray[np.float32]

#: Nats that a change of offset must win over staying (about five clear windows).
CHANGE_COST = 12.0
#: Nats that a drifting line, the best of some twenty thousand (ten nats), must win over a constant
#: offset, and what it must move at least.
DRIFT_GAIN = 12.0
MIN_DRIFT_MS = 40.0
#: Clarity (see offsets) that a line, or a piece among several, must have: it was chosen among
#: thousands, and chance alone brings the best of them to 5.
CHOSEN_CLARITY = 5.5
MIN_DRIFT_S = 20.0
SLOPES = 161
#: Windows that a line is drawn through at once.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Drift:
    """``ms_per_min``: change of ``offset_ms`` (positive = audio leads ever more) a minute."""

    ms_per_min: float
    gain: float
    offset_ms_start: float
    offset_ms_end: float


def _times_s(evidence: Evidence) -> npt.NDArray[np.float64]:
    return (evidence.ticks + WINDOW_TICKS / 2) * TICK_MS / 1000


def find_drift(
    evidence: Evidence, logs: FloatArray, *, max_ms_per_min: float = 400.0
) -> Drift | None:
    """The best straight line through the grid, when it beats a constant clearly; else None.

    Args:
        logs: (W, S) log distributions of the windows.
    """
    times = _times_s(evidence)
    if len(times) < 10 or times[-1] - times[0] < MIN_DRIFT_S:
        return None
    middle = (times[0] + times[-1]) / 2
    half = (times[-1] - times[0]) / 2
    starts = np.arange(2 * logs.shape[1] - 1) / 2  # where the line is in the middle of the file
    limit = min(max_ms_per_min / 60 * half, evidence.reach * evidence.step_ms) / evidence.step_ms
    slopes = np.linspace(-limit, limit, SLOPES)
    tops, places = np.empty(SLOPES), np.empty(SLOPES)
    constant = float(logs.sum(0, dtype=np.float64).max())
    place = ((times - middle) / half)[:, None]
    for i, slope in enumerate(slopes):
        line = np.zeros(len(starts))
        for low in range(0, len(times), BLOCK):
            rows = slice(low, low + BLOCK)
            # To the nearest shift, as pieces are: what is between two shifts is lost to both alike.
            moved = np.rint(starts + slope * place[rows]).astype(int).clip(0, logs.shape[1] - 1)
            line += np.take_along_axis(logs[rows], moved, 1).sum(0, dtype=np.float64)
        top = int(line.argmax())
        tops[i], places[i] = line[top], peak(line, top) / 2
    best = int(tops.argmax())
    best_place = float(places[best])
    best_slope = float(np.interp(peak(tops, best), np.arange(SLOPES), slopes))
    moved_ms = 2 * best_slope * evidence.step_ms
    gain = float(tops[best]) - constant
    if gain < DRIFT_GAIN or abs(moved_ms) < MIN_DRIFT_MS:
        return None
    if clarity(float(tops[best]), logs) < CHOSEN_CLARITY:
        return None
    centre = -(best_place - evidence.reach) * evidence.step_ms
    return Drift(
        ms_per_min=-moved_ms / (2 * half) * 60,
        gain=gain,
        offset_ms_start=centre + moved_ms / 2,
        offset_ms_end=centre - moved_ms / 2,
    )


def find_pieces(logs: FloatArray) -> tuple[list[tuple[int, int]], float]:
    """Cut the windows into runs of one offset (Viterbi; a change costs ``CHANGE_COST``).

    Returns:
        [(first window, one past the last), …], at least one, and the gain in nats over one run.
    """
    count, states = logs.shape
    score = logs[0].astype(np.float64)
    back = np.zeros((count, states), np.int32)
    for w in range(1, count):
        jump = int(score.argmax())
        moved = score[jump] - CHANGE_COST
        stays = score >= moved
        back[w] = np.where(stays, np.arange(states), jump)
        score = np.where(stays, score, moved) + logs[w]
    state = int(score.argmax())
    gain = float(score[state] - logs.sum(0).max())
    path = np.empty(count, np.int32)
    for w in range(count - 1, -1, -1):
        path[w] = state
        state = int(back[w, state])
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), count]
    return list(pairwise(edges)), gain
