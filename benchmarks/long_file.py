"""An hour with a known offset, with a jump of 200 ms, and with a drift of 100 ms an hour.

    python benchmarks/long_file.py ../shared/corpus                 # 60 min; add --exhaustive

Films are made by benchmarks/films.py by looping dev clips whose own offset is known to be none;
the sound leads by 120 ms throughout, by 80 ms and from 37 min on by 280 ms, or by 60 ms growing to
160 ms. Each is scored anytime, and with --exhaustive in full as well (some minutes each). Exit code
1 when an answer is wrong: an offset off by more than 40 ms (20 ms from the exhaustive one), a jump
off by more than 30 s in time, a drift of the wrong sign or half its size.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from films import Lead, film
from rich.console import Console
from rich.table import Table

from avsync import SyncDetector, SyncResult

JUMP_AT = 0.617
DRIFT_MS_PER_H = 100.0


def leads(seconds: float) -> dict[str, Lead]:
    """The films' leads (s) over time (s)."""
    return {
        "offset": lambda t: np.full_like(t, 0.120),
        "jump": lambda t: np.where(t < JUMP_AT * seconds, 0.080, 0.280),
        "drift": lambda t: 0.060 + DRIFT_MS_PER_H / 1000 * t / 3600,
    }


def wrong(kind: str, result: SyncResult, seconds: float) -> str:
    """What is wrong about a result; "" when nothing is."""
    if result.offset_ms is None:
        return "not judged"
    if kind == "offset":
        return "" if abs(result.offset_ms - 120) <= 40 and len(result.segments) == 1 else "offset"
    if kind == "jump":
        if len(result.segments) != 2:
            return f"{len(result.segments)} segments"
        before, after = result.segments
        off = max(abs(before.offset_ms - 80), abs(after.offset_ms - 280))
        place = JUMP_AT * seconds
        near = before.end_s - 30 <= place <= after.start_s + 30
        return "" if off <= 40 and near and after.start_s - before.end_s < 60 else "jump"
    drift = result.drift_ms_per_min
    if drift is None:
        return "no drift"
    return (
        "" if abs(drift * 60 - DRIFT_MS_PER_H) <= DRIFT_MS_PER_H / 2 else f"drift {drift * 60:.0f}"
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--kinds", nargs="+", default=["offset", "jump", "drift"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--exhaustive", action="store_true", help="score in full as well")
    options = parser.parse_args()
    seconds = 60 * options.minutes
    table = Table(title=f"{options.minutes:g} min, {options.height}p")
    for column in ("film", "way", "looked at", "clock s", "processor s", "answer", "wrong"):
        table.add_column(column)
    failed = False
    for kind in options.kinds:
        path = film(
            options.corpus,
            height=options.height,
            seconds=seconds,
            lead=leads(seconds)[kind],
            name=kind,
            codec="flac",
        )
        answers = []
        for exhaustive in [False, True][: 1 + options.exhaustive]:
            detector = SyncDetector(threads=options.threads, exhaustive=exhaustive)
            wall, cpu = time.perf_counter(), time.process_time()
            result = detector.score(path)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            fault = wrong(kind, result, seconds)
            answers.append(result.offset_ms)
            if None not in answers and abs(answers[0] - answers[-1]) > 20:
                fault += " 20 ms from the other"
            failed |= bool(fault)
            said = result.describe() + "".join(
                f"\n{s.start_s:.0f}-{s.end_s:.0f} s: {s.offset_ms:+.0f} ms" for s in result.segments
            )
            looked = "all" if result.looked_at_s is None else f"{result.looked_at_s:.0f} s"
            way = "exhaustive" if exhaustive else "anytime"
            table.add_row(kind, way, looked, f"{wall:.0f}", f"{cpu:.0f}", said, fault)
    Console(width=150).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
