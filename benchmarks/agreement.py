"""Whether ``score``, ``score_arrays`` and ``stream`` say the same of the same real clips.

    python benchmarks/agreement.py ../shared/corpus --clips 22

Takes the shortest clips of the split that last at least 4 s. Each is scored as a file; as arrays,
all frames with their stamps and the sound at 48 kHz; and as a stream, frames and 20-ms blocks of
samples pushed in the order in which they would come from a live input. Prints the three answers,
their largest difference, and of the stream the seconds until the first answer, how far estimates
were behind the newest frame (s), and the processor seconds that a second of media took.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avsync import SyncDetector
from avsync.media import iter_frames, read_audio

RATE = 48_000
BLOCK = 960


def live(frames: list[Any], sound: Any) -> Iterator[tuple[float, str, Any]]:
    """(time of arrival, "video" or "audio", what came): each when it is complete."""
    pictures = ((f.pts_seconds + f.duration_seconds, "video", i) for i, f in enumerate(frames))
    blocks = (
        (sound.start_s + min(i + BLOCK, len(sound.samples)) / RATE, "audio", i)
        for i in range(0, len(sound.samples), BLOCK)
    )
    return heapq.merge(pictures, blocks)


def streamed(detector: SyncDetector, frames: list[Any], sound: Any) -> dict[str, Any]:
    """The last estimate of a stream over the clip, and how the estimates came."""
    first, lags = None, []
    begun = time.process_time()
    with detector.stream(sample_rate=RATE) as stream:
        for _, kind, i in live(frames, sound):
            if kind == "video":
                found = stream.push_video(frames[i].image, frames[i].pts_seconds)
            else:
                block = sound.samples[i : i + BLOCK]
                found = stream.push_audio(block, sound.start_s + i / RATE)
            if found is not None and found.result.tracks:
                lags.append(found.latency_s)
                if found.offset_ms is not None and first is None:
                    first = found.time_s + found.latency_s - frames[0].pts_seconds
        last = stream.finish()
    work = time.process_time() - begun
    length = frames[-1].pts_seconds - frames[0].pts_seconds
    return {"offset": last.offset_ms, "first": first, "lags": lags, "work": work / length}


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--clips", type=int, default=22)
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.corpus / "index.jsonl").read_text().splitlines()]
    fit = [r for r in rows if r["split"] == options.split and r["duration_s"] >= 4]
    fit = sorted(fit, key=lambda r: r["duration_s"])[: options.clips]
    detector = SyncDetector(provider="cpu", threads=1)
    worst, lags, firsts, agree = 0.0, [], [], 0
    for row in fit:
        path = options.corpus / row["file"]
        frames, sound = list(iter_frames(path)), read_audio(path, sample_rate=RATE)
        file = detector.score(path).offset_ms
        arrays = detector.score_arrays(
            (f.image for f in frames),
            sound.samples,
            pts=[f.pts_seconds for f in frames],
            sample_rate=RATE,
            audio_start_s=sound.start_s,
        ).offset_ms
        flow = streamed(detector, frames, sound)
        answers = [file, arrays, flow["offset"]]
        known = [a for a in answers if a is not None]
        same = len(known) in (0, 3)
        gap = max(known) - min(known) if known else 0.0
        agree += same
        worst = max(worst, gap)
        lags += flow["lags"]
        firsts += [flow["first"]] if flow["first"] is not None else []
        print(
            f"{row['id']}  {row['duration_s']:.1f} s  {row['fps']:g} fps  "
            f"file {_text(file)}  arrays {_text(arrays)}  stream {_text(flow['offset'])}  "
            f"apart {gap:.2f} ms{'' if same else '  NOT ALL ANSWER'}  "
            f"first {_text(flow['first'])} s  {flow['work']:.2f} s/s",
            flush=True,
        )
    print(f"{len(fit)} clips: {agree} answered by all three or by none; worst {worst:.2f} ms apart")
    print(
        f"stream: first answer after {np.median(firsts):.1f} s (median), {max(firsts):.1f} s "
        f"at worst; behind the newest frame {np.median(lags):.2f} s (median), {max(lags):.2f} s"
    )


if __name__ == "__main__":
    main()
