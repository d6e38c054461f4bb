"""Watch a file as if it were live, and print an estimate a second.

    python examples/live_file.py examples/talk.mp4              # at the file's own pace
    python examples/live_file.py examples/talk.mp4 --speed 0    # as fast as it goes

What a monitor in a broadcast chain would do with its own frames and samples: they are pushed in
the order of their times, and :class:`avsync.StreamEstimate` says where sound and lips stand now.
"""

from __future__ import annotations

import argparse
import time

import av

from avsync import SyncDetector

parser = argparse.ArgumentParser(description="Watch a file as if it were live.")
parser.add_argument("file")
parser.add_argument("--speed", type=float, default=1.0, help="1 is real time, 0 no waiting")
options = parser.parse_args()

with (
    av.open(options.file) as container,
    SyncDetector().stream(horizon_s=30, name=options.file) as stream,
):
    begun, first = time.monotonic(), None
    wanted = [*container.streams.video[:1], *container.streams.audio[:1]]
    for frame in container.decode(*wanted):
        if frame.time is None:
            continue
        first = frame.time if first is None else first
        if options.speed > 0:
            due = begun + (frame.time - first) / options.speed
            time.sleep(max(0.0, due - time.monotonic()))
        estimate = stream.push_frame(frame)
        if estimate is not None:
            print(
                f"{estimate.time_s:7.2f} s  {estimate.describe()}  "
                f"({estimate.latency_s:.1f} s behind)",
                flush=True,
            )
    print(f"at the end  {stream.finish().describe()}")
