"""The main door: :class:`SyncDetector` measures how far sound and lips of a video are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from avsync import whole
from avsync.arrays import MOUTH_WIDTH, grid_frames, mouth_crops, sound_pieces
from avsync.audio_choice import noted, voiced_stream
from avsync.blas import one_blas_thread
from avsync.embed import Embedding, ScoreGrid, need_tokens, of_sound, of_track, score_grid_of
from avsync.engines import Engine, TokenEngine, load_engine
from avsync.errors import InvalidArrayError, InvalidOptionError
from avsync.looks import WHOLE_S, Watcher
from avsync.media import DecodeStats, GridFrame, MediaInfo, iter_audio, iter_grid_frames, probe
from avsync.overlap import cores
from avsync.result import Status, SyncResult, Tolerance
from avsync.runtime import Provider
from avsync.verdict import TrackSight
from avsync.watch import frames_of, hear, pieces_of, reported, see, see_crops
from avsync.wider import NEAR_MS

if TYPE_CHECKING:
    from avsync.stream import SyncStream

__all__ = ["SyncDetector", "score"]

MAX_OFFSET_MS = 10_000.0
#: Files longer than this (s) are looked at here and there, unless all of them is asked for.
LONG_S = 120.0


class SyncDetector:
    """Measures the audio-video offset of talking video.

    Args:
        model: a model folder, of avsync or a published model's; None or "default" takes the
            bundled one.
        provider: ``auto`` (CUDA when usable, else CPU), ``cpu`` or ``cuda``.
        threads: CPU threads of the model; None takes as many as there are cores. With 1, decoding,
            faces and model take turns; with more they run at the same time.
        tolerance: what counts as in sync: ``ebu`` (+40/-60 ms, default), ``itu``,
            ``itu-acceptable``, ``atsc`` or two numbers (ms early, ms late).
        max_offset_ms: shifts are searched within ± this, 40 to 10,000. None: ± 600, and where
            nothing stands out there, or few windows agree, ± 5,000, which asks for more
            evidence (:mod:`avsync.wider`; published models: ± 600).
        exhaustive: look at all of a file. Without, stretches spread over a long one (longer than
            2 min) are looked at until they agree, and in a shorter one what is near speech, where
            that saves 6 s and more; ``looked_at_s`` of the result says how much.
        budget_s: stop looking at a long file after about this time (s) of waiting.

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
        max_offset_ms: float | None = None,
        exhaustive: bool = False,
        budget_s: float | None = None,
    ) -> None:
        if budget_s is not None and (exhaustive or not budget_s > 0):
            raise InvalidOptionError(
                f"budget_s must be above 0, and goes without exhaustive, not {budget_s}"
            )
        self.exhaustive, self.budget_s = exhaustive, budget_s
        self.overlap = min(threads or cores(), cores()) > 1
        self.tolerance = Tolerance.parse(tolerance)
        self.max_offset_ms = NEAR_MS if max_offset_ms is None else _checked(max_offset_ms)
        self.engine: Engine = load_engine(model, provider=provider, threads=threads)
        self.widens = max_offset_ms is None and isinstance(self.engine, TokenEngine)

    @one_blas_thread
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
            audio_stream: which audio stream, 0 is the first; default the one marked default, or
                where nothing is said in it the first other in which something is (warned of).
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
        chosen = voiced_stream(path, info) if audio_stream is None else audio_stream
        length = info.duration_s or 0.0
        around = length > LONG_S and not (self.exhaustive or cuts)
        if around or length > WHOLE_S:
            watcher = Watcher(self, path, info, audio_stream=chosen, stats=DecodeStats())
            result = watcher.score(common, around=around, cuts=cuts, progress=progress)
        else:
            result = whole.score(
                self, path, info, common, audio_stream=chosen, cuts=cuts, progress=progress
            )
        return noted(result, info, chosen, asked=audio_stream is not None)

    @one_blas_thread
    def score_arrays(
        self,
        frames: npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]],
        audio: npt.NDArray[Any],
        *,
        fps: float | None = None,
        pts: Iterable[float] | None = None,
        sample_rate: int,
        audio_start_s: float = 0.0,
        name: str = "<arrays>",
    ) -> SyncResult:
        """Measure frames and samples that the caller holds: same grid, same way as a file.

        Args:
            frames: (T, H, W, 3) uint8 RGB, upright, or an iterator over (H, W, 3), which is read
                once and not kept.
            audio: (N,) or (N, channels); float32 or float64 in -1 to 1, or int16.
            fps: frames a second; frame ``i`` is shown from ``i / fps`` s.
            pts: or the time of each frame in seconds, rising, at any intervals.
            sample_rate: of the audio, Hz.
            audio_start_s: time of the first sample on the frames' clock.
            name: stands as ``path`` in the result.

        Raises:
            InvalidArrayError: wrong type or shape, NaN, times that do not rise, both or neither
                of ``fps`` and ``pts``.
        """
        pieces = sound_pieces(audio, sample_rate=sample_rate, start_s=audio_start_s)
        sound, speech_s = hear(self.engine, pieces)
        tracks, sights = see(self.engine, grid_frames(frames, fps=fps, pts=pts))
        return self._of_arrays(tracks, sights, sound, speech_s, name)

    @one_blas_thread
    def score_crops(
        self,
        mouths: npt.NDArray[Any] | Iterable[npt.NDArray[Any]],
        audio: npt.NDArray[Any],
        *,
        fps: float | None = None,
        pts: Iterable[float] | None = None,
        sample_rate: int,
        audio_start_s: float = 0.0,
        valid: npt.NDArray[np.bool_] | None = None,
        width_in_eyes: float = MOUTH_WIDTH,
        name: str = "<crops>",
    ) -> SyncResult:
        """Measure one face whose mouth the caller has cut out.

        The crop must follow the head, never the lips: upright (eyes level), of one scale, its
        centre 0.08 outer-eye distances below the centre of the lips, smoothed over a second or
        so. The model sees 1.09 x 0.73 eye distances of it; wider crops are cut down to that,
        smaller ones go on with their edge.

        Args:
            mouths: (T, H, W) grey or (T, H, W, 3) RGB, uint8 or float in 0 to 1, any size; or an
                iterator over single crops.
            valid: (T,) bool, False where the mouth was not seen (the crop is then ignored).
            width_in_eyes: width of the crops in distances between the outer eye corners; the
                default is what the model sees.
            audio, fps, pts, sample_rate, audio_start_s, name: as :meth:`score_arrays`.

        Raises:
            InvalidArrayError: as :meth:`score_arrays`. InvalidOptionError: the model is a
                published one, which wants whole faces.
        """
        need_tokens(self.engine, "score_crops")
        pieces = sound_pieces(audio, sample_rate=sample_rate, start_s=audio_start_s)
        sound, speech_s = hear(self.engine, pieces)
        chunks = mouth_crops(mouths, fps=fps, pts=pts, valid=valid, width_in_eyes=width_in_eyes)
        tracks, sights = see_crops(self.engine, chunks)
        return self._of_arrays(tracks, sights, sound, speech_s, name)

    @one_blas_thread
    def embed_video(
        self,
        source: str | Path | npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]],
        *,
        fps: float | None = None,
        pts: Iterable[float] | None = None,
    ) -> tuple[Embedding, ...]:
        """Tokens of every face in a file or in frames (then with ``fps`` or ``pts``).

        Returns:
            One :class:`Embedding` a face, (T, d) float32 at 25 Hz; the one seen longest first.

        Raises:
            MediaNotFoundError, MediaReadError, InvalidArrayError, InvalidOptionError (a
            published model).
        """
        need_tokens(self.engine, "embed_video")
        tracks, _ = see(self.engine, frames_of(source, fps, pts))
        return tuple(of_track(t) for t in sorted(tracks, key=lambda t: -int(t.valid.sum())))

    @one_blas_thread
    def embed_audio(
        self,
        source: str | Path | npt.NDArray[Any],
        *,
        sample_rate: int | None = None,
        audio_start_s: float = 0.0,
        audio_stream: int | None = None,
    ) -> Embedding:
        """Tokens of the sound of a file, or of samples (then with ``sample_rate``).

        Returns:
            An :class:`Embedding`, (T, d) float32 at 25 Hz; empty when there is too little sound.

        Raises:
            MediaNotFoundError, MediaReadError, InvalidArrayError, InvalidOptionError (a
            published model, or no such audio stream).
        """
        engine = need_tokens(self.engine, "embed_audio")
        pieces = pieces_of(source, sample_rate, audio_start_s, audio_stream)
        sound, _ = hear(engine, pieces)
        if sound is None:
            return Embedding(np.empty((0, engine.model.card.dim), np.float32), np.empty(0, bool), 0)
        return of_sound(sound)

    @one_blas_thread
    def score_grid(
        self,
        source: str | Path | npt.NDArray[np.uint8] | Iterable[npt.NDArray[np.uint8]],
        audio: npt.NDArray[Any] | None = None,
        *,
        fps: float | None = None,
        pts: Iterable[float] | None = None,
        sample_rate: int | None = None,
        audio_start_s: float = 0.0,
        audio_stream: int | None = None,
    ) -> ScoreGrid:
        """Scores of every window of 0.6 s at every shift, of a file or of frames and samples.

        Returns:
            A :class:`ScoreGrid`: (windows, shifts); shifts in ms, positive = the audio leads.

        Raises:
            As :meth:`score` and :meth:`score_arrays`.
        """
        if isinstance(source, (str, Path)):
            if audio is not None:
                raise InvalidArrayError("audio goes with frames; a file has its own")
            pieces = pieces_of(source, None, 0.0, audio_stream)
        else:
            pieces = pieces_of(audio, sample_rate, audio_start_s, None)
        sound, _ = hear(self.engine, pieces)
        tracks, _ = see(self.engine, frames_of(source, fps, pts))
        return score_grid_of(self.engine, tracks, sound, max_offset_ms=self.max_offset_ms)

    def stream(
        self,
        *,
        sample_rate: int | None = None,
        max_offset_ms: float | None = None,
        horizon_s: float = 30.0,
        every_s: float = 1.0,
        name: str = "<stream>",
    ) -> SyncStream:
        """Begin to measure a live input; a context manager, see :class:`SyncStream`.

        Args:
            sample_rate: of the samples that ``push_audio`` will get, Hz.
            max_offset_ms: default the detector's; a stream does not search wider by itself.
            horizon_s: each estimate rests on so many seconds, 5 to 600.
            every_s: a new estimate at least so often, seconds of media.

        Raises:
            InvalidOptionError: a value makes no sense, or the model is a published one.

        Example:
            >>> with detector.stream(sample_rate=48000) as s:  # doctest: +SKIP
            ...     s.push_video(frame, 0.04)
            ...     s.push_audio(samples, 0.0)
            ...     print(s.result().describe())
        """
        from avsync.stream import SyncStream

        return SyncStream(
            self.engine,
            sample_rate=sample_rate,
            max_offset_ms=self.max_offset_ms if max_offset_ms is None else _checked(max_offset_ms),
            tolerance=self.tolerance,
            horizon_s=horizon_s,
            every_s=every_s,
            name=name,
        )

    def _of_arrays(
        self, tracks: list[Any], sights: list[TrackSight], sound: Any, speech_s: float, name: str
    ) -> SyncResult:
        common: dict[str, Any] = {
            "path": name,
            "model": self.engine.name,
            "tolerance": self.tolerance,
            "max_offset_ms": self.max_offset_ms,
        }
        if sound is None:
            return SyncResult(status=Status.no_audio, reason="the audio is too short", **common)
        return whole.judged(self, tracks, sights, sound, speech_s, common)

    def _hear(
        self, path: str | Path, audio_stream: int | None, stats: DecodeStats
    ) -> tuple[Any, float]:
        """The whole sound as the engine keeps it (None: nothing), and the seconds of speech."""
        return hear(self.engine, iter_audio(path, audio_stream=audio_stream, stats=stats))

    def _see(
        self,
        path: str | Path,
        info: MediaInfo,
        stats: DecodeStats,
        progress: Callable[[float], None] | None,
        frames: Iterator[GridFrame] | None = None,
    ) -> tuple[list[Any], list[TrackSight]]:
        """Every face's track as the engine keeps it, and what is known of the faces.

        ``frames``: only these of the file's.
        """
        if frames is None:
            frames = iter_grid_frames(path, stats=stats)
        if progress is not None:
            frames = reported(frames, info, self.engine.seeing, progress)
        return see(self.engine, frames, overlap=self.overlap)


def _checked(max_offset_ms: float) -> float:
    if not 40 <= max_offset_ms <= MAX_OFFSET_MS:
        raise InvalidOptionError(
            f"max_offset_ms must be from 40 to {MAX_OFFSET_MS:.0f}, not {max_offset_ms}"
        )
    return float(max_offset_ms)


def score(path: str | Path, **options: Any) -> SyncResult:
    """Measure one file with a detector of its own; ``options`` are :class:`SyncDetector`'s.

    For more than one file make a :class:`SyncDetector` once and call its ``score``.
    """
    return SyncDetector(**options).score(path)
