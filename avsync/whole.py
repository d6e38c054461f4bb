"""Short files, and arrays: heard and seen as a whole, then judged (long ones: :mod:`avsync.looks`).

Nothing is forgotten before the end, so that stretches without a face, and who speaks when, are
known for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync.media import DecodeStats, MediaInfo
from avsync.result import Status, SyncResult
from avsync.verdict import TrackSight, judge

if TYPE_CHECKING:
    from avsync.detector import SyncDetector

__all__ = ["judged", "score"]

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
    sound, speech_s = detector._hear(path, audio_stream, stats)
    if sound is None:
        reason = "the audio stream holds no sound that can be decoded"
        warned = tuple(stats.warnings)
        return SyncResult(status=Status.no_audio, reason=reason, warnings=warned, **common)
    tracks, sights = detector._see(path, info, stats, progress)
    warned = tuple(stats.warnings)
    if stats.video_end_s is None:
        reason = "the video stream holds no picture that can be decoded"
        return SyncResult(status=Status.no_video, reason=reason, warnings=warned, **common)
    common = common | {"warnings": warned}
    return judged(detector, tracks, sights, sound, speech_s, common, progress, cuts)


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
    seen, heard = engine.compare(
        tracks,
        sound,
        max_offset_ms=detector.max_offset_ms,
        progress=progress and (lambda done: progress(min(0.99, share + (1 - share) * done))),
    )
    result = judge(
        seen,
        sights,
        heard,
        calibration=engine.calibration,
        max_offset_ms=detector.max_offset_ms,
        tolerance=detector.tolerance,
        common=common
        | {"speech_s": speech_s, "warnings": (*common.get("warnings", ()), *engine.warnings)},
        cuts=cuts,
    )
    if progress is not None:
        progress(1.0)
    return result
