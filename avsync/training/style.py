"""MixStyle: features of a clip with the statistics of another's, so that looks matter less.

Mean and spread of a feature map say how a picture is lit and whose skin it shows, or through which
channel a voice came, more than what is said. Zhou et al. 2021 (arXiv 2104.02008).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avsync.training.encoder import SyncEncoder

__all__ = ["mix_styles", "mixed"]

#: Both parameters of the beta distribution that the share of the own statistics is drawn from.
BETA = 0.3
#: The spread is changed by this factor at most.
LIMIT = 2.0


def mixed(x: Tensor, dims: tuple[int, ...], share: float) -> Tensor:
    """Features (B, …) with mean and spread over ``dims`` between a clip's own and another's.

    Args:
        share: of clips that are changed.
    """
    with torch.no_grad():
        mean = x.mean(dims, keepdim=True)
        spread = (x.var(dims, keepdim=True) + 1e-3).sqrt()
        b = len(x)
        own = torch.distributions.Beta(BETA, BETA).sample((b,))
        own = torch.where(torch.rand(b) < share, own, 1.0).to(x).view(-1, *[1] * (x.dim() - 1))
        other = torch.randperm(b).to(x.device)
        factor = (own + (1 - own) * spread[other] / spread).clamp(1 / LIMIT, LIMIT)
        moved = own * mean + (1 - own) * mean[other] - factor * mean
    return x * factor + moved


def mix_styles(model: SyncEncoder, share: float, tokens: int) -> None:
    """Mix styles of both encoders' early features, while training, of a ``share`` of the clips.

    Of the picture: of a channel, over all of a clip's ``tokens`` and their places. Of the sound:
    of a channel and band, over time.
    """

    def picture(module: nn.Module, _: Any, out: Tensor) -> Tensor | None:
        if not module.training:
            return None
        clips = out.view(-1, tokens, *out.shape[1:])
        return mixed(clips, (1, 3, 4), share).view_as(out)

    def sound(module: nn.Module, _: Any, out: Tensor) -> Tensor | None:
        return mixed(out, (2,), share) if module.training else None

    body: Any = model.video.encoder.body
    body[1].register_forward_hook(picture)
    body = model.audio.encoder.body
    body[0].register_forward_hook(sound)
