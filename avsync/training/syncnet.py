"""SyncNet v2, the network behind LSE-D and LSE-C.

Source: Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV-W 2016, in the
form whose weights are public (13,631,616 parameters). Parameter names and order are those of the
public checkpoint, hence the numbered sequences with gaps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SyncNet"]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def _audio_cnn() -> nn.Sequential:
    """(B, 1, 13, 20) = (cepstrum, 100-Hz step) → (B, 512, 1, 1)."""

    def conv(
        cin: int, cout: int, kernel: tuple[int, int] = (3, 3), padding: int = 1
    ) -> list[nn.Module]:
        return [nn.Conv2d(cin, cout, kernel, padding=padding), nn.BatchNorm2d(cout), nn.ReLU()]

    return nn.Sequential(
        *conv(1, 64),
        nn.MaxPool2d(1, 1),  # does nothing, but counts in the published numbering
        *conv(64, 192),
        nn.MaxPool2d(3, (1, 2)),
        *conv(192, 384),
        *conv(384, 256),
        *conv(256, 256),
        nn.MaxPool2d(3, 2),
        *conv(256, 512, (5, 4), 0),
    )


def _lip_cnn() -> nn.Sequential:
    """(B, 3, 5, 224, 224) = (colour, time, height, width) → (B, 512, 1, 1, 1)."""

    def conv(
        cin: int,
        cout: int,
        kernel: tuple[int, int, int] = (1, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 1, 1),
    ) -> list[nn.Module]:
        return [
            nn.Conv3d(cin, cout, kernel, stride, padding),
            nn.BatchNorm3d(cout),
            nn.ReLU(),
        ]

    def pool(padding: tuple[int, int, int] = (0, 0, 0)) -> nn.Module:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding)

    return nn.Sequential(
        *conv(3, 96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
        pool(),
        *conv(96, 256, (1, 5, 5), (1, 2, 2)),
        pool((0, 1, 1)),
        *conv(256, 256),
        *conv(256, 256),
        *conv(256, 256),
        pool(),
        *conv(256, 512, (1, 6, 6), padding=(0, 0, 0)),
    )


class SyncNet(nn.Module):
    """Lip and audio embeddings whose distance is small when they belong together.

    Input lip (B, 3, 5, 224, 224) float32: five consecutive 25-fps face crops, BGR 0–255.
    Input audio (B, 1, 13, 20) float32: :func:`avsync.published.syncnet_mfcc`, 20 steps of 10 ms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = _audio_cnn()
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = _lip_cnn()

    def encode_video(self, lip: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) → embedding (B, 1024), not normalised."""
        return self.netfclip(self.netcnnlip(lip).flatten(1))

    def encode_audio(self, audio: Tensor) -> Tensor:
        """(B, 1, 13, 20) → embedding (B, 1024), not normalised."""
        return self.netfcaud(self.netcnnaud(audio).flatten(1))

    def fuse(self, lip_embedding: Tensor, audio_embedding: Tensor) -> Tensor:
        """L2 distance (B,) of the embeddings (B, 1024) of the same pairs: small means in sync."""
        return torch.linalg.vector_norm(lip_embedding - audio_embedding, dim=-1)

    def forward(self, lip: Tensor, audio: Tensor) -> Tensor:
        """Lip (B, 3, 5, 224, 224) and audio (B, 1, 13, 20) of the same pairs → distance (B,)."""
        return self.fuse(self.encode_video(lip), self.encode_audio(audio))
