"""Peak memory of scoring a short and a long film of the same picture, and of a 4K one.

    python benchmarks/memory.py ../shared/corpus                   # 1080p 1 and 60 min, 4K 15 s
    python benchmarks/memory.py ../shared/corpus --films 360:1 360:60 --anytime

The films (HEIGHT:MINUTES) are made by benchmarks/films.py. Each is scored by a process of its own,
as ``avsync score`` does with two cores or more, all of it looked at, or with ``--anytime`` a long
one here and there; the figure is the process's peak resident set. Exit code 1 when the longest of a
height takes over 10 % more than the shortest, or 1080p over 700 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from films import film
from rich.console import Console
from rich.table import Table

#: VmHWM begins anew with a program; getrusage's peak would be that of the process that forked it.
CHILD = """
import re, sys, time
from pathlib import Path
from avsync._process import begin_process
begin_process()
from avsync import SyncDetector
detector = SyncDetector(provider="cpu", exhaustive=sys.argv[2] == "all")
detector.overlap = True
start = time.process_time()
result = detector.score(sys.argv[1])
peak = re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(int(peak[1]) / 1024, time.process_time() - start, result.describe(), sep="|")
"""
MOST_MB, GROWTH = 700.0, 1.1


def kind(text: str) -> tuple[int, float]:
    """Height and minutes of ``1080:10``."""
    height, _, minutes = text.partition(":")
    return int(height), float(minutes)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    films = [(1080, 1.0), (1080, 60.0), (2160, 0.25)]
    parser.add_argument("--films", type=kind, nargs="+", default=films, metavar="HEIGHT:MINUTES")
    parser.add_argument("--anytime", action="store_true", help="look here and there at long films")
    options = parser.parse_args()
    table = Table(title="peak resident set, " + ("anytime" if options.anytime else "exhaustive"))
    for column in ("film", "MB", "processor s", "answer"):
        table.add_column(column)
    peaks: dict[int, list[float]] = {}
    for height, minutes in sorted(options.films):
        seconds = 60 * minutes
        path = film(options.corpus, height=height, seconds=seconds, round_s=min(60.0, seconds))
        command = [sys.executable, "-c", CHILD, str(path), "part" if options.anytime else "all"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, cpu, said = done.stdout.splitlines()[-1].split("|")
        peaks.setdefault(height, []).append(float(peak))
        table.add_row(
            f"{height}p, {minutes:g} min", f"{float(peak):.0f}", f"{float(cpu):.0f}", said
        )
    Console(width=120).print(table)
    grown = any(found[-1] > GROWTH * found[0] for found in peaks.values())
    return int(grown or max(peaks.get(1080, [0.0])) > MOST_MB)


if __name__ == "__main__":
    sys.exit(main())
