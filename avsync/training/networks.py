"""VocaLiST and MTDVocaLiST: one network at two widths.

Sources: Kadandale et al., "VocaLiST", Interspeech 2022 (the teacher, 80,106,561 parameters);
Chen et al., "Multimodal Transformer Distillation for Audio-Visual Synchronization", ICASSP 2024
(the student, 13,280,961 parameters). Parameter names, order and shapes are the published ones.

Three parts can be called alone and are exported alone: :meth:`VocaLiST.encode_video` and
:meth:`VocaLiST.encode_audio` once per window, :meth:`VocaLiST.fuse` once per pair of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from avsync.training.attention import CrossAttentionEncoder, LayerRelations

__all__ = [
    "STACKS",
    "STUDENT_CHANNELS",
    "TEACHER_CHANNELS",
    "ConvBlock",
    "Fusion",
    "SyncOutput",
    "VocaLiST",
]

TEACHER_CHANNELS = (32, 64, 128, 256, 512)
STUDENT_CHANNELS = (16, 32, 64, 128, 200)
STACKS = ("fusion", "av", "va")
"""Names of the three cross-attention stacks, in the order in which the MTD loss weighs them."""


class Fusion(NamedTuple):
    """The fusion's answer for B pairs.

    logits: (B,), raw: P(in sync) = sigmoid(logit).
    fused: (B, 16, d), the fusion stack's tokens before the pooling.
    relations: per stack name of :data:`STACKS`, per layer, what the attention knew.
    """

    logits: Tensor
    fused: Tensor
    relations: dict[str, tuple[LayerRelations, ...]]


class SyncOutput(NamedTuple):
    """A whole forward pass: :class:`Fusion` and the tokens it started from.

    video_tokens: (B, 5, d), one per frame. audio_tokens: (B, 16, d), one per mel column.
    """

    logits: Tensor
    fused: Tensor
    relations: dict[str, tuple[LayerRelations, ...]]
    video_tokens: Tensor
    audio_tokens: Tensor


class ConvBlock(nn.Module):
    """Convolution, batch norm, (+ input when residual), ReLU. 3-D when the kernel has 3 sizes."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        sizes = tuple(kernel)
        strides = tuple(stride) if stride is not None else (1,) * len(sizes)
        pads = tuple(padding) if padding is not None else tuple(k // 2 for k in sizes)
        self.residual = residual
        conv: nn.Module
        norm: nn.Module
        if len(sizes) == 3:
            conv = nn.Conv3d(cin, cout, sizes, strides, pads)
            norm = nn.BatchNorm3d(cout)
        else:
            conv = nn.Conv2d(cin, cout, sizes, strides, pads)
            norm = nn.BatchNorm2d(cout)
        self.conv_block = nn.Sequential(conv, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, cin, ...) → (B, cout, ...)."""
        out = self.conv_block(maps)
        return functional.relu(out + maps if self.residual else out)


def _video_encoder(c: Sequence[int]) -> nn.Sequential:
    """17 blocks on (B, 3, 48, 96, 5) = (height, width, time) → (B, c4, 1, 1, 5)."""

    def same(cin: int, cout: int, size: int) -> ConvBlock:
        return ConvBlock(cin, cout, (size, size, size), residual=cin == cout and size == 3)

    def half(cin: int, cout: int) -> ConvBlock:
        return ConvBlock(cin, cout, (3, 3, 3), (2, 2, 1), (1, 1, 1))

    return nn.Sequential(
        same(3, c[0], 7),
        ConvBlock(c[0], c[1], (5, 5, 5), (1, 2, 1), (1, 1, 2)),
        same(c[1], c[1], 3),
        same(c[1], c[1], 3),
        half(c[1], c[2]),
        same(c[2], c[2], 3),
        same(c[2], c[2], 3),
        same(c[2], c[2], 3),
        half(c[2], c[3]),
        same(c[3], c[3], 3),
        same(c[3], c[3], 3),
        half(c[3], c[4]),
        same(c[4], c[4], 3),
        same(c[4], c[4], 3),
        half(c[4], c[4]),
        ConvBlock(c[4], c[4], (3, 3, 3), padding=(0, 0, 1)),
        same(c[4], c[4], 1),
    )


def _audio_encoder(c: Sequence[int]) -> nn.Sequential:
    """14 blocks on (B, 1, 80, 16) = (mel band, time) → (B, c4, 1, 16)."""

    def step(cin: int, cout: int) -> list[ConvBlock]:
        return [ConvBlock(cin, cout, (3, 3), (3, 1), (1, 1)), *rest(cout)]

    def rest(width: int) -> list[ConvBlock]:
        return [ConvBlock(width, width, (3, 3), residual=True) for _ in range(2)]

    return nn.Sequential(
        ConvBlock(1, c[0], (3, 3)),
        *rest(c[0]),
        *step(c[0], c[1]),
        *step(c[1], c[2]),
        *step(c[2], c[3]),
        ConvBlock(c[3], c[4], (3, 3), padding=(0, 1)),
        ConvBlock(c[4], c[4], (1, 1)),
    )


class VocaLiST(nn.Module):
    """Is this half-second of mouth in sync with this fifth of a second of voice?

    Input video (B, 15, 48, 96) float32: five consecutive 25-fps face crops, lower half of 96×96,
    frame-major colours. The teacher's published weights expect BGR in 0–1, the student's RGB in
    0–255. Input mel (B, 1, 80, 16) float32: :func:`avsync.published.vocalist_mel`.

    channels: five widths; the last is also the width of the attention stacks.
    """

    def __init__(self, channels: Sequence[int], *, heads: int = 8, layers: int = 4) -> None:
        super().__init__()
        if len(channels) != 5:
            raise ValueError(f"five channel widths are needed, not {len(channels)}")
        dim = channels[-1]
        self.dim = dim
        self.vid_prenet = _video_encoder(channels)
        self.aud_prenet = _audio_encoder(channels)
        self.av_transformer = CrossAttentionEncoder(dim, heads, layers)
        self.va_transformer = CrossAttentionEncoder(dim, heads, layers)
        self.mem_transformer = CrossAttentionEncoder(dim, heads, layers)
        self.fc = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, 1)

    @classmethod
    def teacher(cls) -> VocaLiST:
        """VocaLiST as published, with random weights."""
        return cls(TEACHER_CHANNELS)

    @classmethod
    def student(cls) -> VocaLiST:
        """MTDVocaLiST as published, with random weights."""
        return cls(STUDENT_CHANNELS)

    def encode_video(self, video: Tensor) -> Tensor:
        """(B, 15, 48, 96) → tokens (B, 5, d), one per frame."""
        frames = video.unflatten(1, (5, 3)).permute(0, 2, 3, 4, 1)
        return self.vid_prenet(frames).flatten(2).transpose(1, 2)

    def encode_audio(self, mel: Tensor) -> Tensor:
        """(B, 1, 80, 16) → tokens (B, 16, d), one per mel column."""
        return self.aud_prenet(mel).flatten(2).transpose(1, 2)

    def fuse(self, video_tokens: Tensor, audio_tokens: Tensor) -> Fusion:
        """Tokens (B, 5, d) and (B, 16, d) of the same pairs → logits, tokens, relations."""
        av, av_known = self.av_transformer(audio_tokens, video_tokens)
        va, va_known = self.va_transformer(video_tokens, audio_tokens)
        fused, fusion_known = self.mem_transformer(av, va)
        pooled = torch.tanh(self.fc(fused.amax(dim=1)))
        logits = self.classifier(pooled).squeeze(-1)
        return Fusion(logits, fused, {"fusion": fusion_known, "av": av_known, "va": va_known})

    def forward(self, video: Tensor, mel: Tensor) -> SyncOutput:
        """Video (B, 15, 48, 96) and mel (B, 1, 80, 16) of the same pairs → everything."""
        video_tokens, audio_tokens = self.encode_video(video), self.encode_audio(mel)
        return SyncOutput(*self.fuse(video_tokens, audio_tokens), video_tokens, audio_tokens)
