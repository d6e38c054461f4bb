"""Batches for fusion networks: windows of cached tokens, each with candidate sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync.errors import AVSyncError
from avsync.training.fusion import MAX_TICKS, audio_span
from avsync.training.token_cache import TokenClip

__all__ = ["CANDIDATES", "FusionBatch", "FusionSampler"]

SHIFTS = 31
HARD, RANDOM = 2, 2
#: Sounds a window is compared with: both neighbours of the true shift, hard and random shifts of
#: the same sound, and last a stranger's.
CANDIDATES = 2 + HARD + RANDOM + 1
TRIES = 200


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """B windows of W video tokens with C sounds each, the last one a stranger's.

    ``video`` (B, W, d) and ``audio`` (B, C, 2 W + 1, d) float32; ``target`` (B, C - 1): the weight
    of each shift (the true shift is fractional); ``label`` (B, C): 1 in sync, 0 not, NaN for the
    farther neighbour of the true shift, which is neither.
    """

    video: Tensor
    audio: Tensor
    target: Tensor
    label: Tensor

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Video (B C, W, d) and audio (B C, 2 W + 1, d)."""
        count = self.audio.shape[1]
        return self.video.repeat_interleave(count, 0), self.audio.flatten(0, 1)

    def to(self, device: torch.device) -> FusionBatch:
        """The same on another device."""
        return FusionBatch(*(getattr(self, name).to(device) for name in self.__slots__))


class FusionSampler:
    """Draws windows of one length; seeded.

    Args:
        clips: cached tokens. weights: by clip, on top of its length (default 1).
        groups: by clip, what it shares with others (its source): a stranger's sound comes from
            another group, because demo pages show one voice with many pictures.
        lengths: window lengths and how often each is drawn.

    Raises:
        AVSyncError: too few clips, or all of one group.
    """

    def __init__(
        self,
        clips: Sequence[TokenClip],
        weights: dict[str, float] | None = None,
        groups: dict[str, str] | None = None,
        *,
        lengths: dict[int, float],
        seed: int,
    ) -> None:
        if not lengths or not all(1 <= ticks <= MAX_TICKS for ticks in lengths):
            raise AVSyncError(f"window lengths must be 1 to {MAX_TICKS}, not {list(lengths)}")
        self.clips = list(clips)
        share = weights or {}
        names = [(groups or {}).get(c.clip, c.clip) for c in self.clips]
        if len(set(names)) < 2:
            raise AVSyncError(
                f"{len(self.clips)} clips of {len(set(names))} source(s): strangers' sound needs "
                "clips of at least two; cache more tokens first"
            )
        _, self.group = np.unique(names, return_inverse=True)
        size = np.array([len(c.video) * share.get(c.clip, 1.0) for c in self.clips])
        self.weight = size / size.sum()
        self.lengths = list(lengths)
        self.length_share = np.array(list(lengths.values())) / sum(lengths.values())
        self.rng = np.random.default_rng(seed)

    def draw(self, windows: int) -> FusionBatch:
        """``windows`` windows of one random length."""
        ticks = int(self.rng.choice(self.lengths, p=self.length_share))
        parts = [self._window(ticks) for _ in range(windows)]
        video, audio, target, label = zip(*parts, strict=True)
        return FusionBatch(
            torch.from_numpy(np.stack(video)).float(),
            torch.from_numpy(np.stack(audio)).float(),
            torch.from_numpy(np.stack(target)).float(),
            torch.from_numpy(np.stack(label)).float(),
        )

    def _window(self, ticks: int) -> tuple[npt.NDArray[np.generic], ...]:
        for _ in range(TRIES):
            i = int(self.rng.choice(len(self.clips), p=self.weight))
            clip = self.clips[i]
            if len(clip.video) < ticks:
                continue
            start = int(self.rng.integers(0, len(clip.video) - ticks + 1))
            shifts = self._shifts(clip.shift)
            if shifts is None:
                continue
            spans = [_span(start, s, ticks) for s in shifts]
            if not all(clip.known[s].all() for s in spans):
                continue
            low, true = shifts[0], clip.shift
            stranger = self._stranger(int(self.group[i]), ticks)
            target, label = np.zeros(CANDIDATES - 1), np.zeros(CANDIDATES)
            target[:2] = 1 - (true - low), true - low
            near = int(true - low >= 0.5)
            label[near], label[1 - near] = 1, np.nan
            sounds = np.stack([*(clip.audio[s] for s in spans), stranger])
            return clip.video[start : start + ticks], sounds, target, label
        raise AVSyncError(f"no clip holds a window of {ticks} ticks with its sound around it")

    def _shifts(self, true: float) -> list[int] | None:
        """The true shift's neighbours, then others; None where one lies outside."""
        low = int(np.floor(true))
        if not 0 <= low < SHIFTS - 1:
            return None
        near = round(true)
        hard = [near + d for d in (-5, -4, -3, -2, 2, 3, 4, 5) if 0 <= near + d < SHIFTS]
        hard = [s for s in hard if s not in (low, low + 1)]
        far = [s for s in range(SHIFTS) if abs(s - near) > 5]
        return [
            low,
            low + 1,
            *self.rng.choice(hard, HARD, replace=False).tolist(),
            *self.rng.choice(far, RANDOM, replace=False).tolist(),
        ]

    def _stranger(self, group: int, ticks: int) -> npt.NDArray[np.float16]:
        for _ in range(TRIES):
            j = int(self.rng.integers(len(self.clips)))
            other = self.clips[j]
            if int(self.group[j]) == group or len(other.audio) < audio_span(ticks):
                continue
            begin = int(self.rng.integers(0, len(other.audio) - audio_span(ticks) + 1))
            span = slice(begin, begin + audio_span(ticks))
            if other.known[span].all():
                return other.audio[span]
        raise AVSyncError("no stranger's sound is long enough; cache more tokens first")


def _span(start: int, shift: int, ticks: int) -> slice:
    """Audio tokens of the window from video token ``start`` at ``shift``."""
    first = 2 * (start + shift + 1) - 1
    return slice(first, first + audio_span(ticks))
