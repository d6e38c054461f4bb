"""What a model does for the detector, whatever its kind: hear, see, compare.

An engine turns sound into something of its own (:class:`Ear`) and each face's crops too
(:class:`Eye`); :meth:`Engine.compare` makes of both the tokens that :mod:`avsync.offsets` scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk, CropMaker
from avsync.mel import MelStream
from avsync.offsets import AudioTokens, TrackTokens
from avsync.runtime import Calibration, Provider, SyncModel, load_model
from avsync.speech import SpeechGate
from avsync.token_streams import AudioTokenStream, VideoTokenStream

__all__ = ["Ear", "Engine", "Eye", "TokenEngine", "load_engine", "stack_seen"]

FloatArray = npt.NDArray[np.float32]
Progress = Callable[[float], None]


class Ear(Protocol):
    """Takes in the sound of one file, piece by piece."""

    def push(self, samples: FloatArray) -> None:
        """Add (n,) float32 mono samples at 16 kHz."""

    def close(self, gate: SpeechGate) -> Any:
        """What was heard, for :meth:`Engine.compare`; None when there was too little sound."""


class Eye(Protocol):
    """Takes in the crops of one face, chunk by chunk."""

    def push(self, chunk: CropChunk) -> None:
        """Add consecutive ticks."""

    def close(self, number: int) -> Any:
        """What was seen, for :meth:`Engine.compare`, as track ``number``."""


class Engine(Protocol):
    """A loaded model as the detector uses it.

    name: the model's name for results. calibration: how its scores are read. warnings: what
    everyone who reads its results must know. crops: makes the crop maker of a track from its id.
    seeing: share of the work that is done once the picture has been watched, for progress.
    """

    name: str
    calibration: Calibration
    warnings: tuple[str, ...]
    crops: Callable[[int], CropMaker]
    seeing: float

    def ear(self, start_s: float) -> Ear:
        """For sound whose first sample is at ``start_s``."""

    def eye(self, first: int) -> Eye:
        """For a face first seen at tick ``first``."""

    def compare(
        self,
        tracks: Sequence[Any],
        sound: Any,
        *,
        max_offset_ms: float,
        progress: Progress | None = None,
    ) -> tuple[list[TrackTokens], AudioTokens]:
        """What was seen and heard as tokens whose products are scores, larger = better in step."""


def stack_seen(valid: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Which tokens are valid: those whose whole stack, ``reach`` ticks to either side, was seen."""
    seen = valid.copy()
    for i in range(1, reach + 1):
        seen[i:] &= valid[:-i]
        seen[:-i] &= valid[i:]
    seen[:reach] = seen[len(seen) - reach :] = False
    return seen


def _joined(parts: list[FloatArray]) -> FloatArray:
    """One array of many, which are given up one by one so that memory holds no second copy."""
    rows = sum(map(len, parts))
    out = np.empty((rows, *parts[0].shape[1:]), parts[0].dtype)
    while parts:
        part = parts.pop()
        rows -= len(part)
        out[rows : rows + len(part)] = part
    return out


class _TokenEar:
    def __init__(self, model: SyncModel, start_s: float) -> None:
        self._mels = MelStream(start_s)
        self._stream = AudioTokenStream(model, self._mels.first)
        self._phases = model.card.phases
        self._parts: list[FloatArray] = []

    def push(self, samples: FloatArray) -> None:
        self._parts += self._stream.push(self._mels.push(samples))

    def close(self, gate: SpeechGate) -> AudioTokens | None:
        self._parts += self._stream.push(self._mels.close()) + self._stream.close()
        if not self._parts:
            return None
        tokens = _joined(self._parts)
        speech = gate.at(self._stream.first, 25 * self._phases, len(tokens))
        return AudioTokens(self._stream.first, self._phases, tokens, speech)


class _TokenEye:
    def __init__(self, model: SyncModel, first: int) -> None:
        self._stream = VideoTokenStream(model)
        self._reach = model.card.stack_reach
        self._first = first
        self._tokens: list[FloatArray] = []
        self._valid: list[npt.NDArray[np.bool_]] = []
        self._ages: list[FloatArray] = []

    def push(self, chunk: CropChunk) -> None:
        self._tokens += self._stream.push(chunk)
        if chunk.last:
            self._tokens += self._stream.close()
        self._valid.append(chunk.valid)
        self._ages.append(chunk.ages)

    def close(self, number: int) -> TrackTokens:
        seen = stack_seen(np.concatenate(self._valid), self._reach)
        ages = np.concatenate(self._ages)
        return TrackTokens(number, self._first, _joined(self._tokens), seen, ages)


class TokenEngine:
    """avsync's own models: a token a tick, compared by their product."""

    def __init__(self, model: SyncModel) -> None:
        self.model = model
        self.name: str = model.card.name
        self.calibration: Calibration = model.card.calibration
        self.warnings: tuple[str, ...] = ()
        self.crops: Callable[[int], CropMaker] = CropMaker
        self.seeing: float = 1.0

    def ear(self, start_s: float) -> Ear:
        """See :class:`Engine`."""
        return _TokenEar(self.model, start_s)

    def eye(self, first: int) -> Eye:
        """See :class:`Engine`."""
        return _TokenEye(self.model, first)

    def compare(
        self,
        tracks: Sequence[TrackTokens],
        sound: AudioTokens,
        *,
        max_offset_ms: float,
        progress: Progress | None = None,
    ) -> tuple[list[TrackTokens], AudioTokens]:
        """The tokens as they are."""
        return list(tracks), sound


def load_engine(
    folder: str | Path | None = None, *, provider: Provider = "auto", threads: int | None = None
) -> Engine:
    """The engine of a model folder; see :func:`avsync.runtime.load_model`."""
    model = load_model(folder, provider=provider, threads=threads)
    if isinstance(model, SyncModel):
        return TokenEngine(model)
    from avsync.published_engine import PublishedEngine

    return PublishedEngine(model)
