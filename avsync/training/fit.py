"""A thin training loop for the encoder pair: AdamW, warm-up, cosine, EMA, resume, JSONL log."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from avsync.training.augment import augment_mel, augment_video, crop_centre
from avsync.training.contrastive import MultiScaleShiftLoss, rival_grid, shift_grid, soft_targets
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures
from avsync.training.encoder import EncoderConfig, SyncEncoder, has_bf16, shipped
from avsync.training.muon import Muon

__all__ = [
    "Sampler",
    "TrainConfig",
    "Trainer",
    "cosine",
    "follow",
    "pair_grids",
    "save_state",
]

SHIFTS = 31
HALF = SHIFTS // 2
#: Audio tokens beside the grid on each side, so that none of those used saw the slice's edge.
MARGIN = 9
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
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.998
    strength: float = 1.0
    #: The first layers and their norms stay as they are (:meth:`SyncEncoder.early_layers`).
    keep_early: bool = False
    #: Also faces of other proportions, other voices and other paces. Not yet measured: at 2,300
    #: steps trained and unseen clips do equally well, so that more variety brings nothing yet.
    widen: bool = False
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
            windows are played up to a sixth faster or slower, picture and sound alike.
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
    ) -> None:
        self.clips = [c for c in clips if len(c.crops) >= tokens + 4 and c.valid.mean() > 0.7]
        self.late = late_columns or {}
        self.tokens = tokens
        self.stretch = STRETCH if paces else 0.0
        self.rng = np.random.default_rng(seed)
        size = np.array(
            [min(len(c.crops), 300) * (weights or {}).get(c.clip, 1.0) for c in self.clips]
        )
        self.weight = size / size.sum()

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """crops (B, T+4, 80, 112) uint8, mel (B, C, 80), known (B, N) bool, true shift (B,)."""
        need = self.tokens + 4
        columns = (self.tokens + SHIFTS - 1 + 2 * MARGIN) * COLUMNS_A_TICK
        crops, mels, known, shifts = [], [], [], []
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
            crops.append(clip.crops[start + np.round(np.arange(need) * pace).astype(int)])
        return (
            torch.from_numpy(np.stack(crops)),
            torch.from_numpy(np.stack(mels)),
            torch.from_numpy(np.stack(known)),
            torch.tensor(shifts, dtype=torch.float32),
        )


def pair_grids(model: SyncEncoder, crops: Tensor, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Local and context cosine grids (B, T, S) of a sampled batch, and that of shipped tokens.

    The last less what each sound has in common with the clip's other mouths.
    """
    v_local, v_wide, a_local, a_wide = (x.float() for x in model(crops, mel))
    a_local, a_wide = a_local[:, MARGIN:-MARGIN], a_wide[:, MARGIN:-MARGIN]
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


def cosine(part: float) -> float:
    """Share of the learning rate when ``part`` of a run is done: from 1 down to 0.02."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move ``average`` towards ``model``, keeping the share ``keep`` of itself."""
    for mine, theirs in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - keep)
        else:
            mine.copy_(theirs)


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a training state beside ``file``, then in its place: never half of one."""
    temporary = file.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(file)


class Trainer:
    """Holds a model, its optimiser and its moving average; one ``step`` a batch."""

    def __init__(self, config: TrainConfig, *, device: str = "cpu") -> None:
        torch.manual_seed(config.seed)
        if device == "cpu":
            torch.set_num_threads(config.threads)
        self.config = config
        self.device = torch.device(device)
        self.bf16 = has_bf16(device) if config.bf16 is None else config.bf16
        self.model = SyncEncoder(config.encoder).to(self.device, memory_format=torch.channels_last)
        self.losses = nn.ModuleList(MultiScaleShiftLoss() for _ in range(3)).to(self.device)
        self.match_scale = nn.Parameter(torch.tensor(2.5, device=self.device))
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.early = self.model.early_layers() if config.keep_early else []
        for layer in self.early:
            layer.requires_grad_(False)
        everything = [*self.model.parameters(), *self.losses.parameters(), self.match_scale]
        optimiser = {"adamw": torch.optim.AdamW, "muon": Muon}[config.optimiser]
        self.optimiser = optimiser(
            everything, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
        )
        self.done = 0
        self.began = time.monotonic()

    def rate(self) -> float:
        """The learning rate of the next step."""
        c = self.config
        if self.done < c.warmup:
            return c.learning_rate * (self.done + 1) / c.warmup
        part = (self.done - c.warmup) / max(1, c.steps - c.warmup)
        if c.minutes is not None:
            part = max(part, (time.monotonic() - self.began) / (60 * c.minutes))
        return c.learning_rate * cosine(part)

    def finished(self) -> bool:
        """Whether the steps are done or the time is over."""
        limit = self.config.minutes
        over = limit is not None and time.monotonic() - self.began > 60 * limit
        return over or self.done >= self.config.steps

    def step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, float]:
        """One optimiser step. Returns the parts of the loss and the local hit rate."""
        crops, mel, known_audio, shift = batch
        how: dict[str, Any] = {"strength": self.config.strength, "widen": self.config.widen}
        video = augment_video(crops, **how).to(self.device)
        sound = augment_mel(mel, **how).to(self.device)
        shift, known_audio = shift.to(self.device), known_audio.to(self.device)
        self.model.train()
        for layer in self.early:
            layer.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            local, wide, scored = pair_grids(self.model, video, sound)
        known = known_audio.unfold(1, SHIFTS, 1)
        target = soft_targets(shift, SHIFTS)
        parts = {
            "local": self.losses[0](local, known, target),
            "wide": self.losses[1](wide, known, target),
            "both": self.losses[2](scored, known, target),
            "match": self._match(local + wide, target),
        }
        loss = parts["local"] + parts["wide"] + parts["both"] + 0.2 * parts["match"]
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.done += 1
        follow(self.average, self.model, min(self.config.ema, (1 + self.done) / (10 + self.done)))
        with torch.no_grad():
            off = (local.argmax(-1) - shift[:, None]).abs() <= 1
            parts["hit"] = off.float().mean()
            clip = (((local + wide).mean(1)).argmax(-1) - shift).abs() <= 1
            parts["clip"] = clip.float().mean()
        return {name: float(value.detach()) for name, value in parts.items()}

    def _match(self, grid: Tensor, target: Tensor) -> Tensor:
        """A clip's score at its true shift must beat its own mean over the far shifts."""
        mean = grid.mean(1)
        true = (mean * target).sum(-1)
        far = mean.masked_fill(target > 0, -4).topk(8, dim=-1).values.mean(-1)
        return nn.functional.softplus((far + 0.3 - true) * self.match_scale.exp()).mean()

    def save(self, file: Path) -> None:
        """Everything needed to resume."""
        state = {
            "config": self.config.model_dump(),
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "losses": self.losses.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_state(state, file)

    def load(self, file: Path, *, weights_only_start: bool = False) -> None:
        """Resume from ``file``, or only take its averaged weights as a warm start."""
        state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
        if weights_only_start:
            self.model.load_state_dict(state["average"])
            self.average.load_state_dict(state["average"])
            return
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.losses.load_state_dict(state["losses"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = int(state["done"])

    def run(self, sampler: Sampler, out: Path, *, validate: Any = None) -> None:
        """Train to ``config.steps``; ``validate(average)`` → dict goes to the log at each save."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(self.config.model_dump_json(indent=1))
        self.began, sums = time.monotonic(), dict[str, float]()
        with (out / "log.jsonl").open("a") as log:
            while not self.finished():
                for name, value in self.step(sampler.draw(self.config.batch)).items():
                    sums[name] = sums.get(name, 0.0) + value / self.config.log_every
                row: dict[str, Any] = {
                    "step": self.done,
                    "s": round(time.monotonic() - self.began, 1),
                }
                if self.done % self.config.log_every == 0:
                    row |= {k: round(v, 4) for k, v in sums.items()} | {"lr": self.rate()}
                    sums = {}
                if self.done % self.config.save_every == 0 or self.finished():
                    self.save(out / "state.pt")
                    if validate is not None:
                        row |= validate(self.average)
                if len(row) > 2:
                    log.write(json.dumps(row) + "\n")
                    log.flush()


def centre_batch(clip: ClipFeatures) -> tuple[Tensor, Tensor]:
    """A whole clip for evaluation: crops (1, T, 64, 96) float, mel (1, 4 N, 80)."""
    crops = crop_centre(torch.from_numpy(clip.crops)).float()[None]
    mel = torch.from_numpy(clip.mel.astype(np.float32))
    return crops, mel[None, : len(mel) // 4 * 4]
