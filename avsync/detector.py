"""The main door: :class:`SyncDetector` measures how far sound and lips of a video are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.engines import Ear, Engine, Eye, load_engine
from avsync.errors import InvalidOptionError
from avsync.media import DecodeStats, GridFrame, MediaInfo, iter_audio, iter_grid_frames, probe
from avsync.result import Status, SyncResult, Tolerance
from avsync.runtime import Provider
from avsync.speech import SpeechGate
from avsync.verdict import TrackSight, judge

__all__ = ["SyncDetector", "score"]

MAX_OFFSET_MS = 10_000.0
#: Progress is reported this often (ticks).
REPORT_EVERY = 25


@dataclass(slots=True)
class _TrackBuffer:
    eye: Eye
    first: int
    valid: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    boxes: list[npt.NDArray[np.float32]] = field(default_factory=list)
    opening: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def push(self, chunk: CropChunk) -> None:
        self.eye.push(chunk)
        self.valid.append(chunk.valid)
        self.boxes.append(chunk.boxes)
        self.opening.append(chunk.opening)

    def sight(self, number: int) -> TrackSight:
        valid = np.concatenate(self.valid)
        boxes = np.concatenate(self.boxes)
        opening = np.concatenate(self.opening)
        return TrackSight(
            id=number,
            start_s=self.first / 25,
            end_s=(self.first + len(valid)) / 25,
            face_px=float(np.median(boxes[:, 2] - boxes[:, 0])),
            box=tuple(float(v) for v in boxes.mean(0)),
            mouth_motion=float(np.std(opening[valid])) if valid.any() else 0.0,
            seen_s=float(valid.sum()) / 25,
        )


class SyncDetector:
    """Measures the audio-video offset of talking video.

    Args:
        model: a model folder, of avsync or a published model's; None or "default" takes the
            bundled one.
        provider: ``auto`` (CUDA when usable, else CPU), ``cpu`` or ``cuda``.
        threads: CPU threads of the model; None takes as many as there are cores.
        tolerance: what counts as in sync: ``ebu`` (+40/-60 ms, default), ``itu``,
            ``itu-acceptable``, ``atsc`` or two numbers (ms early, ms late).
        max_offset_ms: shifts are searched within ± this, 40 to 10,000.

    Raises:
        ModelNotFoundError, ModelCorruptError, DependencyMissingError,
        ProviderUnavailableError, InvalidOptionError.

    Example:
        >>> SyncDetector().score("talk.mp4").describe()  # doctest: +SKIP
        'audio leads by 120 ms (97 % sure), out of sync'
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        tolerance: str | tuple[float, float] | Tolerance = "ebu",
        max_offset_ms: float = 600.0,
    ) -> None:
        if not 40 <= max_offset_ms <= MAX_OFFSET_MS:
            raise InvalidOptionError(
                f"max_offset_ms must be from 40 to {MAX_OFFSET_MS:.0f}, not {max_offset_ms}"
            )
        self.tolerance = Tolerance.parse(tolerance)
        self.max_offset_ms = float(max_offset_ms)
        self.engine: Engine = load_engine(model, provider=provider, threads=threads)

    def score(
        self,
        path: str | Path,
        *,
        audio_stream: int | None = None,
        progress: Callable[[float], None] | None = None,
        cuts: Sequence[float] = (),
    ) -> SyncResult:
        """Measure one file.

        Args:
            path: any file that ffmpeg reads.
            audio_stream: which audio stream, 0 is the first; default the one marked default.
            progress: called with the share done, 0..1.
            cuts: judge each stretch between these instants (s) by itself; a segment is listed
                for each that carries an offset. Without, changes of offset are looked for.

        Returns:
            A :class:`SyncResult`; ``offset_ms`` is positive when the audio leads, and None,
            with ``status`` saying why, when the evidence does not carry a number.

        Raises:
            MediaNotFoundError, MediaReadError: no such file, or not media.
            InvalidOptionError: no such audio stream.
        """
        info = probe(path)
        common: dict[str, Any] = {
            "path": str(path),
            "model": self.engine.name,
            "tolerance": self.tolerance,
            "max_offset_ms": self.max_offset_ms,
            "duration_s": info.duration_s,
        }
        if not any(not v.attached_picture for v in info.video):
            return SyncResult(status=Status.no_video, **common)
        if not info.audio:
            return SyncResult(status=Status.no_audio, **common)
        stats = DecodeStats()
        audio, speech_s = self._hear(path, audio_stream, stats)
        if audio is None:
            reason = "the audio stream holds no sound that can be decoded"
            warned = tuple(stats.warnings)
            return SyncResult(status=Status.no_audio, reason=reason, warnings=warned, **common)
        tracks, sights = self._see(path, info, stats, progress)
        if stats.video_end_s is None:
            reason = "the video stream holds no picture that can be decoded"
            warned = tuple(stats.warnings)
            return SyncResult(status=Status.no_video, reason=reason, warnings=warned, **common)
        warned = tuple(stats.warnings) + self.engine.warnings
        common |= {"speech_s": speech_s, "warnings": warned}
        share = self.engine.seeing
        seen, heard = self.engine.compare(
            tracks,
            audio,
            max_offset_ms=self.max_offset_ms,
            progress=progress and (lambda done: progress(min(0.99, share + (1 - share) * done))),
        )
        result = judge(
            seen,
            sights,
            heard,
            calibration=self.engine.calibration,
            max_offset_ms=self.max_offset_ms,
            tolerance=self.tolerance,
            common=common,
            cuts=cuts,
        )
        if progress is not None:
            progress(1.0)
        return result

    def _hear(
        self, path: str | Path, audio_stream: int | None, stats: DecodeStats
    ) -> tuple[Any, float]:
        """The whole sound as the engine keeps it (None: nothing), and the seconds of speech."""
        ear: Ear | None = None
        gate: SpeechGate | None = None
        for piece in iter_audio(path, audio_stream=audio_stream, stats=stats):
            if ear is None or gate is None:
                ear = self.engine.ear(piece.start_s)
                gate = SpeechGate(piece.start_s)
            gate.push(piece.samples)
            ear.push(piece.samples)
        if ear is None or gate is None:
            return None, 0.0
        return ear.close(gate), gate.speech_s

    def _see(
        self,
        path: str | Path,
        info: MediaInfo,
        stats: DecodeStats,
        progress: Callable[[float], None] | None,
    ) -> tuple[list[Any], list[TrackSight]]:
        """Every face's track as the engine keeps it, and what is known of the faces."""
        from avsync.faces import mouth_chunks

        def watched() -> Iterator[GridFrame]:
            for n, frame in enumerate(iter_grid_frames(path, stats=stats)):
                if progress is not None and n % REPORT_EVERY == 0 and info.duration_s:
                    done = (frame.time_s - info.start_s) / info.duration_s
                    progress(min(0.99, max(0.0, done)) * self.engine.seeing)
                yield frame

        buffers: dict[int, _TrackBuffer] = {}
        for chunk in mouth_chunks(watched(), crops=self.engine.crops):
            if chunk.track not in buffers:
                buffers[chunk.track] = _TrackBuffer(self.engine.eye(chunk.first), chunk.first)
            buffers[chunk.track].push(chunk)
        found = [b for b in buffers.values() if sum(map(len, b.valid)) > 4]
        return [b.eye.close(i) for i, b in enumerate(found)], [
            b.sight(i) for i, b in enumerate(found)
        ]


def score(path: str | Path, **options: Any) -> SyncResult:
    """Measure one file with a detector of its own; ``options`` are :class:`SyncDetector`'s.

    For more than one file make a :class:`SyncDetector` once and call its ``score``.
    """
    return SyncDetector(**options).score(path)
