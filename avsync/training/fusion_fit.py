"""Training of fusion networks: of teachers, and of students under any loss.

Per window: softmax cross-entropy over its shifts plus binary cross-entropy of "in sync at all",
with strangers' sound among the negatives. A student adds what :mod:`avsync.training.losses` makes
of its teacher's answer for the same pairs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from avsync.errors import AVSyncError, ModelNotFoundError
from avsync.training.encoder import SyncEncoder
from avsync.training.fusion import FusionConfig, FusionNetwork
from avsync.training.fusion_data import FusionBatch
from avsync.training.loop import Loop
from avsync.training.losses import make_loss
from avsync.training.networks import Fusion

__all__ = ["LENGTHS", "FusionTrainConfig", "FusionTrainer", "hard_loss", "load_fusion"]

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


class FusionTrainer(Loop):
    """Trains a fusion network, a teacher or a student.

    Args:
        config: widths, loss and schedule.
        encoder: whose local heads give the prior.
        teacher: needed by every loss but "none"; frozen.
    """

    clip = 1.0

    def __init__(
        self,
        config: FusionTrainConfig,
        encoder: SyncEncoder | None = None,
        *,
        teacher: FusionNetwork | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
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
        self.beside = {"loss": self.loss}

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
        self.update(loss)
        return {name: float(value.detach()) for name, value in parts.items()}

    def check(self, file: Path, state: dict[str, Any]) -> None:
        """Raise AVSyncError where a state is of another configuration."""
        if FusionTrainConfig.model_validate(state["config"]).fusion != self.config.fusion:
            raise AVSyncError(f"{file}: a run of other widths; give another --out")


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
