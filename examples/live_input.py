"""Monitor a live input: RTMP, UDP, SRT, a pipe; one JSON line a second on standard output.

    python examples/live_input.py udp://127.0.0.1:5000
    python examples/live_input.py rtmp://localhost/live/key --listen
    some-encoder | python examples/live_input.py -

Everything that ffmpeg opens can be given; ``-`` is standard input. Ends when the input ends, after
``--seconds``, or with Ctrl-C. Exit code 1 when the last estimate is out of sync.
"""

from __future__ import annotations

import argparse
import sys

import av

from avsync import Status, SyncDetector

parser = argparse.ArgumentParser(description="Monitor a live input.")
parser.add_argument("input", help="URL, file, or - for standard input")
parser.add_argument("--listen", action="store_true", help="wait for a sender (RTMP, TCP)")
parser.add_argument("--seconds", type=float, default=None, help="stop after so much media")
parser.add_argument("--tolerance", default="ebu")
parser.add_argument("--wait", type=float, default=10.0, help="seconds without data: the end")
options = parser.parse_args()

source = sys.stdin.buffer if options.input == "-" else options.input
flags = {"listen": "1"} if options.listen else {}
detector = SyncDetector(tolerance=options.tolerance)
first = None
try:
    with (
        av.open(source, options=flags, timeout=(None, options.wait)) as container,
        detector.stream(name=options.input) as stream,
    ):
        wanted = [*container.streams.video[:1], *container.streams.audio[:1]]
        try:
            for packet in container.demux(*wanted):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:  # begun in the middle, or a packet was lost
                    continue
                for frame in frames:
                    estimate = stream.push_frame(frame)
                    first = frame.time if first is None else first
                    if estimate is not None:
                        print(estimate.model_dump_json(), flush=True)
                newest = frames[-1].time if frames else None
                if options.seconds and newest and newest - (first or 0.0) > options.seconds:
                    break
        except (av.ExitError, av.TimeoutError, KeyboardInterrupt):
            pass  # nothing came for a while, or somebody stopped us: say what is known
        last = stream.finish()
        print(last.model_dump_json())
except av.FFmpegError as err:
    sys.exit(f"{options.input}: cannot be opened ({err.strerror})")
sys.exit(1 if last.status is Status.out_of_sync else 0)
