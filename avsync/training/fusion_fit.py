"""Training of fusion networks: one loop for teachers and for students under any loss.

Per window: softmax cross-entropy over its shifts plus binary cross-entropy of "in sync at all",
with strangers' sound among the negatives. A student adds what :mod:`avsync.training.losses` makes
of its teacher's answer for the same pairs.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from avsync.errors import AVSyncError, ModelNotFoundError
from avsync.training.encoder import SyncEncoder
from avsync.training.fit import cosine, follow, save_state
from avsync.training.fusion import FusionConfig, FusionNetwork
from avsync.training.fusion_data import FusionBatch, FusionSampler
from avsync.training.losses import make_loss
from avsync.training.networks import Fusion

__all__ = ["LENGTHS", "FusionTrainConfig", "FusionTrainer", "hard_loss", "load_fusion", "run"]

#: Window lengths (ticks) and how often each is drawn.
LENGTHS = {1: 0.2, 5: 0.3, 11: 0.4, 15: 0.1}


class FusionTrainConfig(BaseModel):
    """All that a run depends on; saved next to its weights. ``loss``: of ``losses.LOSSES``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fusion: FusionConfig = FusionConfig()
    loss: str = "none"
    steps: int = 400
    windows: int = 12
    lengths: dict[int, float] = LENGTHS
    learning_rate: float = 1e-3
    warmup: int = 40
    weight_decay: float = 0.05
    ema: float = 0.99
    sync_weight: float = 0.5
    seed: int = 0
    bf16: bool = False
    log_every: int = 20
    save_every: int = 100


def hard_loss(logits: Tensor, batch: FusionBatch, sync_weight: float) -> dict[str, Tensor]:
    """Label losses of logits (B C,): over the shifts, and of "in sync at all"."""
    rows = logits.float().unflatten(0, batch.label.shape)
    shift = -(batch.target * rows[:, :-1].log_softmax(1)).sum(1).mean()
    judged = ~batch.label.isnan()
    truth = torch.where(judged, batch.label, 0.0)
    each = functional.binary_cross_entropy_with_logits(rows, truth, reduction="none")
    # a stranger weighs as much as the true sound, the clip's other shifts together as one
    weight = torch.ones_like(rows)
    weight[:, 2:-1] = 1 / (rows.shape[1] - 3)
    weight = weight * judged
    sync = (each * weight).sum() / weight.sum()
    with torch.no_grad():
        hit = (rows[:, :-1].argmax(1) == batch.target.argmax(1)).float().mean()
        told = (rows[:, :2].amax(1) > rows[:, -1]).float().mean()
    return {
        "total": shift + sync_weight * sync,
        "shift": shift,
        "sync": sync,
        "hit": hit,
        "told": told,
    }


class FusionTrainer:
    """A network, its optimiser and its moving average; one ``step`` a batch.

    Args:
        config: widths, loss and schedule.
        encoder: whose local heads give the prior.
        teacher: needed by every loss but "none"; frozen.
    """

    def __init__(
        self,
        config: FusionTrainConfig,
        encoder: SyncEncoder | None = None,
        *,
        teacher: FusionNetwork | None = None,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        self.model = FusionNetwork(config.fusion, encoder).to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.teacher = teacher
        dims = (config.fusion.dim, teacher.config.dim if teacher is not None else 1)
        options = {"layers": config.fusion.layers} if config.loss == "mtd" else {}
        self.loss = make_loss(config.loss, student_dim=dims[0], teacher_dim=dims[1], **options).to(
            self.device
        )
        if self.loss.needs_teacher and teacher is None:
            raise AVSyncError(f"loss {config.loss!r} needs a teacher: give --teacher RUN/state.pt")
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [*trained, *self.loss.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.done = 0

    def rate(self) -> float:
        """The learning rate of the next step: linear warm-up, then a cosine."""
        c = self.config
        if self.done < c.warmup:
            return c.learning_rate * (self.done + 1) / c.warmup
        return c.learning_rate * cosine((self.done - c.warmup) / max(1, c.steps - c.warmup))

    @torch.no_grad()
    def ask_teacher(self, batch: FusionBatch) -> Fusion | None:
        """The teacher's answer for a batch's pairs, if the loss wants one."""
        return self.teacher(*batch.pairs()) if self.teacher and self.loss.needs_teacher else None

    def step(self, batch: FusionBatch, taught: Fusion | None = None) -> dict[str, float]:
        """One optimiser step; ``taught`` spares asking the teacher again. Returns the losses."""
        batch = batch.to(self.device)
        taught = taught if taught is not None else self.ask_teacher(batch)
        self.model.train()
        self.loss.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            answer: Fusion = self.model(*batch.pairs())
        parts = hard_loss(answer.logits, batch, self.config.sync_weight)
        loss = parts["total"]
        if self.loss.needs_teacher and taught is not None:
            terms = self.loss.distil(loss, answer, taught)
            loss, parts["distillation"] = terms.total, terms.distillation
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.done += 1
        follow(self.average, self.model, min(self.config.ema, (1 + self.done) / (10 + self.done)))
        return {name: float(value.detach()) for name, value in parts.items()}

    def save(self, file: Path) -> None:
        """Everything needed to resume."""
        state = {
            "config": self.config.model_dump(),
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_state(state, file)

    def load(self, file: Path) -> None:
        """Resume from :meth:`save`'s file.

        Raises:
            AVSyncError: another configuration than this one.
        """
        state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
        if FusionTrainConfig.model_validate(state["config"]).fusion != self.config.fusion:
            raise AVSyncError(f"{file}: a run of other widths; give another --out")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = int(state["done"])


def run(
    trainer: FusionTrainer,
    sampler: FusionSampler,
    out: Path,
    *,
    validate: Callable[[FusionNetwork], dict[str, float]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Train to ``config.steps``; configuration, log and state go to ``out``."""
    config = trainer.config
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(config.model_dump_json(indent=1) + "\n")
    began, sums, count = time.monotonic(), dict[str, float](), 0
    with (out / "log.jsonl").open("a") as log:
        while trainer.done < config.steps:
            for name, value in trainer.step(sampler.draw(config.windows)).items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            last = trainer.done == config.steps
            if progress is not None:
                progress(trainer.done / config.steps)
            if last or trainer.done % config.log_every == 0:
                row = {"step": trainer.done, "s": round(time.monotonic() - began, 1)}
                row |= {k: round(v / count, 4) for k, v in sums.items()}
                sums, count = {}, 0
                if last or trainer.done % config.save_every == 0:
                    trainer.save(out / "state.pt")
                    if validate is not None:
                        row |= validate(trainer.average)
                log.write(json.dumps(row) + "\n")
                log.flush()


def load_fusion(file: str | Path) -> FusionNetwork:
    """The moving average of a run's ``state.pt``, in eval mode, frozen.

    Raises:
        ModelNotFoundError, AVSyncError: no such file, or not such a one.
    """
    path = Path(file)
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such file; train first (avsync train teacher)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        config = FusionTrainConfig.model_validate(state["config"])
        network = FusionNetwork(config.fusion)
        network.load_state_dict(state["average"])
    except Exception as err:  # torch raises many kinds for a bad file
        raise AVSyncError(f"{path}: not the state of a fusion run ({err})") from err
    return network.eval().requires_grad_(False)
