"""Short files, and arrays: heard and seen as a whole, then judged (long ones: :mod:`avsync.looks`).

Nothing is forgotten before the end, so that stretches without a face, and who speaks when, are
known for all of it. Where nothing is said for long, the picture is not looked at, unless all of it
is asked for: what is left out there would not be scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync.looks import MARGIN_S, WINDOW_S, in_part
from avsync.media import (
    DecodeStats,
    GridFrame,
    MediaInfo,
    iter_audio,
    iter_grid_frames,
    key_before,
)
from avsync.result import Status, SyncResult
from avsync.speech import SpeechGate
from avsync.verdict import TrackSight, judge
from avsync.watch import Seen, hear_and_see, listen
from avsync.wider import first_near

if TYPE_CHECKING:
    from avsync.detector import SyncDetector

__all__ = ["judged", "score"]

#: Silences shorter than this (s) are watched.
GAP_S = 6.0

Progress = Callable[[float], None]


def score(
    detector: SyncDetector,
    path: str | Path,
    info: MediaInfo,
    common: dict[str, Any],
    *,
    audio_stream: int | None = None,
    cuts: Sequence[float] = (),
    progress: Progress | None = None,
) -> SyncResult:
    """The result of a file with picture and sound; ``common`` as :func:`avsync.verdict.judge`."""
    stats = DecodeStats()
    looked: list[tuple[float, float]] = []

    def hearing(stats: DecodeStats) -> tuple[Any, SpeechGate | None]:
        pieces = iter_audio(path, audio_stream=audio_stream, stats=stats)
        return listen(detector.engine, pieces)

    def seeing(stats: DecodeStats, heard: tuple[Any, SpeechGate | None] | None) -> Seen:
        gate = None if heard is None or all_of_it else heard[1]
        if gate is not None:
            looked.extend(_spoken(gate, info, detector.max_offset_ms))
        frames = _frames(path, looked, stats) if looked else None
        return detector._see(path, info, stats, progress, frames)

    all_of_it = detector.exhaustive or bool(cuts)
    (sound, gate), seen = hear_and_see(
        hearing, seeing, stats, overlap=detector.overlap and all_of_it
    )
    if seen is None or gate is None:
        reason = "the audio stream holds no sound that can be decoded"
        warned = tuple(stats.warnings)
        return SyncResult(status=Status.no_audio, reason=reason, warnings=warned, **common)
    if looked:
        common = common | {"looked_at_s": sum(high - low for low, high in looked)}
    warned = tuple(stats.warnings)
    if stats.video_end_s is None:
        reason = "the video stream holds no picture that can be decoded"
        return SyncResult(status=Status.no_video, reason=reason, warnings=warned, **common)
    common = common | {"warnings": warned}
    return in_part(judged(detector, *seen, sound, gate.speech_s, common, progress, cuts))


def _spoken(gate: SpeechGate, info: MediaInfo, max_offset_ms: float) -> list[tuple[float, float]]:
    """Where (s) something is said, as far as it may belong to the picture.

    Empty where that is all of the file, or none of it, or so nearly that seeking does not pay.
    """
    if info.duration_s is None:
        return []
    end = max(info.start_s + info.duration_s, gate.end_s)  # a file may declare too little
    margin = max_offset_ms / 1000 + WINDOW_S + MARGIN_S
    found = gate.spans(margin, GAP_S)
    spans = [(max(low, info.start_s), min(high, end)) for low, high in found if low < end]
    left_out = end - info.start_s - sum(high - low for low, high in spans)
    return spans if left_out >= GAP_S else []


def _frames(
    path: str | Path, spans: Sequence[tuple[float, float]], stats: DecodeStats
) -> Iterator[GridFrame]:
    """The frames of some stretches; read on from one to the next where seeking would not help."""
    groups: list[list[tuple[float, float]]] = []
    for low, high in spans:
        key = key_before(path, low) if groups else None
        if groups and (key is None or key <= groups[-1][-1][1]):
            groups[-1].append((low, high))
        else:
            groups.append([(low, high)])
    for group in groups:
        frames = iter_grid_frames(path, start_s=group[0][0], end_s=group[-1][1], stats=stats)
        for frame in frames:
            if any(low <= frame.time_s <= high for low, high in group):
                yield frame


def judged(
    detector: SyncDetector,
    tracks: list[Any],
    sights: list[TrackSight],
    sound: Any,
    speech_s: float,
    common: dict[str, Any],
    progress: Progress | None = None,
    cuts: Sequence[float] = (),
) -> SyncResult:
    """The result of what was seen and heard; tracks and sound as the engine keeps them."""
    engine = detector.engine
    share = engine.seeing
    warnings = (*common.get("warnings", ()), *engine.warnings)

    def within(max_offset_ms: float) -> SyncResult:
        seen, heard = engine.compare(
            tracks,
            sound,
            max_offset_ms=max_offset_ms,
            progress=progress and (lambda done: progress(min(0.99, share + (1 - share) * done))),
        )
        known = {"speech_s": speech_s, "warnings": warnings, "max_offset_ms": max_offset_ms}
        return judge(
            seen,
            sights,
            heard,
            calibration=engine.calibration,
            max_offset_ms=max_offset_ms,
            tolerance=detector.tolerance,
            common=common | known,
            cuts=cuts,
        )

    result = within(detector.max_offset_ms)
    if detector.widens:
        result = first_near(result, within)
    if progress is not None:
        progress(1.0)
    return result
