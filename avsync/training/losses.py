"""Distillation losses for the student, all under one interface.

``make_loss(name, ...)`` gives a module; ``loss(student, labels, teacher)`` gives
:class:`LossTerms`. Train its parameters (σ of MTD, the map of FitNet) with the student's.

* ``mtd``: Chen et al., "Multimodal Transformer Distillation for Audio-Visual Synchronization",
  ICASSP 2024: cross-attention and value relations of every layer, weighted by uncertainty.
* ``kd``: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
* ``fitnet``: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
* ``rkd``: Park et al., "Relational Knowledge Distillation", CVPR 2019.
* ``minilm``: Wang et al., "MiniLM", NeurIPS 2020, on the last layer only.
* ``none``: the labels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsync.errors import InvalidOptionError
from avsync.training.attention import LayerRelations
from avsync.training.networks import STACKS, Fusion, SyncOutput

__all__ = [
    "LOSSES",
    "FitNetLoss",
    "KDLoss",
    "LabelLoss",
    "LossTerms",
    "MTDLoss",
    "MiniLMLoss",
    "RKDLoss",
    "Reduction",
    "make_loss",
    "relation_kl",
]

Reduction = Literal["mean", "batchmean"]
Answer = Fusion | SyncOutput
CLAMPED_STACK = "va"
CLAMP = 1e-5


class LossTerms(NamedTuple):
    """What a loss is made of, all scalars with gradient; minimise ``total``.

    bce: binary cross-entropy of the student's logits against the labels, unweighted.
    distillation: what the teacher adds, with the method's own constants but without learned σ.
    """

    total: Tensor
    bce: Tensor
    distillation: Tensor


def relation_kl(
    teacher: Tensor,
    student: Tensor,
    *,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)) along the last axis: a scalar.

    teacher, student: logits of one shape (..., rows, columns).
    reduction: "mean" divides the sum by the number of all elements, as published; "batchmean" by
    the number of rows, which is the mean KL of a row.

    Raises:
        ValueError: the shapes differ (heads are matched one to one).
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"relations of shapes {tuple(teacher.shape)} and {tuple(student.shape)} cannot be "
            "matched: batch, heads and tokens of teacher and student must be equal"
        )
    target = functional.softmax(teacher.detach() / temperature, dim=-1)
    guess = functional.log_softmax(student / temperature, dim=-1)
    total = functional.kl_div(guess, target, reduction="sum")  # torch will redefine its "mean"
    count = target.numel() if reduction == "mean" else target.numel() // target.shape[-1]
    return temperature**2 * total / count


def _layer_kl(
    stack: str,
    teacher: LayerRelations,
    student: LayerRelations,
    temperature: float,
    reduction: Reduction,
) -> Tensor:
    """Cross-attention plus value-relation divergence of one layer: a scalar.

    Only the VA stack has masked columns; there the attention logits of both are clamped to
    ≥ 1e-5 first (published so), which also turns −inf into a number that KL can bear.
    """
    attention_t, attention_s = teacher.attention_logits, student.attention_logits
    if stack == CLAMPED_STACK:
        attention_t, attention_s = attention_t.clamp(min=CLAMP), attention_s.clamp(min=CLAMP)
    pairs = (
        (attention_t, attention_s),
        (teacher.value_logits(), student.value_logits()),
    )
    first, second = (
        relation_kl(t, s, temperature=temperature, reduction=reduction) for t, s in pairs
    )
    return first + second


class LabelLoss(nn.Module):
    """Binary cross-entropy with the labels alone, and the base of all the others."""

    #: Whether ``forward`` must be given the teacher's answer.
    needs_teacher = False

    def forward(self, student: Answer, labels: Tensor, teacher: Answer | None = None) -> LossTerms:
        """The loss of one batch.

        student, teacher: answers of both networks for the same B pairs; no gradient flows into
        the teacher's. labels: (B,), 1 for pairs in sync, 0 for others.

        Raises:
            ValueError: the method needs a teacher and none is given.
        """
        bce = functional.binary_cross_entropy_with_logits(student.logits, labels.to(student.logits))
        if not self.needs_teacher:
            return LossTerms(bce, bce, torch.zeros_like(bce))
        if teacher is None:
            raise ValueError(f"{type(self).__name__} needs the teacher's answer")
        return self.distil(bce, student, teacher)

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """Join the label loss (a scalar) with what the teacher adds."""
        raise TypeError(f"{type(self).__name__} has no teacher")


class MTDLoss(LabelLoss):
    """Every layer of every stack, weighted by 13 learned uncertainties.

    BCE/(2σ₀²) + ln(1 + σ₀²) + Σ over layers of (L_CAD + L_VR)/(2σ²) + ln(1 + σ²).
    ``sigma`` (13,): σ₀ of the labels, then fusion 1–4, AV 1–4, VA 1–4; they start at 1.

    temperature: T, published 1. reduction: "mean" as published, or "batchmean" (per row).
    """

    needs_teacher = True

    def __init__(
        self, *, temperature: float = 1.0, reduction: Reduction = "mean", layers: int = 4
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction: Reduction = reduction
        self.sigma = nn.Parameter(torch.ones(1 + layers * len(STACKS)))

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """See :class:`MTDLoss`. Raises ValueError when the layers do not match in number."""
        terms = [
            _layer_kl(stack, t, s, self.temperature, self.reduction)
            for stack in STACKS
            for t, s in zip(teacher.relations[stack], student.relations[stack], strict=True)
        ]
        parts = torch.stack([bce, *terms])
        if len(parts) != len(self.sigma):
            raise ValueError(f"{len(parts) - 1} layers for {len(self.sigma) - 1} uncertainties")
        variance = self.sigma.square()
        total = (parts / (2 * variance) + torch.log1p(variance)).sum()
        return LossTerms(total, bce, parts[1:].sum())


class KDLoss(LabelLoss):
    """Softened logits: hard·BCE + soft·T²·KL of the two-class distributions at temperature T.

    The one logit z stands for the classes (z, 0). T = 5 as in the published comparison. Hinton
    advises a much lower weight on the hard labels; the published comparison does not say which
    it used, hence 0.1 and 0.9.
    """

    needs_teacher = True

    def __init__(
        self, *, temperature: float = 5.0, hard_weight: float = 0.1, soft_weight: float = 0.9
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.hard_weight = hard_weight
        self.soft_weight = soft_weight

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """See :class:`KDLoss`."""
        two = [torch.stack([z, torch.zeros_like(z)], 1) for z in (teacher.logits, student.logits)]
        soft = self.soft_weight * relation_kl(
            *two, temperature=self.temperature, reduction="batchmean"
        )
        return LossTerms(self.hard_weight * bce + soft, bce, soft)


class FitNetLoss(LabelLoss):
    """Hints: MSE between the teacher's fused tokens and a linear map d_s → d_t of the student's.

    The published comparison gives the map and the weight 100, not the layer; here it is the
    output of the fusion stack, (B, 16, d).
    """

    needs_teacher = True

    def __init__(self, student_dim: int, teacher_dim: int, *, weight: float = 100.0) -> None:
        super().__init__()
        self.weight = weight
        self.regressor = nn.Linear(student_dim, teacher_dim)

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """See :class:`FitNetLoss`."""
        gap = functional.mse_loss(self.regressor(student.fused), teacher.fused.detach())
        return LossTerms(bce + self.weight * gap, bce, self.weight * gap)


def _distances(points: Tensor) -> Tensor:
    """Pairwise Euclidean distances (B, B) of (B, d), divided by the mean of the positive ones."""
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    positive = distances > 0
    mean = distances.sum() / positive.sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def _angles(points: Tensor) -> Tensor:
    """Cosines (B, B, B): entry (j, i, k) of the angle at point j between points i and k."""
    directions = functional.normalize(points[None] - points[:, None], dim=-1)
    return directions @ directions.transpose(-1, -2)


class RKDLoss(LabelLoss):
    """Relations between the samples of a batch: distances (weight 25) and angles (weight 50).

    Smooth L1 between teacher's and student's; a sample is its fused tokens pooled, (B, d).
    Needs at least three samples for an angle; memory grows with B³.
    """

    needs_teacher = True

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """See :class:`RKDLoss`."""
        s, t = student.fused.amax(dim=1), teacher.fused.detach().amax(dim=1)
        distance = functional.smooth_l1_loss(_distances(s), _distances(t))
        angle = functional.smooth_l1_loss(_angles(s), _angles(t))
        relational = self.distance_weight * distance + self.angle_weight * angle
        return LossTerms(bce + relational, bce, relational)


class MiniLMLoss(LabelLoss):
    """Attention and value relation of the last layer only, mean KL per row as in MiniLM.

    stacks: whose last layers; the network's own last layer is that of "fusion".
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        stacks: Sequence[str] = ("fusion",),
        weight: float = 1.0,
        temperature: float = 1.0,
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__()
        unknown = set(stacks) - set(STACKS)
        if unknown or not stacks:
            raise InvalidOptionError(f"stacks {tuple(stacks)}: choose from {STACKS}")
        self.stacks = tuple(stacks)
        self.weight = weight
        self.temperature = temperature
        self.reduction: Reduction = reduction

    def distil(self, bce: Tensor, student: Answer, teacher: Answer) -> LossTerms:
        """See :class:`MiniLMLoss`."""
        terms = [
            _layer_kl(
                stack,
                teacher.relations[stack][-1],
                student.relations[stack][-1],
                self.temperature,
                self.reduction,
            )
            for stack in self.stacks
        ]
        known = self.weight * torch.stack(terms).sum()
        return LossTerms(bce + known, bce, known)


LOSSES: dict[str, type[LabelLoss]] = {
    "mtd": MTDLoss,
    "kd": KDLoss,
    "fitnet": FitNetLoss,
    "rkd": RKDLoss,
    "minilm": MiniLMLoss,
    "none": LabelLoss,
}


def make_loss(
    name: str, *, student_dim: int = 200, teacher_dim: int = 512, **options: object
) -> LabelLoss:
    """The loss of a name of :data:`LOSSES`; ``options`` are that class's keyword arguments.

    student_dim, teacher_dim: widths d of the two networks' tokens (FitNet needs them).

    Raises:
        InvalidOptionError: no such loss, no such option of it, or a reduction that is none.
    """
    if name not in LOSSES:
        raise InvalidOptionError(f"loss {name!r}: choose from {', '.join(LOSSES)}")
    if options.get("reduction", "mean") not in ("mean", "batchmean"):
        raise InvalidOptionError(f"reduction {options['reduction']!r}: 'mean' or 'batchmean'")
    dims = (student_dim, teacher_dim) if name == "fitnet" else ()
    try:
        return LOSSES[name](*dims, **options)
    except TypeError as error:
        raise InvalidOptionError(f"loss {name!r} with options {options}: {error}") from error
