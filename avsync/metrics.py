"""LSE-D and LSE-C: lip-sync error after Wav2Lip (Prajwal et al., ACM Multimedia 2020).

Both names mean what SyncNet v2's public weights give, and nothing else: another model is refused.
For each face track, every window of 5 frames is compared with the sound 15 frames earlier to 15
frames later; m[s] is the mean L2 distance over the windows at shift s. LSE-D is the smallest m
(lower is better), LSE-C the (lower) median of m minus the smallest (higher is better), and the
offset 15 minus the place of the smallest, in frames: positive = audio leads.

As in the public evaluation each track is compared with the sound of its own time only, and an
embedding of zeros stands for what would lie outside. The file's LSE-D and LSE-C are the means
over its tracks, its offset is that of the track with the largest LSE-C.

Other than there: faces are followed by avsync's tracker and not by S3FD
(:mod:`avsync.face_crops`), frames come from the container's clock, and tracks count from 1 s on
(the public pipeline drops those below 100 frames: ``min_track_s=4``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from avsync import __version__
from avsync.detector import SyncDetector
from avsync.errors import InvalidOptionError, ModelNotFoundError
from avsync.media import DecodeStats, probe
from avsync.offsets import TICK_MS
from avsync.published import FRAMES
from avsync.published_engine import PublishedEngine, PublishedSound, PublishedTrack
from avsync.published_model import PublishedModel
from avsync.result import Status, printable_path
from avsync.runtime import Provider
from avsync.sync_report import SyncReport, sync_report, sync_table

__all__ = [
    "LipSyncError",
    "LipSyncMeter",
    "SyncReport",
    "TrackLipSyncError",
    "lse",
    "lse_of_distances",
    "sync_report",
    "sync_table",
]

FloatArray = npt.NDArray[np.float32]

#: Shifts to either side, frames.
REACH = 15


Rounded = Annotated[float, AfterValidator(lambda value: round(value, 5))]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrackLipSyncError(_Frozen):
    """One face. ``offset_ms`` = 40 ``offset_frames``: positive = audio leads. Times in s."""

    id: int = Field(ge=0)
    start_s: float
    end_s: float
    lse_d: Rounded
    lse_c: Rounded
    offset_frames: int
    offset_ms: float
    windows: int


class LipSyncError(_Frozen):
    """LSE-D, LSE-C and offset of a file; all None, and ``reason`` says why, without evidence.

    ``status`` is None where there are values, else as in :class:`avsync.SyncResult`.
    """

    path: Annotated[str, BeforeValidator(printable_path)]
    model: str
    lse_d: Rounded | None = None
    lse_c: Rounded | None = None
    offset_frames: int | None = None
    offset_ms: float | None = None
    tracks: tuple[TrackLipSyncError, ...] = ()
    status: Status | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    avsync_version: str = __version__


def lse_of_distances(distances: FloatArray) -> tuple[float, float, int]:
    """LSE-D, LSE-C and the offset in frames of one track.

    distances: (N, 31) of N ≥ 1 windows; column k is the sound k − 15 frames later.

    Raises:
        ValueError: another shape, or no windows.
    """
    if distances.ndim != 2 or distances.shape[1] != 2 * REACH + 1 or not len(distances):
        raise ValueError(f"distances must be (N, {2 * REACH + 1}), not {distances.shape}")
    mean = distances.mean(axis=0, dtype=np.float64)
    best = int(mean.argmin())
    return float(mean[best]), float(np.median(mean) - mean[best]), REACH - best


class LipSyncMeter:
    """SyncNet loaded once, for many files.

    Args:
        model: a folder that ``avsync export --arch syncnet`` wrote.
        provider, threads: as :class:`avsync.SyncDetector` takes them.
        min_track_s: faces followed for less are left out, s.

    Raises:
        ModelNotFoundError: no SyncNet weights were given.
        InvalidOptionError: the model is another one.
        ModelCorruptError, DependencyMissingError, ProviderUnavailableError.
    """

    def __init__(
        self,
        model: str | Path | None,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        min_track_s: float = 1.0,
    ) -> None:
        if model is None or str(model) in ("", "default"):
            raise ModelNotFoundError(
                "LSE-D and LSE-C need SyncNet's weights, which avsync does not bring: take the "
                "public checkpoint (syncnet_v2.model), run `avsync export --arch syncnet "
                "--checkpoint syncnet_v2.model -o DIR` and give DIR as the model"
            )
        self._detector = SyncDetector(model, provider=provider, threads=threads)
        engine = self._detector.engine
        if not isinstance(engine, PublishedEngine) or engine.model.card.arch != "syncnet":
            raise InvalidOptionError(
                f"{model}: holds {engine.name}; only what SyncNet's weights give may be called "
                "LSE-D and LSE-C"
            )
        self._engine = engine
        self.name = engine.name
        self.min_track_s = min_track_s

    def measure(
        self,
        path: str | Path,
        *,
        audio_stream: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> LipSyncError:
        """Measure one file.

        Raises:
            MediaNotFoundError, MediaReadError, InvalidOptionError: as ``SyncDetector.score``.
        """
        info = probe(path)

        def nothing(status: Status, reason: str, *warned: str) -> LipSyncError:
            return LipSyncError(
                path=str(path), model=self.name, status=status, reason=reason, warnings=warned
            )

        if not any(not v.attached_picture for v in info.video):
            return nothing(Status.no_video, "the file has no video stream")
        if not info.audio:
            return nothing(Status.no_audio, "the file has no audio stream")
        stats = DecodeStats()
        sound, _ = self._detector._hear(path, audio_stream, stats)
        if sound is None:
            return nothing(Status.no_audio, "there is no sound to compare with", *stats.warnings)
        tracks, _ = self._detector._see(path, info, stats, progress)
        if not tracks:
            return nothing(Status.no_face, "no face was found", *stats.warnings)
        rated = [
            found
            for track in tracks
            if track.frames >= 25 * self.min_track_s
            and (found := _rate(self._engine.model, track, sound)) is not None
        ]
        if progress is not None:
            progress(1.0)
        if not rated:
            return nothing(
                Status.too_short,
                f"no face is seen together with sound for {self.min_track_s:g} s",
                *stats.warnings,
            )
        surest = max(rated, key=lambda t: t.lse_c)
        return LipSyncError(
            path=str(path),
            model=self.name,
            lse_d=_mean([t.lse_d for t in rated]),
            lse_c=_mean([t.lse_c for t in rated]),
            offset_frames=surest.offset_frames,
            offset_ms=surest.offset_ms,
            tracks=tuple(rated),
            warnings=tuple(stats.warnings),
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def track_distances(
    model: PublishedModel, track: PublishedTrack, sound: PublishedSound
) -> FloatArray:
    """Distances (N, 31) of a track's windows to the sound of the track's own time.

    A window at tick t counts when the sound has one there as well (the track's very last is left
    out, as in the public evaluation); where t + s lies outside the track or the sound, the
    distance is that to an embedding of zeros.
    """
    low = max(track.first, sound.first)
    high = min(track.first + track.frames - FRAMES, sound.first + sound.count)
    own = PublishedSound(
        low,
        sound.features[:, model.convention.column(low - sound.first) :],
        max(0, high - low),
        sound.speech[:0],
    )
    inside = (track.starts >= low) & (track.starts < high)
    if not inside.any():
        return np.empty((0, 2 * REACH + 1), np.float32)
    part = replace(track, starts=track.starts[inside], tokens=track.tokens[inside])
    (scores,) = PublishedEngine(model).rows([part], own, reach=REACH)
    tokens = part.tokens.numpy()
    alone = model.fuse(tokens, np.zeros_like(tokens))
    return np.where(np.isfinite(scores), -scores, alone[:, None])


def _rate(
    model: PublishedModel, track: PublishedTrack, sound: PublishedSound
) -> TrackLipSyncError | None:
    distances = track_distances(model, track, sound)
    if not len(distances):
        return None
    lse_d, lse_c, frames = lse_of_distances(distances)
    return TrackLipSyncError(
        id=track.id,
        start_s=track.first / 25,
        end_s=(track.first + track.frames) / 25,
        lse_d=lse_d,
        lse_c=lse_c,
        offset_frames=frames,
        offset_ms=frames * TICK_MS,
        windows=len(distances),
    )


def lse(
    video: str | Path,
    model: str | Path | None = None,
    *,
    audio_stream: int | None = None,
    provider: Provider = "auto",
    threads: int | None = None,
    min_track_s: float = 1.0,
) -> LipSyncError:
    """LSE-D, LSE-C and offset of one file; for many, make a :class:`LipSyncMeter` once.

    Args:
        video: any file that ffmpeg reads.
        model: a folder that ``avsync export --arch syncnet`` wrote; there is no default.

    Raises:
        ModelNotFoundError: no SyncNet weights were given.
        InvalidOptionError: the model is another one, or there is no such audio stream.
        MediaNotFoundError, MediaReadError, ModelCorruptError, DependencyMissingError.
    """
    meter = LipSyncMeter(model, provider=provider, threads=threads, min_track_s=min_track_s)
    return meter.measure(video, audio_stream=audio_stream)
