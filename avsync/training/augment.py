"""Augmentation of batches of mouth crops and log-mels, in torch, seeded by the caller.

All of it runs where the batch lies; what is drawn for a clip is drawn on the CPU, so that a seed
means the same on every device (noise of whole pictures and sounds aside).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["augment_mel", "augment_video", "crop_centre"]

MODEL_SIZE = (64, 96)


def _uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n) * (high - low) + low


def _chosen(n: int, share: float) -> Tensor:
    return torch.rand(n) < share


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …) for products with ``like``, where that lies."""
    return values.to(like.device).view(-1, *[1] * (like.dim() - 1))


def _some(n: int, share: float, like: Tensor) -> Tensor:
    """Indices of the chosen of ``n``, where ``like`` lies."""
    return torch.nonzero(_chosen(n, share))[:, 0].to(like.device)


def crop_centre(crops: Tensor) -> Tensor:
    """(…, 80, 112) stored crops → (…, 64, 96), what the models see."""
    top = (crops.shape[-2] - MODEL_SIZE[0]) // 2
    left = (crops.shape[-1] - MODEL_SIZE[1]) // 2
    return crops[..., top : top + MODEL_SIZE[0], left : left + MODEL_SIZE[1]]


def _face_warp(b: int) -> Tensor:
    """(B, 64, 96, 2) smooth displacements: another face's proportions, the same all along."""
    coarse = torch.randn(b, 2, 4, 5) * 0.035 * _chosen(b, 0.7)[:, None, None, None]
    field = F.interpolate(coarse, MODEL_SIZE, mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1)


def _other_skin(x: Tensor, strength: float) -> Tensor:
    """Put the motion of some clips on the mean picture of another clip: the face is new."""
    still = x.mean(1, keepdim=True)
    share = _uniform(len(x), 0.2, 0.9) * _chosen(len(x), 0.35) * min(1.0, strength)
    return x + (still.roll(1, 0) - still) * _wide(share, x)


def _compressed(x: Tensor, coarse: Tensor) -> Tensor:
    """Round 8 x 8 blocks of cosines (n, T, 64, 96) as coders do: ``coarse`` (n,) grey levels."""
    k = torch.arange(8.0, device=x.device)
    basis = torch.cos((k[None] + 0.5) * k[:, None] * math.pi / 8) * 0.5
    basis[0] *= 0.5**0.5
    n, t, height, width = x.shape
    blocks = x.view(n, t, height // 8, 8, width // 8, 8)
    steps = _wide(coarse, blocks) * (1 + 0.5 * (k[:, None, None] + k))
    waves = torch.einsum("uy,ntbycx,vx->ntbucv", basis, blocks, basis)
    waves = (waves / steps).round() * steps
    out = torch.einsum("uy,ntbucv,vx->ntbycx", basis, waves, basis)
    return out.reshape(x.shape)


def augment_video(crops: Tensor, *, strength: float = 1.0, widen: bool = False) -> Tensor:
    """(B, T, 80, 112) uint8 → (B, T, 64, 96) float 0..255.

    One similarity transform, mirror, tone curve, low resolution, compression and occlusion a clip;
    noise and repeated frames over time; all of them milder and rarer at a ``strength`` below 1.
    ``widen``: faces of other proportions (a smooth warp) and the motion of one clip on the mean
    picture of another.
    """
    b, t, height, width = crops.shape
    share = min(1.0, strength)
    x = crops.float()
    repeat = torch.rand(b, t) < 0.04 * _chosen(b, 0.3 * share).float()[:, None]
    repeat[:, 0] = False
    index = torch.arange(t).expand(b, t).clone()
    index[repeat] -= 1
    x = torch.gather(x, 1, index.to(x.device)[:, :, None, None].expand_as(x))
    angle = _uniform(b, -0.17, 0.17) * strength
    zoom = 1 + _uniform(b, -0.15, 0.15) * strength
    flip = torch.where(_chosen(b, 0.5), -1.0, 1.0)
    dx, dy = _uniform(b, -0.13, 0.13) * strength, _uniform(b, -0.13, 0.13) * strength
    aspect = 1 + _uniform(b, -0.08, 0.08) * strength
    sx, sy = MODEL_SIZE[1] / width, MODEL_SIZE[0] / height
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    ratio = height / width
    theta = torch.stack(
        [
            torch.stack([cos * sx * flip * aspect, -sin * sy * ratio, dx], 1),
            torch.stack([sin * sx / ratio * flip, cos * sy, dy], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [b, 1, *MODEL_SIZE], align_corners=False)
    if widen:
        grid = grid + _face_warp(b) * strength
    x = F.grid_sample(x, grid.to(x.device), padding_mode="border", align_corners=False)
    if widen:
        x = _other_skin(x, strength)
    low = _some(b, 0.25 * share, x)
    if len(low):
        factor = float(_uniform(1, 1.5, 3.5))
        small = F.interpolate(x[low], scale_factor=1 / factor, mode="area")
        x[low] = F.interpolate(small, MODEL_SIZE, mode="bilinear", align_corners=False)
    coded = _some(b, 0.25 * share, x)
    if len(coded):
        x[coded] = _compressed(x[coded], torch.exp(_uniform(len(coded), 0.7, 2.7)))
    mean = x.mean((1, 2, 3), keepdim=True)
    gamma = torch.exp(_uniform(b, -0.4, 0.4) * strength)
    contrast = torch.exp(_uniform(b, -0.5, 0.3) * strength)
    x = 255 * (x.clamp(0, 255) / 255) ** _wide(gamma, x)
    x = (x - mean) * _wide(contrast, x) + mean + _wide(_uniform(b, -40, 40) * strength, x)
    ramp = torch.linspace(-1, 1, MODEL_SIZE[1], device=x.device)[None, None, None, :]
    x = x + ramp * _wide(_uniform(b, -25, 25) * strength, x)
    noise = _uniform(b, 0, 8) * _chosen(b, 0.4) * strength
    x = x + _wide(noise, x) * torch.randn(1, t, *MODEL_SIZE, device=x.device)
    for i in torch.nonzero(_chosen(b, 0.15 * share))[:, 0].tolist():
        h, w = int(_uniform(1, 8, 26)), int(_uniform(1, 10, 40))
        top = int(_uniform(1, 0, MODEL_SIZE[0] - h))
        left = int(_uniform(1, 0, MODEL_SIZE[1] - w))
        x[i, :, top : top + h, left : left + w] = float(_uniform(1, 0, 255))
    return x.clamp(0, 255)


def _other_throat(mel: Tensor, strength: float) -> Tensor:
    """Stretch the mel axis of (B, C, 80): a longer or shorter vocal tract."""
    b, _, bands = mel.shape
    warp = torch.exp(_uniform(b, -0.13, 0.13) * _chosen(b, 0.6) * strength)
    place = (torch.arange(bands)[None] * warp[:, None]).clamp(0, bands - 1.001).to(mel.device)
    low = place.floor().long()
    part = (place - low)[:, None, :]
    at = low[:, None, :].expand_as(mel)
    return mel.gather(2, at) * (1 - part) + mel.gather(2, at + 1) * part


def augment_mel(mel: Tensor, *, strength: float = 1.0, widen: bool = False) -> Tensor:
    """(B, C, 80) natural-log mel → same shape: gain, equaliser, noise, babble, room, telephone.

    ``widen``: longer and shorter vocal tracts.
    """
    b, columns, bands = mel.shape
    share = min(1.0, strength)
    x = _other_throat(mel, strength) if widen else mel
    x = x + _wide(_uniform(b, -2.0, 1.0) * strength, x)
    knots = torch.randn(b, 1, 6) * 0.6 * strength
    x = x + F.interpolate(knots, bands, mode="linear", align_corners=True).to(x.device)
    power = x.exp()
    room = _some(b, 0.2 * share, x)
    if len(room):
        length = int(_uniform(1, 6, 25))
        decay = torch.exp(-torch.arange(length) * float(_uniform(1, 0.2, 0.7)))
        tail = decay * float(_uniform(1, 0.05, 0.3))
        tail[0] = 1.0
        rows = power[room].transpose(1, 2).reshape(-1, 1, columns)
        wet = F.conv1d(F.pad(rows, (length - 1, 0)), tail.flip(0)[None, None].to(x.device))
        power[room] = wet.reshape(-1, bands, columns).transpose(1, 2)
    level = power.mean((1, 2), keepdim=True)
    slope = torch.linspace(1, -1, bands, device=x.device)[None, None, :]
    tilt = slope * _wide(_uniform(b, -1, 2), x)
    hiss = torch.exp(tilt + 0.35 * torch.randn(b, columns, bands, device=x.device))
    ratio = 10 ** (_uniform(b, -32, 0) / 20) * _chosen(b, 0.5 * share)
    power = power + hiss * level * _wide(ratio * strength, x)
    other = power.roll(1, 0).roll(int(_uniform(1, 10, columns - 10)), 1)
    babble = 10 ** (_uniform(b, -30, -6) / 20) * _chosen(b, 0.3 * share)
    scale = level / other.mean((1, 2), keepdim=True).clamp_min(1e-8)
    power = power + other * scale * _wide(babble * strength, x)
    x = power.clamp_min(1e-5).log()
    for i in torch.nonzero(_chosen(b, 0.1 * share))[:, 0].tolist():
        x[i, :, int(_uniform(1, 52, 76)) :] = math.log(1e-5)
    for i in torch.nonzero(_chosen(b, 0.3 * share))[:, 0].tolist():
        width = int(_uniform(1, 4, 14))
        start = int(_uniform(1, 0, bands - width))
        x[i, :, start : start + width] = x[i].mean()
    return x
