"""From tokens to a grid of scores over windows and shifts (:mod:`avsync.estimates` goes on).

A *shift* is counted in steps of ``40 / phases`` ms and is positive when the sound comes later
than the lips; ``offset_ms`` has the opposite sign (positive = audio leads).

Windows of 0.6 s that do not overlap are scored at every shift. Each window's scores become a
distribution over shifts (softmax with the calibrated scale, mixed with a tenth of uniform so
that no single window can rule a shift out); windows multiply. Where several faces are seen, a
window's evidence is the sum over the faces: whoever speaks decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "WINDOW_TICKS",
    "AudioTokens",
    "Evidence",
    "TrackTokens",
    "gather",
    "merge",
    "window_scores",
]

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

TICK_MS = 40.0
WINDOW_TICKS = 15
#: A window needs this many ticks with a visible mouth, and a shift this share of them paired: of
#: a short film with a large offset much of the picture has its sound beyond the film's ends.
MIN_TICKS = 8
MIN_PAIRED = 0.4
#: A window counts where at least this share of the sound it may belong to is speech.
MIN_SPEECH = 0.2
#: How sharp the soft maximum over a sound's rivals is.
RIVAL_SHARPNESS = 20.0
#: Share of uniform mixed into each window's distribution.
DOUBT = 0.1
#: Moves of less than so many steps (of 20 ms) are none.
ALIKE_STEPS = 0.01
#: Windows whose distributions are computed at once.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class TrackTokens:
    """Tokens (T, d) of one face from tick ``first`` on; ``valid`` (T,) says which were seen.

    ``ages`` (T,): how much older (s) than its tick each picture is; None: not at all. Where the
    first frame of 25 a second lies between two ticks, so do all: by up to 20 ms either way.
    """

    id: int
    first: int
    tokens: FloatArray
    valid: BoolArray
    ages: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class AudioTokens:
    """Tokens (N, d) every ``1 / phases`` tick from step ``first`` on; ``speech`` (N,) in 0..1."""

    first: int
    phases: int
    tokens: FloatArray
    speech: FloatArray


@dataclass(frozen=True, slots=True)
class Evidence:
    """Score grid of one or several tracks over the windows that carry evidence.

    ``ticks`` (W,) first tick of each window; ``scores`` (K, W, S) mean cosine of track k in
    window w at shift s, NaN where the track or the sound was not there; ``pairs`` (K, W) ticks
    with a visible mouth. ``step_ms`` is the width of a shift; shift ``s`` is ``(s - reach)``
    steps, positive = sound later. ``owners`` (K, W) says whose each row is in each window (-1:
    nobody's) where faces take turns in a row; without it row k is ``track_ids[k]``'s.
    """

    track_ids: tuple[int, ...]
    ticks: npt.NDArray[np.int64]
    scores: FloatArray
    pairs: npt.NDArray[np.int64]
    reach: int
    step_ms: float
    seen_windows: int
    owners: npt.NDArray[np.int64] | None = None

    @property
    def whose(self) -> npt.NDArray[np.int64]:
        """(K, W) track ids, -1 where a row is nobody's."""
        if self.owners is not None:
            return self.owners
        ids = np.array(self.track_ids, np.int64).reshape(-1, 1)
        return np.broadcast_to(ids, self.pairs.shape)

    def renamed(self, names: Mapping[int, int]) -> Evidence:
        """The same with other track ids; what is not named keeps its own."""
        owners = self.owners
        if owners is not None:
            before, owners = owners, owners.copy()
            for old, new in names.items():
                owners[before == old] = new
        ids = tuple(names.get(i, i) for i in self.track_ids)
        return replace(self, track_ids=ids, owners=owners)

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def shifts_ms(self) -> FloatArray:
        """Offsets (S,) in ms as users see them: positive = audio leads (descending)."""
        return (-(np.arange(2 * self.reach + 1) - self.reach) * self.step_ms).astype(np.float32)

    def log_windows(
        self,
        scale: float,
        tracks: Sequence[int] | None = None,
        rows: BoolArray | None = None,
    ) -> FloatArray:
        """Log of each window's robust distribution over shifts, (W, S).

        Args:
            tracks: only these rows of ``scores``. rows: (W,) only these windows.
        """
        chosen = np.arange(len(self.scores)) if tracks is None else np.array(tracks, np.int64)
        index = np.arange(len(self)) if rows is None else np.flatnonzero(rows)
        out = np.empty((len(index), self.scores.shape[2]), np.float32)
        for i in range(0, len(index), BLOCK):  # of many faces and windows, in a little memory
            part = np.ix_(chosen, index[i : i + BLOCK])
            out[i : i + BLOCK] = _log_block(self.scores[part], self.pairs[part], scale)
        return out


def _log_block(
    scores: FloatArray, pairs: npt.NDArray[np.int64], scale: float
) -> npt.NDArray[np.float64]:
    known = np.isfinite(scores)
    count = np.maximum(known.sum(2, keepdims=True), 1)
    neutral = np.where(known, scores, 0).sum(2, keepdims=True) / count
    weight = scale * (pairs / WINDOW_TICKS)[..., None]
    logits = weight * (np.where(known, scores, neutral) - neutral)
    mass = np.exp(logits - logits.max((0, 2), keepdims=True)).sum(0)
    mass = mass / mass.sum(1, keepdims=True)
    out: npt.NDArray[np.float64] = np.log((1 - DOUBT) * mass + DOUBT / mass.shape[1])
    return out


def _visible(track: TrackTokens, start: int, stop: int) -> npt.NDArray[np.int64]:
    """The ticks from ``start`` up to before ``stop`` at which the track's mouth was seen."""
    low, high = max(start - track.first, 0), max(stop - track.first, 0)
    out: npt.NDArray[np.int64] = low + np.flatnonzero(track.valid[low:high]) + track.first
    return out


def window_scores(
    track: TrackTokens, audio: AudioTokens, start: int, reach: int, *, rivals: int = 0
) -> tuple[FloatArray, int] | None:
    """Mean cosine (S,) of a track's window from tick ``start`` at every shift, visible ticks.

    Shifts are against the pictures' own time stamps (:attr:`TrackTokens.ages`), not their ticks.
    ``rivals``: subtracted is how well each sound fits the mouth up to so many ticks before and
    after the window as well (a soft maximum): a window alone is told more surely by it (95.6 in
    place of 92.4 % of the windows of 46 unseen clips lie within a frame), a whole clip is not.
    """
    stop = min(start + WINDOW_TICKS, track.first + len(track.tokens))
    start = max(start, track.first)
    rows = _visible(track, start, stop)
    if len(rows) < MIN_TICKS:
        return None
    p = audio.phases
    low = int(rows[0]) * p - reach
    high = int(rows[-1]) * p + reach + 1
    index = np.arange(low, high) - audio.first
    there = (index >= 0) & (index < len(audio.tokens))
    if not there.any():
        return None
    sound = audio.tokens[index.clip(0, len(audio.tokens) - 1)]
    around = _visible(track, start - rivals, stop + rivals) if rivals else rows
    cosines = track.tokens[around - track.first] @ sound.T
    if rivals:
        fits = np.exp(RIVAL_SHARPNESS * (cosines - 1)).mean(0)
        own = slice(*np.searchsorted(around, (rows[0], rows[-1] + 1)))
        cosines = cosines[own] - np.log(fits) / RIVAL_SHARPNESS - 1
    cosines = np.where(there, cosines, 0.0)
    columns = (rows * p - reach - low)[:, None] + np.arange(2 * reach + 1)[None, :]
    total = np.take_along_axis(cosines, columns, 1).sum(0)
    paired = there[columns].sum(0)
    mean = np.where(paired >= MIN_PAIRED * len(rows), total / np.maximum(paired, 1), np.nan)
    if track.ages is not None:
        age = float(track.ages[rows - track.first].mean())
        mean = _later(mean, age * 1000 / TICK_MS * p)
    if not np.isfinite(mean).any():
        return None
    return mean.astype(np.float32), len(rows)


def _later(scores: npt.NDArray[np.floating[Any]], steps: float) -> npt.NDArray[np.floating[Any]]:
    """Scores (S,) moved ``steps`` shifts up, by cubics between (lines beside NaN), NaN beyond."""
    whole = int(np.floor(ALIKE_STEPS - steps))
    part = -steps - whole
    room = abs(whole) + 2
    padded = np.pad(scores, room, constant_values=np.nan)
    a, b, c, d = (padded[room + whole + i :][: len(scores)] for i in (-1, 0, 1, 2))
    if part <= ALIKE_STEPS:
        return b
    line = b + part * (c - b)
    bend = part * (2 * a - 5 * b + 4 * c - d + part * (3 * (b - c) + d - a))
    cubic = b + 0.5 * part * (c - a + bend)
    return np.where(np.isfinite(cubic), cubic, line)


def _speech_share(audio: AudioTokens, window: int, reach: int) -> float:
    p = audio.phases
    low = window * WINDOW_TICKS * p - reach - audio.first
    high = (window + 1) * WINDOW_TICKS * p + reach - audio.first
    heard = audio.speech[max(0, low) : max(0, high)]
    return float(heard.mean()) if len(heard) else 0.0


def gather(
    tracks: Sequence[TrackTokens],
    audio: AudioTokens,
    *,
    max_offset_ms: float,
    windows: tuple[int, int] | None = None,
) -> Evidence:
    """Score every window of every track at every shift within ``max_offset_ms``.

    ``windows``: only from this window (of 0.6 s, 0 starts at time 0) up to before that one.

    Windows without speech around them are left out; shifts that would pair the mouth with
    what lies beyond the sound are NaN, never zero.
    """
    step_ms = TICK_MS / audio.phases
    reach = int(np.ceil(max_offset_ms / step_ms)) + 1
    shifts = 2 * reach + 1
    seen: dict[int, dict[int, tuple[FloatArray, int]]] = {}
    for k, track in enumerate(tracks):
        first = track.first // WINDOW_TICKS
        last = (track.first + len(track.tokens) - 1) // WINDOW_TICKS
        if windows is not None:
            first, last = max(first, windows[0]), min(last, windows[1] - 1)
        for window in range(first, last + 1):
            found = window_scores(track, audio, window * WINDOW_TICKS, reach)
            if found is not None:
                seen.setdefault(window, {})[k] = found
    spoken = sorted(w for w in seen if _speech_share(audio, w, reach) >= MIN_SPEECH)
    scores = np.full((len(tracks), len(spoken), shifts), np.nan, np.float32)
    pairs = np.zeros((len(tracks), len(spoken)), np.int64)
    for i, window in enumerate(spoken):
        for k, (mean, count) in seen[window].items():
            scores[k, i], pairs[k, i] = mean, count
    return Evidence(
        track_ids=tuple(t.id for t in tracks),
        ticks=np.array(spoken, np.int64) * WINDOW_TICKS,
        scores=scores,
        pairs=pairs,
        reach=reach,
        step_ms=step_ms,
        seen_windows=len(seen),
    )


def merge(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of different times in one, in order of time; at least one part.

    Faces that are not there at the same time share a row, so that the grid does not grow with
    the number of faces that come and go.
    """
    parts = sorted((p for p in parts if len(p)), key=lambda p: int(p.ticks[0])) or parts[:1]
    counts = [len(p) for p in parts]
    starts = np.cumsum([0, *counts[:-1]])
    takes: list[tuple[int, int, int, Evidence, npt.NDArray[np.int64]]] = []
    free: list[int] = []  # by row, the first window in which it is nobody's
    for start, part in zip(starts, parts, strict=True):
        for k in range(len(part.scores)):
            where = np.flatnonzero(part.pairs[k])
            if not len(where):
                continue
            first, stop = int(start + where[0]), int(start + where[-1]) + 1
            row = next((r for r, until in enumerate(free) if until <= first), len(free))
            free[row : row + 1] = [stop]
            takes.append((row, k, int(start), part, where))
    total, shifts = sum(counts), parts[0].scores.shape[2]
    scores = np.full((len(free), total, shifts), np.nan, np.float32)
    pairs = np.zeros((len(free), total), np.int64)
    owners = np.full((len(free), total), -1, np.int64)
    for row, k, start, part, where in takes:
        scores[row, start + where] = part.scores[k, where]
        pairs[row, start + where] = part.pairs[k, where]
        owners[row, start + where] = part.whose[k, where]
    return Evidence(
        track_ids=tuple(int(i) for i in np.unique(owners[owners >= 0])),
        ticks=np.concatenate([p.ticks for p in parts]),
        scores=scores,
        pairs=pairs,
        reach=parts[0].reach,
        step_ms=parts[0].step_ms,
        seen_windows=sum(p.seen_windows for p in parts),
        owners=owners,
    )
