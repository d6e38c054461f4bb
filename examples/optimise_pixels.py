"""Improve a clip's sync by gradient descent through SyncLoss, and draw the curve.

    pip install "avsync[cpu,train]"
    python examples/optimise_pixels.py [VIDEO] [--out curve] [--steps 25]

The generator is a toy with one weight: it plays the clip's own pictures so many milliseconds ahead,
mixed from neighbouring frames, so that the gradient reaches that weight through the pixels. It
learns by how much the picture must go ahead, which is the clip's offset: what it learned can be
held against what the detector measures, and neither is told the other. The loss has a hill where
the clip is, so the descent begins on its lower side. Pixels of their own would fit as well, and
prove less: they learn to please the expert.

Writes curve.csv (step, loss, ms) and curve.png.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

from avsync.loss import SyncLoss, crop_mouths
from avsync.media import iter_grid_frames, read_audio
from avsync.places import find_mouths

mpl.use("Agg")
from matplotlib import pyplot as plt

TALK = Path(__file__).resolve().parent / "talk.mp4"
FPS = 25
#: Frames before and after the ones that are optimised: room to move in.
MARGIN = 12
#: Where a descent may begin, frames ahead.
STARTS = (-1.5, 1.5)


class ToyGenerator(nn.Module):
    """Pictures (1, T, C, H, W) played ``ahead`` frames early."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.register_buffer("pictures", pictures)
        self.ahead = nn.Parameter(torch.zeros(()))

    def forward(self, first: int, count: int) -> Tensor:
        """``count`` pictures from ``first`` on."""
        at = torch.arange(first, first + count) + self.ahead.clamp(1 - MARGIN, MARGIN - 1)
        low = at.detach().floor().long()
        high_share = (at - low).view(1, -1, 1, 1, 1)
        return self.pictures[:, low] * (1 - high_share) + self.pictures[:, low + 1] * high_share


def load(video: str, frames: int) -> tuple[Tensor, Tensor, float]:
    """Mouths (1, T, 3, 64, 96), the sound (1, N) at 16 kHz and its start (s), frame 0 at 0 s."""
    grid = list(itertools.islice(iter_grid_frames(video), frames))
    pictures = np.stack([f.image for f in grid])
    places, seen = find_mouths(pictures)
    if not seen.all():
        raise SystemExit(f"{video}: a face must be seen in all of the first {frames} frames")
    whole = torch.from_numpy(pictures).permute(0, 3, 1, 2)[None].float() / 255
    sound = read_audio(video, sample_rate=16_000)
    start_s = sound.start_s - grid[0].time_s
    return crop_mouths(whole, torch.from_numpy(places)[None]), _batch(sound.samples), start_s


def _batch(samples: np.ndarray) -> Tensor:
    return torch.from_numpy(samples)[None]


def main() -> None:
    """Descend, and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", default=str(TALK))
    parser.add_argument("--out", default="curve", help="curve.csv and curve.png")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--frames", type=int, default=50, help="how many are optimised")
    options = parser.parse_args()

    mouths, sound, start_s = load(options.video, options.frames + 2 * MARGIN)
    generator, loss = ToyGenerator(mouths), SyncLoss()

    def rate() -> Tensor:
        return loss(generator(MARGIN, options.frames), sound, start_s=start_s - MARGIN / FPS)

    with torch.no_grad():
        print(f"as it is: loss {rate().item():.3f}")
        rated = {}
        for at in STARTS:
            generator.ahead.fill_(at)
            rated[at] = rate().item()
        generator.ahead.fill_(min(rated, key=rated.__getitem__))
    descent = torch.optim.Adam([generator.ahead], lr=0.4, betas=(0.6, 0.9))
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(descent, options.steps)
    rows: list[tuple[int, float, float]] = []
    for step in range(options.steps + 1):
        value = rate()
        rows.append((step, value.item(), generator.ahead.item() * 1000 / FPS))
        print(f"step {step:3d}: loss {value.item():7.3f}, pictures {rows[-1][2]:+6.1f} ms ahead")
        descent.zero_grad()
        value.backward()
        descent.step()
        slower.step()

    with Path(f"{options.out}.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("step", "loss", "ms_ahead"), *rows])
    figure, left = plt.subplots(figsize=(6, 3.5), layout="constrained")
    left.plot([r[0] for r in rows], [r[1] for r in rows], color="tab:blue")
    left.set(xlabel="step", ylabel="SyncLoss")
    left.yaxis.label.set_color("tab:blue")
    right = left.twinx()
    right.plot([r[0] for r in rows], [r[2] for r in rows], color="tab:orange")
    right.set_ylabel("pictures go ahead by, ms", color="tab:orange")
    figure.savefig(f"{options.out}.png", dpi=120)
    print(f"written: {options.out}.csv, {options.out}.png")


if __name__ == "__main__":
    main()
