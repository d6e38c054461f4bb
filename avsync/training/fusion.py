"""Cross-attention over encoder tokens: does this stretch of sound belong to these lips?

The VocaLiST family on top of a frozen encoder pair: audio tokens attend to video tokens (AV),
video to audio (VA), and the first to the second (fusion); the pooled answer is one logit.
Source: Kadandale et al., "VocaLiST", Interspeech 2022. What differs from the published network:
the front end is the shipped encoder pair's trunk (a video token sees five frames, an audio token
17 mel columns), on wish beside the context stack's tokens, the audio comes at two tokens a tick,
positions are the tokens' times in half ticks for both, nothing but padding is masked, and the
logit may start from the cosine of the frozen heads, so that training begins with what the encoders
already know. Without that start a network does learn from nothing: fast from context tokens, slowly
from the trunk's alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from avsync.training.attention import CrossAttentionLayer, LayerRelations
from avsync.training.encoder import LOCAL_SHARE, SyncEncoder
from avsync.training.networks import Fusion

__all__ = ["MAX_TICKS", "FusionConfig", "FusionNetwork", "audio_span", "parameters"]

#: Video tokens of the longest window; its sound has 2 · 21 + 1 tokens.
MAX_TICKS = 21
#: Added to the logits of padding: finite, so that divergences of relations stay finite too.
HIDDEN = -1e4
#: Cosine at which the prior says neither yes nor no, at first. Without it "in sync at all" asks
#: for so large a bias that the network turns into that bias: its tanh saturates and stays so.
THRESHOLD = 0.45


class FusionConfig(BaseModel):
    """Widths of one fusion network.

    ``context_dim``: width of the encoders' context heads where tokens are the trunk's followed by
    the context stack's, each of ``token_dim``; 0: the trunk's alone. ``prior``: start from the
    encoders' cosine of such tokens, which with both is the score that ships.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_dim: int = 256
    local_dim: int = 128
    context_dim: int = 0
    dim: int = 96
    heads: int = 8
    layers: int = 4
    dropout: float = 0.1
    prior: bool = True

    @classmethod
    def on(cls, encoder: SyncEncoder, *, context: bool = False, **widths: Any) -> FusionConfig:
        """A configuration that fits an encoder pair."""
        e = encoder.config
        wide = e.context_dim if context else 0
        return cls(token_dim=e.dim, local_dim=e.local_dim, context_dim=wide, **widths)

    @property
    def width(self) -> int:
        """Numbers of a token as it comes in."""
        return self.token_dim * (2 if self.context_dim else 1)


def audio_span(ticks: int) -> int:
    """Audio tokens that go with a window of ``ticks`` video tokens: half a tick more each side."""
    return 2 * ticks + 1


def parameters(network: nn.Module) -> int:
    """How many numbers a network holds in its parameters."""
    return sum(p.numel() for p in network.parameters())


class _Stack(nn.Module):
    """Cross-attention layers whose queries see the same source, then a LayerNorm."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(
                config.dim,
                config.heads,
                relu_dropout=config.dropout,
                residual_dropout=config.dropout,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, query: Tensor, source: Tensor, mask: Tensor
    ) -> tuple[Tensor, tuple[LayerRelations, ...]]:
        known = []
        for layer in self.layers:
            query, relations = layer(query, source, source, mask)
            known.append(relations)
        return self.norm(query), tuple(known)


def _times(dim: int) -> Tensor:
    """Sinusoids (2 · MAX_TICKS + 1, dim) of the half ticks of a window."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(1000.0) / dim))
    angle = torch.arange(audio_span(MAX_TICKS))[:, None] * rate[None, :]
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


class FusionNetwork(nn.Module):
    """Logit of "in sync" for windows of trunk tokens, or of trunk and context tokens.

    Args:
        config: widths.
        encoder: whose heads give the prior; without it they are random until a state is loaded.
    """

    _times: Tensor

    def __init__(self, config: FusionConfig, encoder: SyncEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.video_in = nn.Linear(config.width, config.dim)
        self.audio_in = nn.Linear(config.width, config.dim)
        self.av = _Stack(config)
        self.va = _Stack(config)
        self.fusion = _Stack(config)
        self.fc = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, 1)
        self.register_buffer("_times", _times(config.dim), persistent=False)
        widths = {"local": config.local_dim, "wide": config.context_dim}
        for name in ("video", "audio"):
            for head, width in widths.items():
                if width:
                    own = nn.Linear(config.token_dim, width).requires_grad_(False)
                    if encoder is not None:
                        tower = getattr(encoder, name)
                        own.load_state_dict(getattr(tower, head).state_dict())
                    setattr(self, f"{name}_{head}", own)
        self.prior_log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.prior_threshold = nn.Parameter(torch.tensor(THRESHOLD))
        if config.prior:
            nn.init.zeros_(self.classifier.weight)

    def heads(self) -> list[nn.Module]:
        """The encoders' heads that the prior is made of."""
        return [m for name, m in self.named_children() if name.endswith(("_local", "_wide"))]

    def cosine(self, video: Tensor, audio: Tensor) -> Tensor:
        """(B, W) what the encoders' heads say of each video token and the audio of its tick.

        The local cosine; with context tokens the product of the tokens that ship.
        """
        seen, heard = (x.split(self.config.token_dim, -1) for x in (video, audio[:, 1::2]))
        near = functional.cosine_similarity(
            self.video_local(seen[0]), self.audio_local(heard[0]), dim=-1
        )
        if not self.config.context_dim:
            return near
        wide = functional.cosine_similarity(
            self.video_wide(seen[1]), self.audio_wide(heard[1]), dim=-1
        )
        return LOCAL_SHARE * near + (1 - LOCAL_SHARE) * wide

    def _even(self, tokens: Tensor) -> Tensor:
        """Each part of the tokens to mean 0 and spread 1."""
        parts = tokens.unflatten(-1, (-1, self.config.token_dim))
        return functional.layer_norm(parts, parts.shape[-1:]).flatten(-2)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        seen: Tensor | None = None,
        heard: Tensor | None = None,
    ) -> Fusion:
        """The answer for B pairs.

        Args:
            video: (B, W, width), W from 1 to :data:`MAX_TICKS`.
            audio: (B, 2 W + 1, width): token 2 w + 1 is centred on video token w.
            seen: (B, W) bool, heard: (B, 2 W + 1) bool: which tokens are there (default all);
                at least one of each.

        Returns:
            Logits (B,), the fusion stack's tokens (B, 2 W + 1, dim) and all relations.
        """
        half = audio.shape[1]
        v_tokens = self.video_in(self._even(video)) + self._times[1:half:2]
        a_tokens = self.audio_in(self._even(audio)) + self._times[:half]
        no_video, no_audio = _mask(seen, video), _mask(heard, audio)
        av, av_known = self.av(a_tokens, v_tokens, no_video)
        va, va_known = self.va(v_tokens, a_tokens, no_audio)
        fused, fusion_known = self.fusion(av, va, no_video)
        shown = fused if heard is None else fused.masked_fill(~heard.unsqueeze(-1), HIDDEN)
        pooled = torch.tanh(self.fc(shown.amax(1)))
        logits = self.classifier(pooled).squeeze(-1)
        if self.config.prior:
            each = self.cosine(video, audio)
            if seen is None:
                mean = each.mean(1)
            else:
                mean = (each * seen).sum(1) / seen.sum(1).clamp(min=1)
            logits = logits + self.prior_log_scale.exp() * (mean - self.prior_threshold)
        return Fusion(logits, fused, {"fusion": fusion_known, "av": av_known, "va": va_known})


def _mask(there: Tensor | None, tokens: Tensor) -> Tensor:
    """What is added to attention logits over these keys."""
    if there is None:
        return tokens.new_zeros(())
    return torch.where(there, 0.0, HIDDEN).to(tokens)[:, None, None, :]
