"""Who speaks when: the faces, and nobody who is seen, weighed against each other over time.

The offset is known by then. Every 0.2 s each visible face is asked how much better its mouth fits
the sound at that offset than at all other shifts (a window of 0.6 s, rivalled by those beside it;
the window's distribution over shifts, as in :mod:`avsync.offsets`, at the offset, over what chance
would give, calibrated to odds). These odds against "nobody who is seen" go through a hidden Markov
model, in which the speaker seldom changes; its posterior is the probability of each face at each
moment.

The probability is the model's own. ``benchmarks/speakers.py`` prints how often it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from avsync.offsets import (
    DOUBT,
    MIN_TICKS,
    TICK_MS,
    WINDOW_TICKS,
    AudioTokens,
    TrackTokens,
    window_scores,
)
from avsync.result import Segment, Turn

__all__ = ["Voices", "find_voices", "offset_over_time", "unseen_voices"]

FloatArray = npt.NDArray[np.float64]

#: Ticks between the moments at which the faces are weighed.
HOP = 5
#: Windows overlap, so that each moment counts for so much of a window.
WEIGHT = HOP / WINDOW_TICKS
#: Log odds of a window: so much times the logarithm of its fit over chance, less this. Near the
#: logistic regression over windows of 40 dev clips, with their own and with other clips' sound.
GAIN, BIAS = 1.44, 1.0
#: Chance that the speaker changes from one moment to the next (a turn lasts some 3 s).
CHANGE = 0.06
#: How likely the next speaker is nobody who is seen, against a face that is.
UNSEEN = 0.3
#: Shifts are compared within so many ms of the offset, and it may be off by one step.
AROUND_MS = 600.0
#: A moment is speech when this share of its sound is.
MIN_SPEECH = 0.5
#: Silences up to this (s) do not end a turn; a turn lasts at least this.
JOIN_S = 0.6
SHORTEST_S = 0.4


@dataclass(frozen=True, slots=True)
class Voices:
    """``turns`` in order; ``speaking`` and ``share`` of each track, as in results."""

    turns: tuple[Turn, ...]
    speaking: dict[int, float]
    share: dict[int, float]


def offset_over_time(
    segments: Sequence[Segment], drift_ms_per_min: float | None
) -> Callable[[float], float]:
    """The offset (ms, positive = audio leads) at a time (s), from at least one segment."""

    def at(time_s: float) -> float:
        near = min(segments, key=lambda s: max(s.start_s - time_s, time_s - s.end_s, 0.0))
        middle = (near.start_s + near.end_s) / 2
        return near.offset_ms + (drift_ms_per_min or 0.0) * (time_s - middle) / 60

    return at


def _moments(tracks: Sequence[TrackTokens], audio: AudioTokens) -> tuple[int, int]:
    """First moment and the one past the last: moment ``m`` is at ticks ``HOP m … HOP (m + 1)``."""
    firsts = [t.first for t in tracks] + [audio.first // audio.phases]
    ends = [t.first + len(t.tokens) for t in tracks]
    ends.append((audio.first + len(audio.tokens)) // audio.phases)
    return min(firsts) // HOP, -(-max(ends) // HOP)


def _spoken(
    audio: AudioTokens, first: int, count: int, offset_ms: Callable[[float], float]
) -> npt.NDArray[np.bool_]:
    """Whether the sound that belongs to each moment of the picture is speech."""
    step_ms = TICK_MS / audio.phases
    out = np.zeros(count, np.bool_)
    for i in range(count):
        tick = (first + i) * HOP
        late = round(-offset_ms((tick + HOP / 2) / 25) / step_ms)
        low = tick * audio.phases + late - audio.first
        heard = audio.speech[max(0, low) : max(0, low + HOP * audio.phases)]
        out[i] = len(heard) > 0 and float(heard.mean()) >= MIN_SPEECH
    return out


def _odds(
    track: TrackTokens,
    audio: AudioTokens,
    moment: int,
    offset_ms: float,
    scale: float,
) -> float:
    """Odds of this face against nobody at one moment; 0 where its mouth is not seen."""
    step_ms = TICK_MS / audio.phases
    place = round(-offset_ms / step_ms)
    reach = abs(place) + round(AROUND_MS / step_ms)
    start = moment * HOP + (HOP - WINDOW_TICKS) // 2
    found = window_scores(track, audio, start, reach, rivals=WINDOW_TICKS)
    if found is None or found[1] < MIN_TICKS:
        return 0.0
    around = round(AROUND_MS / step_ms)
    scores = found[0][reach + place - around : reach + place + around + 1].astype(np.float64)
    near = scores[around - 1 : around + 2]
    known = scores[np.isfinite(scores)]
    if not len(known) or not np.isfinite(near).all():
        return 0.0
    sharp = scale * found[1] / WINDOW_TICKS
    mass = np.exp(sharp * (known - known.max()))
    here = float(np.exp(sharp * (near - known.max())).mean() / mass.sum())
    over_chance = np.log((1 - DOUBT) * here * len(known) + DOUBT)
    return float(np.exp(WEIGHT * (GAIN * over_chance - BIAS)))


def _entry(fits: FloatArray) -> FloatArray:
    """(T, 1 + K) whom a change of speaker leads to: the visible faces alike, nobody less."""
    weight = (fits > 0).astype(np.float64)
    weight[:, 0] *= UNSEEN
    out: FloatArray = weight / weight.sum(1, keepdims=True)
    return out


def _posterior(fits: FloatArray) -> FloatArray:
    """Forward and backward pass over (T, 1 + K) odds, column 0 nobody, 0 where not possible."""
    count = len(fits)
    entry = _entry(fits)
    forward = np.empty_like(fits)
    state = entry[0]
    for t in range(count):
        if t:
            state = (1 - CHANGE) * state + CHANGE * state.sum() * entry[t]
        state = state * fits[t]
        state = state / state.sum()
        forward[t] = state
    back = np.ones(fits.shape[1])
    out = np.empty_like(fits)
    for t in range(count - 1, -1, -1):
        both = forward[t] * back
        out[t] = both / both.sum()
        seen = fits[t] * back
        back = (1 - CHANGE) * seen + CHANGE * float(entry[t] @ seen)
        back = back / back.max()
    return out


def _evidence(fits: FloatArray, avoided: int | None = None) -> float:
    """Log likelihood of (T, 1 + K) odds; of the paths only that never come to ``avoided``."""
    entry = _entry(fits)
    if avoided is not None:
        fits, entry = fits.copy(), entry.copy()
        fits[:, avoided] = entry[:, avoided] = 0.0
    state, total = entry[0], 0.0
    for t in range(len(fits)):
        if t:
            state = (1 - CHANGE) * state + CHANGE * entry[t]
        state = state * fits[t]
        mass = float(state.sum())
        total += np.log(mass)
        state = state / mass
    return total


def _speaks(fits: FloatArray, column: int) -> float:
    """Probability that a face speaks at all; before, it is even odds whether it is a speaker."""
    there = np.flatnonzero(fits[:, column] > 0)
    if not len(there):
        return 0.0
    span = fits[there[0] : there[-1] + 1]
    used = (span > 0).any(0)
    part, mine = span[:, used], int(used[:column].sum())
    able = _evidence(part)
    unable = _evidence(np.delete(part, mine, axis=1))
    silent = _evidence(part, avoided=mine)
    top = max(able, unable)
    speaks = np.exp(able - top) - np.exp(silent - top)
    return float(np.clip(speaks / (np.exp(able - top) + np.exp(unable - top)), 0, 1))


def _turns(
    whose: npt.NDArray[np.int64],
    sure: FloatArray,
    spoken: npt.NDArray[np.bool_],
    first: int,
    names: Sequence[int | None],
) -> tuple[Turn, ...]:
    """Runs of one speaker; short silences and short runs go to their neighbours."""
    runs: list[list[int]] = []  # column, first moment, one past the last
    position = 0
    for (column, heard), group in groupby(zip(whose.tolist(), spoken.tolist(), strict=True)):
        length = sum(1 for _ in group)
        if heard:
            runs.append([column, position, position + length])
        position += length
    join, shortest = round(JOIN_S * 25 / HOP), round(SHORTEST_S * 25 / HOP)

    def joined(parts: list[list[int]]) -> list[list[int]]:
        out: list[list[int]] = []
        for run in parts:
            if out and out[-1][0] == run[0] and run[1] - out[-1][2] <= join:
                out[-1][2] = run[2]
            else:
                out.append(list(run))
        return out

    kept = joined([r for r in joined(runs) if r[2] - r[1] >= shortest])
    turns = []
    for column, low, high in kept:
        rows = np.arange(low, high)[spoken[low:high]]
        turns.append(
            Turn(
                start_s=(first + low) * HOP / 25,
                end_s=(first + high) * HOP / 25,
                track=names[column],
                probability=float(np.clip(sure[rows, column].mean(), 0, 1)),
            )
        )
    return tuple(turns)


def find_voices(
    tracks: Sequence[TrackTokens],
    audio: AudioTokens,
    *,
    scale: float,
    offset_ms: Callable[[float], float],
) -> Voices:
    """Who speaks when, the offset being known.

    Args:
        scale: the calibration's logit per unit of a window's mean score.
        offset_ms: offset (positive = audio leads) at a time of the picture, s.
    """
    first, end = _moments(tracks, audio)
    spoken = _spoken(audio, first, end - first, offset_ms)
    fits = np.zeros((end - first, 1 + len(tracks)))
    fits[:, 0] = 1.0
    for k, track in enumerate(tracks, start=1):
        low = max(first, track.first // HOP)
        high = min(end, -(-(track.first + len(track.tokens)) // HOP))
        for moment in range(low, high):
            if spoken[moment - first]:
                at = offset_ms((moment + 0.5) * HOP / 25)
                fits[moment - first, k] = _odds(track, audio, moment, at, scale)
    rows = np.flatnonzero(spoken)
    if not len(rows):
        return Voices((), {t.id: 0.0 for t in tracks}, {t.id: 0.0 for t in tracks})
    heard = fits[rows]
    able = np.array([1.0, *(_speaks(heard, k) for k in range(1, 1 + len(tracks)))])
    # Who speaks nowhere speaks here neither, however well chance may fit a moment.
    likely = np.flatnonzero(able >= 0.5)
    sure = np.zeros_like(fits)
    sure[np.ix_(rows, likely)] = _posterior(heard[:, likely]) * able[likely]
    sure[rows, 0] += 1 - sure[rows].sum(1)
    turns = _turns(sure.argmax(1), sure, spoken, first, [None, *(t.id for t in tracks)])
    return Voices(
        turns,
        {t.id: float(able[k]) for k, t in enumerate(tracks, start=1)},
        {t.id: float(sure[rows, k].mean()) for k, t in enumerate(tracks, start=1)},
    )


def unseen_voices(audio: AudioTokens, probability: float) -> tuple[Turn, ...]:
    """All speech as turns of nobody who is seen, where no face could be named."""
    first, end = _moments((), audio)
    spoken = _spoken(audio, first, end - first, lambda _: 0.0)
    nobody = np.zeros(end - first, np.int64)
    return _turns(nobody, np.full((end - first, 1), probability), spoken, first, [None])
