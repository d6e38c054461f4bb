"""What a report says: a result put into words, rows and facts. The template only lays it out."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PureWindowsPath

from avsync.errors import AVSyncError
from avsync.report_charts import (
    CurveChart,
    TimeChart,
    clock,
    curve_chart,
    signed_ms,
    time_chart,
    time_span,
)
from avsync.report_lines import Unread
from avsync.report_thumbs import Thumbnail, face_thumbnails
from avsync.result import Status, SyncResult, Track, offset_words, percent_sure

__all__ = [
    "Page",
    "Row",
    "SegmentRow",
    "TrackRow",
    "file_name",
    "make_page",
    "make_row",
    "page_name",
]

#: So many faces are listed; those that speak most come first.
MOST_TRACKS = 24
#: A face's bar in the timeline carries a picture from this width on (per cent), or all of them.
PICTURE_PERCENT = 13.0
LONG_PERCENT = 80.0

_TITLES = {
    "in_sync": ("In sync", "good"),
    "out_of_sync": ("Out of sync", "bad"),
    "drift": ("Drifts", "bad"),
    "ambiguous": ("Ambiguous", "unsure"),
    "no_face": ("No face", "unsure"),
    "no_speech": ("No speech", "unsure"),
    "not_speaking": ("Not speaking", "unsure"),
    "no_audio": ("No audio", "unsure"),
    "no_video": ("No video", "unsure"),
    "too_short": ("Too short", "unsure"),
    "error": ("Unreadable", "error"),
}


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A line of the table of segments."""

    start: str
    end: str
    offset: str
    words: str
    sure: int
    face: str
    inside: bool


@dataclass(frozen=True, slots=True)
class TrackRow:
    """A face: when, how large, whether it speaks, and its pictures."""

    track: Track
    span: str
    speaks: str
    pictures: tuple[Thumbnail, ...]

    @property
    def middle(self) -> Thumbnail | None:
        """The picture to show where there is room for one."""
        return self.pictures[len(self.pictures) // 2] if self.pictures else None


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail in the timeline: per cent across, px right of there, which row."""

    at: float
    shift: int
    lane: int
    track: int
    uri: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on one file's page."""

    result: SyncResult
    name: str
    label: str
    tone: str
    headline: str
    sentence: str
    meaning: str
    curve: CurveChart | None
    curve_words: str
    time: TimeChart | None
    time_words: str
    pictures: tuple[Picture, ...]
    pictured: frozenset[int]
    """The faces whose bar in the timeline carries a picture."""
    segments: tuple[SegmentRow, ...]
    tracks: tuple[TrackRow, ...]
    more_tracks: int
    facts: tuple[tuple[str, str], ...]
    made: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the index. Numbers are None where there are none; they sort last."""

    name: str
    folder: str
    status: str
    label: str
    tone: str
    words: str
    offset_ms: float | None
    offset: str
    sure: int | None
    drift: float | None
    duration_s: float | None
    duration: str
    segments: int
    warnings: tuple[str, ...]
    href: str | None
    gauge: tuple[float, float, float | None]
    """Left and width of the tolerance and place of the offset, per cent of the largest shift."""


def file_name(path: str) -> str:
    """The last part of a path or address of any system, or all of it where that is empty."""
    return PureWindowsPath(path).name or path


def page_name(path: str) -> str:
    """A name for a file's page: letters of its own name, and a hash of all of its path."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", file_name(path)).strip("-").lower()[:48]
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{stem or 'file'}-{digest}.html"


def _headline(result: SyncResult) -> str:
    if result.offset_ms is None:
        return f"Not judged: {_TITLES[result.status.value][0].lower()}"
    words = offset_words(result.offset_ms)
    if result.status is Status.in_sync:
        return "In sync"
    if result.direction == "aligned":
        words = "no offset on the whole"
    if result.status is Status.drift:
        words += f" and drifts by {result.drift_ms_per_min:+.1f} ms per minute"
    return words[0].upper() + words[1:]


def _meaning(result: SyncResult) -> str:
    """What the number means for a person who has the file and wants it right."""
    offset = result.offset_ms
    if offset is None:
        return "Without that evidence no offset is claimed, and none should be corrected."
    tolerance = result.tolerance
    amount = signed_ms(abs(offset)).lstrip("+")
    if result.direction == "aligned":
        told = "Sound and lips move together."
    elif offset > 0:
        told = f"The sound comes {amount} before the lips."
    else:
        told = f"The sound comes {amount} after the lips."
    if result.status is Status.in_sync:
        return f"{told} That is within the tolerance {tolerance}."
    if result.status is Status.drift:
        return (
            f"{told} The offset changes over time: one delay does not repair the whole file "
            "(avsync fix --drift does)."
        )
    if len(result.segments) > 1:
        offsets = [s.offset_ms for s in result.segments]
        return (
            f"{told} That holds for part of the file: its segments differ, from "
            f"{signed_ms(min(offsets))} to {signed_ms(max(offsets))}; no single delay repairs all "
            "(avsync fix --piecewise does)."
        )
    verb = "delay" if offset > 0 else "advance"
    return (
        f"{told} To repair, {verb} the audio by {amount} (mpv --audio-delay={offset / 1000:.3f})."
    )


def _segments(result: SyncResult) -> tuple[SegmentRow, ...]:
    return tuple(
        SegmentRow(
            start=clock(s.start_s),
            end=clock(s.end_s),
            offset=signed_ms(s.offset_ms),
            words=offset_words(s.offset_ms),
            sure=percent_sure(s.probability),
            face="several" if s.track is None else str(s.track),
            inside=result.tolerance.contains(s.offset_ms),
        )
        for s in result.segments
    )


def _curve_words(result: SyncResult) -> str:
    """The curve in a sentence, for those who do not see it."""
    curve = result.curve
    if curve is None or not curve.score:
        return ""
    k = max(range(len(curve.score)), key=curve.score.__getitem__)
    return (
        f"Score of every shift from {signed_ms(curve.shift_ms[0])} to "
        f"{signed_ms(curve.shift_ms[-1])}; the highest, {curve.score[k]:.3f}, is at "
        f"{signed_ms(curve.shift_ms[k])} ({offset_words(curve.shift_ms[k])})."
    )


def _time_words(result: SyncResult) -> str:
    parts = [
        f"{clock(s.start_s)} to {clock(s.end_s)}: {offset_words(s.offset_ms)}"
        for s in result.segments[:20]
    ]
    faces = f"{len(result.tracks)} face{'' if len(result.tracks) == 1 else 's'} seen"
    return f"{'; '.join(parts) or 'no segment with an offset'}. {faces}."


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def _file_facts(path: str) -> tuple[list[tuple[str, str]], float | None]:
    """What the container declares, and where its clock starts (s); nothing without the file."""
    from avsync.media import probe

    if not Path(path).is_file():
        return [("File", "not here when this report was made: no pictures")], None
    facts: list[tuple[str, str]] = []
    try:
        facts.append(("Size", _size(Path(path).stat().st_size)))
        info = probe(path)
    except (AVSyncError, OSError):
        return facts, None
    facts.append(("Container", info.container))
    for v in info.video:
        if not v.attached_picture:
            rate = f", {v.fps:.5g} fps" if v.fps else ""
            text = f"{v.codec}, {v.width} × {v.height}{rate}, from {clock(v.start_s, 3)}"
            facts.append(("Video", text))
    for a in info.audio:
        channels = f"{a.channels} channel{'' if a.channels == 1 else 's'}"
        language = f", {a.language}" if a.language and a.language != "und" else ""
        text = f"{a.codec}, {a.sample_rate} Hz, {channels}{language}, from {clock(a.start_s, 3)}"
        facts.append((f"Audio {a.position}", text))
    return facts, info.start_s


def _pictures(
    chart: TimeChart,
    faces: dict[int, list[Thumbnail]],
    result: SyncResult,
    start_s: float | None,
) -> tuple[Picture, ...]:
    """A thumbnail at the head of every bar that has room for it on a phone, more in long ones."""
    start, end = time_span(result, start_s)
    kept = []
    for number, lane in enumerate(chart.lanes):
        for bar, track in lane.bars:
            seen = faces.get(track.id, [])
            if not seen or bar.width < PICTURE_PERCENT:
                continue
            kept.append(Picture(bar.left, 4, number, track.id, seen[0].uri))
            for picture in seen[1:] if bar.width >= LONG_PERCENT else []:
                at = 100 * (picture.time_s - start) / (end - start)
                kept.append(Picture(round(at, 3), -17, number, track.id, picture.uri))
    return tuple(kept)


def make_page(result: SyncResult, *, thumbnails: bool = True) -> Page:
    """Everything on a result's page; looks into the file for facts and faces, where it is there."""
    file_facts, start_s = _file_facts(result.path)
    faces = face_thumbnails(result.path, result.tracks) if thumbnails else {}
    ranked = sorted(result.tracks, key=lambda t: (-(t.speaking or 0), t.start_s - t.end_s))
    rows = tuple(
        TrackRow(
            track=t,
            span=f"{clock(t.start_s)} – {clock(t.end_s)}",
            speaks="not judged" if t.speaking is None else f"{percent_sure(t.speaking)} %",
            pictures=tuple(faces.get(t.id, ())),
        )
        for t in ranked[:MOST_TRACKS]
    )
    label, tone = _TITLES[result.status.value]
    chart = time_chart(result, start_s) if result.segments or result.tracks else None
    pictures = () if chart is None else _pictures(chart, faces, result, start_s)
    facts = [
        ("Path", result.path),
        ("Duration", "unknown" if result.duration_s is None else clock(result.duration_s)),
        *file_facts,
        ("Speech", "not listened for" if result.speech_s is None else f"{result.speech_s:.1f} s"),
        ("Windows that agree", str(result.windows)),
        ("Searched", f"±{result.max_offset_ms:g} ms"),
        ("Tolerance", str(result.tolerance)),
        ("Model", result.model),
        ("avsync", result.avsync_version),
    ]
    return Page(
        result=result,
        name=file_name(result.path),
        label=label,
        tone=tone,
        headline=_headline(result),
        sentence=result.describe(),
        meaning=_meaning(result),
        curve=curve_chart(result),
        curve_words=_curve_words(result),
        time=chart,
        time_words=_time_words(result),
        pictures=pictures,
        pictured=frozenset(p.track for p in pictures),
        segments=_segments(result),
        tracks=rows,
        more_tracks=len(ranked) - len(rows),
        facts=tuple(facts),
        made=datetime.now(timezone.utc).replace(microsecond=0),
    )


def make_row(result: SyncResult | Unread, href: str | None) -> Row:
    """A result's line in the index."""
    name = file_name(result.path)
    folder = result.path[: -len(name)].rstrip("/\\") if name != result.path else ""
    if isinstance(result, Unread):
        label, tone = _TITLES["error"]
        return Row(
            name,
            folder,
            "error",
            label,
            tone,
            result.error.removeprefix(f"{result.path}: "),
            None,
            "",
            None,
            None,
            None,
            "",
            0,
            (),
            None,
            (0.0, 0.0, None),
        )
    label, tone = _TITLES[result.status.value]
    reach, offset = result.max_offset_ms, result.offset_ms

    def across(ms: float) -> float:
        return round(50 + 50 * min(max(ms / reach, -1.0), 1.0), 2)

    left, right = across(-result.tolerance.late_ms), across(result.tolerance.early_ms)
    return Row(
        name=name,
        folder=folder,
        status=result.status.value,
        label=label,
        tone=tone,
        words=result.reason or offset_words(offset or 0.0),
        offset_ms=offset,
        offset="" if offset is None else signed_ms(offset),
        sure=None if offset is None else percent_sure(result.probability or 0.0),
        drift=result.drift_ms_per_min,
        duration_s=result.duration_s,
        duration="" if result.duration_s is None else clock(result.duration_s),
        segments=len(result.segments),
        warnings=result.warnings,
        href=href,
        gauge=(left, round(right - left, 2), None if offset is None else across(offset)),
    )
