"""Tokens of crops and of mels as these come, block by block, the same as of all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.mel import MEL_BANDS, MEL_HZ
from avsync.runtime import SyncModel

__all__ = ["AudioTokenStream", "VideoTokenStream"]

FloatArray = npt.NDArray[np.float32]


class VideoTokenStream:
    """Encodes one track's crop chunks as they come; a token a tick, on the track's own ticks.

    ``block`` tokens are made at once: fewer are sooner, but each costs the context on top. Where
    the model is parted that is little; else it is all of the work on the pictures around.
    """

    BLOCK = 256

    def __init__(self, model: SyncModel, block: int = BLOCK) -> None:
        self._block = block
        self._model = model
        self._stack = model.card.stack_reach
        # Rows are features of crops or the crops themselves, of which the ends have no tokens.
        self._tokens: Callable[[Any], FloatArray] = model.encode_video
        self._reach, self._halo = self._stack, model.card.video_halo
        if model.parted:
            self._tokens, self._reach, self._halo = model.surround, 0, model.card.context_reach
        self._crops: npt.NDArray[np.uint8] = np.empty((0, 0, 0), np.uint8)  # the last ones
        self._rows: npt.NDArray[Any] = np.empty((0, 0))
        self._ahead = 0  # rows that are context of the next token only

    def push(self, chunk: CropChunk) -> list[FloatArray]:
        """Add consecutive crops; get the blocks of tokens that became ready."""
        card = self._model.card
        top = (chunk.crops.shape[1] - card.crop_height) // 2
        left = (chunk.crops.shape[2] - card.crop_width) // 2
        new = chunk.crops[:, top : top + card.crop_height, left : left + card.crop_width]
        if not len(self._crops):
            new = np.concatenate([np.repeat(new[:1], self._stack, axis=0), new])
            self._ahead = self._reach
        self._add(new)
        out = []
        while len(self._rows) - self._ahead >= self._block + self._halo:
            out.append(self._encode(self._block, self._halo))
            drop = max(0, self._ahead + self._block - self._halo)
            self._rows, self._ahead = self._rows[drop:], self._ahead + self._block - drop
        return out

    def close(self) -> list[FloatArray]:
        """The last tokens of the track."""
        if not len(self._crops):
            return []
        self._add(np.repeat(self._crops[-1:], self._stack, axis=0))
        count = len(self._rows) - self._ahead - self._reach
        out = [self._encode(count, self._reach)] if count else []
        # Many tracks end before the file does.
        self._crops, self._rows, self._ahead = self._crops[:0].copy(), self._rows[:0].copy(), 0
        return out

    def _add(self, crops: npt.NDArray[np.uint8]) -> None:
        """Add rows of what follows the last crops."""
        stack = 2 * self._stack
        seen = np.concatenate([self._crops, crops]) if len(self._crops) else crops
        self._crops = seen[-max(1, stack) :].copy()
        new: npt.NDArray[Any] = crops
        if self._model.parted:
            if len(seen) <= stack:
                return
            new = self._model.see(seen)
        self._rows = np.concatenate([self._rows, new]) if len(self._rows) else new

    def _encode(self, count: int, after: int) -> FloatArray:
        tokens = self._tokens(self._rows[: self._ahead + count + after])
        skip = self._ahead - self._reach
        return tokens[skip : skip + count]


class AudioTokenStream:
    """Encodes mel columns as they come: ``phases`` tokens a tick, on absolute ticks.

    ``first`` is the index (in steps of 1 / phases tick) of the first token that comes out: token
    ``i`` is centred on ``(first + i) / (25 phases)`` s. ``block``: as for the picture.
    """

    BLOCK = 512

    def __init__(self, model: SyncModel, first_column: int, block: int = BLOCK) -> None:
        self._block = block
        card = model.card
        self._model = model
        self._phases = card.phases
        self._a_tick = MEL_HZ // 25
        self._steps = card.audio_steps
        self._halo = card.audio_halo
        first_tick = -(-first_column // self._a_tick)
        self.first = first_tick * card.phases
        lead = first_tick * self._a_tick - first_column
        self._skip = lead
        self._mel: FloatArray = np.empty((0, MEL_BANDS), np.float32)
        self._ahead = 0  # ticks of the buffer that are context only
        self._known: tuple[FloatArray, FloatArray] | None = None

    def push(self, mel: FloatArray) -> list[FloatArray]:
        """Add (n, 80) mel columns; get the blocks of tokens that became ready."""
        n = min(self._skip, len(mel))
        self._skip -= n
        self._mel = np.concatenate([self._mel, mel[n:]])
        out = []
        while len(self._mel) // self._a_tick - self._ahead >= self._block + self._halo + 1:
            out.append(self._encode(self._block, self._halo))
            drop = max(0, self._ahead + self._block - self._halo)
            self._mel = self._mel[drop * self._a_tick :]
            self._ahead += self._block - drop
        return out

    def close(self) -> list[FloatArray]:
        """The last tokens."""
        count = len(self._mel) // self._a_tick - self._ahead
        return [self._encode(count, 0)] if count > 0 else []

    def _encode(self, count: int, after: int) -> FloatArray:
        ticks = self._ahead + count + after
        if min(self._ahead, after) >= self._halo and (self._mel == self._mel[0]).all():
            token = self._still(self._mel[0])  # digital silence, of which a gap may be an hour
            return np.repeat(token[None], count * self._phases, axis=0)
        step = self._a_tick // self._phases
        wanted = slice(self._ahead * self._steps, (self._ahead + count) * self._steps)
        parts = []
        for phase in range(self._phases // self._steps):
            mel = self._mel[phase * step : phase * step + ticks * self._a_tick]
            short = ticks * self._a_tick - len(mel)
            if short:
                mel = np.concatenate([mel, np.repeat(mel[-1:], short, axis=0)])
            parts.append(self._model.encode_audio(mel)[wanted])
        out: FloatArray = np.stack(parts, 1).reshape(count * self._phases, -1)
        return out

    def _still(self, column: FloatArray) -> FloatArray:
        """The token (dim,) of sound that stays as ``column`` says."""
        if self._known is None or (self._known[0] != column).any():
            mel = np.repeat(column[None], (2 * self._halo + 1) * self._a_tick, axis=0)
            token = self._model.encode_audio(mel)[self._halo * self._steps]
            self._known = column.copy(), token.copy()
        return self._known[1]
