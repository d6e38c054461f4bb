"""Watch and listen: grid frames and sound of any origin, as the engine keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from avsync.arrays import grid_frames, sound_pieces
from avsync.crops import CropChunk
from avsync.engines import Ear, Engine, Eye
from avsync.errors import AVSyncError, InvalidArrayError
from avsync.media import (
    AudioPiece,
    DecodeStats,
    GridFrame,
    MediaInfo,
    iter_audio,
    iter_grid_frames,
)
from avsync.overlap import ahead
from avsync.speech import SpeechGate
from avsync.verdict import TrackSight

__all__ = [
    "Seen",
    "frames_of",
    "hear",
    "hear_and_see",
    "listen",
    "pieces_of",
    "reported",
    "see",
    "see_crops",
]

#: Every face's track as the engine keeps it, and what is known of the faces.
Seen = tuple[list[Any], list[TrackSight]]
#: What was heard: as the engine keeps it (None: nothing), and something about it.
Heard = TypeVar("Heard", bound=tuple[Any, Any])

#: Frames that are decoded before their faces are looked for, and crops' chunks before encoding.
FRAMES_AHEAD = 8
CHUNKS_AHEAD = 2
#: Progress is reported this often (ticks).
REPORT_EVERY = 25


@dataclass(slots=True)
class TrackBuffer:
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
        return TrackSight.of(
            number,
            self.first,
            np.concatenate(self.valid),
            np.concatenate(self.boxes),
            np.concatenate(self.opening),
        )


def frames_of(source: Any, fps: float | None, pts: Any) -> Iterator[GridFrame]:
    """Grid frames of a file, or of frames with their times.

    Raises:
        InvalidArrayError: times for a file, or none for frames.
    """
    if not isinstance(source, (str, Path)):
        return grid_frames(source, fps=fps, pts=pts)
    if fps is not None or pts is not None:
        raise InvalidArrayError("fps and pts go with frames; a file has its own times")
    return iter_grid_frames(source)


def reported(
    frames: Iterable[GridFrame],
    info: MediaInfo,
    share: float,
    progress: Callable[[float], None],
) -> Iterator[GridFrame]:
    """The same frames; ``progress`` hears how far through the file, times ``share``."""
    for n, frame in enumerate(frames):
        if n % REPORT_EVERY == 0 and info.duration_s:
            done = (frame.time_s - info.start_s) / info.duration_s
            progress(min(0.99, max(0.0, done)) * share)
        yield frame


def pieces_of(
    source: Any, sample_rate: int | None, start_s: float, audio_stream: int | None
) -> Iterator[AudioPiece]:
    """The sound of a file, or of samples with their rate.

    Raises:
        InvalidArrayError: a rate for a file, or none for samples.
    """
    if not isinstance(source, (str, Path)):
        return sound_pieces(source, sample_rate=sample_rate, start_s=start_s)
    if sample_rate is not None:
        raise InvalidArrayError("sample_rate goes with samples; a file has its own")
    return iter_audio(source, audio_stream=audio_stream)


def listen(engine: Engine, pieces: Iterable[AudioPiece]) -> tuple[Any, SpeechGate | None]:
    """The whole sound as the engine keeps it, and where in it is speech; None: nothing."""
    ear: Ear | None = None
    gate: SpeechGate | None = None
    for piece in pieces:
        if ear is None or gate is None:
            ear = engine.ear(piece.start_s)
            gate = SpeechGate(piece.start_s)
        gate.push(piece.samples)
        ear.push(piece.samples)
    if ear is None or gate is None:
        return None, None
    return ear.close(gate), gate


def hear(engine: Engine, pieces: Iterable[AudioPiece]) -> tuple[Any, float]:
    """The whole sound as the engine keeps it (None: nothing), and the seconds of speech."""
    sound, gate = listen(engine, pieces)
    return sound, gate.speech_s if gate is not None else 0.0


def see(engine: Engine, frames: Iterable[GridFrame], *, overlap: bool = False) -> Seen:
    """Every face's track as the engine keeps it, and what is known of the faces.

    ``overlap``: make the frames, follow the faces and encode at the same time, in threads.
    """
    from avsync.faces import mouth_chunks

    if not overlap:
        return see_crops(engine, mouth_chunks(frames, crops=engine.crops))
    chunks = mouth_chunks(ahead(frames, FRAMES_AHEAD), crops=engine.crops)
    return see_crops(engine, ahead(chunks, CHUNKS_AHEAD))


def hear_and_see(
    hearing: Callable[[DecodeStats], Heard],
    seeing: Callable[[DecodeStats, Heard | None], Seen | None],
    stats: DecodeStats,
    *,
    overlap: bool,
) -> tuple[Heard, Seen | None]:
    """What is heard, and what is seen unless that is nothing.

    Args:
        seeing: gets what was heard, or None where both are done at the same time.
        stats: takes in what decoding met, that of the sound first.
        overlap: do both at the same time; where nothing is heard the seeing is cut short.
    """
    if not overlap:
        heard = hearing(stats)
        return heard, None if heard[0] is None else seeing(stats, heard)
    listened, watched = DecodeStats(), DecodeStats()

    def aside() -> Heard:
        nothing = True
        try:
            found = hearing(listened)
            nothing = found[0] is None
        finally:
            watched.enough = nothing
        return found

    with ThreadPoolExecutor(1, "avsync-hear") as pool:
        hope = pool.submit(aside)
        try:
            seen = seeing(watched, None)
        except AVSyncError:
            hope.result()  # what is wrong with the sound is said first, as without overlap
            raise
        heard = hope.result()
    stats.add(listened)
    if heard[0] is None:
        return heard, None
    stats.add(watched)
    return heard, seen


def see_crops(engine: Engine, chunks: Iterable[CropChunk]) -> Seen:
    """As :func:`see`, from crops."""
    buffers: dict[int, TrackBuffer] = {}
    for chunk in chunks:
        if chunk.track not in buffers:
            buffers[chunk.track] = TrackBuffer(engine.eye(chunk.first), chunk.first)
        buffers[chunk.track].push(chunk)
    found = [b for b in buffers.values() if sum(map(len, b.valid)) > 4]
    return [b.eye.close(i) for i, b in enumerate(found)], [b.sight(i) for i, b in enumerate(found)]
