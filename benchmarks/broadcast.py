"""Broadcast and archive forms: what interlacing, odd pixels and their containers do to an answer.

    python benchmarks/broadcast.py ../shared/corpus --clips 10

Needs the ffmpeg command. Dev clips of 25 frames a second that are known to be in sync are put into
a picture of 1024 x 576, which ffmpeg's motion interpolation brings to 50 a second: a new picture
each 20 ms, as a camera's fields have. Of it each form is made, the sound moved by SHIFT_MS, and
given to ``avsync.fix`` without a number. Printed are, against the progressive film of the same
clip, by how much the measured offset differs (an interlaced picture shows what comes up to 20 ms
after its time stamp, half of it: 10 ms on the mean), and what is left in the repaired file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import avsync

SHIFT_MS = 237
MIN_S = 3.2
MPEG2 = ("-c:v", "mpeg2video", "-b:v", "8M")
FIELDS = ("-flags", "+ildct+ilme")
MP2 = ("-c:a", "mp2", "-b:a", "256k")
PCM = ("-c:a", "pcm_s24le", "-ac", "2")
STILL = "fps=25:round=near"
TOP, BOTTOM = "tinterlace=interleave_top", "tinterlace=interleave_bottom"
WIDE = "setsar=64/45"


class Form(NamedTuple):
    """How a film is made of one with 50 pictures a second; ``ending`` chooses the container."""

    name: str
    ending: str
    filters: str
    codecs: tuple[str, ...]


FORMS = (
    Form("progressive, H.264", "mkv", STILL, ("-c:v", "libx264", "-crf", "18", *PCM)),
    Form("interlaced, top first, MPEG-2", "ts", TOP, (*MPEG2, *FIELDS, "-top", "1", *MP2)),
    Form("interlaced, bottom first, MPEG-2", "ts", BOTTOM, (*MPEG2, *FIELDS, "-top", "0", *MP2)),
    Form(
        "DV: 720 x 576 for 16:9, bottom first",
        "mov",
        f"scale=720:576:flags=lanczos,{BOTTOM},{WIDE},setfield=bff",
        ("-pix_fmt", "yuv420p", "-c:v", "dvvideo", "-c:a", "pcm_s16le", "-ac", "2"),
    ),
    Form(
        "720 x 576 for 16:9, progressive",
        "mp4",
        f"{STILL},scale=720:576:flags=lanczos,{WIDE}",
        ("-c:v", "libx264", "-crf", "18", "-c:a", "aac"),
    ),
    Form(
        "telecined to 29.97 from 23.976",
        "ts",
        "fps=24000/1001,telecine",
        (*MPEG2, *FIELDS, *MP2),
    ),
    Form(
        "XDCAM: 1080i, MPEG-2 4:2:2, MXF",
        "mxf",
        f"scale=1920:1080,{TOP},format=yuv422p",
        ("-c:v", "mpeg2video", "-b:v", "50M", *FIELDS, "-top", "1", *PCM),
    ),
    Form("interlaced, MPEG program stream", "mpg", TOP, (*MPEG2, *FIELDS, "-top", "1", *MP2)),
    Form("Windows Media", "wmv", STILL, ("-c:v", "wmv2", "-b:v", "4M", "-c:a", "wmav2")),
)


def ffmpeg(*args: object) -> None:
    """Run it, errors to the terminal."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, args)], check=True)


def chosen(corpus: Path, clips: int) -> list[Path]:
    """Spread over the dev clips that fit."""
    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    fit = [
        corpus / r["file"]
        for r in rows
        if r["split"] == "dev" and r["trusted_sync"] and r["duration_s"] >= MIN_S and r["fps"] == 25
    ]
    return fit[:: max(1, len(fit) // clips)][:clips]


def main() -> None:
    """Make the films, score and repair them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=10)
    args = parser.parse_args()
    detector = avsync.SyncDetector(exhaustive=True)
    found: dict[str, list[tuple[float | None, float | None]]] = {f.name: [] for f in FORMS}
    clips = chosen(args.corpus, args.clips)
    with tempfile.TemporaryDirectory() as folder:
        base, film = Path(folder, "base.mkv"), Path(folder, "film")
        for clip in track(clips, "films"):
            ffmpeg(
                *("-i", clip, "-t", "6", "-vf"),
                "scale=340:340:flags=lanczos,pad=1024:576:342:118:gray,minterpolate=fps=50",
                *("-af", f"adelay={SHIFT_MS}:all=1", "-c:v", "ffv1", "-c:a", "pcm_s24le", base),
            )
            for form in FORMS:
                made = film.with_suffix(f".{form.ending}")
                ffmpeg("-i", base, "-vf", form.filters, *form.codecs, "-ar", "48000", made)
                found[form.name].append(repaired(detector, made))
    show(found, len(clips))


def repaired(detector: avsync.SyncDetector, film: Path) -> tuple[float | None, float | None]:
    """The offset that was measured, and that of the repaired copy; None without one."""
    try:
        done = avsync.fix(film, film.with_stem("fixed"), detector=detector)
    except avsync.FixRefusedError:
        return None, None
    return done.offset_ms, done.residual_ms


def against(offsets: list[float | None], plain: list[float | None]) -> tuple[str, str]:
    """How many are answered, and how far they are from the plain ones: median, least, most."""
    pairs = zip(offsets, plain, strict=True)
    apart = [o - p for o, p in pairs if o is not None and p is not None]
    return (
        f"{sum(o is not None for o in offsets)} of {len(plain)}",
        f"{np.median(apart):+.0f} ({min(apart):+.0f} to {max(apart):+.0f})" if apart else "-",
    )


def show(found: dict[str, list[tuple[float | None, float | None]]], clips: int) -> None:
    """The table, a row a form."""
    table = Table(title=f"{clips} clips, sound {SHIFT_MS} ms late")
    for column in ("form", "answered", "offset against progressive, ms", "left after repair, ms"):
        table.add_column(column, justify="left" if column == "form" else "right")
    plain = [offset for offset, _ in found[FORMS[0].name]]
    for name, answers in found.items():
        left = [abs(a[1]) for a in answers if a[1] is not None]
        table.add_row(
            name,
            *against([offset for offset, _ in answers], plain),
            f"{max(left):.0f} at most" if left else "-",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
