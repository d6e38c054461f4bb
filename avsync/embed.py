"""Tokens and score grids for programs: what the model makes of a picture, a sound, and both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.engines import Engine, TokenEngine
from avsync.errors import InvalidOptionError
from avsync.estimates import estimate
from avsync.grid import GRID_HZ
from avsync.offsets import TICK_MS, WINDOW_TICKS, AudioTokens, Evidence, TrackTokens, gather

__all__ = ["Embedding", "ScoreGrid", "need_tokens", "of_sound", "of_track", "score_grid_of"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, repr=False)
class Embedding:
    """Tokens at exactly 25 Hz of one face or of the sound; the cosine of two is their product.

    ``tokens`` (T, d) float32 of length 1; token ``i`` is at ``start_s + i / 25`` s, and
    ``start_s`` is a whole number of ticks of 1/25 s, so that those of picture and sound fall
    together. ``valid`` (T,) bool: the mouth was seen, or speech was heard. ``track`` is the
    face's number, as in results; None for sound. ``ages`` (T,) of a face: by how many
    seconds the pictures are older than their ticks, by their own stamps; None for sound.
    """

    tokens: FloatArray
    valid: npt.NDArray[np.bool_]
    first_tick: int
    track: int | None = None
    ages: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.valid.shape != self.tokens.shape[:1]:
            raise ValueError(f"tokens {self.tokens.shape} and valid {self.valid.shape} do not fit")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def start_s(self) -> float:
        """Time of the first token, s."""
        return self.first_tick / GRID_HZ

    @property
    def pts_seconds(self) -> npt.NDArray[np.float64]:
        """(T,) time of each token, s: the picture's own stamp, or the middle of the sound."""
        ticks: npt.NDArray[np.float64] = (self.first_tick + np.arange(len(self))) / GRID_HZ
        return ticks if self.ages is None else ticks - self.ages

    def __repr__(self) -> str:
        whose = "sound" if self.track is None else f"face {self.track}"
        return (
            f"Embedding({whose}, {len(self)} x {self.tokens.shape[1]}, from {self.start_s:.2f} s, "
            f"{self.valid.mean() if len(self) else 0:.0%} valid)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class ScoreGrid:
    """Scores of windows that do not overlap at every shift.

    ``scores`` (W, S) float32: mean cosine of the window's tokens, larger is better in step; of
    several faces the one that fits best at the best shift of all. NaN where the sound does not
    reach. ``by_track``: the same of each face, NaN in windows where its mouth is not seen.
    ``window_start_s`` (W,): start of each window (of 0.6 s) on the picture's clock.
    ``shift_ms`` (S,): ascending, positive = the audio leads. Only windows with a mouth and speech
    are there.
    """

    scores: FloatArray
    window_start_s: npt.NDArray[np.float64]
    shift_ms: FloatArray
    by_track: dict[int, FloatArray]
    window_s: float = WINDOW_TICKS / GRID_HZ

    def __repr__(self) -> str:
        reach = self.shift_ms.max(initial=0)
        return f"ScoreGrid({len(self.scores)} windows x {len(self.shift_ms)} shifts, ±{reach:g} ms)"


def need_tokens(engine: Engine, what: str) -> TokenEngine:
    """The engine, when it is of avsync's own kind.

    Raises:
        InvalidOptionError: a published model, whose scores are no product of two tokens.
    """
    if isinstance(engine, TokenEngine):
        return engine
    raise InvalidOptionError(
        f"{what} needs a model of avsync's own kind; {engine.name!r} is a published model"
    )


def of_track(track: TrackTokens) -> Embedding:
    """A face's tokens as users see them."""
    return Embedding(track.tokens, track.valid, track.first, track.id, track.ages)


def of_sound(sound: AudioTokens) -> Embedding:
    """The sound's tokens on whole ticks."""
    skip = -sound.first % sound.phases
    return Embedding(
        sound.tokens[skip :: sound.phases].copy(),
        sound.speech[skip :: sound.phases] >= 0.5,
        (sound.first + skip) // sound.phases,
    )


def _best_face(evidence: Evidence, best: int) -> FloatArray:
    at = evidence.scores[:, :, best]
    chosen = np.where(np.isfinite(at), at, -np.inf).argmax(0)
    out: FloatArray = evidence.scores[chosen, np.arange(len(evidence))]
    return out


def score_grid_of(
    engine: Engine, tracks: Sequence[Any], sound: Any, *, max_offset_ms: float
) -> ScoreGrid:
    """The grid of faces and sound as the engine keeps them."""
    seen: list[TrackTokens] = []
    if sound is not None and tracks:
        seen, heard = engine.compare(tracks, sound, max_offset_ms=max_offset_ms)
    if not seen:
        steps = int(max_offset_ms // 20)
        shifts = (np.arange(-steps, steps + 1) * 20).astype(np.float32)
        none = np.empty((0, len(shifts)), np.float32)
        return ScoreGrid(none, np.empty(0), shifts, {})
    evidence = gather(seen, heard, max_offset_ms=max_offset_ms)
    keep = np.flatnonzero(np.abs(evidence.shifts_ms) <= max_offset_ms + 1e-6)[::-1]
    if len(evidence):
        found = estimate(evidence, engine.calibration)
        best = round(evidence.reach - found.offset_ms / evidence.step_ms)
        scores = _best_face(evidence, min(max(best, 0), evidence.scores.shape[2] - 1))
    else:
        scores = np.empty((0, evidence.scores.shape[2]), np.float32)
    return ScoreGrid(
        scores=scores[:, keep],
        window_start_s=evidence.ticks * TICK_MS / 1000,
        shift_ms=evidence.shifts_ms[keep],
        by_track={t: evidence.scores[k][:, keep] for k, t in enumerate(evidence.track_ids)},
    )
