"""Peak memory of scoring a short and a long file of the same picture, and of a 4K one.

    python benchmarks/memory.py ../shared/corpus                       # 1080p, 1 min and 60 min
    python benchmarks/memory.py ../shared/corpus --minutes 1 10 --heights 720 1080 2160

The films are made by benchmarks/films.py. Each is scored whole (exhaustive) by a process of its
own, as ``avsync score`` does; the figure is the process's peak resident set. Exit code 1 when the
longest takes over 10 % more than the shortest, or 1080p over 700 MB.
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
import re, sys
from pathlib import Path
from avsync import SyncDetector
result = SyncDetector(provider="cpu", exhaustive=True).score(sys.argv[1])
peak = re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(int(peak[1]) / 1024, result.describe(), sep="|")
"""
MOST_MB, GROWTH = 700.0, 1.1


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60])
    parser.add_argument("--heights", type=int, nargs="+", default=[1080])
    options = parser.parse_args()
    table = Table(title="peak resident set, MB")
    for column in ("film", "MB", "answer"):
        table.add_column(column)
    failed = False
    for height in options.heights:
        peaks = []
        for minutes in options.minutes:
            path = film(
                options.corpus, height=height, seconds=60 * minutes, round_s=min(60.0, 60 * minutes)
            )
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(path)], check=True, capture_output=True, text=True
            )
            peak, said = done.stdout.splitlines()[-1].split("|")
            peaks.append(float(peak))
            table.add_row(f"{height}p, {minutes:g} min", f"{float(peak):.0f}", said)
        failed |= peaks[-1] > GROWTH * peaks[0] or (height <= 1080 and max(peaks) > MOST_MB)
    Console(width=120).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
