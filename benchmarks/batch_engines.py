"""The same batch with worker processes and with Ray: the same results? And how fast is each?

    python benchmarks/batch_engines.py             # 200 clips, 2 workers

The clips are trims of examples/talk.mp4, half of them put in sync first; times include the start
of the workers. Prints a row per engine; exit code 1 if a result differs. Without Ray it says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path

from batch_kill import TALK, trim

from avsync import BatchItem, score_many
from avsync.repair import fix


def main() -> int:
    """Run both, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each clip")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    engines = ["local"]
    if importlib.util.find_spec("ray") is not None:
        engines.append("ray")
    else:
        print("Ray is not installed: pip install 'avsync[ray]'")
    with tempfile.TemporaryDirectory() as name:
        in_sync = Path(name) / "in_sync.mp4"
        fix(TALK, in_sync, offset_ms=120)
        clips = Path(name) / "clips"
        clips.mkdir()
        for i in range(args.files):
            length = args.seconds + 0.04 * (i % 25)
            trim(in_sync if i % 2 else TALK, clips / f"{i:04d}.mp4", length, f"clip {i}")
        found: dict[str, dict[str, BatchItem]] = {}
        print(f"{args.files} clips, {args.jobs} workers")
        print("engine  seconds  files/s  x real time  offsets")
        for engine in engines:
            started = time.monotonic()
            items = score_many([clips], jobs=args.jobs, threads=1, engine=engine)
            done = found[engine] = {item.path: item for item in items}
            took = time.monotonic() - started
            results = [item.result for item in done.values() if item.result is not None]
            speed = sum(result.duration_s or 0 for result in results) / took
            judged = sum(result.offset_ms is not None for result in results)
            print(
                f"{engine:6}  {took:7.1f}  {len(done) / took:7.2f}  {speed:11.1f}  {judged:7}",
                flush=True,
            )
    base = found["local"]
    differ = {
        engine: sum(items[path].result != item.result for path, item in base.items())
        for engine, items in found.items()
    }
    for engine in engines[1:]:
        print(f"results of {engine} that differ from local: {differ[engine]} of {len(base)}")
    return int(any(differ.values()))


if __name__ == "__main__":
    sys.exit(main())
