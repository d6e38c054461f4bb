"""Looking at a file: all of it, piece by piece, or at as few stretches as make the answer sure.

Each stretch is heard and seen by itself and leaves nothing but scored windows (a
:class:`avsync.seams.Look`), so that memory does not grow with the length of the file. The pieces
of a whole file overlap by what the model sees beyond a window, and a face that is still there in
the next piece keeps its number.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avsync.look_plan import AGREEING_LOOKS, LOOK_S, agree, between, settled, spans, spread
from avsync.media import (
    AudioPiece,
    DecodeStats,
    MediaInfo,
    iter_audio,
    iter_grid_frames,
    key_before,
)
from avsync.offsets import TICK_MS, WINDOW_TICKS, gather, merge
from avsync.result import Status, SyncResult, Turn
from avsync.seams import NOBODY, Look, continued, sights_of, voices_of
from avsync.speakers import Voices, find_voices
from avsync.verdict import judge_evidence, sure_offset
from avsync.watch import Seen, hear, hear_and_see, see
from avsync.wider import first_near

if TYPE_CHECKING:
    from avsync.detector import SyncDetector

__all__ = ["MARGIN_S", "WHOLE_S", "WINDOW_S", "Watcher", "in_part", "look_around", "look_at_all"]

WINDOW_S = WINDOW_TICKS * TICK_MS / 1000
#: Files up to this long (s) are looked at as a whole, longer ones in pieces of the second length:
#: a second of sound and a face takes 80 kB.
WHOLE_S = 450.0
PIECE_S = 90.0
#: Picture and sound beyond a stretch that its windows still see (s).
MARGIN_S = 0.72
#: How many stretches of a long file are looked at at most where no time limit is set.
MOST_LOOKS = 24
#: … where a second, wider search is tried.
WIDE_LOOKS = 8
#: What is left between stretches that were looked at is looked at from so many windows on.
LEAST_WINDOWS = 5
#: Stretches without this much speech (s) are not watched.
MIN_SPEECH_S = 2.0

Progress = Callable[[float], None]


class Watcher:
    """Hears and sees one long file, stretch by stretch.

    Args:
        audio_stream: which audio stream, 0 is the first; None the default one.
        stats: collects what decoding met.
        max_offset_ms: shifts are searched within ± this; default the detector's.
    """

    def __init__(
        self,
        detector: SyncDetector,
        path: str | Path,
        info: MediaInfo,
        *,
        audio_stream: int | None,
        stats: DecodeStats,
        max_offset_ms: float | None = None,
    ) -> None:
        self.detector, self.path, self.info = detector, path, info
        self.audio_stream, self.stats = audio_stream, stats
        self.max_offset_ms = max_offset_ms or detector.max_offset_ms
        self.heard_any = self.watched_any = False

    def score(
        self,
        common: dict[str, Any],
        *,
        around: bool,
        cuts: Sequence[float] = (),
        progress: Progress | None = None,
    ) -> SyncResult:
        """The result of the file; ``common`` as in :func:`avsync.verdict.judge`.

        Args:
            around: look here and there until that is enough, not at all of it.
        """
        started, budget_s = time.monotonic(), self.detector.budget_s

        def wide(max_offset_ms: float) -> SyncResult:
            twin = Watcher(
                self.detector,
                self.path,
                self.info,
                audio_stream=self.audio_stream,
                stats=DecodeStats(),
                max_offset_ms=max_offset_ms,
            )
            left = None if budget_s is None else budget_s + started - time.monotonic()
            looks = look_around(twin, budget_s=left, most=WIDE_LOOKS)
            found = twin._judged(looks, common, around=True)
            if around or found.offset_ms is None:
                return found
            return twin._judged(look_at_all(twin), common, around=False)

        if around:
            looks = look_around(self, budget_s=budget_s, progress=progress)
        else:
            looks = look_at_all(self, progress)
        result = self._judged(looks, common, around=around, cuts=cuts)
        if self.detector.widens and not cuts and result.offset_ms is None:
            result = first_near(result, wide)
        if progress is not None:
            progress(1.0)
        return result

    def _judged(
        self,
        looks: Sequence[Look],
        common: dict[str, Any],
        *,
        around: bool,
        cuts: Sequence[float] = (),
    ) -> SyncResult:
        detector = self.detector
        common = common | {"max_offset_ms": self.max_offset_ms}
        if around:
            common = common | {"looked_at_s": sum(k.end_s - k.start_s for k in looks)}
        warned = tuple(self.stats.warnings)
        if not self.heard_any:
            reason = "the audio stream holds no sound that can be decoded"
            return SyncResult(status=Status.no_audio, reason=reason, warnings=warned, **common)
        if self.watched_any and self.stats.video_end_s is None:
            reason = "the video stream holds no picture that can be decoded"
            return SyncResult(status=Status.no_video, reason=reason, warnings=warned, **common)
        parts = [k.evidence for k in looks if k.evidence is not None]
        voices = voices_of(looks)
        result = judge_evidence(
            merge(parts) if parts else None,
            sights_of(looks),
            calibration=detector.engine.calibration,
            max_offset_ms=self.max_offset_ms,
            tolerance=detector.tolerance,
            common=common
            | {
                "speech_s": sum(k.speech_s for k in looks),
                "warnings": (*warned, *detector.engine.warnings),
            },
            voices=lambda _: voices,
            unseen=lambda _: (),
            cuts=cuts,
        )
        return in_part(result)

    def look(
        self, start_s: float, end_s: float | None, *, first_id: int, watch_from_s: float = 0.0
    ) -> Look:
        """Hear and see the windows that lie within a stretch (``end_s`` None: to the end).

        Where less than ``watch_from_s`` seconds of speech are heard, nothing is watched. Faces
        are numbered from ``first_id`` on.
        """
        detector = self.detector
        max_offset_ms = self.max_offset_ms
        reach = max_offset_ms / 1000 + 2 * MARGIN_S

        def sound(stats: DecodeStats) -> Iterator[AudioPiece]:
            return iter_audio(
                self.path,
                audio_stream=self.audio_stream,
                stats=stats,
                start_s=max(start_s - reach, self.info.start_s - 1),
                end_s=None if end_s is None else end_s + reach,
            )

        # A long file's index takes 11 MB an hour in each reader: the sound's is closed before the
        # picture's is opened, and what it read is given up as it is heard.
        overlap = detector.overlap and not watch_from_s
        held = deque(sound(self.stats)) if overlap else None

        def hearing(stats: DecodeStats) -> tuple[Any, float]:
            return hear(detector.engine, sound(stats) if held is None else _emptied(held))

        def seeing(stats: DecodeStats, heard: tuple[Any, float] | None) -> Seen | None:
            if heard is not None and heard[1] < watch_from_s:
                return None
            frames = iter_grid_frames(
                self.path,
                start_s=start_s - MARGIN_S,
                end_s=None if end_s is None else end_s + MARGIN_S,
                stats=stats,
            )
            return see(detector.engine, frames, overlap=detector.overlap)

        (sound, speech_s), watched = hear_and_see(hearing, seeing, self.stats, overlap=overlap)
        self.heard_any |= sound is not None
        self.watched_any |= watched is not None
        end = end_s if end_s is not None else self.info.start_s + (self.info.duration_s or 0)
        nothing = Look(start_s, end, None, [], speech_s, None, NOBODY)
        if watched is None:
            return nothing
        tracks, sights = watched
        if not tracks:
            return nothing
        seen, heard = detector.engine.compare(tracks, sound, max_offset_ms=max_offset_ms)
        first = math.ceil(start_s / WINDOW_S - 1e-6)
        last = 10**9 if end_s is None else math.ceil(end_s / WINDOW_S - 1e-6)
        evidence = gather(seen, heard, max_offset_ms=max_offset_ms, windows=(first, last))
        calibration = detector.engine.calibration
        offset = sure_offset(evidence, calibration) if len(evidence) else None
        voices = NOBODY
        if offset is not None:
            found = find_voices(
                seen, heard, scale=calibration.scale, offset_ms=lambda _: float(offset)
            )
            voices = Voices(
                tuple(
                    t.model_copy(update={"track": None if t.track is None else t.track + first_id})
                    for t in _within(found.turns, start_s, end)
                ),
                {i + first_id: v for i, v in found.speaking.items()},
                {i + first_id: v for i, v in found.share.items()},
            )
        numbers = {i: i + first_id for i in evidence.track_ids}
        return Look(
            start_s,
            end,
            merge([evidence.renamed(numbers)]),
            [replace(s, id=s.id + first_id) for s in sights],
            speech_s,
            offset,
            voices,
        )


def _emptied(held: deque[AudioPiece]) -> Iterator[AudioPiece]:
    """What is held, from the front, each given up as it is taken."""
    while held:
        yield held.popleft()


def in_part(result: SyncResult) -> SyncResult:
    """The result whose reason, if it has one, says how much of the file it rests on."""
    if result.looked_at_s is None or result.reason is None:
        return result
    seen = f"{result.looked_at_s:.0f} s of {result.duration_s or 0:.0f} s were looked at"
    return result.model_copy(update={"reason": f"{result.reason} ({seen})"})


def _within(turns: Sequence[Turn], start_s: float, end_s: float) -> Iterator[Turn]:
    """The parts of turns that lie within a stretch."""
    for turn in turns:
        low, high = max(turn.start_s, start_s), min(turn.end_s, end_s)
        if high > low:
            yield turn.model_copy(update={"start_s": low, "end_s": high})


def look_at_all(watcher: Watcher, progress: Progress | None = None) -> list[Look]:
    """The whole file in pieces, one after the other."""
    start = math.floor(watcher.info.start_s / WINDOW_S) * WINDOW_S
    end = watcher.info.start_s + (watcher.info.duration_s or 0.0)
    looks: list[Look] = []
    at, first_id = start, 0
    while True:
        last = at + 1.5 * PIECE_S >= end
        look = watcher.look(at, None if last else at + PIECE_S, first_id=first_id)
        first_id += len(look.sights)
        looks.append(continued(looks[-1], look) if looks else look)
        at += PIECE_S
        if progress is not None:
            progress(min(0.99, (at - start) / (end - start)))
        if last:
            return looks


def look_around(
    watcher: Watcher,
    *,
    budget_s: float | None = None,
    progress: Progress | None = None,
    most: int = MOST_LOOKS,
) -> list[Look]:
    """Stretches spread over a long file, until they agree, or the budget (s of waiting) ends.

    At first the middle and both ends, then what lies between. Stretches agree when their offsets
    lie on a line (a clock that drifts moves them along it). Where neighbours do not, the change
    is looked for between them. Without a budget ``most`` are watched where none agree.
    """
    started = time.monotonic()
    start, length = watcher.info.start_s, watcher.info.duration_s or 0.0
    room = length - LOOK_S
    planned = spread()
    looks: list[Look] = []
    claims: list[tuple[float, float]] = []
    watched, first_id = 0, 0
    while True:
        at = between(claims, looks) if spans(claims, length) else None
        stretch = None if at is None else _stretch(watcher, at, looks)
        if stretch is None:
            if spans(claims, length) and (agree(claims) or settled(claims)):
                return looks
            if watched >= most and budget_s is None:
                return looks
            share = next(planned, None)
            if share is None:
                return looks
            stretch = _stretch(watcher, start + share * room, looks)
            if stretch is None:
                continue
        look = watcher.look(*stretch, first_id=first_id, watch_from_s=MIN_SPEECH_S)
        looks.append(look)
        first_id += len(look.sights)
        watched += look.evidence is not None
        if look.offset_ms is not None:
            claims = sorted([*claims, (look.middle_s, look.offset_ms)])
        if progress is not None:
            progress(min(0.95, max(len(looks) / MOST_LOOKS, len(claims) / AGREEING_LOOKS / 2)))
        if budget_s is not None and time.monotonic() - started > budget_s:
            return looks


def _stretch(watcher: Watcher, at: float, looks: Sequence[Look]) -> tuple[float, float] | None:
    """A stretch of whole windows near ``at`` that was not looked at yet, from a key frame on where
    one is not far; None where hardly anything is left."""
    key = key_before(watcher.path, at)
    near = key is not None and at - key <= 2 * LOOK_S
    for low in (key + MARGIN_S, at) if key is not None and near else (at,):
        first = math.ceil(low / WINDOW_S - 1e-6)
        last = first + round(LOOK_S / WINDOW_S)
        known = {w for k in looks for w in _windows(k) if first <= w < last}
        free = [w for w in range(first, last) if w not in known]
        runs = [len(list(run)) for _, run in groupby(enumerate(free), lambda x: x[1] - x[0])]
        if runs and max(runs) >= LEAST_WINDOWS:
            begin = free[sum(runs[: runs.index(max(runs))])]
            return begin * WINDOW_S, (begin + max(runs)) * WINDOW_S
    return None


def _windows(look: Look) -> range:
    return range(math.ceil(look.start_s / WINDOW_S - 1e-6), math.ceil(look.end_s / WINDOW_S - 1e-6))
