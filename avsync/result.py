"""Typed results: what was found, how sure it is, and in plain words why not, where nothing was.

Everything is frozen and can be turned into JSON and back. Numbers are rounded when a result is
made (times to 0.1 ms, offsets to 0.01 ms, probabilities to 0.0001), so that what is printed, what
is compared and what is written to JSON are the same.

Sign: ``offset_ms`` is positive when the audio leads (the sound is early), as in ITU-R BT.1359; it
is the delay to give to the audio to repair the file. Times are seconds on the container's clock.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from itertools import pairwise
from pathlib import PurePath
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from avsync import __version__
from avsync.errors import InvalidOptionError
from avsync.fields import (
    Frozen,
    Milliseconds,
    PathText,
    Pixels,
    Probability,
    Score,
    Seconds,
    printable_path,
)

__all__ = [
    "DEFAULT_TOLERANCE",
    "MIN_WINDOWS",
    "TOLERANCES",
    "Curve",
    "Direction",
    "Segment",
    "Status",
    "SyncResult",
    "Tolerance",
    "Track",
    "Turn",
    "direction_of",
    "offset_words",
    "percent_sure",
    "printable_path",
    "unread_line",
]

MIN_WINDOWS = 3
"""So many windows that do not overlap must agree before an offset is claimed."""

Direction = Literal["audio_leads", "audio_lags", "aligned"]


def unread_line(path: object) -> dict[str, Any]:
    """The JSON line of a file that has no result: the keys that every line has."""
    return {
        "path": printable_path(path),
        "status": "error",
        "offset_ms": None,
        "direction": None,
        "probability": None,
        "drift_ms_per_min": None,
        "segments": [],
        "tracks": [],
        "duration_s": None,
        "model": None,
        "avsync_version": __version__,
    }


class Status(str, Enum):
    """What became of a file. The first three carry an offset, the others say why there is none."""

    in_sync = "in_sync"
    """The offset is within the tolerance."""
    out_of_sync = "out_of_sync"
    """The offset is outside the tolerance."""
    drift = "drift"
    """The offset grows or shrinks over time and leaves the tolerance."""
    ambiguous = "ambiguous"
    """There is speech and a face, but the evidence does not settle on one offset."""
    no_face = "no_face"
    """No face was found, or none large enough for its mouth to be read."""
    no_speech = "no_speech"
    """There is sound, but no speech in it."""
    not_speaking = "not_speaking"
    """There are faces and speech, but no visible face speaks."""
    no_audio = "no_audio"
    """The file has no audio stream."""
    no_video = "no_video"
    """The file has no video stream."""
    too_short = "too_short"
    """There is too little of face and speech together to judge."""

    def __str__(self) -> str:
        return self.value

    @property
    def judged(self) -> bool:
        """Whether the file was judged, so that there is an offset."""
        return self in (Status.in_sync, Status.out_of_sync, Status.drift)


_REASONS = {
    Status.ambiguous: "the evidence does not settle on one offset",
    Status.no_face: "no face was found whose mouth can be read",
    Status.no_speech: "no speech was found in the sound",
    Status.not_speaking: "no visible face speaks the words that are heard",
    Status.no_audio: "the file has no audio stream",
    Status.no_video: "the file has no video stream",
    Status.too_short: "there is too little of face and speech together to judge",
}


def direction_of(offset_ms: float) -> Direction:
    """The direction of an offset in ms; below half a millisecond it is ``aligned``."""
    if abs(offset_ms) < 0.5:
        return "aligned"
    return "audio_leads" if offset_ms > 0 else "audio_lags"


def offset_words(offset_ms: float) -> str:
    """An offset in words: "audio leads by 120 ms", "audio lags by 80 ms" or "in sync"."""
    direction = direction_of(offset_ms)
    if direction == "aligned":
        return "in sync"
    verb = "leads" if direction == "audio_leads" else "lags"
    return f"audio {verb} by {_half_up(abs(offset_ms))} ms"


def percent_sure(probability: float) -> int:
    """A probability in whole per cent, rounded down, and never the certainty of 0 or 100."""
    return max(1, min(99, math.floor(100 * probability + 1e-6)))


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)


class Tolerance(Frozen):
    """How far audio may be early or late and still count as in sync.

    ``early_ms`` and ``late_ms`` are both given as amounts (>= 0); the limits are inclusive.
    """

    name: str
    early_ms: Annotated[Milliseconds, Field(ge=0.0)]
    late_ms: Annotated[Milliseconds, Field(ge=0.0)]

    def contains(self, offset_ms: float) -> bool:
        """Whether an offset (ms, positive = audio leads) is within the tolerance."""
        return -self.late_ms <= offset_ms <= self.early_ms

    def __str__(self) -> str:
        return f"{self.name} (+{self.early_ms:g}/-{self.late_ms:g} ms)"

    @classmethod
    def parse(cls, value: str | tuple[float, float] | Tolerance) -> Tolerance:
        """A tolerance from its name, or from two numbers: ms early, ms late.

        Names: ``ebu``, ``itu``, ``itu-acceptable``, ``atsc`` (see :data:`TOLERANCES`). Numbers:
        ``(45, 125)``, ``"45,125"`` or ``"+45/-125"``; the sign of the second does not matter.

        Raises:
            InvalidOptionError: no such name, or not two numbers that make sense.
        """
        if isinstance(value, Tolerance):
            return value
        if isinstance(value, str):
            known = TOLERANCES.get(value.strip().lower())
            if known is not None:
                return known
            parts: list[str] | tuple[float, float] = re.split(r"\s*[,/]\s*", value.strip())
        else:
            parts = value
        try:
            early, late = (float(part) for part in parts)
        except (TypeError, ValueError):
            early = late = math.nan
        if not (math.isfinite(early) and math.isfinite(late) and early >= 0):
            raise InvalidOptionError(
                f"unknown tolerance {value!r}: name one of {', '.join(TOLERANCES)}, "
                "or give two numbers, ms early and ms late, such as 45,125"
            )
        return cls(name="custom", early_ms=early, late_ms=abs(late))


TOLERANCES = {
    tolerance.name: tolerance
    for tolerance in (
        # EBU R37 (2007): audio at most 40 ms early, 60 ms late, at the end of the chain.
        Tolerance(name="ebu", early_ms=40, late_ms=60),
        # ITU-R BT.1359-1 (1998): thresholds of detectability, +45 ms advanced, -125 ms delayed.
        Tolerance(name="itu", early_ms=45, late_ms=125),
        # ITU-R BT.1359-1 (1998): thresholds of acceptability, +90 ms advanced, -185 ms delayed.
        Tolerance(name="itu-acceptable", early_ms=90, late_ms=185),
        # ATSC IS-191 (2003): at the encoder's input at most 15 ms early, 45 ms late.
        Tolerance(name="atsc", early_ms=15, late_ms=45),
    )
}
"""The tolerances by name; each cites its standard in the source."""

DEFAULT_TOLERANCE = TOLERANCES["ebu"]


class _Span(Protocol):
    start_s: float
    end_s: float


_SpanT = TypeVar("_SpanT", bound=_Span)


def _in_order(span: _SpanT) -> _SpanT:
    if span.end_s < span.start_s:
        raise ValueError(f"ends ({span.end_s} s) before it starts ({span.start_s} s)")
    return span


class Segment(Frozen):
    """A stretch of time with one offset. Stretches without evidence are not listed."""

    start_s: Seconds
    end_s: Seconds
    offset_ms: Milliseconds
    """Positive = audio leads."""
    probability: Probability
    """Calibrated probability that the offset is right within 40 ms."""
    track: int | None = None
    """The :attr:`Track.id` of the face that speaks; None when it rests on several."""

    _ordered = model_validator(mode="after")(_in_order)


class Track(Frozen):
    """One face followed over time."""

    id: int = Field(ge=0)
    start_s: Seconds
    end_s: Seconds
    face_px: Annotated[Pixels, Field(ge=0.0)]
    """Median width of the face in pixels of the upright picture."""
    box: tuple[Pixels, Pixels, Pixels, Pixels]
    """Mean box (left, top, right, bottom) in pixels of the upright picture."""
    speaking: Probability | None = None
    """Probability that this face speaks any of what is heard; None when that was not judged."""
    score: Score | None = None
    """Height of its curve at the file's offset above the rest of it; None when not scored."""
    share: Probability | None = None
    """Share of all speech that is this face's, by the model; None when that was not judged."""

    _ordered = model_validator(mode="after")(_in_order)


class Turn(Frozen):
    """A stretch of speech, on the picture's clock, and whose it is."""

    start_s: Seconds
    end_s: Seconds
    track: int | None = None
    """The :attr:`Track.id` of the face that speaks; None: nobody who is seen (off screen)."""
    probability: Probability
    """Probability that this is right, by the model (see :mod:`avsync.speakers`)."""

    _ordered = model_validator(mode="after")(_in_order)


class Curve(Frozen):
    """The score of every shift, over the whole file: the evidence behind the offset."""

    shift_ms: tuple[Milliseconds, ...]
    """Ascending; as ``offset_ms``, positive = audio leads."""
    score: tuple[Score, ...]
    """Higher is better in step; as many as there are shifts."""

    @model_validator(mode="after")
    def _aligned(self) -> Curve:
        if len(self.shift_ms) != len(self.score):
            raise ValueError(f"{len(self.shift_ms)} shifts but {len(self.score)} scores")
        if any(b <= a for a, b in pairwise(self.shift_ms)):
            raise ValueError("the shifts of a curve must ascend")
        return self


class SyncResult(Frozen):
    """The verdict on one file.

    ``offset_ms``, ``direction`` and ``probability`` are there exactly when ``status`` is
    ``in_sync``, ``out_of_sync`` or ``drift``; otherwise ``reason`` says in one sentence why not.
    ``direction`` and ``reason`` may be left out when a result is made: they follow from the rest.
    """

    path: PathText
    status: Status
    offset_ms: Milliseconds | None = None
    """Positive = audio leads. With drift: the median over the file."""
    direction: Direction | None = Field(default=None, validate_default=True)
    probability: Probability | None = None
    """Calibrated probability that ``offset_ms`` is right within 40 ms."""
    drift_ms_per_min: Milliseconds | None = None
    """Change of the offset, ms per minute; None when it could not be measured."""
    segments: tuple[Segment, ...] = ()
    tracks: tuple[Track, ...] = ()
    duration_s: Annotated[Seconds, Field(ge=0.0)] | None = None
    model: str
    avsync_version: str = __version__
    reason: str | None = Field(default=None, validate_default=True)
    """One sentence that says why there is no offset; None when there is one."""
    warnings: tuple[str, ...] = ()
    """What was odd about the file, such as "the file is cut off after 12.3 s"."""
    tolerance: Tolerance = DEFAULT_TOLERANCE
    max_offset_ms: Annotated[Milliseconds, Field(gt=0.0)] = 600.0
    """The largest shift that was looked at, either way."""
    windows: int = Field(default=0, ge=0)
    """How many windows that do not overlap agree with the offset."""
    speech_s: Annotated[Seconds, Field(ge=0.0)] | None = None
    """Seconds of speech that were found; None when nobody listened."""
    looked_at_s: Annotated[Seconds, Field(ge=0.0)] | None = None
    """Seconds of the file that were looked at, of a long one or where little is said; None: all."""
    curve: Curve | None = None
    turns: tuple[Turn, ...] = ()
    """Who speaks when, in order; empty where that could not be told."""
    audio_stream: int | None = Field(default=None, ge=0)
    """Which audio stream was judged, counted from 0; None where there is none, or of arrays."""

    @field_validator("direction")
    @classmethod
    def _direction_follows(cls, value: Direction | None, info: ValidationInfo) -> Direction | None:
        offset_ms = info.data.get("offset_ms")
        right = None if offset_ms is None else direction_of(offset_ms)
        if value not in (None, right):
            raise ValueError(f"direction {value} does not fit an offset of {offset_ms} ms")
        return right

    @field_validator("reason")
    @classmethod
    def _reason_follows(cls, value: str | None, info: ValidationInfo) -> str | None:
        status = info.data.get("status")
        return value or (None if status is None else _REASONS.get(status))

    @model_validator(mode="after")
    def _evidence(self) -> SyncResult:
        if not self.status.judged:
            if self.offset_ms is not None or self.drift_ms_per_min is not None:
                raise ValueError(f"status {self.status} goes without offset_ms and drift")
            return self
        if self.offset_ms is None or self.probability is None:
            raise ValueError(f"status {self.status} needs offset_ms and probability")
        if self.reason is not None:
            raise ValueError(f"status {self.status} needs no reason for a missing offset")
        if self.windows < MIN_WINDOWS:
            raise ValueError(
                f"an offset needs {MIN_WINDOWS} windows that agree, not {self.windows}"
            )
        if self.status is Status.in_sync and not self.tolerance.contains(self.offset_ms):
            raise ValueError(f"{self.offset_ms} ms is outside the tolerance {self.tolerance}")
        if self.status is Status.drift and self.drift_ms_per_min is None:
            raise ValueError("status drift needs drift_ms_per_min")
        return self

    def describe(self) -> str:
        """The verdict in one sentence, without the file's name and without a full stop.

        Such as "audio lags by 120 ms (97 % sure), out of sync", "in sync (98 % sure)" or
        "not judged: no speech was found in the sound". The percentage is rounded down.
        """
        if self.offset_ms is None or self.probability is None:
            return f"not judged: {self.reason}"
        sure = f"({percent_sure(self.probability)} % sure)"
        words = offset_words(self.offset_ms)
        if self.status is Status.in_sync:
            return f"{words} {sure}" + ("" if self.direction == "aligned" else ", in sync")
        if self.direction == "aligned":
            words = "no offset on the whole"
        if self.status is Status.drift:
            words += f" and drifts by {self.drift_ms_per_min:+.1f} ms per minute"
        return f"{words} {sure}, out of sync"

    def __str__(self) -> str:
        return f"{PurePath(self.path).name or self.path}: {self.describe()}"
