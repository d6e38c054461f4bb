"""Whether the memory of a stream stays flat: a clip looped for half an hour of media.

    python benchmarks/stream_memory.py examples/talk.mp4 --minutes 30

Pushes the clip's decoded frames and sound again and again, their stamps going on, faster than
real time where the machine can. Prints the process's resident memory each minute of media, and at
the end how much it grew from the fifth minute on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from avsync import SyncDetector
from avsync.media import iter_frames, read_audio

RATE = 48_000
BLOCK = 4_800
SETTLED = 5


def resident_mib() -> float:
    """Resident memory of this process, MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    frames, sound = list(iter_frames(options.clip)), read_audio(options.clip, sample_rate=RATE)
    length = frames[-1].pts_seconds + frames[-1].duration_seconds - frames[0].pts_seconds
    samples = sound.samples[: round(length * RATE)]
    begun, printed, found = time.monotonic(), -1, []
    with SyncDetector(provider="cpu", threads=1).stream(sample_rate=RATE) as stream:
        base, at = 0.0, 0
        while base < options.minutes * 60:
            for frame in frames:
                pts = base + frame.pts_seconds - frames[0].pts_seconds
                estimate = stream.push_video(frame.image, pts) or None
                while at < len(samples) and at / RATE <= pts - base:
                    block = samples[at : at + BLOCK]
                    when = base + at / RATE + sound.start_s - frames[0].pts_seconds
                    estimate = stream.push_audio(block, when) or estimate
                    at += BLOCK
                if estimate is not None and int(estimate.time_s // 60) > printed:
                    printed = int(estimate.time_s // 60)
                    found.append(resident_mib())
                    print(
                        f"{estimate.time_s / 60:5.1f} min  {found[-1]:7.1f} MiB  "
                        f"{time.monotonic() - begun:6.0f} s  {estimate.describe()}",
                        flush=True,
                    )
            base, at = base + length, 0
    print(f"{resident_mib():.1f} MiB at the end")
    if len(found) > SETTLED:
        print(f"grew by {found[-1] - found[SETTLED]:+.1f} MiB from minute {SETTLED} on")


if __name__ == "__main__":
    main()
