"""Trunk tokens of cached clips, so that fusion networks train in minutes.

The encoders' trunks (before their heads) run once over a stretch of every clip, clean or
augmented; what is stored is a few hundred kilobytes a clip in half precision. Tokens of clips
that the encoders trained on are sharper than those of strangers; augmented ones less so.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync.errors import AVSyncError
from avsync.training.augment import augment_mel, augment_video, crop_centre
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures, load_features
from avsync.training.encoder import FRAME_STACK, SyncEncoder
from avsync.training.fit import MARGIN, SHIFTS, SILENCE, Sampler

__all__ = [
    "CLEAN",
    "WHOLE",
    "TokenClip",
    "cache_tokens",
    "load_tokens",
    "trunk_tokens",
    "with_context",
]

#: Variants: the whole clip as it is, for evaluation; a stretch as it is; from 1 on, augmented.
WHOLE = -1
CLEAN = 0
PHASES = 2
MIN_TICKS = 24


@dataclass(frozen=True, slots=True)
class TokenClip:
    """A stretch of one clip.

    d numbers of the trunk, or by :func:`with_context` 2 d. ``video`` (T, d) float16; ``audio``
    (2 (T + 32), d) float16 in half ticks: video token t at
    shift s (0 … 30, 15 = none) is centred on audio token ``2 (t + s + 1)``; ``known`` says which
    audio tokens rest on sound that is there. ``shift``: the true one (fractional). ``around``:
    as ``audio``, what the context of the sound rests on, where that is more than its trunk.
    """

    clip: str
    video: npt.NDArray[np.float16]
    audio: npt.NDArray[np.float16]
    known: npt.NDArray[np.bool_]
    shift: float
    around: npt.NDArray[np.float16] | None = None

    @property
    def rests(self) -> npt.NDArray[np.float16]:
        """What the context of the sound rests on, as ``audio``."""
        return self.audio if self.around is None else self.around


@torch.no_grad()
def trunk_tokens(encoder: SyncEncoder, crops: Tensor, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens before the heads.

    Args:
        crops: (B, T + 4, 64, 96) float. mel: (B, 4 n, 80), token i of phase 0 on column 4 i.

    Returns:
        Video (B, T, d), audio (B, 2 (n - 1), d), two a tick, and what the audio's context rests
        on, as many.
    """
    video, _ = encoder.video.trunk(crops)
    step = COLUMNS_A_TICK // PHASES
    ticks = mel.shape[1] // COLUMNS_A_TICK - 1
    parts = [
        encoder.audio.trunk(mel[:, p * step : p * step + ticks * COLUMNS_A_TICK])
        for p in range(PHASES)
    ]
    audio, around = (torch.stack(lanes, 2).flatten(1, 2) for lanes in zip(*parts, strict=True))
    return video, audio, around


def cache_tokens(
    encoder: SyncEncoder,
    features: Sequence[Path],
    out: str | Path,
    *,
    variant: int,
    late_columns: dict[str, float] | None = None,
    ticks: int = 48,
    batch: int = 8,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Store one variant of every clip's tokens; clips already there are skipped.

    Args:
        features: files of the feature cache (:mod:`avsync.training.data`).
        variant: :data:`WHOLE`, :data:`CLEAN`, or a number from 1: another stretch and another
            augmentation.
        late_columns: by clip, by how many mel columns its own sound is late (default 0).
        ticks: video tokens of a stretch; a shorter clip gives what it has, from 24 on.
        progress: called with the number of clips done.

    Returns:
        Counts: done, cached, short.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    counts = {"done": 0, "cached": 0, "short": 0}
    waiting: dict[int, list[tuple[str, tuple[Tensor, ...]]]] = {}
    encoder = encoder.to(device).eval()
    for n, file in enumerate(features):
        if (target / f"{file.stem}.{variant}.npz").exists():
            counts["cached"] += 1
        else:
            clip = load_features(file)
            size = min(ticks, (len(clip.crops) - FRAME_STACK + 1) // 8 * 8)
            size = len(clip.crops) if variant == WHOLE else size
            drawn = _draw(clip, size, variant, late_columns)
            if drawn is None:
                counts["short"] += 1
            else:
                waiting.setdefault(size, []).append((clip.clip, drawn))
                if variant == WHOLE or len(waiting[size]) == batch:
                    counts["done"] += _store(encoder, waiting.pop(size), target, variant)
        if progress is not None:
            progress(n + 1)
    for rest in waiting.values():
        counts["done"] += _store(encoder, rest, target, variant)
    return counts


def _draw(
    clip: ClipFeatures, size: int, variant: int, late: dict[str, float] | None
) -> tuple[Tensor, ...] | None:
    """A window of one clip as training draws it; the same one every time."""
    if variant == WHOLE:
        return _whole(clip)
    if size < MIN_TICKS:
        return None
    seed = zlib.crc32(f"{clip.clip}/{variant}".encode())
    if clip.valid.mean() <= 0.7:  # as in Sampler, which cannot be made of no clips
        return None
    return Sampler([clip], late, tokens=size, seed=seed).draw(1)


def _whole(clip: ClipFeatures) -> tuple[Tensor, ...] | None:
    """All of a clip in the shape of a drawn window."""
    ticks = len(clip.crops) - FRAME_STACK + 1
    if ticks < 1:
        return None
    begin = clip.lead + (FRAME_STACK // 2 - SHIFTS // 2 - MARGIN) * COLUMNS_A_TICK
    wanted = np.arange(begin, begin + (ticks + SHIFTS - 1 + 2 * MARGIN) * COLUMNS_A_TICK)
    there = (wanted >= 0) & (wanted < len(clip.mel))
    mel = np.full((len(wanted), clip.mel.shape[1]), SILENCE, np.float32)
    mel[there] = clip.mel[wanted[there]]
    return (
        torch.from_numpy(clip.crops)[None],
        torch.from_numpy(mel)[None],
        torch.from_numpy(there)[None],
        torch.tensor([float(SHIFTS // 2)]),
    )


def _store(
    encoder: SyncEncoder,
    drawn: list[tuple[str, tuple[Tensor, ...]]],
    target: Path,
    variant: int,
) -> int:
    device = next(encoder.parameters()).device
    names = [name for name, _ in drawn]
    crops, mel, _, shift = (torch.cat(parts) for parts in zip(*(d for _, d in drawn), strict=True))
    size = crops.shape[1] - FRAME_STACK + 1
    there = (mel != SILENCE).any(-1)[:, :: COLUMNS_A_TICK // PHASES]
    if variant in (WHOLE, CLEAN):
        seen, heard = crop_centre(crops).float(), mel
    else:
        torch.manual_seed(zlib.crc32(f"{names}/{variant}".encode()))
        seen, heard = augment_video(crops), augment_mel(mel)
    video, audio, around = trunk_tokens(encoder, seen.to(device), heard.to(device))
    cut = slice(PHASES * (MARGIN - 1), PHASES * (MARGIN + size + SHIFTS))
    for i, name in enumerate(names):
        file = target / f"{name}.{variant}.npz"
        beside = file.with_suffix(".part.npz")
        more = {}
        if encoder.config.speech_layers:
            more["around"] = around[i, cut].half().cpu().numpy()
        np.savez(
            beside,
            clip=name,
            video=video[i].half().cpu().numpy(),
            audio=audio[i, cut].half().cpu().numpy(),
            known=there[i, cut].numpy(),
            shift=float(shift[i]),
            **more,
        )
        beside.replace(file)
    return len(names)


def load_tokens(
    folder: str | Path, clips: Sequence[str], variants: Sequence[int]
) -> list[TokenClip]:
    """The stored variants of ``clips`` (those that are there).

    Raises:
        AVSyncError: a file is damaged.
    """
    found = []
    for clip in clips:
        for variant in variants:
            file = Path(folder) / f"{clip}.{variant}.npz"
            if not file.exists():
                continue
            try:
                with np.load(file) as z:
                    parts = (z["video"], z["audio"], z["known"], float(z["shift"]))
                    found.append(TokenClip(clip, *parts, z.get("around")))
            except (OSError, ValueError, KeyError, zlib.error) as err:
                raise AVSyncError(f"{file}: damaged ({err}); delete it and cache again") from err
    return found


@torch.no_grad()
def with_context(encoder: SyncEncoder, clip: TokenClip) -> TokenClip:
    """The clip with each trunk token followed by what the encoder's context stack makes of it.

    Raises:
        AVSyncError: the clip's tokens are of another encoder, without features of speech.
    """
    if encoder.config.speech_layers and clip.around is None:
        raise AVSyncError(
            f"{clip.clip}: its tokens are of an encoder without features of speech; give another "
            "folder for tokens, or delete them and cache again"
        )

    def widen(
        tower: Any, tokens: npt.NDArray[np.float16], around: npt.NDArray[np.float16], phases: int
    ) -> npt.NDArray[np.float16]:
        lanes = torch.from_numpy(around).float().unflatten(0, (-1, phases)).transpose(0, 1)
        wide = tower.context(lanes).transpose(0, 1).flatten(0, 1)
        return np.concatenate([tokens, wide.half().numpy()], 1)

    return replace(
        clip,
        video=widen(encoder.video, clip.video, clip.video, 1),
        audio=widen(encoder.audio, clip.audio, clip.rests, PHASES),
    )
