"""Is the sync loss of real clips lower with their own sound than with it shifted by 5 frames?

    python benchmarks/loss_shift.py ../shared/corpus [--cache CACHE] [--clips 20] [--frames 75]

The first clips by id of the dev split (speakers the model never saw) whose source is known for
exact sync, at least 3 s long; the first stretch of --frames frames with a visible mouth; sound at
its place, 5 frames (200 ms) early and 5 late. A clip passes when its loss is below both others.
Features are made as for training (avsync.training.data.extract) or read from --cache.

Exit code 1 when fewer than 90 % pass.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from avsync.loss import SyncLoss
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures, extract, load_features

SHIFT_FRAMES = 5
WANTED = 0.9


def features(corpus: Path, cache: Path | None, row: dict[str, object]) -> ClipFeatures | None:
    """Crops and mels of a clip."""
    cached = None if cache is None else cache / f"{row['id']}.npz"
    if cached is not None and cached.is_file():
        return load_features(cached)
    return extract(corpus / str(row["file"]), str(row["id"]))


def stretch(clip: ClipFeatures, frames: int) -> int | None:
    """First tick of ``frames`` in a row with a visible mouth."""
    for first in range(len(clip.valid) - frames + 1):
        if clip.valid[first : first + frames].all():
            return first
    return None


@torch.no_grad()
def losses(loss: SyncLoss, clip: ClipFeatures, first: int, frames: int) -> list[float]:
    """With the sound early, at its place, and late."""
    mouths = torch.from_numpy(clip.crops[first : first + frames]).float()[None, :, None] / 255
    # mel column lead + 4 t is centred on tick t: cut to whole ticks
    begin = clip.lead % COLUMNS_A_TICK
    mel = torch.from_numpy(clip.mel[begin:].astype(np.float32))[None]
    start = (begin - clip.lead) // COLUMNS_A_TICK - first
    return [
        float(loss(mouths, mel, start_s=(start + late) / 25))
        for late in (-SHIFT_FRAMES, 0, SHIFT_FRAMES)
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = (options.corpus / "index.jsonl").read_text("utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines), key=lambda r: r["id"])
    kinds = {
        "contrast (default)": SyncLoss(options.model),
        "1 - cosine": SyncLoss(options.model, contrast_ms=None),
    }
    passed = dict.fromkeys(kinds, 0)
    found: dict[str, list[list[float]]] = {name: [] for name in kinds}
    done = 0
    for row in rows:
        if done == options.clips:
            break
        if row["split"] != "dev" or not row["trusted_sync"] or row["duration_s"] < 3:
            continue
        clip = features(options.corpus, options.cache, row)
        first = None if clip is None else stretch(clip, options.frames)
        if clip is None or first is None:
            continue
        done += 1
        for name, loss in kinds.items():
            early, own, late = losses(loss, clip, first, options.frames)
            found[name].append([early, own, late])
            passed[name] += own < min(early, late)
    print(f"{done} clips, {options.frames} frames each")
    print(f"{'loss':<20} {'200 ms early':>13} {'own':>8} {'200 ms late':>12}  own is lowest")
    for name, values in found.items():
        early, own, late = np.mean(values, axis=0)
        share = f"{passed[name]} of {done}"
        print(f"{name:<20} {early:13.3f} {own:8.3f} {late:12.3f}  {share}")
    return 0 if done and all(n >= WANTED * done for n in passed.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
