"""Kill a batch with repairs again and again, resume it, and count what is left of everything.

    python benchmarks/batch_kill.py            # 60 files, kill -9 at 20 random moments

The files are trims of examples/talk.mp4 (every fourth put in sync first), no two alike. Each kill
comes at a random moment of the batch: after a share of the files is done and a random wait. After
each kill the results file and the copies are looked at, and at the end it must hold: every file
exactly once in the results, a whole copy of every file out of sync and nothing else in the folder
of copies, the inputs' hashes unchanged. Prints the counts; exit code 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import av

from avsync.repair import fix

TALK = Path(__file__).resolve().parent.parent / "examples" / "talk.mp4"


def trim(source: Path, out: Path, seconds: float, title: str) -> None:
    """Copy the packets of the first seconds."""
    with av.open(str(source)) as film, av.open(str(out), "w") as copy:
        copy.metadata["title"] = title
        places = {s.index: copy.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            if packet.dts is not None and packet.pts * packet.time_base < seconds:
                packet.stream = places[packet.stream.index]
                copy.mux(packet)


def make_inputs(folder: Path, count: int, seconds: float) -> list[Path]:
    """Trims in two sub-folders; every fourth is in sync."""
    folder.mkdir(parents=True)
    in_sync = folder.parent / "in_sync.mp4"
    fix(TALK, in_sync, offset_ms=120)
    paths = []
    for i in range(count):
        path = folder / ("a" if i % 2 else "b") / f"clip{i:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        trim(in_sync if i % 4 == 0 else TALK, path, seconds, f"clip {i}")
        paths.append(path)
    return paths


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def video_packets(path: Path) -> list[str]:
    """A hash per packet of the picture."""
    with av.open(str(path)) as film:
        packets = film.demux(film.streams.video[0])
        return [hashlib.sha256(bytes(p)).hexdigest() for p in packets if p.size]


def count_lines(results: Path) -> tuple[Counter[str], int]:
    """Whole lines by path, and the number of torn ones."""
    if not results.is_file():
        return Counter(), 0
    paths: Counter[str] = Counter()
    torn = 0
    for raw in results.read_bytes().splitlines(keepends=True):
        try:
            paths[json.loads(raw)["path"]] += raw.endswith(b"\n")
        except ValueError:
            torn += 1
    return paths, torn


def copies_under(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files under final names, and unfinished ones."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    unfinished = [p for p in files if any(q.startswith(".") for q in p.relative_to(folder).parts)]
    return [p for p in files if p not in unfinished], unfinished


def partial(copies: list[Path], base: Path, inputs: Path) -> list[Path]:
    """Copies whose picture is not, packet by packet, that of their input."""
    return [
        c
        for c in copies
        if not c.stat().st_size or video_packets(c) != video_packets(inputs / c.relative_to(base))
    ]


def main() -> int:
    """Kill, resume, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each clip")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        inputs, copies, results = room / "in", room / "fixed", room / "results.jsonl"
        paths = make_inputs(inputs, args.files, args.seconds)
        before = {p: digest(p) for p in paths}
        command = [sys.executable, "-m", "avsync", "batch", str(inputs), "-o", str(results)]
        command += ["--fix-dir", str(copies), "--jobs", str(args.jobs), "--threads", "1"]
        command += ["--resume"]
        wrong = 0
        print(
            f"{args.files} files of {args.seconds:g} s\n"
            f"{'kill':>25}  lines  torn  copies  unfinished  partial"
        )
        for kill in range(args.kills):
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            goal = min(kill * args.files // (args.kills + 1), args.files - 2)
            while process.poll() is None and sum(count_lines(results)[0].values()) < goal:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 4))
            ended = process.poll() is not None
            if chance.random() < 0.5:
                process.send_signal(signal.SIGKILL)  # the command alone: workers must notice
            elif not ended:
                os.killpg(process.pid, signal.SIGKILL)  # everything at once
            process.wait()
            time.sleep(1.0)
            lines, torn = count_lines(results)
            final, unfinished = copies_under(copies)
            broken = partial(final, copies, inputs)
            twice = [p for p, n in lines.items() if n > 1]
            wrong += len(broken) + len(twice) + (torn > 1)
            print(
                f"{kill + 1:>25}  {len(lines):5}  {torn:4}  {len(final):6}  {len(unfinished):10}  "
                f"{len(broken):7}" + (" (had ended)" if ended else ""),
                flush=True,
            )
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout + done.stderr, end="")
        lines, torn = count_lines(results)
        status = Counter(json.loads(line)["status"] for line in results.read_bytes().splitlines())
        final, unfinished = copies_under(copies)
        expected = {
            json.loads(line)["fix"]["out"]
            for line in results.read_bytes().splitlines()
            if (json.loads(line)["fix"] or {}).get("status") == "fixed"
        }
        checks = {
            "files exactly once in the results": (
                sum(lines[str(p)] == 1 for p in paths),
                len(paths),
            ),
            "lines in the results": (sum(lines.values()), len(paths)),
            "torn lines": (torn, 0),
            "out of sync and repaired": (len(expected), status["out_of_sync"]),
            "copies under their final names": (len(final), len(expected)),
            "copies that are expected and whole": (
                sum(str(p) in expected for p in final) - len(partial(final, copies, inputs)),
                len(expected),
            ),
            "unfinished files left over": (len(unfinished), 0),
            "inputs with the same hash": (sum(digest(p) == before[p] for p in paths), len(paths)),
            "faults seen after single kills": (wrong, 0),
        }
        for what, (found, right) in checks.items():
            print(f"{what}: {found} of {right}" + ("" if found == right else "  WRONG"))
        return int(any(found != right for found, right in checks.values()))


if __name__ == "__main__":
    sys.exit(main())
