"""From evidence to a result: which status, which offset, which segments, in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.estimates import Estimate, estimate, probability
from avsync.offsets import (
    MIN_TICKS,
    TICK_MS,
    WINDOW_TICKS,
    AudioTokens,
    Evidence,
    TrackTokens,
    gather,
    merge,
)
from avsync.result import (
    MIN_WINDOWS,
    Curve,
    Segment,
    Status,
    SyncResult,
    Tolerance,
    Track,
    Turn,
)
from avsync.runtime import Calibration
from avsync.segments import CHOSEN_CLARITY, Drift, find_drift, find_pieces
from avsync.speakers import Voices, find_voices, offset_over_time, unseen_voices

__all__ = ["TrackSight", "judge", "judge_evidence", "sure_offset"]

#: Below this clarity, from three windows to six and more, the probability is at most UNCLEAR.
#: A speaker's clarity grows with the root of the number of windows (some 3 times it), that of
#: somebody else's voice stays between 2 and 5. Of 1,276 pairs of a dev clip's face with another's
#: voice 31 were given an offset with limits of 3.5 to 5.0, 7 with these; of 100 clips with their
#: own voice 97 and 96.
MIN_CLARITY = (5.3, 6.0)
CLEAR_WINDOWS = (3, 6)
#: Those limits are for so many shifts (±600 ms by 20 ms). Among fewer nothing stands out as far;
#: among more, chance does, and a speaker's own voice farther still. Of 1,404 pairs with another's
#: voice those of three to five windows reach 8.4, 12.6 and 17.3 within ±2, 5 and 10 s, of own
#: voices the least have 9.3, 13.9 and 19.0, and the limits at three windows are 8.8, 13 and 17.5;
#: from 16 windows on others reach 5.9, 7.1 and 7.9, own voices have 13 at least.
CLEAR_SHIFTS = 63
FEWER_POWER = 0.25
MORE_POWER, MORE_WINDOWS = (0.43, 0.22), (5, 20)
#: A single stretch of a file that as a whole is not clear was chosen: it needs this much clarity,
#: in so many windows (of strangers' voices, stretches of seven reached 7.7).
RUN_CLARITY = 8.0
RUN_WINDOWS = 10
UNCLEAR = 0.25
#: Seconds of speech that are needed at least.
MIN_SPEECH_S = 0.6
#: A mouth whose lip gap varies less than this (eye distances, standard deviation) is still.
STILL_MOUTH = 0.008
#: Pieces whose offsets lie closer than this are one.
SAME_MS = 40.0


@dataclass(frozen=True, slots=True)
class TrackSight:
    """What is known of one face apart from its tokens; ``box`` in pixels of the upright picture."""

    id: int
    start_s: float
    end_s: float
    face_px: float
    box: tuple[float, ...]
    mouth_motion: float
    seen_s: float

    @classmethod
    def of(
        cls,
        number: int,
        first: int,
        valid: npt.NDArray[np.bool_],
        boxes: npt.NDArray[np.float32],
        opening: npt.NDArray[np.float32],
    ) -> TrackSight:
        """From a face's crops since tick ``first``; see :class:`avsync.crops.CropChunk`."""
        return cls(
            id=number,
            start_s=first / 25,
            end_s=(first + len(valid)) / 25,
            face_px=float(np.median(boxes[:, 2] - boxes[:, 0])),
            box=tuple(float(v) for v in boxes.mean(0)),
            mouth_motion=float(np.std(opening[valid])) if valid.any() else 0.0,
            seen_s=float(valid.sum()) / 25,
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    rows: npt.NDArray[np.bool_]
    found: Estimate
    probability: float
    claimed: bool


def judge(
    tracks: Sequence[TrackTokens],
    sights: Sequence[TrackSight],
    audio: AudioTokens,
    *,
    calibration: Calibration,
    max_offset_ms: float,
    tolerance: Tolerance,
    common: dict[str, Any],
    cuts: Sequence[float] = (),
) -> SyncResult:
    """The result of one file; ``common`` holds the fields that do not depend on the evidence.

    With ``cuts`` (s) the stretches between them are the segments, each judged by itself.
    """
    return judge_evidence(
        merge([gather(tracks, audio, max_offset_ms=max_offset_ms)]) if tracks else None,
        sights,
        calibration=calibration,
        max_offset_ms=max_offset_ms,
        tolerance=tolerance,
        common=common,
        cuts=cuts,
        voices=lambda offset_ms: find_voices(
            tracks, audio, scale=calibration.scale, offset_ms=offset_ms
        ),
        unseen=lambda sure: unseen_voices(audio, sure),
    )


def sure_offset(evidence: Evidence, calibration: Calibration) -> float | None:
    """The offset (ms, positive = audio leads) of a stretch by itself, when it can be claimed."""
    if len(evidence) < MIN_WINDOWS:
        return None
    piece = _piece(evidence, np.ones(len(evidence), bool), calibration)
    return piece.found.offset_ms if piece.claimed else None


def judge_evidence(
    evidence: Evidence | None,
    sights: Sequence[TrackSight],
    *,
    calibration: Calibration,
    max_offset_ms: float,
    tolerance: Tolerance,
    common: dict[str, Any],
    voices: Callable[[Callable[[float], float]], Voices],
    unseen: Callable[[float], tuple[Turn, ...]],
    cuts: Sequence[float] = (),
) -> SyncResult:
    """As :func:`judge`, from windows scored before (None: no face was seen).

    Args:
        voices: who speaks when, from the offset (ms) at a time (s).
        unseen: the turns of nobody who is seen, from their probability.
    """

    def unjudged(status: Status, reason: str | None = None, **more: Any) -> SyncResult:
        seen = tuple(_track(s) for s in sights)
        return SyncResult(status=status, reason=reason, **({"tracks": seen} | common | more))

    need = MIN_WINDOWS * WINDOW_TICKS * TICK_MS / 1000
    duration_s = common.get("duration_s")
    if duration_s is not None and duration_s < need:
        return unjudged(
            Status.too_short, f"the file lasts {duration_s:.1f} s; {need:.1f} s are needed"
        )
    if evidence is None or not sights:
        return unjudged(Status.no_face, turns=unseen(1.0))
    if evidence.seen_windows < MIN_WINDOWS:
        longest = max(s.seen_s for s in sights)
        return unjudged(
            Status.too_short,
            f"a mouth is seen for {longest:.1f} s; {need:.1f} s together with speech are needed",
        )
    if common.get("speech_s", MIN_SPEECH_S) < MIN_SPEECH_S:
        return unjudged(Status.no_speech)
    if len(evidence) < MIN_WINDOWS:
        return unjudged(Status.too_short, "too little speech is heard while a mouth is seen")
    logs = evidence.log_windows(calibration.scale)
    everything = np.ones(len(evidence), bool)
    if cuts:
        drift, gain = None, 0.0
        pieces = _between(cuts, evidence, calibration)
    else:
        drift = find_drift(evidence, logs)
        pieces, gain = _pieces(evidence, logs, calibration)
    if drift is not None and drift.gain < gain:
        drift = None
    if drift is not None:
        evidence = _straightened(evidence, drift)
        pieces = [_piece(evidence, everything, calibration)]
    claimed = [p for p in pieces if p.claimed]
    whole = max(claimed or pieces, key=lambda p: int(p.rows.sum()))
    common = common | {
        "windows": sum(p.found.agreeing for p in claimed) or whole.found.agreeing,
        "curve": _curve(evidence, whole.found, max_offset_ms),
    }
    if not claimed or abs(whole.found.offset_ms) > max_offset_ms:
        status, reason = _why_not(sights, whole)
        turns = unseen(1 - whole.probability)
        return unjudged(status, reason, probability=whole.probability, turns=turns, **common)
    offset = whole.found.offset_ms
    span = (min(s.start_s for s in sights), max(s.end_s for s in sights))
    segments = tuple(_segment(evidence, p, span) for p in claimed)
    drift_rate = None if drift is None else drift.ms_per_min
    found = voices(offset_over_time(segments, drift_rate))
    seen = tuple(_rated(evidence, sight, whole, calibration, found) for sight in sights)
    amiss = not all(tolerance.contains(s.offset_ms) for s in segments)
    if drift is not None:
        ends = (drift.offset_ms_start, drift.offset_ms_end)
        left = not all(tolerance.contains(e) for e in ends)
        status = Status.drift if left else Status.in_sync
        amiss = False
    else:
        status = Status.in_sync
    if amiss or not tolerance.contains(offset):
        status = Status.drift if status is Status.drift else Status.out_of_sync
    return SyncResult(
        status=status,
        offset_ms=offset,
        probability=whole.probability,
        drift_ms_per_min=drift_rate,
        segments=segments,
        tracks=seen,
        turns=found.turns,
        **common,
    )


def _piece(evidence: Evidence, rows: npt.NDArray[np.bool_], calibration: Calibration) -> _Piece:
    found = estimate(evidence, calibration, rows=rows)
    sure = probability(found, calibration)
    if found.clarity < _needed_clarity(found.windows, len(found.curve)):
        sure = min(sure, UNCLEAR)
    claimed = sure >= calibration.gate and found.agreeing >= MIN_WINDOWS
    return _Piece(rows, found, sure, claimed)


def _needed_clarity(windows: int, shifts: int) -> float:
    """Among few shifts nothing stands out as far: there less is asked, among many more."""
    return float(np.interp(windows, CLEAR_WINDOWS, MIN_CLARITY)) * _share_asked(windows, shifts)


def _share_asked(windows: int, shifts: int) -> float:
    share = shifts / CLEAR_SHIFTS
    more = float(np.interp(windows, MORE_WINDOWS, MORE_POWER))
    return float(share ** (FEWER_POWER if share < 1 else more))


def _pieces(
    evidence: Evidence, logs: npt.NDArray[np.float32], calibration: Calibration
) -> tuple[list[_Piece], float]:
    """Runs of one offset; runs that say the same, or cannot be claimed, join their neighbours."""
    spans, gain = find_pieces(logs)
    whole = _piece(evidence, np.ones(len(evidence), bool), calibration)
    if len(spans) == 1:
        return [whole], 0.0
    pieces: list[_Piece] = []
    for low, high in spans:
        rows = np.zeros(len(evidence), bool)
        rows[low:high] = True
        piece = _piece(evidence, rows, calibration)
        if not piece.claimed or piece.found.clarity < CHOSEN_CLARITY:
            continue
        if pieces and abs(pieces[-1].found.offset_ms - piece.found.offset_ms) < SAME_MS:
            piece = _piece(evidence, pieces.pop().rows | rows, calibration)
        pieces.append(piece)
    if len(pieces) > 1:
        return pieces, gain
    if pieces and not whole.claimed and _clear_alone(pieces[0].found):
        return pieces, gain  # the speaker is to be seen in a part of the file only
    return [whole], 0.0


def _clear_alone(found: Estimate) -> bool:
    asked = RUN_CLARITY * max(1.0, _share_asked(found.windows, len(found.curve)))
    return found.windows >= RUN_WINDOWS and found.clarity >= asked


def _between(cuts: Sequence[float], evidence: Evidence, calibration: Calibration) -> list[_Piece]:
    """The stretches between given instants (s) that hold any window."""
    part = np.searchsorted(sorted(cuts), (evidence.ticks + WINDOW_TICKS / 2) * TICK_MS / 1000)
    return [_piece(evidence, part == number, calibration) for number in np.unique(part)]


def _straightened(evidence: Evidence, drift: Drift) -> Evidence:
    """The grid with each window moved by the drift since the middle of the file."""
    times = evidence.ticks + WINDOW_TICKS / 2
    middle = (times[0] + times[-1]) / 2
    minutes = (times - middle) * TICK_MS / 60_000
    moved = np.round(-drift.ms_per_min * minutes / evidence.step_ms).astype(int)
    columns = np.arange(evidence.scores.shape[2])[None, :] + moved[:, None]
    inside = (columns >= 0) & (columns < evidence.scores.shape[2])
    index = columns.clip(0, evidence.scores.shape[2] - 1)
    scores = np.take_along_axis(
        evidence.scores, np.broadcast_to(index, evidence.scores.shape), axis=2
    )
    moved_scores = np.where(inside, scores, np.nan).astype(np.float32)
    return replace(evidence, scores=moved_scores)


def _curve(evidence: Evidence, found: Estimate, max_offset_ms: float) -> Curve:
    shifts, scores = evidence.shifts_ms[::-1], found.curve[::-1]
    keep = np.abs(shifts) <= max_offset_ms + 1e-6
    return Curve(shift_ms=tuple(map(float, shifts[keep])), score=tuple(map(float, scores[keep])))


def _why_not(sights: Sequence[TrackSight], whole: _Piece) -> tuple[Status, str]:
    if all(s.mouth_motion < STILL_MOUTH for s in sights):
        return Status.not_speaking, "speech is heard, but no visible mouth moves"
    found = whole.found
    return (
        Status.ambiguous,
        f"no shift stands out: {found.agreeing} of {found.windows} windows agree, "
        f"probability {whole.probability:.2f}",
    )


def _segment(evidence: Evidence, piece: _Piece, span: tuple[float, float]) -> Segment:
    index = np.flatnonzero(piece.rows)
    ticks = evidence.ticks[index]
    best = round(evidence.reach - piece.found.offset_ms / evidence.step_ms)
    at = evidence.scores[:, index, min(max(best, 0), evidence.scores.shape[2] - 1)]
    whose = evidence.whose[:, index]
    known = np.isfinite(at) & (whose >= 0)
    ids, place = np.unique(whose[known], return_inverse=True)
    per_track = np.bincount(place, at[known])
    return Segment(
        start_s=max(span[0], float(ticks[0]) * TICK_MS / 1000),
        end_s=min(span[1], float(ticks[-1] + WINDOW_TICKS) * TICK_MS / 1000),
        offset_ms=piece.found.offset_ms,
        probability=piece.probability,
        track=int(ids[per_track.argmax()]),
    )


def _track(
    sight: TrackSight,
    speaking: float | None = None,
    share: float | None = None,
    score: float | None = None,
) -> Track:
    left, top, right, bottom = sight.box
    return Track(
        id=sight.id,
        start_s=sight.start_s,
        end_s=sight.end_s,
        face_px=sight.face_px,
        box=(left, top, right, bottom),
        speaking=speaking,
        share=share,
        score=score,
    )


def _rated(
    evidence: Evidence, sight: TrackSight, whole: _Piece, calibration: Calibration, voices: Voices
) -> Track:
    """One face: how likely it speaks, and how well it alone supports the file's offset."""
    own = (evidence.whose == sight.id) & (evidence.pairs >= MIN_TICKS)
    k = int(own.sum(1).argmax())
    rows = own[k]
    if not rows.any():
        return _track(sight)
    best = round(evidence.reach - whole.found.offset_ms / evidence.step_ms)
    best = min(max(best, 0), evidence.scores.shape[2] - 1)
    alone = estimate(evidence, calibration, rows=rows, tracks=[k], at=best)
    speaking, share = voices.speaking.get(sight.id), voices.share.get(sight.id)
    return _track(sight, speaking, share, alone.features["margin"])
