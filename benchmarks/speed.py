"""How fast a file is scored, stage by stage, against ``ffmpeg -f null`` on the same file and cores.

    python benchmarks/speed.py ../shared/corpus                                # 720p, 30 s
    python benchmarks/speed.py ../shared/corpus --heights 720 1080 --seconds 30 600 --threads 1 2

The films are made by benchmarks/films.py. Each is scored whole (exhaustive) by a process of its
own and decoded by ffmpeg, in turns in one run; both are kept to as many cores as threads. Times
are the processor's (user and system, of all threads), and by the clock; the ratio to ffmpeg by the
processor's time holds on a busy machine too, the one by the clock on a quiet one only. Shares are
measured with one thread, and leave out the start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from films import film
from rich.console import Console
from rich.table import Table


def keep_to(threads: int) -> None:
    """Run this process on the first ``threads`` of its cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def child(path: str, threads: int) -> None:
    """Score one file and print what it took, as JSON."""
    from stages import Stages

    from avsync import SyncDetector
    from avsync._process import begin_process

    begin_process()  # as the avsync command does
    keep_to(threads)
    detector = SyncDetector(provider="cpu", threads=threads, exhaustive=True)
    talk = Path(__file__).parents[1] / "examples" / "talk.mp4"
    detector.score(talk)  # loads libraries and models
    stages = Stages()
    wall, cpu = time.perf_counter(), time.process_time()
    if threads == 1:
        with stages:
            result = detector.score(path)
    else:
        result = detector.score(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        json.dumps(
            {"wall": wall, "cpu": cpu, "said": result.describe(), "stages": dict(stages.seconds)}
        )
    )


def decoded(path: Path, threads: int) -> dict[str, float]:
    """What ffmpeg takes to decode all of a file."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    subprocess.run(
        ["ffmpeg", "-v", "error", "-threads", str(threads), "-i", str(path), "-f", "null", "-"],
        check=True,
        preexec_fn=lambda: keep_to(threads),
    )
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def scored(path: Path, threads: int) -> dict[str, Any]:
    """What avsync takes, by a process of its own."""
    command = [sys.executable, __file__, "--child", str(path), "--threads", str(threads)]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as the avsync command has it
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?", help="folder with index.jsonl")
    parser.add_argument("--heights", type=int, nargs="+", default=[720])
    parser.add_argument("--seconds", type=int, nargs="+", default=[30])
    parser.add_argument("--mbit", type=float, default=0.0, help="a camera's noise at this bit rate")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=2, help="the fastest counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.threads[0])
        return 0
    if options.corpus is None:
        parser.error("give the corpus")
    if shutil.which("ffmpeg") is None:
        print("ffmpeg is not installed (Debian: apt-get install ffmpeg)")
        return 2
    console = Console(width=150)
    speed = Table(title="x real time, and as a share of ffmpeg's speed of decoding")
    for column in ("film", "threads", "x real time", "ffmpeg, x", "of ffmpeg", "by the clock"):
        speed.add_column(column)
    shares = Table(title="share of the processor's time, % (ms a second of film), one thread")
    for column in ("film", "stage", "share", "ms/s"):
        shares.add_column(column)
    for height in options.heights:
        for seconds in options.seconds:
            path = film(
                options.corpus,
                height=height,
                seconds=seconds,
                round_s=min(120.0, seconds),
                mbit=options.mbit,
            )
            rate = f"{height}p {seconds} s, {path.stat().st_size * 8e-6 / seconds:.1f} Mbit/s"
            for threads in options.threads:
                runs = [
                    (scored(path, threads), decoded(path, threads)) for _ in range(options.repeats)
                ]
                ours = min((r[0] for r in runs), key=lambda r: r["cpu"])
                theirs = min(r[1]["cpu"] for r in runs)
                clock = min(r[1]["wall"] for r in runs) / min(r[0]["wall"] for r in runs)
                speed.add_row(
                    rate,
                    str(threads),
                    f"{seconds / ours['cpu']:.1f}",
                    f"{seconds / theirs:.1f}",
                    f"{theirs / ours['cpu']:.2f}",
                    f"{clock:.2f}",
                )
                for stage, spent in sorted(ours["stages"].items(), key=lambda s: -s[1]):
                    row = (
                        stage,
                        f"{100 * spent / ours['cpu']:.1f}",
                        f"{1e3 * spent / seconds:.1f}",
                    )
                    shares.add_row(rate, *row)
                console.print(f"{rate}, {threads} threads: {ours['said']}")
    console.print(speed)
    console.print(shares)
    return 0


if __name__ == "__main__":
    sys.exit(main())
