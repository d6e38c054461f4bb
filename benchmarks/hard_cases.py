"""Hard cases: films composed of recordings that the model never saw, and what is said of them.

    python benchmarks/hard_cases.py ../shared/corpus [--clips 8] [--only WORD] [--json out.json]

Recordings known to be in sync (dev split, the longest of each speaker first; "long" cases take
long ones whose own offset does not matter) are put into scenes, half hidden, darkened, mixed with
other sounds or given another's voice. Where the true speaker is to be seen and heard, the sound is
moved by a known offset between -350 and +420 ms, never a multiple of 40. Every film is written to a
scratch folder, scored by the product's own way and thrown away.

Columns: *right* = the offset within 40 ms; *abstained* = no offset, with the statuses; *wrong* = an
offset that is not there. *wanted* says what there is to be found: "offset" (no answer is a loss),
"either" (too little for certain: the offset or none), "none" (any offset is wrong).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import hard_films as hf
from hard_films import Film
from hard_scenes import (
    Stock,
    beside,
    black_lead,
    cartoon,
    cuts,
    drawn_stranger,
    echo,
    half_off,
    heard,
    in_turns,
    late_sound,
    left_only,
    listener,
    noise,
    off_screen,
    one_second,
    only,
    over,
    plain,
    seen,
    slow_frames,
    small,
    surround,
    worn,
)
from rich.console import Console
from rich.table import Table

from avsync import SyncDetector
from avsync.errors import AVSyncError
from avsync.media import DecodeStats

OFFSETS_MS = (137.0, -213.0, 71.0, -347.0, 289.0, -58.0, 183.0, -131.0, 411.0, -266.0, 22.0, -9.0)
RIGHT_MS = 40.0
HEADS = ("case", "wanted", "films", "right", "abstained", "wrong")
Build = Callable[["Stock", int, float], Film]
Wanted = Literal["offset", "either", "none"]


@dataclass(frozen=True)
class Case:
    """One row: how a film is made of recording number ``n`` with an offset (ms)."""

    name: str
    wanted: Wanted
    build: Build


CASES: tuple[Case, ...] = (
    Case("plain", "offset", plain),
    Case("two faces, the other listens; speaker left", "offset", partial(beside, other="listens")),
    Case(
        "… speaker right and smaller",
        "offset",
        partial(beside, other="listens", left=False, sides=(150, 280)),
    ),
    Case("two faces, both talk, one is heard", "offset", partial(beside, other="talks")),
    Case("two faces talk in turns", "offset", in_turns),
    Case(
        "a photo on the wall beside the speaker",
        "offset",
        partial(beside, other="photo", sides=(240, 120)),
    ),
    Case(
        "a large photo beside a small speaker",
        "offset",
        partial(beside, other="photo", sides=(120, 280)),
    ),
    Case("a photo only, a voice", "none", partial(off_screen, way="still")),
    Case("off-screen voice, swaying still face", "none", partial(off_screen, way="listening")),
    Case("off-screen voice, a real listener", "none", listener),
    Case("off-screen voice, talking face (dubbed)", "none", partial(off_screen, way="at")),
    Case("… 15 s", "none", partial(off_screen, way="at", long=True)),
    Case("off-screen voice, two talking faces", "none", partial(off_screen, way="at", others=2)),
    Case("… 15 s, three talking faces", "none", partial(off_screen, way="at", long=True, others=3)),
    Case("own voice, then a stranger's", "either", half_off),
    Case(
        "turned by 30° (a flat picture)",
        "offset",
        partial(seen, change=partial(hf.turned, degrees=30)),
    ),
    Case(
        "turned by 50° (a flat picture)",
        "either",
        partial(seen, change=partial(hf.turned, degrees=50)),
    ),
    Case("head to one side by 35°", "offset", partial(seen, change=partial(hf.rolled, degrees=35))),
    Case("upside down", "either", partial(seen, change=lambda image: image[::-1, ::-1])),
    Case("sunglasses", "offset", partial(worn, thing=hf.glasses)),
    Case("beard", "offset", partial(worn, thing=hf.beard)),
    Case("microphone over the lower lip", "either", partial(worn, thing=hf.microphone)),
    Case("hand before half of the mouth", "either", partial(worn, thing=hf.hand)),
    Case("mask over the mouth", "either", partial(worn, thing=hf.mask)),
    Case("face of 80 px in 720p", "offset", partial(small, face=80)),
    Case("face of 60 px in 720p", "offset", partial(small, face=60)),
    Case("face of 40 px in 720p", "either", partial(small, face=40)),
    Case("low light and noise", "offset", partial(seen, change=hf.dim, timed=True)),
    Case(
        "darker still",
        "either",
        partial(seen, change=partial(hf.dim, light=0.08, noise=9.0), timed=True),
    ),
    Case(
        "H.264 at crf 44",
        "offset",
        lambda s, n, ms: replace(plain(s, n, ms), video={"crf": "44"}, key=None),
    ),
    Case("drawn talker, own voice", "either", partial(cartoon, own=True)),
    Case("drawn talker, a stranger's voice", "none", partial(cartoon, own=False)),
    Case("face made a cartoon, own voice", "either", partial(seen, change=hf.drawn)),
    Case("face made a cartoon, a stranger's voice", "none", drawn_stranger),
    Case(
        "music under speech (-5 dB)",
        "offset",
        partial(heard, change=lambda x, n: hf.mixed(x, hf.music(9, n), -5)),
    ),
    Case(
        "music over speech (+6 dB)",
        "either",
        partial(heard, change=lambda x, n: hf.mixed(x, hf.music(9, n), 6)),
    ),
    Case("music only, talking face", "none", partial(only, make=hf.music)),
    Case(
        "applause over speech (0 dB)",
        "either",
        partial(heard, change=lambda x, n: hf.mixed(x, hf.applause(9, n), 0)),
    ),
    Case("applause only, talking face", "none", partial(only, make=hf.applause)),
    Case("white noise (-5 dB)", "offset", partial(heard, change=partial(noise, db=-5))),
    Case("white noise (+5 dB)", "either", partial(heard, change=partial(noise, db=5))),
    Case("a hall (1.2 s)", "offset", partial(heard, change=lambda x, n: hf.hall(x, 1.2, n))),
    Case("an echo after 230 ms (-6 dB)", "offset", partial(heard, change=echo)),
    Case("another voice at -6 dB", "offset", partial(over, db=-6)),
    Case("an interpreter's voice at +10 dB", "either", partial(over, db=10)),
    Case("12 frames a second, crf 33", "offset", partial(slow_frames, fps=12.0)),
    Case("5 frames a second", "either", partial(slow_frames, fps=5.0)),
    Case("every frame twice (25 → 12.5)", "offset", partial(slow_frames, fps=25.0, doubled=True)),
    Case("black lead-in of 2.5 s", "offset", black_lead),
    Case("a cut every second, same speaker", "offset", partial(cuts, away="close")),
    Case("a landscape every other second", "either", partial(cuts, away="land")),
    Case("a listener every other second", "either", partial(cuts, away="listener")),
    Case("sound starts 1.3 s late", "either", late_sound),
    Case("silence except one second", "either", one_second),
    Case("5.1 AAC, music around the voice", "offset", surround),
    Case("stereo, voice left only", "offset", left_only),
    Case(
        "telephone (300–3400 Hz, 8 kHz µ-law)",
        "offset",
        partial(
            heard,
            change=lambda x, n: hf.banded(x, 300, 3400),
            audio="pcm_mulaw",
            kind="mov",
            audio_rate=8000,
        ),
    ),
    Case(
        "Opus at 6 kbit/s",
        "offset",
        partial(heard, change=lambda x, n: x, audio="libopus", bit_rate=6000),
    ),
    Case("gain control that clips", "offset", partial(heard, change=lambda x, n: hf.pumped(x))),
)


class Watcher(SyncDetector):
    """Watches films of the same picture once; what is heard differs."""

    key: str | None = None
    watched: ClassVar[dict[str, Any]] = {}

    def _see(
        self, path: Any, info: Any, stats: DecodeStats, progress: Any, frames: Any = None
    ) -> Any:
        if self.key is None:
            return super()._see(path, info, stats, progress, frames)
        if self.key not in self.watched:
            seen = super()._see(path, info, stats, progress)
            self.watched[self.key] = (stats.video_end_s, seen)
        stats.video_end_s, seen = self.watched[self.key]
        return seen


def judged(case: Case, stock: Stock, detector: Watcher, n: int, folder: Path) -> dict[str, Any]:
    """Make film ``n`` of a case and score it."""
    offset = OFFSETS_MS[n % len(OFFSETS_MS)]
    film = case.build(stock, n, offset)
    file = folder / f"film.{film.kind}"
    film.write(file)
    detector.key = film.key
    try:
        result = detector.score(file)
        found, status, sure = result.offset_ms, result.status.value, result.probability
    except AVSyncError as err:
        found, status, sure = None, f"error: {err}", None
    right = case.wanted != "none" and found is not None and abs(found - offset) <= RIGHT_MS
    verdict = "abstained" if found is None else "right" if right else "wrong"
    return {
        "case": case.name,
        "n": n,
        "offset": offset,
        "found": found,
        "status": status,
        "sure": sure,
        "is": verdict,
    }


def table(films: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The rows of the table."""
    for case in CASES:
        rows = [f for f in films if f["case"] == case.name]
        if not rows:
            continue
        count = Counter(f["is"] for f in rows)
        why = Counter(f["status"] for f in rows if f["is"] == "abstained")
        said = ", ".join(f"{k} {v}" for k, v in why.most_common())
        yield (
            case.name,
            case.wanted,
            str(len(rows)),
            str(count["right"]),
            str(count["abstained"]) + (f" ({said})" if said else ""),
            str(count["wrong"]),
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--clips", type=int, default=8, help="films a case")
    parser.add_argument("--first", type=int, default=0, help="begin with this film of each case")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--model", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="keep every answer; a second run goes on there")
    parser.add_argument("--markdown", type=Path, default=None, help="write the table here")
    options = parser.parse_args()
    detector = Watcher(options.model, threads=options.threads)
    stock = Stock(options.corpus, Path(__file__).resolve().parent.parent)
    known = options.json and options.json.is_file()
    films: list[dict[str, Any]] = json.loads(options.json.read_text()) if known else []
    done = {(f["case"], f["n"]) for f in films}
    cases = [c for c in CASES if options.only in c.name]
    with tempfile.TemporaryDirectory() as scratch:
        for n, case in product(range(options.first, options.clips), cases):
            if (case.name, n) in done:
                continue
            films.append(judged(case, stock, detector, n, Path(scratch)))
            print(" ".join(str(v) for v in films[-1].values()), flush=True)
            if options.json:
                options.json.write_text(json.dumps(films, indent=1) + "\n")
    rows = list(table(films))
    shown = Table(*HEADS, title="hard cases")
    for cells in rows:
        shown.add_row(*cells)
    console = Console(width=150)
    console.print(shown)
    wrong = sum(f["is"] == "wrong" for f in films)
    console.print(f"{len(films)} films, {wrong} wrong claims")
    if options.markdown:
        lines = ["| " + " | ".join(c) + " |" for c in (HEADS, ("---",) * 6, *rows)]
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
