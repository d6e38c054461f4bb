"""Accuracy on real talking faces that the model never saw.

    python benchmarks/accuracy.py ../shared/corpus --split dev
    python benchmarks/accuracy.py ../shared/corpus --by length --curves failures.png

Prints, by source and with the count of clips:

1. the published window protocol on clips known to be in sync (K = 5 … 15 frames, ±1 frame, mean
   over clips), with tokens that see 5 frames only, and with all tokens;
2. whole clips as they are: offset within ±40 ms of zero on those known to be in sync (>= 3 s);
3. whole clips with the sound shifted by -330, -90, +170 and +410 ms, exact to the sample: the
   answer must move by that shift within 40 ms (clips >= 4 s);
4. the sound of another clip in place of a clip's own: how often an offset is claimed all the same.

With ``--by length`` also stretches of 1, 2, 4 and 8 s, by length, and by face and source
(benchmarks/groups.py); ``--curves`` draws the scores of some right, abstained and wrong answers.

The picture is followed once a clip; each shifted sound is written to a file and heard through the
product's own path.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import wave
from collections import defaultdict
from pathlib import Path
from typing import Any

import groups
import numpy as np
from rich.console import Console
from rich.progress import track as progress_track
from rich.table import Table

from avsync import SyncDetector, SyncResult
from avsync.faces import mouth_chunks
from avsync.media import DecodeStats, iter_grid_frames, probe, read_audio
from avsync.protocol import FRAME_COUNTS as WINDOWS
from avsync.protocol import clip_accuracy, token_rows
from avsync.watch import see_crops
from avsync.whole import judged

SHIFTS_MS = (-330, -90, 170, 410)


def write_shifted(path: Path, out: Path, delay_ms: float) -> None:
    """Write the clip's sound (48 kHz, 16 bit) later by ``delay_ms``, same start and length."""
    sound = read_audio(path, sample_rate=48_000)
    n = round(delay_ms * 48)
    samples = np.zeros_like(sound.samples)
    if n >= 0:
        samples[n:] = sound.samples[: len(samples) - n]
    else:
        samples[:n] = sound.samples[-n:]
    pcm = (np.clip(samples, -1, 1) * 32767).round().astype("<i2")
    with wave.open(str(out), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(pcm.tobytes())


class Clip:
    """One clip, its picture followed once."""

    def __init__(self, detector: SyncDetector, path: Path, row: dict[str, Any]) -> None:
        self.detector, self.path, self.row = detector, path, row
        self.stats = DecodeStats()
        self.info = probe(path)
        frames = iter_grid_frames(path, stats=self.stats)
        self.chunks = list(mouth_chunks(frames, crops=detector.engine.crops))
        self.tracks, self.sights = see_crops(detector.engine, self.chunks)

    def heard(self, path: Path) -> tuple[Any, SyncResult]:
        """Tokens of the sound in ``path`` and the result with it."""
        audio, speech_s = self.detector._hear(path, None, DecodeStats())
        common = {
            "path": str(self.path),
            "model": self.detector.engine.name,
            "tolerance": self.detector.tolerance,
            "duration_s": self.info.duration_s,
        }
        seen = self.tracks, self.sights
        return audio, judged(self.detector, *seen, audio, speech_s, common)


def protocol(clip: Clip, audio: Any, width: int) -> dict[int, float] | None:
    """Published accuracy of one clip by K with the first ``width`` numbers of the tokens."""
    if not clip.tracks:
        return None
    track = max(clip.tracks, key=lambda t: len(t.tokens))
    return clip_accuracy(token_rows(track, audio, width))


def measure(
    clips: list[Clip], console: Console, scratch: Path
) -> tuple[dict[str, dict[str, list[Any]]], list[SyncResult]]:
    """All figures, per source, and the results of the clips as they are."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    width = clips[0].detector.engine.model.card.local_dim
    results = []
    for i, clip in enumerate(progress_track(clips, "measuring", console=console)):
        row = found[clip.row["source"].split("/")[0]]
        audio, plain = clip.heard(clip.path)
        results.append(plain)
        row["clips"].append(1)
        if clip.row["trusted_sync"]:
            for name, size in (("local", width), ("all", audio.tokens.shape[1])):
                figures = protocol(clip, audio, size)
                if figures is not None:
                    row[f"protocol {name}"].append(figures)
        if clip.row["trusted_sync"] and clip.row["duration_s"] >= 3:
            row["in sync"].append(plain.offset_ms)
        if clip.row["duration_s"] >= 4:
            for shift in SHIFTS_MS:
                shifted = scratch / "shifted.wav"
                write_shifted(clip.path, shifted, shift)
                _, moved = clip.heard(shifted)
                asked = plain.offset_ms is not None and moved.offset_ms is not None
                row["answered"].append(asked)
                if plain.offset_ms is not None and moved.offset_ms is not None:
                    # later sound: the audio leads by less
                    row["moved error"].append(moved.offset_ms - plain.offset_ms + shift)
        if i:
            false = clips[i - 1]
            _, other = clip.heard(false.path)
            row["mismatched"].append(other.status.value)
    return found, results


def _share(values: list[Any], test: Any) -> str:
    return f"{100 * sum(map(test, values)) / len(values):.1f}" if values else "-"


def report(found: dict[str, dict[str, list[Any]]], console: Console) -> dict[str, Any]:
    """Print the tables; returns the totals."""
    total: dict[str, list[Any]] = defaultdict(list)
    for row in found.values():
        for name, values in row.items():
            total[name] += values
    table = Table(title="window protocol on clips known to be in sync (% within ±1 frame)")
    for column in ("source", "clips", "tokens", *(f"K={k}" for k in WINDOWS)):
        table.add_column(column)
    for source, row in [*sorted(found.items()), ("all", total)]:
        for name in ("local", "all"):
            rows = row.get(f"protocol {name}", [])
            if rows:
                means = [f"{100 * float(np.mean([r[k] for r in rows])):.1f}" for k in WINDOWS]
                table.add_row(source, str(len(rows)), name, *means)
    console.print(table)
    whole = Table(title="whole clips")
    for column in (
        "source",
        "clips",
        "in sync >=3s",
        "answered %",
        "within 40ms %",
        "shifted >=4s",
        "answered %",
        "moved right %",
        "median |err| ms",
        "mismatched",
        "claimed %",
    ):
        whole.add_column(column)
    for source, row in [*sorted(found.items()), ("all", total)]:
        answered = [v for v in row.get("in sync", []) if v is not None]
        errors = row.get("moved error", [])
        whole.add_row(
            source,
            str(len(row["clips"])),
            str(len(row.get("in sync", []))),
            _share(row.get("in sync", []), lambda v: v is not None),
            _share(answered, lambda v: abs(v) <= 40),
            str(len(row.get("answered", []))),
            _share(row.get("answered", []), bool),
            _share(errors, lambda e: abs(e) <= 40),
            f"{np.median(np.abs(errors)):.1f}" if errors else "-",
            str(len(row.get("mismatched", []))),
            _share(row.get("mismatched", []), lambda s: s in ("in_sync", "out_of_sync", "drift")),
        )
    console.print(whole)
    return {
        "clips": len(total["clips"]),
        "protocol_local": {
            k: float(np.mean([r[k] for r in total["protocol local"]])) for k in WINDOWS
        },
        "in_sync": list(total["in sync"]),
        "answered": float(np.mean(total["answered"])),
        "moved_right": float(np.mean([abs(e) <= 40 for e in total["moved error"]])),
        "mismatched": total["mismatched"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--model", default=None, help="model folder (default: the bundled one)")
    parser.add_argument("--limit", type=int, default=None, help="only the first N clips")
    parser.add_argument("--by", choices=["length"], help="tables by group as well")
    parser.add_argument("--curves", type=Path, help="draw curves of some answers here (PNG)")
    parser.add_argument("--json", type=Path, default=None, help="write the totals here")
    options = parser.parse_args()
    if options.curves and not options.by:
        parser.error("--curves goes with --by length")
    console = Console(width=170)
    rows = [json.loads(line) for line in (options.corpus / "index.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["split"] == options.split][: options.limit]
    detector = SyncDetector(options.model)
    clips = [
        Clip(detector, options.corpus / r["file"], r)
        for r in progress_track(rows, "following faces", console=console)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        found, results = measure(clips, console, Path(scratch))
    totals = report(found, console)
    if options.by:
        stretches = groups.answers(list(zip(clips, results, strict=True)), console)
        totals["groups"] = groups.tables(stretches, console)
        if options.curves:
            groups.draw(stretches, options.curves)
    if options.json:
        options.json.write_text(json.dumps(totals, indent=1) + "\n")


if __name__ == "__main__":
    main()
