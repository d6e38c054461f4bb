"""Frame rates: how far a lower or other rate moves an answer.

    python benchmarks/frame_rates.py ../shared/corpus --clips 12

Needs the ffmpeg command. Dev clips of 25 frames a second that are known to be in sync lose
pictures, those that stay keep their own time stamps, so that the offset stays what it was; or they
get another rate as ffmpeg's ``fps`` gives it. Printed is by how much each answer differs from
that of the same clip whole.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from broadcast import against, chosen, ffmpeg
from rich.console import Console
from rich.progress import track
from rich.table import Table

import avsync

SHIFT_MS = 137


class Rate(NamedTuple):
    """How pictures are chosen of a clip of 25 a second."""

    name: str
    filters: str


RATES = (
    Rate("25, as they are", "null"),
    Rate("20: every fifth left out", "select='mod(n,5)'"),
    Rate("16.7: every third left out", "select='mod(n,3)'"),
    Rate("12.5: every second left out", "select='mod(n,2)'"),
    Rate("12.5, the other half", "select='not(mod(n,2))'"),
    Rate("8.3: two of three left out", "select='not(mod(n,3))'"),
    Rate("25 of which every second is a repeat", "select='not(mod(n,2))',fps=25"),
    Rate("converted to 30", "fps=30"),
    Rate("converted to 24", "fps=24"),
    Rate("converted to 60", "fps=60"),
    Rate("converted to 20", "fps=20"),
    Rate("converted to 15", "fps=15"),
    Rate("converted to 12", "fps=12"),
)


def main() -> None:
    """Make the films, score them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    args = parser.parse_args()
    detector = avsync.SyncDetector(exhaustive=True)
    found: dict[str, list[float | None]] = {rate.name: [] for rate in RATES}
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder, "film.mkv")
        for clip in track(chosen(args.corpus, args.clips), "films"):
            for rate in RATES:
                ffmpeg(
                    *("-i", clip, "-vf", rate.filters, "-fps_mode", "passthrough"),
                    *("-af", f"adelay={SHIFT_MS}:all=1", "-c:v", "libx264", "-crf", "16"),
                    *("-c:a", "pcm_s16le", film),
                )
                found[rate.name].append(detector.score(film).offset_ms)
    show(found)


def show(found: dict[str, list[float | None]]) -> None:
    """The table, a row a rate."""
    plain = found[RATES[0].name]
    table = Table(title=f"{len(plain)} clips, sound {SHIFT_MS} ms late")
    for column in ("pictures a second", "answered", "offset against the whole clip, ms"):
        table.add_column(column, justify="left" if column == "pictures a second" else "right")
    for name, answers in found.items():
        table.add_row(name, *against(answers, plain))
    Console().print(table)


if __name__ == "__main__":
    main()
