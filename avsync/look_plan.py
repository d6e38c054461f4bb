"""Where to look next in a long file, and when what was found is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from avsync.seams import Look

__all__ = ["AGREEING_LOOKS", "LOOK_S", "agree", "between", "settled", "spans", "spread"]

#: Length (s) of the stretches that are looked at in a long file.
LOOK_S = 15.0
#: So many stretches must say the same, within this (ms) of a line, and span this share of the file.
AGREEING_LOOKS = 4
AGREE_MS = 25.0
SPAN = 0.6
#: Neighbours that differ by more than this (ms) are looked between, down to this distance (s).
JUMP_MS = 50.0
NEAR_S = 20.0


def spread() -> Iterator[float]:
    """Places 0..1, the middle and both ends first, each later one in the widest gap."""
    yield from (0.5, 0.03, 0.97)
    for depth in range(2, 7):
        steps = 2**depth
        odd = list(range(1, steps, 2))
        yield from (n / steps for n in [*odd[::2], *odd[1::2]])


def spans(claims: Sequence[tuple[float, float]], length: float) -> bool:
    """Whether there are enough (time, offset) claims, spread over a file of ``length`` (s)."""
    return len(claims) >= AGREEING_LOOKS and claims[-1][0] - claims[0][0] >= SPAN * length


def agree(claims: Sequence[tuple[float, float]]) -> bool:
    """Whether the offsets lie on one line over time."""
    if len(claims) < AGREEING_LOOKS:
        return False
    times, offsets = np.array(claims).T
    flat = np.abs(offsets - np.median(offsets)).max()
    line = np.polyval(np.polyfit(times, offsets, 1), times)
    return bool(min(flat, np.abs(offsets - line).max()) <= AGREE_MS)


def settled(claims: Sequence[tuple[float, float]]) -> bool:
    """Whether the offsets are runs of two and more that say the same, with jumps between."""
    runs: list[list[float]] = []
    for _, offset in claims:
        if runs and abs(runs[-1][-1] - offset) <= JUMP_MS:
            runs[-1].append(offset)
        else:
            runs.append([offset])
    return all(len(run) > 1 and max(run) - min(run) <= 2 * AGREE_MS for run in runs)


def between(claims: Sequence[tuple[float, float]], looks: Sequence[Look]) -> float | None:
    """Where to look for a change: the widest gap without a look between claims that differ."""
    if agree(claims):
        return None
    best, place = NEAR_S, None
    for (a, one), (b, other) in pairwise(claims):
        if abs(one - other) <= JUMP_MS:
            continue
        marks = sorted({a, b, *(k.middle_s for k in looks)})
        for low, high in pairwise(marks):
            if a <= low and high <= b and high - low > best + LOOK_S:
                best, place = high - low - LOOK_S, (low + high) / 2 - LOOK_S / 2
    return place
