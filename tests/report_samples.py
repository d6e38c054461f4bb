"""Results for the tests of reports: each kind once, with names that want escaping."""

from __future__ import annotations

import math

from avsync.report_lines import Unread
from avsync.result import Curve, Segment, SyncResult, Track

__all__ = ["EVIL", "ambiguous", "curve", "cuts", "drifting", "everything", "fine", "late", "leads"]

EVIL = """dir/<img src=x onerror=alert(1)> & "it's" {{ 7*7 }}.mp4"""
BOX = (20.0, 10.0, 60.0, 60.0)


def curve(at: float) -> Curve:
    """A peak of 0.5 at ``at`` ms over a level of 0.2."""
    shifts = [20.0 * i for i in range(-30, 31)]
    scores = [0.2 + 0.3 * math.exp(-(((s - at) / 50) ** 2)) for s in shifts]
    return Curve(shift_ms=tuple(shifts), score=tuple(scores))


def _judged(path: str, status: str, offset_ms: float, **more: object) -> SyncResult:
    values = {
        "segments": (Segment(start_s=0, end_s=8, offset_ms=offset_ms, probability=0.97, track=0),),
        "tracks": (Track(id=0, start_s=0, end_s=8, face_px=40, box=BOX, speaking=0.97),),
        "duration_s": 8.0,
        "curve": curve(offset_ms),
    }
    return SyncResult.model_validate(
        {
            "path": path,
            "status": status,
            "offset_ms": offset_ms,
            "probability": 0.974,
            "windows": 11,
            "model": "test-model-7",
            "speech_s": 6.8,
            **values,
            **more,
        }
    )


def leads(path: str = "films/early.mp4") -> SyncResult:
    """Audio leads by 124 ms."""
    return _judged(path, "out_of_sync", 124.46)


def late(path: str = "films/late.mkv") -> SyncResult:
    """Audio lags by 300 ms; with a warning."""
    return _judged(path, "out_of_sync", -300.0, warnings=("the file is <cut> off after 8.0 s",))


def fine(path: str = "archive/fine.mp4") -> SyncResult:
    """In sync."""
    return _judged(path, "in_sync", -12.3, duration_s=20.0)


def drifting(path: str = "archive/tape.ts") -> SyncResult:
    """From -20 to +160 ms within 30 minutes."""
    segment = Segment(start_s=0, end_s=1800, offset_ms=70, probability=0.9, track=0)
    return _judged(
        path, "drift", 70.0, drift_ms_per_min=6.0, segments=(segment,), duration_s=1800.0
    )


def cuts(path: str = EVIL) -> SyncResult:
    """Three segments and five faces, of which two overlap."""
    spans = ((0, 95.5, 160, 0), (95.5, 203, -8, 1), (203, 312.2, -120, None))
    segments = tuple(
        Segment(start_s=a, end_s=b, offset_ms=ms, probability=0.9, track=t) for a, b, ms, t in spans
    )
    faces = ((0, 95, 0.95), (90, 203, 0.9), (203, 260, 0.8), (262, 312, 0.85), (10, 40, None))
    tracks = tuple(
        Track(id=i, start_s=a, end_s=b, face_px=80, box=BOX, speaking=s)
        for i, (a, b, s) in enumerate(faces)
    )
    return _judged(path, "out_of_sync", 160.0, segments=segments, tracks=tracks, duration_s=312.4)


def ambiguous(path: str = "films/crowd.mp4") -> SyncResult:
    """Not judged."""
    return SyncResult(
        path=path,
        status="ambiguous",  # type: ignore[arg-type]
        probability=0.31,
        model="test-model-7",
        duration_s=61,
        curve=curve(300),
    )


def everything() -> list[SyncResult | Unread]:
    """One of each, and a file that could not be read."""
    return [
        leads(),
        late(),
        fine(),
        drifting(),
        cuts(),
        ambiguous(),
        Unread("x/bad.avi", "no media"),
    ]
