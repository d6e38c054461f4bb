"""A published model that needs no weights: it reads numbers that :func:`chunk` and :func:`sound`
write into pictures and features, and makes of each number a random direction of its own.

Every window that is encoded is noted down.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.published import CONVENTIONS
from avsync.published_engine import PublishedEngine, PublishedSound
from avsync.published_model import PublishedModel
from avsync.token_blocks import TokenBlocks

Floats = npt.NDArray[np.float32]


class FakePublished(PublishedModel):
    """mtdvocalist or syncnet; ``seen`` and ``heard`` are the numbers of the windows encoded."""

    def __init__(self, arch: str = "mtdvocalist", *, width: int = 6) -> None:
        self.convention = CONVENTIONS[arch]
        self.card = SimpleNamespace(arch=arch, name=f"{arch}-fake")  # type: ignore[assignment]
        self.seen: list[int] = []
        self.heard: list[int] = []
        self.width = width

    def _token(self, numbers: npt.NDArray[Any]) -> Floats:
        """A random direction of each whole number, the same for picture and sound."""
        made = [np.random.default_rng(100_000 + int(n)).normal(size=self.width) for n in numbers]
        return np.array(made, np.float32).reshape(-1, self.width)

    def held(self, kind: str, windows: Floats) -> TokenBlocks:
        return TokenBlocks.of(getattr(self, f"encode_{kind}")(windows))

    def encode_video(self, windows: Floats) -> Floats:
        if self.convention.stacked:  # (B, 15, h, w): frame-major colours, number in the first red
            number = windows[:, 0, 0, 0] + 256 * windows[:, 0, 0, 1]
        else:  # (B, 3, 5, h, w), blue first
            number = windows[:, 2, 0, 0, 0] + 256 * windows[:, 2, 0, 0, 1]
        self.seen += number.astype(int).tolist()
        return self._token(number.round())

    def encode_audio(self, windows: Floats) -> Floats:
        number = windows[:, 0, 0, 0]
        self.heard += number.astype(int).tolist()
        return self._token(number.round())

    def _there(self, value: Any) -> Any:
        return value

    def _run(self, kind: str, *values: Any, keep: bool = False) -> Any:
        assert (kind, keep) == ("fusion", False)
        video_tokens, audio_tokens = values[0][values[2]], values[1][values[3]]
        if self.convention.score == "distance":
            return np.linalg.norm(video_tokens - audio_tokens, axis=1)
        return (video_tokens * audio_tokens).sum(1)


def sound(engine: PublishedEngine, first: int, count: int, *, late: int = 0) -> PublishedSound:
    """Sound whose window of tick t carries the number t − late, from tick ``first`` on."""
    taken = engine.model.convention
    features = np.zeros((taken.bands, taken.column(count - 1) + taken.columns), np.float32)
    for i in range(count):
        features[0, taken.column(i)] = first + i - late
    return PublishedSound(first, features, count, np.ones(count, np.float32))


def chunk(engine: PublishedEngine, first: int, valid: npt.NDArray[np.bool_]) -> CropChunk:
    """Crops of consecutive ticks, each with its own number in its first pixels."""
    n, side = len(valid), engine.model.convention.side
    row = side // 2 if engine.model.convention.face == "half" else 0
    crops = np.zeros((n, side, side, 3), np.uint8)
    ticks = first + np.arange(n)
    crops[:, row, 0, 0], crops[:, row, 1, 0] = ticks % 256, ticks // 256
    zeros = np.zeros(n, np.float32)
    return CropChunk(0, first, crops, valid, np.zeros((n, 4), np.float32), zeros, zeros, zeros)
