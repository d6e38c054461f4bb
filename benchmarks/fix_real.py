"""Repair real clips whose sound was shifted by a known amount, and see what is left.

    python benchmarks/fix_real.py ../shared/corpus --json rows.jsonl

Every clip of the split of at least 4 s is written with its sound moved by each of SHIFTS_MS, exact
to the sample (FLAC; the picture's packets are copied), and given to ``avsync.fix`` without a
number, as a user would. Only the repaired file tells what is left: its sound is laid over that of
the clip (cross-correlation on samples), so what is printed does not rest on the detector that did
the repair. Clips known to be in sync are judged absolutely; of the others, which carry offsets of
their own, the clip's own offset as measured unshifted is taken off. Rows go to --json as they are
done; a run that is started again goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

import avsync
from avsync.media import DecodeStats, MediaInfo, read_audio

SHIFTS_MS = (-410.0, -93.0, 173.0, 389.0)
MIN_S = 4.0
RATE = 48_000
REACH_S = 1.2
LIMIT_MS = 40.0


class SeeingOnce(avsync.SyncDetector):
    """Follows the faces of a picture once, however many files carry it."""

    seen: tuple[str, Any, float | None, list[str]] = ("", None, None, [])

    def _see(
        self,
        path: str | Path,
        info: MediaInfo,
        stats: DecodeStats,
        progress: Callable[[float], None] | None,
        frames: Any = None,
    ) -> Any:
        picture = hashlib.sha256()
        with av.open(str(path)) as film:
            for packet in film.demux(film.streams.video[0]):
                if packet.size:
                    picture.update(f"{packet.pts} {packet.time_base} ".encode() + bytes(packet))
        if self.seen[0] != picture.hexdigest():
            own = DecodeStats()
            found = super()._see(path, info, own, progress)
            self.seen = (picture.hexdigest(), found, own.video_end_s, own.warnings)
        _, found, stats.video_end_s, warnings = self.seen
        for warning in warnings:
            stats.warn(warning)
        return found


def write_shifted(clip: Path, out: Path, delay_ms: float) -> None:
    """Write the clip with its sound later by ``delay_ms``; its picture is copied."""
    sound = read_audio(clip, sample_rate=RATE)
    n = round(delay_ms * RATE / 1000)
    samples = np.zeros_like(sound.samples)
    samples[max(0, n) : len(samples) + min(0, n)] = sound.samples[
        max(0, -n) : len(samples) - max(0, n)
    ]
    pcm = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
    begin = round(sound.start_s * RATE)
    if begin < 0:  # Matroska has no negative times
        pcm, begin = pcm[-begin:], 0
    with av.open(str(clip)) as film, av.open(str(out), "w") as made:
        picture = film.streams.video[0]
        shown = made.add_stream_from_template(picture)
        heard: Any = made.add_stream("flac", rate=RATE)
        heard.codec_context.layout = "mono"
        heard.codec_context.format = "s16"
        packets, now = [], -1.0
        for packet in film.demux(picture):
            if packet.size:
                packet.stream = shown
                if packet.dts is not None:
                    now = float(packet.dts * packet.time_base)
                packets.append((now, packet))
        for i in range(0, len(pcm), 4096):
            frame = av.AudioFrame.from_ndarray(
                pcm[None, i : i + 4096].copy(), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = RATE, begin + i
            frame.time_base = Fraction(1, RATE)
            packets += [(float(p.dts * p.time_base), p) for p in heard.encode(frame)]
        packets += [(float(p.dts * p.time_base), p) for p in heard.encode(None)]
        for _, packet in sorted(packets, key=lambda item: item[0]):
            made.mux_one(packet)


def sound_later_ms(before: Path, after: Path) -> float:
    """How much later the sound of ``after`` is, by the peak of the cross-correlation."""
    one, two = read_audio(before, sample_rate=RATE), read_audio(after, sample_rate=RATE)
    size = 1 << int(np.ceil(np.log2(len(one.samples) + len(two.samples))))
    product = np.fft.rfft(two.samples, size) * np.conj(np.fft.rfft(one.samples, size))
    meet = np.fft.irfft(product, size)
    reach = round(REACH_S * RATE)
    lags = np.r_[meet[-reach:], meet[: reach + 1]]
    return 1000 * (float(lags.argmax() - reach) / RATE + two.start_s - one.start_s)


def repair(
    clip: Path, row: dict[str, Any], own: float | None, shift: float, room: Path, detector: Any
) -> dict[str, Any]:
    """Shift, fix, look; the row of one try."""
    moved, out = room / "moved.mkv", room / "fixed.mkv"
    out.unlink(missing_ok=True)
    write_shifted(clip, moved, shift)
    found: dict[str, Any] = {
        "file": row["file"],
        "source": row["source"],
        "trusted": row["trusted_sync"],
        "shift_ms": shift,
        "own_ms": own,
        "left_ms": None,
    }
    try:
        done = avsync.fix(moved, out, detector=detector)
    except avsync.FixRefusedError as error:
        status = str(error.measured.status)
        return found | {"end": "refused", "status": status, "why": str(error)}
    except avsync.FixFailedError as error:
        return found | {"end": "failed", "status": None, "why": str(error)}
    measured = done.measured
    found |= {
        "end": done.status,
        "status": None if measured is None else str(measured.status),
        "offset_ms": done.offset_ms,
        "says_ms": done.residual_ms,
    }
    later = sound_later_ms(clip, out if done.out is not None else moved)
    truth = 0.0 if row["trusted_sync"] else own
    return found | {"later_ms": later, "left_ms": None if truth is None else truth - later}


def report(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title=f"fix without a number: sound shifted by {SHIFTS_MS} ms")
    for name in (
        "clips",
        "tries",
        "refused",
        "failed",
        "accepted",
        "within 40 ms",
        "median",
        "max",
    ):
        table.add_column(name)
    kinds = {
        "known to be in sync: absolute": [r for r in rows if r["trusted"]],
        "others: to the clip's own offset": [r for r in rows if not r["trusted"]],
        "all": rows,
    }
    for name, some in kinds.items():
        ends = Counter(r["end"] for r in some)
        left = np.abs([r["left_ms"] for r in some if r["left_ms"] is not None])
        good = int((left <= LIMIT_MS).sum())
        table.add_row(
            f"{name} ({len({r['file'] for r in some})})",
            str(len(some)),
            str(ends["refused"]),
            str(ends["failed"]),
            f"{ends['fixed']} fixed, {ends['already_in_sync']} left as in sync",
            f"{good} of {len(left)} ({100 * good / max(1, len(left)):.1f} %)",
            f"{np.median(left):.1f} ms" if len(left) else "-",
            f"{left.max():.1f} ms" if len(left) else "-",
        )
    console.print(table)
    reasons = Counter(r["status"] for r in rows if r["end"] == "refused")
    console.print("refused by status: " + ", ".join(f"{n} {s}" for s, n in reasons.most_common()))
    accepted = [r for r in rows if r["end"] in ("fixed", "already_in_sync")]
    blind = [r for r in accepted if r["left_ms"] is None]
    console.print(f"accepted, but the unshifted clip could not be judged: {len(blind)}")
    for row in accepted:
        if row["left_ms"] is not None and abs(row["left_ms"]) > LIMIT_MS:
            console.print(
                f"  {row['file']} shifted by {row['shift_ms']:+.0f}: {row['left_ms']:+.1f} ms left"
                f" ({row['status']}, {row['end']}, own offset {row['own_ms']})"
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default=None, help="model folder (default: the bundled one)")
    parser.add_argument("--limit", type=int, default=None, help="only the first N clips")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None, help="rows, a line each; goes on there")
    options = parser.parse_args()
    console = Console(width=150)
    index = (options.corpus / "index.jsonl").read_text("utf-8").splitlines()
    clips = [r for r in map(json.loads, index) if r["split"] == options.split]
    clips = [r for r in clips if r["duration_s"] >= MIN_S][: options.limit]
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        rows = [json.loads(line) for line in options.json.read_text("utf-8").splitlines()]
        rows = [r for r in rows if r["shift_ms"] in SHIFTS_MS]
    detector = SeeingOnce(options.model, threads=options.threads)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for number, row in enumerate(clips, 1):
            done = {r["shift_ms"]: r for r in rows if r["file"] == row["file"]}
            if len(done) == len(SHIFTS_MS):
                continue
            clip = options.corpus / row["file"]
            own = detector.score(clip).offset_ms
            for shift in SHIFTS_MS:
                if shift in done:
                    continue
                rows.append(repair(clip, row, own, shift, Path(name), detector))
                if options.json is not None:
                    with options.json.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
            print(f"{number}/{len(clips)} clips, {time.monotonic() - started:.0f} s", flush=True)
    report(rows, console)


if __name__ == "__main__":
    main()
