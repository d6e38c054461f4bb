"""Training of the encoder pair: its batches, its losses, its configuration."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from avsync.training.augment import augment_mel, augment_video, crop_centre
from avsync.training.contrastive import (
    MultiScaleShiftLoss,
    NearLoss,
    StrangerLoss,
    rival_grid,
    shift_grid,
    soft_targets,
)
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures
from avsync.training.encoder import EncoderConfig, SyncEncoder, has_bf16, shipped
from avsync.training.lips import LipShapeLoss, moving, unknown
from avsync.training.loop import Loop
from avsync.training.muon import Muon
from avsync.training.style import mix_styles

__all__ = [
    "Sampler",
    "TrainConfig",
    "Trainer",
    "pair_grids",
    "pair_tokens",
    "together",
]

SHIFTS = 31
HALF = SHIFTS // 2
#: Audio tokens beside the grid on each side, so that none of those used saw the slice's edge.
MARGIN = 16
SILENCE = math.log(1e-5)
#: Windows are played faster or slower by up to this much (log).
STRETCH = 0.16

FloatArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]


class TrainConfig(BaseModel):
    """All that a run depends on; saved next to its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    steps: int = 4000
    #: A run ends after this many minutes however many steps were done; the rate follows the clock.
    minutes: float | None = None
    batch: int = 16
    tokens: int = 40
    optimiser: str = Field("adamw", pattern="^(adamw|muon)$")
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.998
    strength: float = 1.0
    #: That of the end; it is approached over the last third of the run. None: the same.
    last_strength: float | None = None
    #: Also faces of other proportions, other voices and other paces.
    widen: bool = False
    #: Share of clips whose early features take on another clip's statistics.
    style: float = 0.0
    #: Weight of the loss that asks single tokens for their place within a frame only.
    near: float = 0.0
    #: Weight of the loss that asks windows whether a sound is theirs at all.
    strangers: float = 0.0
    #: Weight of the loss that asks tokens of pictures for the shape of the lips and its change.
    lips: float = 0.0
    #: Learning rate of the layers taken from Whisper, as a share of the others'.
    speech_rate: float = 0.15
    seed: int = 0
    threads: int = 2
    #: Half-width arithmetic; None: where the device computes it (elsewhere it is 5 times slower).
    bf16: bool | None = None
    log_every: int = 20
    save_every: int = 100


class Sampler:
    """Draws random windows of clips; a clip's weight grows with its length up to 12 s.

    Args:
        clips: cached features. late_columns: per clip, by how many mel columns (10 ms) its own
            sound comes later than its lips; the window is re-centred by it. paces: half of the
            windows are played up to a sixth faster or slower, picture and sound alike. lips:
            per clip, the shape of the lips at each tick (:mod:`avsync.training.lips`).
    """

    def __init__(
        self,
        clips: list[ClipFeatures],
        late_columns: dict[str, float] | None = None,
        weights: dict[str, float] | None = None,
        *,
        tokens: int,
        seed: int,
        paces: bool = False,
        lips: dict[str, FloatArray] | None = None,
    ) -> None:
        self.clips = [c for c in clips if len(c.crops) >= tokens + 4 and c.valid.mean() > 0.7]
        self.late = late_columns or {}
        self.tokens = tokens
        self.stretch = STRETCH if paces else 0.0
        self.lips = lips
        self.rng = np.random.default_rng(seed)
        size = np.array(
            [min(len(c.crops), 300) * (weights or {}).get(c.clip, 1.0) for c in self.clips]
        )
        self.weight = size / size.sum()

    def draw(self, batch: int) -> tuple[Tensor, ...]:
        """crops (B, T+4, 80, 112) uint8, mel (B, C, 80), known (B, N) bool, true shift (B,).

        With ``lips`` also the shapes (B, T, G) that tokens are asked for, NaN where not known.
        """
        need = self.tokens + 4
        columns = (self.tokens + SHIFTS - 1 + 2 * MARGIN) * COLUMNS_A_TICK
        crops, mels, known, shifts, lips = [], [], [], [], []
        for i in self.rng.choice(len(self.clips), batch, replace=False, p=self.weight):
            clip = self.clips[i]
            stretch = self.rng.uniform(-self.stretch, self.stretch) * (self.rng.random() < 0.5)
            pace = float(np.exp(stretch))
            span = int(np.ceil((need - 1) * pace)) + 1
            if span > len(clip.crops):
                pace, span = 1.0, need
            room = len(clip.crops) - span
            reach = HALF + 6
            if room > 2 * reach:
                start = int(self.rng.integers(reach, room - reach + 1))
            else:
                start = int(self.rng.integers(0, room + 1))
            jitter = float(self.rng.uniform(-5.5, 5.5)) * COLUMNS_A_TICK
            late = self.late.get(clip.clip, 0.0)
            # Column 0 of the slice belongs HALF + MARGIN ticks before the first token (tick 2).
            exact = (2 - HALF - MARGIN) * COLUMNS_A_TICK - jitter
            column = round(exact)
            shifts.append(HALF + (jitter + exact - column) / COLUMNS_A_TICK)
            place = (np.arange(column, column + columns)) * pace
            mel, there = _columns(clip.mel, place + clip.lead + start * COLUMNS_A_TICK + late)
            mels.append(mel)
            known.append(there[MARGIN * 4 : -MARGIN * 4 : 4])
            ticks = start + np.round(np.arange(need) * pace).astype(int)
            crops.append(clip.crops[ticks])
            if self.lips is not None:
                shapes = self.lips.get(clip.clip)
                lips.append(moving(shapes[ticks]) if shapes is not None else unknown(self.tokens))
        drawn = (
            torch.from_numpy(np.stack(crops)),
            torch.from_numpy(np.stack(mels)),
            torch.from_numpy(np.stack(known)),
            torch.tensor(shifts, dtype=torch.float32),
        )
        return drawn if self.lips is None else (*drawn, torch.from_numpy(np.stack(lips)))


def together(*draws: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """One batch of what several samplers draw."""
    return tuple(torch.cat(parts) for parts in zip(*(draw() for draw in draws), strict=True))


def pair_tokens(model: SyncEncoder, crops: Tensor, mel: Tensor) -> tuple[Tensor, ...]:
    """The picture encoder's tokens (B, T, dim); then local and context tokens (B, T, d) of
    pictures, and (B, T + S - 1, d) of sounds.
    """
    seen, around = model.video.trunk(crops)
    v_local, v_wide = model.video.heads(seen, around)
    a_local, a_wide = (x[:, MARGIN:-MARGIN] for x in model.audio(mel))
    return tuple(x.float() for x in (seen, v_local, v_wide, a_local, a_wide))


def pair_grids(
    v_local: Tensor, v_wide: Tensor, a_local: Tensor, a_wide: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Local and context cosine grids (B, T, S) of such tokens, and that of shipped tokens.

    The last less what each sound has in common with the clip's other mouths.
    """
    scored = rival_grid(shipped(v_local, v_wide), shipped(a_local, a_wide))
    return shift_grid(v_local, a_local), shift_grid(v_wide, a_wide), scored


def _columns(mel: FloatArray, place: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Mel columns at fractional places, silence beyond the ends; and which were there."""
    there = (place >= 0) & (place <= len(mel) - 1)
    low = np.floor(place).astype(int)
    part = (place - low)[:, None].astype(np.float32)
    last = len(mel) - 1
    before, after = mel[low.clip(0, last)], mel[(low + 1).clip(0, last)]
    out = before.astype(np.float32) * (1 - part) + after.astype(np.float32) * part
    out[~there] = SILENCE
    return out, there


class _Losses(nn.Module):
    """Of the three grids over their shifts, and of a clip's true shift against its far ones."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shifts = nn.ModuleList(MultiScaleShiftLoss() for _ in range(3))
        self.near = NearLoss()
        self.strangers = StrangerLoss()
        self.lips = LipShapeLoss(dim)
        self.match_scale = nn.Parameter(torch.tensor(2.5))

    def forward(
        self, grids: tuple[Tensor, Tensor, Tensor], known: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Named parts for local, context and shipped grids (B, T, S)."""
        names = ("local", "wide", "both")
        parts = {
            name: loss(grid, known, target)
            for name, loss, grid in zip(names, self.shifts, grids, strict=True)
        }
        parts["match"] = self._match(grids[0] + grids[1], target)
        return parts

    def _match(self, grid: Tensor, target: Tensor) -> Tensor:
        """A clip's score at its true shift must beat its own mean over the far shifts."""
        mean = grid.mean(1)
        true = (mean * target).sum(-1)
        far = mean.masked_fill(target > 0, -4).topk(8, dim=-1).values.mean(-1)
        return nn.functional.softplus((far + 0.3 - true) * self.match_scale.exp()).mean()


class Trainer(Loop):
    """Trains an encoder pair; a batch is what :meth:`Sampler.draw` makes."""

    clip = 5.0

    def __init__(self, config: TrainConfig, *, device: str = "cpu") -> None:
        super().__init__()
        torch.manual_seed(config.seed)
        if device == "cpu":
            torch.set_num_threads(config.threads)
        self.config = config
        self.device = torch.device(device)
        self.bf16 = has_bf16(device) if config.bf16 is None else config.bf16
        model = SyncEncoder(config.encoder).to(self.device, memory_format=torch.channels_last)
        self.model = model
        if config.style:
            mix_styles(model, config.style, config.tokens)
        self.losses = _Losses(config.encoder.dim).to(self.device)
        self.beside = {"losses": self.losses}
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        optimiser = {"adamw": torch.optim.AdamW, "muon": partial(Muon, bf16=self.bf16)}[
            config.optimiser
        ]
        named = [*model.named_parameters(), *self.losses.named_parameters()]
        groups = [
            {"params": [p for n, p in named if n.startswith("audio.speech.") == told], "share": of}
            for told, of in ((False, 1.0), (True, config.speech_rate))
        ]
        self.optimiser = optimiser(
            [g for g in groups if g["params"]],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )

    def strength(self) -> float:
        """How strong the augmentation of the next step is."""
        first, last = self.config.strength, self.config.last_strength
        if last is None:
            return first
        return first + (last - first) * min(1.0, max(0.0, (self.part() - 0.67) / 0.23))

    def step(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        """One optimiser step. Returns the parts of the loss and the local hit rate."""
        crops, mel, known_audio, shift, *lips = (
            x.to(self.device, non_blocking=True) for x in batch
        )
        how: dict[str, Any] = {"strength": self.strength(), "widen": self.config.widen}
        video, sound = augment_video(crops, **how), augment_mel(mel, **how)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            seen, *tokens = pair_tokens(self.model, video, sound)
        local, wide, scored = pair_grids(*tokens)
        known = known_audio.unfold(1, SHIFTS, 1)
        target = soft_targets(shift, SHIFTS)
        parts = self.losses((local, wide, scored), known, target)
        total = parts["local"] + parts["wide"] + parts["both"] + 0.2 * parts["match"]
        if self.config.near:
            parts["near"] = self.losses.near(tokens[0], tokens[2], known_audio, shift)
            total = total + self.config.near * parts["near"]
        if self.config.strangers:
            pair = shipped(*tokens[:2]), shipped(*tokens[2:])
            parts["strangers"] = self.losses.strangers(*pair, known_audio, target)
            total = total + self.config.strangers * parts["strangers"]
        if self.config.lips and lips:
            parts["lips"] = self.losses.lips(seen, lips[0])
            total = total + self.config.lips * parts["lips"]
        self.update(total)
        with torch.no_grad():
            off = (local.argmax(-1) - shift[:, None]).abs() <= 1
            parts["hit"] = off.float().mean()
            clip = (((local + wide).mean(1)).argmax(-1) - shift).abs() <= 1
            parts["clip"] = clip.float().mean()
        return {name: float(value.detach()) for name, value in parts.items()}


def centre_batch(clip: ClipFeatures) -> tuple[Tensor, Tensor]:
    """A whole clip for evaluation: crops (1, T, 64, 96) float, mel (1, 4 N, 80)."""
    crops = crop_centre(torch.from_numpy(clip.crops)).float()[None]
    mel = torch.from_numpy(clip.mel.astype(np.float32))
    return crops, mel[None, : len(mel) // 4 * 4]
