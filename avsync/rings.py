"""What a stream remembers of a face and of the sound: tokens of the last so many seconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.engines import stack_seen
from avsync.mel import MelStream
from avsync.offsets import AudioTokens, TrackTokens
from avsync.runtime import SyncModel
from avsync.speech import SpeechGate
from avsync.token_streams import AudioTokenStream, VideoTokenStream
from avsync.verdict import TrackSight

__all__ = ["FaceRing", "SoundRing"]

FloatArray = npt.NDArray[np.float32]
#: Ticks encoded at once: smaller is sooner and costs more.
BLOCK = 10


class FaceRing:
    """One face: its tokens and what is known of it, from tick ``first`` on."""

    def __init__(self, model: SyncModel, chunk: CropChunk) -> None:
        self.id = chunk.track
        self.first = chunk.first
        self._stream = VideoTokenStream(model, block=BLOCK)
        self._reach = model.card.stack_reach
        self._tokens = np.empty((0, model.card.dim), np.float32)
        self._valid = np.empty(0, np.bool_)
        self._boxes = np.empty((0, 4), np.float32)
        self._opening = np.empty(0, np.float32)
        self._ages = np.empty(0, np.float32)

    @property
    def end(self) -> int:
        """Tick after the last crop that came."""
        return self.first + len(self._valid)

    @property
    def encoded(self) -> int:
        """Tick after the last token."""
        return self.first + len(self._tokens)

    def push(self, chunk: CropChunk) -> None:
        """Add the next crops."""
        new = self._stream.push(chunk)
        if chunk.last:
            new += self._stream.close()
        self._tokens = np.concatenate([self._tokens, *new])
        self._valid = np.concatenate([self._valid, chunk.valid])
        self._boxes = np.concatenate([self._boxes, chunk.boxes])
        self._opening = np.concatenate([self._opening, chunk.opening])
        self._ages = np.concatenate([self._ages, chunk.ages])

    def forget(self, before: int) -> None:
        """Drop what is older than tick ``before``, as far as it is encoded."""
        n = min(before - self.first, len(self._tokens))
        if n <= 0:
            return
        self._tokens, self._valid = self._tokens[n:].copy(), self._valid[n:].copy()
        self._boxes, self._opening = self._boxes[n:].copy(), self._opening[n:].copy()
        self._ages = self._ages[n:].copy()
        self.first += n

    def track(self) -> TrackTokens:
        """The tokens so far, for the score grid."""
        seen = stack_seen(self._valid, self._reach)
        n = len(self._tokens)
        return TrackTokens(self.id, self.first, self._tokens, seen[:n], self._ages[:n])

    def sight(self) -> TrackSight:
        """What is known of the face over the same time."""
        return TrackSight.of(self.id, self.first, self._valid, self._boxes, self._opening)


class SoundRing:
    """The sound: its tokens from step ``first`` on, and where there is speech."""

    def __init__(self, model: SyncModel, start_s: float) -> None:
        self._mels = MelStream(start_s)
        self._stream = AudioTokenStream(model, self._mels.first, block=BLOCK)
        self._gate = SpeechGate(start_s)
        self._phases = model.card.phases
        self.first = self._stream.first
        self._tokens = np.empty((0, model.card.dim), np.float32)

    @property
    def encoded(self) -> float:
        """Time (s) after the last token."""
        return (self.first + len(self._tokens)) / (25 * self._phases)

    def push(self, samples: FloatArray) -> None:
        """Add (n,) mono samples at 16 kHz."""
        self._gate.push(samples)
        new = self._stream.push(self._mels.push(samples))
        if new:
            self._tokens = np.concatenate([self._tokens, *new])

    def close(self) -> None:
        """Encode the rest."""
        new = self._stream.push(self._mels.close()) + self._stream.close()
        self._tokens = np.concatenate([self._tokens, *new])

    def forget(self, before: int) -> None:
        """Drop what is older than tick ``before``."""
        n = min(before * self._phases - self.first, len(self._tokens))
        if n > 0:
            self._tokens = self._tokens[n:].copy()
            self.first += n
            self._gate.forget(self.first / (25 * self._phases))

    def sound(self) -> AudioTokens:
        """The tokens so far, for the score grid."""
        speech = self._gate.at(self.first, 25 * self._phases, len(self._tokens))
        return AudioTokens(self.first, self._phases, self._tokens, speech)
