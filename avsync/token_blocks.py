"""Tokens of many windows in blocks that stay where they were computed, in the device's memory.

A published model's fusion needs each window's token for every shift. On CUDA the encoder's output
is kept as ONNX Runtime made it and the fusion picks from it by index, so that only windows go to
the device and only scores come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TokenBlocks"]

FloatArray = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenBlocks:
    """N tokens. ``block`` and ``row`` (N,) say which row of which of ``values`` each is.

    ``values``: float32 arrays (n, …), or ONNX Runtime's ``OrtValue`` of such, on its device.
    """

    values: tuple[Any, ...]
    block: Index
    row: Index

    @classmethod
    def of(cls, value: Any, count: int | None = None) -> TokenBlocks:
        """One block; ``count`` tokens, None: as many as an array has."""
        n = len(value) if count is None else count
        return cls((value,), np.zeros(n, np.int64), np.arange(n))

    @classmethod
    def joined(cls, parts: Sequence[TokenBlocks]) -> TokenBlocks:
        """One after the other; nothing is copied."""
        before = np.cumsum([0, *(len(part.values) for part in parts)])
        return cls(
            tuple(value for part in parts for value in part.values),
            np.concatenate([np.empty(0, np.int64), *map(_shifted, parts, before[:-1])]),
            np.concatenate([np.empty(0, np.int64), *(part.row for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, which: slice | npt.NDArray[Any]) -> TokenBlocks:
        """Some of them, by slice, mask or index; nothing is copied."""
        return TokenBlocks(self.values, self.block[which], self.row[which])

    def numpy(self) -> FloatArray:
        """The tokens (N, …), copied from the device."""
        if not len(self):
            return np.empty((0, 1), np.float32)
        arrays = {int(k): _array(self.values[k]) for k in np.unique(self.block)}
        pairs = zip(self.block.tolist(), self.row.tolist(), strict=True)
        return np.stack([arrays[k][i] for k, i in pairs])

    @staticmethod
    def pairs(
        video: TokenBlocks, audio: TokenBlocks, seen: Index, heard: Index, batch: int
    ) -> Iterator[tuple[Any, Any, Index, Index, Index]]:
        """Pairs (``seen`` of video, ``heard`` of audio), at most ``batch`` at once.

        Yields both blocks, the rows in each, and which pairs these are.
        """
        blocks = np.stack([video.block[seen], audio.block[heard]], 1)
        kinds, which = np.unique(blocks, axis=0, return_inverse=True)
        for kind, (v, a) in enumerate(kinds.tolist()):
            places = np.flatnonzero(which.ravel() == kind)
            for i in range(0, len(places), batch):
                some = places[i : i + batch]
                rows = video.row[seen[some]], audio.row[heard[some]]
                yield video.values[v], audio.values[a], *rows, some


def _shifted(part: TokenBlocks, by: Any) -> Index:
    return part.block + int(by)


def _array(value: Any) -> FloatArray:
    out: FloatArray = value if isinstance(value, np.ndarray) else value.numpy()
    return out
