"""What packing features into shards costs: bytes a frame, and accuracy on clips in sync.

    python benchmarks/pack_loss.py ../shared/corpus --cache CACHE

Each dev clip's cached features are packed and unpacked as `avsync train pack` and `unpack` do, and
both are scored by the published window protocol, with tokens that see five frames and with all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from avsync.protocol import clip_accuracy
from avsync.training.commands import index_rows
from avsync.training.data import load_features
from avsync.training.evaluate import clip_tokens, score_rows
from avsync.training.export import load_weights
from avsync.training.pack import pack_clip, unpack_clip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/checkpoint.pt"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_weights(options.checkpoint)
    local = model.config.local_dim
    found: dict[str, list[float]] = {}
    frames = size = 0
    for name, row in index_rows(options.corpus).items():
        file = options.cache / f"{name}.npz"
        if row.get("split") != "dev" or not row.get("trusted_sync") or not file.exists():
            continue
        before = load_features(file)
        film, data = pack_clip(before)
        frames, size = frames + len(before.crops), size + len(film) + len(data)
        for what, clip in (("cached", before), ("packed", unpack_clip(name, film, data))):
            video, audio, lag = clip_tokens(model, clip)
            for part, cut in (("five frames", slice(local)), ("all", slice(None))):
                accuracy = clip_accuracy(score_rows(video[:, cut], audio[:, cut], lag))
                for k in (5, 15):
                    found.setdefault(f"{part}, K={k}, {what}", []).append(100 * accuracy[k])
    figures = {key: round(float(np.mean(values)), 2) for key, values in found.items()}
    print(json.dumps({"frames": frames, "bytes a frame": round(size / frames)} | figures, indent=1))


if __name__ == "__main__":
    main()
