"""The published models in the detector: each window encoded once, fusion only per shift.

A video window is frames f … f + 4 of a face, all of them seen; an audio window of frame f starts
where that frame starts on the container's clock. The score of a pair belongs to the middle
frame, f + 2. SyncNet's distances are negated, so that larger is better for all.

Memory: the sound is kept as mel or cepstra, and audio windows are encoded as they are met and
forgotten; of the picture the windows' tokens are kept. On CUDA all tokens stay on the device.

These models come without a calibration of ours. Until one is fitted, the posterior over shifts
takes the mean score of 0.6 s (which holds three windows that share no frame) as one single
observation: a logit as what it says, a distance with half a nat a unit. The log odds of the
probability are then those of the posterior (at most 8) halved, plus four times the share of the
0.6-s windows that agree, minus five: an offset is claimed when at least a quarter of them agree,
and never with more than 95 %. Results say that this is not calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk, CropMaker
from avsync.engines import Ear, Eye, Progress
from avsync.face_crops import FaceCropMaker, FaceStyle
from avsync.offsets import TICK_MS, AudioTokens, TrackTokens
from avsync.published import (
    FRAMES,
    Convention,
    audio_windows,
    syncnet_mfcc,
    video_windows,
    vocalist_mel,
)
from avsync.published_model import PublishedModel
from avsync.runtime import Calibration
from avsync.speech import SpeechGate
from avsync.token_blocks import TokenBlocks

__all__ = ["FeatureStream", "PublishedEngine", "PublishedSound", "PublishedTrack"]

FloatArray = npt.NDArray[np.float32]

SAMPLES_PER_TICK = 640
#: Windows encoded at once.
BATCH = 16
#: Video windows compared at once; audio windows encoded at once and kept for reuse.
ROWS = 64
BLOCK = 32
#: Nats of the posterior per unit of a 0.6-s window's mean score.
SCALES = {"logit": 1.0, "distance": 0.5}
#: Features of an estimate, and their weights after the constant.
FEATURES = ("posterior_log_odds", "agreeing_share")
WEIGHTS = (-5.0, 0.5, 4.0)


@dataclass(frozen=True, slots=True)
class PublishedSound:
    """Sound of a file as features (bands, n), whose column 0 is at the start of tick ``first``.

    ``count`` audio windows are whole; ``speech`` (count,) in 0..1 at their middle frames.
    """

    first: int
    features: FloatArray
    count: int
    speech: FloatArray


@dataclass(frozen=True, slots=True)
class PublishedTrack:
    """One face: N tokens of its windows that were seen whole, from ticks ``starts`` (N,) on.

    The face is followed from tick ``first`` for ``frames`` ticks; ``ages`` (frames,) as those of
    crops.
    """

    id: int
    first: int
    frames: int
    starts: npt.NDArray[np.int64]
    tokens: TokenBlocks
    ages: FloatArray


class FeatureStream:
    """Mel or cepstra of sound that comes in pieces: the same as of the whole at once.

    Args:
        taken: which features.
        start_s: time of the first sample; zeros fill the tick in which it lies.
    """

    def __init__(self, taken: Convention, start_s: float) -> None:
        #: Tick at whose start column 0 lies.
        self.first = int(np.floor(start_s * 25 + 1e-6))
        lead = max(0, round(start_s * 16_000) - self.first * SAMPLES_PER_TICK)
        self._parts: list[FloatArray] = [np.zeros(lead, np.float32)] if lead else []
        self._held = lead
        mel = taken.audio == "vocalist_mel"
        self._make: Callable[[FloatArray], FloatArray] = vocalist_mel if mel else syncnet_mfcc
        # A column's reach: mel 400 samples to either side, cepstra 400 on and one before.
        self._hop, self._margin = (200, 2) if mel else (160, 1)
        self._skip = 0
        self._out: list[FloatArray] = []

    def push(self, samples: FloatArray) -> None:
        """Add (n,) float32 mono samples at 16 kHz."""
        self._parts.append(samples)
        self._held += len(samples)
        if self._held >= 160_000:
            self._flush()

    def _flush(self) -> None:
        joined = np.concatenate(self._parts)
        whole = (len(joined) - 400) // self._hop + 1  # columns that need no later sample
        self._out.append(self._make(joined)[:, self._skip : whole])
        rest = joined[(whole - self._margin) * self._hop :]
        self._parts, self._held, self._skip = [rest], len(rest), self._margin

    def close(self) -> FloatArray | None:
        """All columns (bands, n); None when there was no sound."""
        if not self._held:
            return None
        last: FloatArray = self._make(np.concatenate(self._parts))[:, self._skip :]
        columns: FloatArray = np.concatenate([*self._out, last], axis=1)
        return columns


class _PublishedEar:
    def __init__(self, taken: Convention, start_s: float) -> None:
        self._taken = taken
        self._stream = FeatureStream(taken, start_s)

    def push(self, samples: FloatArray) -> None:
        self._stream.push(samples)

    def close(self, gate: SpeechGate) -> PublishedSound | None:
        features = self._stream.close()
        count = 0 if features is None else self._taken.audio_count(features.shape[1])
        if features is None or not count:
            return None
        speech = gate.at(self._stream.first + FRAMES // 2, 25, count)
        return PublishedSound(self._stream.first, features, count, speech)


class _PublishedEye:
    def __init__(self, model: PublishedModel, first: int) -> None:
        self._model = model
        self._first = first
        self._frames = 0
        side = model.convention.side
        self._crops: npt.NDArray[np.uint8] = np.empty((0, side, side, 3), np.uint8)
        self._valid: npt.NDArray[np.bool_] = np.empty(0, bool)
        self._starts: list[npt.NDArray[np.int64]] = []
        self._tokens: list[TokenBlocks] = []
        self._ages: list[FloatArray] = [np.empty(0, np.float32)]

    def push(self, chunk: CropChunk) -> None:
        at = self._first + self._frames - len(self._crops)  # tick of the first crop held
        crops = np.concatenate([self._crops, chunk.crops])
        valid = np.concatenate([self._valid, chunk.valid])
        self._frames += len(chunk)
        self._ages.append(chunk.ages)
        count = max(0, len(crops) - FRAMES + 1)
        for i in range(0, count, BATCH):
            j = min(i + BATCH, count)
            whole = np.all([valid[i + k : j + k] for k in range(FRAMES)], axis=0)
            if not whole.any():
                continue
            windows = video_windows(crops, i, j, self._model.convention)[whole]
            self._tokens.append(self._model.held("video", windows))
            self._starts.append(at + i + np.flatnonzero(whole))
        keep = min(len(crops), FRAMES - 1)
        self._crops, self._valid = crops[len(crops) - keep :].copy(), valid[len(valid) - keep :]

    def close(self, number: int) -> PublishedTrack:
        return PublishedTrack(
            number,
            self._first,
            self._frames,
            np.concatenate([np.empty(0, np.int64), *self._starts]),
            TokenBlocks.joined(self._tokens),
            np.concatenate(self._ages),
        )


class _AudioTokens:
    """Tokens of a sound's windows, encoded in blocks when first asked for; the latest are kept."""

    def __init__(self, model: PublishedModel, sound: PublishedSound, keep: int) -> None:
        self._model, self._sound = model, sound
        self._keep = -(-keep // BLOCK) + 2
        self._blocks: dict[int, TokenBlocks] = {}

    def between(self, low: int, high: int) -> TokenBlocks:
        """Tokens of windows low … high − 1 (0-based, all of them there)."""
        blocks = [self._block(k) for k in range(low // BLOCK, (high - 1) // BLOCK + 1)]
        start = low // BLOCK * BLOCK
        return TokenBlocks.joined(blocks)[low - start : high - start]

    def _block(self, k: int) -> TokenBlocks:
        tokens = self._blocks.pop(k, None)
        if tokens is None:
            high = min((k + 1) * BLOCK, self._sound.count)
            taken = self._model.convention
            windows = audio_windows(self._sound.features, k * BLOCK, high, taken)
            tokens = self._model.held("audio", windows)
        self._blocks[k] = tokens  # now the latest
        while len(self._blocks) > self._keep:
            self._blocks.pop(next(iter(self._blocks)))
        return tokens


class PublishedEngine:
    """A published model as :class:`avsync.engines.Engine`."""

    def __init__(self, model: PublishedModel) -> None:
        self.model = model
        self.name: str = model.card.name
        scale = SCALES[model.convention.score]
        self.calibration = Calibration(
            scale=scale,
            features=FEATURES,
            weights=WEIGHTS,
            method="not calibrated: set by hand, see avsync.published_engine",
            gate=0.5,
        )
        self.warnings: tuple[str, ...] = (
            f"the probability is not calibrated for the model {self.name}",
        )
        style = FaceStyle.of(model.convention)
        self.crops: Callable[[int], CropMaker] = partial(FaceCropMaker, style=style)
        self.seeing: float = 0.5

    def ear(self, start_s: float) -> Ear:
        """See :class:`avsync.engines.Engine`."""
        return _PublishedEar(self.model.convention, start_s)

    def eye(self, first: int) -> Eye:
        """See :class:`avsync.engines.Engine`."""
        return _PublishedEye(self.model, first)

    def rows(
        self,
        tracks: Sequence[PublishedTrack],
        sound: PublishedSound,
        *,
        reach: int = 15,
        progress: Progress | None = None,
    ) -> list[FloatArray]:
        """Per track (N, 2 reach + 1): each window's score at every shift, larger = better.

        Column ``reach + s`` pairs it with the sound ``s`` ticks later; NaN where there is none.
        An audio window is encoded once for all tracks that are seen at the same time.
        """
        sign = -1 if self.model.convention.score == "distance" else 1
        out = [np.full((len(t.starts), 2 * reach + 1), np.nan, np.float32) for t in tracks]
        # In the order of time, so that tracks side by side meet the same audio windows.
        jobs = sorted(
            (int(t.starts[i]), k, i)
            for k, t in enumerate(tracks)
            for i in range(0, len(t.starts), ROWS)
        )
        audio = _AudioTokens(self.model, sound, keep=2 * (ROWS + 2 * reach))
        for done, (_, k, i) in enumerate(jobs):
            starts = tracks[k].starts[i : i + ROWS] - sound.first
            low = max(0, int(starts[0]) - reach)
            high = min(sound.count, int(starts[-1]) + reach + 1)
            if low < high:
                out[k][i : i + ROWS] = sign * self.model.score_grid(
                    tracks[k].tokens[i : i + ROWS],
                    audio.between(low, high),
                    reach=reach,
                    audio_first=low,
                    ticks=starts,
                )
            if progress is not None:
                progress((done + 1) / len(jobs))
        return out

    def compare(
        self,
        tracks: Sequence[PublishedTrack],
        sound: PublishedSound,
        *,
        max_offset_ms: float,
        progress: Progress | None = None,
    ) -> tuple[list[TrackTokens], AudioTokens]:
        """The scores of all shifts, laid out as tokens whose products they are.

        With S shifts, the sound's token of tick ``a`` is 1 at place ``a mod S`` and 0 elsewhere;
        a face's token of tick ``t`` holds at place ``(t + s) mod S`` its score at shift ``s``. The
        product of both, ``a = t + s``, is that score exactly, so that everything behind it
        (windows, pieces, drift, verdict) is the same for all models.
        """
        reach = int(np.ceil(max_offset_ms / TICK_MS)) + 1
        count = 2 * reach + 1
        middle = FRAMES // 2
        shifts = np.arange(-reach, reach + 1)
        seen = []
        for track, rows in zip(
            tracks, self.rows(tracks, sound, reach=reach, progress=progress), strict=True
        ):
            tokens = np.zeros((track.frames, count), np.float32)
            valid = np.zeros(track.frames, bool)
            ticks = track.starts + middle
            at = ticks - track.first
            places = (ticks[:, None] + shifts) % count
            tokens[at[:, None], places] = np.where(np.isfinite(rows), rows, 0)
            valid[at] = True
            seen.append(TrackTokens(track.id, track.first, tokens, valid, track.ages))
        first = sound.first + middle
        one_hot = np.zeros((sound.count, count), np.float32)
        ahead = np.arange(sound.count)
        one_hot[ahead, (first + ahead) % count] = 1
        return seen, AudioTokens(first, 1, one_hot, sound.speech)
