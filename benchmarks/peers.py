"""Time any other tool on the same files as avsync, in turns, and print the ratio.

    python benchmarks/peers.py FILE... --peer 'NAME=COMMAND {file}' [--peer ...] [--threads 1]

COMMAND is split as a shell would and run without one; ``{file}`` stands for the file. Its output
is shown on request (--show) and not read: how right a peer is, is for benchmarks/accuracy.py. Both
sides start a process for each file, and are kept to the first --threads cores. avsync runs as
``python -m avsync score --exhaustive``. Exit code 1 when a peer's command fails.

    python benchmarks/peers.py talk.mp4 --peer 'decode=ffmpeg -v error -i {file} -f null -'
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def run(command: list[str], threads: int, show: bool) -> tuple[float, float, int]:
    """Seconds by the clock, of the processor, and the exit code of one command."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    done = subprocess.run(
        command,
        stdout=None if show else subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        check=False,
    )
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.returncode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--peer", action="append", required=True, metavar="NAME=COMMAND {file}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="in turns; the fastest counts")
    parser.add_argument("--show", action="store_true", help="show what the commands print")
    options = parser.parse_args()
    ours = [sys.executable, "-m", "avsync", "score", "{file}", "--exhaustive"]
    commands = {"avsync": [*ours, "--threads", str(options.threads)]}
    for peer in options.peer:
        name, _, command = peer.partition("=")
        if "{file}" not in command:
            parser.error(f"--peer {peer!r}: give NAME=COMMAND with {{file}} in it")
        commands[name] = shlex.split(command)
    table = Table(title=f"{options.threads} cores; avsync's time divided by the peer's")
    for column in ("file", "tool", "clock s", "processor s", "clock ratio", "processor ratio"):
        table.add_column(column)
    failed = False
    for file in options.files:
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.repeats):
            for name, command in commands.items():
                filled = [part.replace("{file}", str(file)) for part in command]
                wall, cpu, code = run(filled, options.threads, options.show)
                if code and (name != "avsync" or code not in (0, 3)):
                    print(f"{name} ended with {code} on {file}", file=sys.stderr)
                    failed = True
                old = best.get(name, (wall, cpu))
                best[name] = (min(old[0], wall), min(old[1], cpu))
        for name, (wall, cpu) in best.items():
            ratios = [
                f"{best['avsync'][0] / wall:.2f}",
                f"{best['avsync'][1] / max(cpu, 1e-3):.2f}",
            ]
            table.add_row(file.name, name, f"{wall:.1f}", f"{cpu:.1f}", *ratios)
    Console(width=140).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
