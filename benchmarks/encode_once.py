"""Encode once, fuse per shift, against the naive harness; and 2-D against 3-D convolutions.

    python benchmarks/encode_once.py [--windows 8] [--repeats 2] [--threads 1] [--teacher]

First table: every video window against the audio windows 15 frames to either side, three ways in
one run, on the same windows: the published way (torch, the whole network for every shift), the
same with our ONNX graphs (the video graph run again for every shift), and the three-graph engine.
Second table: the video graph with its 3-D convolutions and rewritten to 2-D, in ONNX Runtime.

Weights are random (variance kept from layer to layer) unless --checkpoint gives MTDVocaLiST's.
Times are the best of the repeats, which take turns. Exit code 1 when scores differ by more than
1e-4 or the engine is not 15 times faster than both naive ways.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from avsync.published import audio_windows, convention, video_windows
from avsync.published_model import PublishedModel
from avsync.training.checkpoints import build, load_network
from avsync.training.export_published import export_network

REACH = 15
WANTED = 15.0


def random_network(arch: str) -> Any:
    """A published network whose random weights keep the variance from layer to layer."""
    torch.manual_seed(0)
    network = build(arch).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound)
    return network


def make_windows(arch: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive windows of moving noise: ``count`` of video, those and 2·15 more of audio."""
    rng = np.random.default_rng(0)
    taken = convention(arch)
    faces = rng.integers(0, 256, (count + 4, taken.side, taken.side, 3), dtype=np.uint8)
    mel = rng.uniform(-4, 4, (taken.bands, taken.column(count + 2 * REACH) + taken.columns))
    video = video_windows(faces, 0, count, taken)
    return video, audio_windows(mel.astype(np.float32), 0, count + 2 * REACH, taken)


def best_of(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, Any]]:
    """Seconds (best of the repeats, taking turns) and result of each way."""
    out: dict[str, tuple[float, Any]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            took = time.perf_counter() - start
            out[name] = (min(took, out.get(name, (took, None))[0]), result)
    return out


def compare_harnesses(options: argparse.Namespace, folder: Path) -> bool:
    """Print the first table; True when scores agree and the engine is fast enough."""
    if options.checkpoint:
        _, network = load_network(options.checkpoint, "mtdvocalist")
    else:
        network = random_network("mtdvocalist")
    network = network.eval()
    export_network(network, "mtdvocalist", folder)
    engine = PublishedModel(folder, provider="cpu", threads=options.threads)
    video, audio = make_windows("mtdvocalist", options.windows)
    shifts = 2 * REACH + 1

    def naive_torch() -> np.ndarray:
        rows = []
        with torch.no_grad():
            for i in range(len(video)):
                repeated = torch.from_numpy(video[i : i + 1]).expand(shifts, -1, -1, -1)
                pairs = network(repeated, torch.from_numpy(audio[i : i + shifts]))
                rows.append(pairs.logits.numpy())
        return np.stack(rows)

    def naive_onnx() -> np.ndarray:
        rows = []
        for i in range(len(video)):
            v = engine.encode_video(np.repeat(video[i : i + 1], shifts, axis=0))
            rows.append(engine.fuse(v, engine.encode_audio(audio[i : i + shifts])))
        return np.stack(rows)

    def encode_once() -> np.ndarray:
        v = np.concatenate([engine.encode_video(video[i : i + 4]) for i in range(0, len(video), 4)])
        a = engine.encode_audio(audio)
        return engine.score_grid(v, a, reach=REACH, audio_first=-REACH)

    ways = {
        "naive, torch": naive_torch,
        "naive, our ONNX graphs": naive_onnx,
        "encode once": encode_once,
    }
    times = best_of(ways, options.repeats)
    fast, scores = times["encode once"]
    print(f"MTDVocaLiST, {len(video)} windows x {shifts} shifts, {options.threads} thread(s)")
    print(f"scores spread over {scores.min():.3f} … {scores.max():.3f}\n")
    print(f"{'':<26}{'s':>8}{'ms/window':>12}{'engine is':>14}{'score diff.':>14}")
    good = True
    for name, (seconds, result) in times.items():
        ratio, difference = seconds / fast, float(np.abs(result - scores).max())
        each = 1000 * seconds / len(video)
        print(f"{name:<26}{seconds:>8.2f}{each:>12.1f}{ratio:>12.1f} ×{difference:>14.1e}")
        good &= difference <= 1e-4 and (ratio >= WANTED or name == "encode once")
    return good


def compare_convolutions(options: argparse.Namespace, folder: Path) -> None:
    """Print the second table."""
    batch = 2
    print(f"\n{'video graph, ms/window':<26}{'3-D':>8}{'2-D':>12}{'faster':>14}{'token diff.':>14}")
    for arch in ["mtdvocalist", "syncnet", *(["vocalist"] if options.teacher else [])]:
        network = random_network(arch)
        ways: dict[str, Callable[[], Any]] = {}
        video = make_windows(arch, batch)[0]
        for name, rewrite in (("3-D", False), ("2-D", True)):
            export_network(network, arch, folder / arch / name, rewrite=rewrite)
            model = PublishedModel(folder / arch / name, provider="cpu", threads=options.threads)
            ways[name] = partial(model.encode_video, video)
        times = best_of(ways, 5 * options.repeats)
        (slow, want), (fast, got) = times["3-D"], times["2-D"]
        difference = float(np.abs(want - got).max() / max(1.0, np.abs(want).max()))
        print(
            f"{arch:<26}{1000 * slow / batch:>8.1f}{1000 * fast / batch:>12.1f}"
            f"{slow / fast:>12.1f} ×{difference:>14.1e}"
        )


def main() -> int:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, help="published MTDVocaLiST weights")
    parser.add_argument("--teacher", action="store_true", help="VocaLiST in the second table too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        good = compare_harnesses(options, Path(scratch) / "student")
        compare_convolutions(options, Path(scratch))
    if not good:
        print(f"\nscores differ, or the engine is not {WANTED:.0f} times faster", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
