"""Live input: frames and samples are pushed as they come, an estimate a second comes out.

What is remembered is bounded: the tokens of the last ``horizon_s`` seconds of every face and of
the sound, nothing of the pictures. Each estimate judges these afresh, exactly as a file of that
length is judged, so that a jump of the offset moves the estimate as soon as some eight windows
speak for the new one, and what was before it is forgotten with the horizon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from avsync.arrays import MAX_SIDE, check_frame, check_sample_rate, check_samples, to_audio_frame
from avsync.blas import one_blas_thread
from avsync.crops import CropMaker
from avsync.embed import need_tokens
from avsync.engines import Engine
from avsync.errors import InvalidArrayError, InvalidOptionError
from avsync.grid import GRID_HZ, FrameGrid, GridFrame, ImageArray
from avsync.media import to_rgb
from avsync.repeats import thinned
from avsync.result import Status, SyncResult, Tolerance, direction_of
from avsync.rings import FaceRing, SoundRing
from avsync.sound import SAMPLE_RATE, SoundLine
from avsync.stream_estimate import StreamEstimate
from avsync.verdict import judge

__all__ = ["StreamEstimate", "SyncStream"]

HORIZON_S = (5.0, 600.0)
#: Crops are handed on in so many ticks, sound in pieces of so many seconds.
CHUNK = 5
PIECE_S = 0.1
#: A picture this much (s) after the last one begins anew, as after a cut; so does one, or a
#: sound, that much before it. What is less far back is left out.
GAP_S = 1.0
#: One of both media may come this much (s) before the other.
LEAD_S = 10.0


#: No face is missed before so many seconds.
SETTLE_S = 2.0


class SyncStream:
    """Takes frames and samples as they come; made by :meth:`avsync.SyncDetector.stream`.

    One thread at a time may push or ask; there are no locks. Faces are followed inside
    :meth:`push_video`, which takes as long as that takes: a caller who cannot keep up leaves
    frames out (25 a second are enough). Frames and samples are copied.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        sample_rate: int | None,
        max_offset_ms: float,
        tolerance: Tolerance,
        horizon_s: float = 30.0,
        every_s: float = 1.0,
        name: str = "<stream>",
    ) -> None:
        from avsync.faces import FaceTracker

        self._engine = need_tokens(engine, "stream")
        low, high = HORIZON_S
        if not low <= horizon_s <= high:
            raise InvalidOptionError(f"horizon_s must be from {low:g} to {high:g}, not {horizon_s}")
        if not 0.1 <= every_s <= horizon_s:
            raise InvalidOptionError(f"every_s must be from 0.1 to horizon_s, not {every_s}")
        self._sample_rate = None if sample_rate is None else check_sample_rate(sample_rate)
        self._max_offset_ms = max_offset_ms
        self._horizon_s, self._every_s = horizon_s, every_s
        self._common: dict[str, Any] = {
            "path": name,
            "model": engine.name,
            "tolerance": tolerance,
            "max_offset_ms": max_offset_ms,
            "warnings": engine.warnings,
        }
        self._tolerance = tolerance
        self._tracker = FaceTracker(crops=partial(CropMaker, chunk=CHUNK))
        self._grid: FrameGrid[ImageArray] = FrameGrid()
        self._faces: dict[int, FaceRing] = {}
        self._line: SoundLine | None = None
        self._sound: SoundRing | None = None
        self._seen_s: float | None = None
        self._began_s = 0.0
        self._heard_s: float | None = None
        self._usual = 1 / GRID_HZ
        self._frames = self._dropped = 0
        self._due: float | None = None
        self._latest: StreamEstimate | None = None
        self._last: tuple[float, float] | None = None
        self._closed = False

    @one_blas_thread
    def push_video(self, frame: npt.NDArray[np.uint8], pts: float) -> StreamEstimate | None:
        """Add a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, upright.
            pts: when it is shown, s, on the clock that the audio has too.

        Returns:
            A new estimate when one is due (every ``every_s`` of media), else None.

        Raises:
            InvalidArrayError: no picture, or no time. A frame not later than the last one is
            left out; more than a second earlier, the picture begins anew.
        """
        self._check_open()
        image = check_frame(frame, self._frames)
        self._frames += 1
        self._see(image.copy() if np.may_share_memory(image, frame) else image, _time(pts))
        return self._estimate_if_due()

    @one_blas_thread
    def push_audio(self, samples: npt.NDArray[Any], pts: float) -> StreamEstimate | None:
        """Add samples.

        Args:
            samples: (N,) or (N, channels), float in -1 to 1 or int16, at the stream's rate.
            pts: when the first of them is heard, s.

        Returns:
            As :meth:`push_video`.

        Raises:
            InvalidArrayError: no samples, or no time. Gaps are silence; what overlaps with
            earlier sound is left out; more than a second earlier, the sound begins anew.
        """
        self._check_open()
        checked, time_s = check_samples(samples), _time(pts)
        rate = check_sample_rate(self._sample_rate)
        if len(checked):
            self._listen(to_audio_frame(checked, rate), time_s)
        return self._estimate_if_due()

    @one_blas_thread
    def push_frame(self, frame: av.VideoFrame | av.AudioFrame) -> StreamEstimate | None:
        """Add a frame of picture or sound as PyAV decodes it, at its own time and rate.

        Frames without a time stamp are left out. Otherwise as :meth:`push_video`.
        """
        self._check_open()
        if frame.time is None:
            self._dropped += 1
        elif isinstance(frame, av.VideoFrame):
            self._see(to_rgb(frame, MAX_SIDE), frame.time)
        else:
            stamp = frame.pts
            self._listen(frame, frame.time)
            frame.pts = stamp  # it is the caller's
        return self._estimate_if_due()

    def result(self) -> StreamEstimate:
        """An estimate from all that was pushed and is encoded by now."""
        if not self._closed or self._latest is None:
            self._latest = self._estimate()
        return self._latest

    @one_blas_thread
    def finish(self) -> StreamEstimate:
        """The input has ended: take in what is still on its way, and give the last estimate."""
        self._check_open()
        self._end_picture()
        if self._line is not None:
            for piece in self._line.close():
                self._hear(piece.start_s, piece.samples)
        if self._sound is not None:
            self._sound.close()
        estimate = self.result()
        self.close()
        return estimate

    def close(self) -> None:
        """Free what the stream holds; the last estimate stays."""
        self._closed = True
        for _ in self._tracker.close():
            pass

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidOptionError("the stream is closed; make a new one with detector.stream")

    def _see(self, image: ImageArray, time_s: float) -> None:
        if self._seen_s is not None:
            if self._seen_s - GAP_S <= time_s <= self._seen_s:
                self._dropped += 1
                return
            if time_s < self._seen_s:
                self._end_picture()
                self._faces.clear()
                self._due = self._last = None
            elif time_s - self._seen_s > GAP_S:
                self._end_picture()
            else:
                self._usual = time_s - self._seen_s
        if self._seen_s is None or time_s < self._seen_s:
            self._began_s = time_s
        self._seen_s = time_s
        self._watch(self._grid.push(time_s, self._usual, image, thinned(image)))

    def _watch(self, places: Iterator[tuple[int, float, ImageArray]]) -> None:
        for tick, pts, image in places:
            frame = GridFrame(tick, tick / GRID_HZ, pts, image)
            for chunk in self._tracker.push(frame):
                self._keep(chunk)

    def _keep(self, chunk: Any) -> None:
        if chunk.track not in self._faces:
            self._faces[chunk.track] = FaceRing(self._engine.model, chunk)
        self._faces[chunk.track].push(chunk)

    def _end_picture(self) -> None:
        self._watch(self._grid.close())
        for chunk in self._tracker.end_tracks():
            self._keep(chunk)
        self._grid = FrameGrid()

    def _listen(self, frame: av.AudioFrame, time_s: float) -> None:
        if self._heard_s is not None:
            back, ahead = self._heard_s - time_s, time_s - self._heard_s
            if back > GAP_S or ahead > self._horizon_s + LEAD_S:
                self._line = self._sound = None
            if back > GAP_S:
                self._due = None
        if self._line is None:
            self._line, self._heard_s = SoundLine(SAMPLE_RATE, PIECE_S), time_s
        end = time_s + frame.samples / frame.sample_rate
        self._heard_s = max(end, self._heard_s or end)
        for piece in self._line.push(frame, time_s):
            self._hear(piece.start_s, piece.samples)

    def _hear(self, start_s: float, samples: npt.NDArray[np.float32]) -> None:
        if self._sound is None:
            self._sound = SoundRing(self._engine.model, start_s)
        self._sound.push(samples)

    def _estimate_if_due(self) -> StreamEstimate | None:
        now = self._head_s()
        if self._due is None:
            self._due = now + self._every_s
        if now < self._due:
            return None
        self._due = now + self._every_s
        self._latest = self._estimate()
        return self._latest

    def _head_s(self) -> float:
        """The newest time that was pushed, s."""
        return max(t for t in (self._seen_s, self._heard_s, -1e18) if t is not None)

    def _forget(self) -> None:
        """Drop what neither this horizon nor a late other medium can need."""
        keep = self._horizon_s + LEAD_S
        if self._seen_s is not None:
            before = math.floor((self._seen_s - keep) * GRID_HZ)
            for face in self._faces.values():
                face.forget(before)
            self._faces = {i: f for i, f in self._faces.items() if f.end > before}
        if self._sound is not None:
            self._sound.forget(math.floor((self._sound.encoded - keep) * GRID_HZ))

    def _estimate(self) -> StreamEstimate:
        self._forget()
        if self._seen_s is None or self._heard_s is None or self._sound is None:
            missing = Status.no_video if self._seen_s is None else Status.no_audio
            what = "picture" if self._seen_s is None else "sound"
            return self._unjudged(missing, f"no {what} has come yet")
        behind = self._seen_s - self._heard_s
        if abs(behind) > LEAD_S:
            what = "sound" if behind > 0 else "picture"
            status = Status.no_audio if behind > 0 else Status.no_video
            return self._unjudged(status, f"no {what} has come for {abs(behind):.0f} s")
        now = min(self._seen_s, self._heard_s)
        since = math.floor((now - self._horizon_s) * GRID_HZ)
        faces = [f for f in self._faces.values() if f.encoded > max(since, f.first + 4)]
        if not faces and now - self._began_s < SETTLE_S:
            return self._unjudged(Status.too_short, "the picture has only begun")
        for face in faces:
            face.forget(since)
        sound = self._sound.sound()
        step_s = 1 / (GRID_HZ * sound.phases)
        recent = sound.speech[max(0, since * sound.phases - sound.first) :]
        result = judge(
            [f.track() for f in faces],
            [f.sight() for f in faces],
            sound,
            calibration=self._engine.calibration,
            max_offset_ms=self._max_offset_ms,
            tolerance=self._tolerance,
            common=self._common | {"speech_s": float(recent.sum()) * step_s},
        )
        ends = [f.encoded / GRID_HZ for f in faces]
        return self._of(
            result, min(now, max([*ends, -math.inf]), self._sound.encoded) if ends else now
        )

    def _of(self, result: SyncResult, time_s: float) -> StreamEstimate:
        if result.offset_ms is None or result.probability is None or not result.segments:
            return self._unjudged(result.status, result.reason or "", result, time_s)
        newest = max(result.segments, key=lambda s: s.end_s)
        offset = newest.offset_ms
        if result.drift_ms_per_min is not None:  # the result tells the middle's offset
            offset += result.drift_ms_per_min * (newest.end_s - newest.start_s) / 120
        inside = self._tolerance.contains(offset)
        self._last = (offset, time_s)
        return StreamEstimate(
            time_s=time_s,
            latency_s=self._head_s() - time_s,
            status=Status.in_sync if inside else Status.out_of_sync,
            offset_ms=offset,
            direction=direction_of(offset),
            probability=newest.probability,
            since_s=newest.start_s,
            drift_ms_per_min=result.drift_ms_per_min,
            last_offset_ms=offset,
            last_time_s=time_s,
            dropped=self._dropped,
            result=result,
        )

    def _unjudged(
        self,
        status: Status,
        reason: str,
        result: SyncResult | None = None,
        time_s: float | None = None,
    ) -> StreamEstimate:
        head = self._head_s() if self._seen_s is not None or self._heard_s is not None else 0.0
        offset, found_s = self._last or (None, None)
        at = head if time_s is None else time_s
        return StreamEstimate(
            time_s=at,
            latency_s=head - at,
            status=status,
            reason=reason,
            last_offset_ms=offset,
            last_time_s=found_s,
            dropped=self._dropped,
            result=result or SyncResult(status=status, reason=reason, **self._common),
        )


def _time(pts: Any) -> float:
    try:
        time_s = float(pts)
    except (TypeError, ValueError):
        time_s = math.nan
    if not math.isfinite(time_s):
        raise InvalidArrayError(f"pts must be a time in seconds, not {pts!r}")
    return time_s
