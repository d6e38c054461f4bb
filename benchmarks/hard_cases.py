"""Hard cases: films composed by code of recordings that the model never saw, and what is said of them.

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
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import hard_films as hf
import numpy as np
from hard_films import Film, Picture, Sound, Take
from rich.console import Console
from rich.table import Table

from avsync import SyncDetector
from avsync.errors import AVSyncError
from avsync.media import DecodeStats

OFFSETS_MS = (137.0, -213.0, 71.0, -347.0, 289.0, -58.0, 183.0, -131.0, 411.0, -266.0, 22.0, -9.0)
RIGHT_MS = 40.0
#: Share of a corpus picture that its face is wide.
FACE_SHARE = 0.62
#: So many recordings are used, the longest.
LONGEST = 8
HEADS = ("case", "wanted", "films", "right", "abstained", "wrong")
Build = Callable[["Stock", int, float], Film]
Wanted = Literal["offset", "either", "none"]


@dataclass(frozen=True)
class Case:
    """One row: how a film is made of recording number ``n`` with an offset (ms)."""

    name: str
    wanted: Wanted
    build: Build


class Stock:
    """The recordings: ``short`` known to be in sync, ``long`` of some 15 s, one listener."""

    def __init__(self, corpus: Path, root: Path) -> None:
        self.corpus = corpus
        rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
        dev = sorted((r for r in rows if r["split"] == "dev"), key=lambda r: -r["duration_s"])
        trusted = [r for r in dev if r["trusted_sync"] and abs(r["fps"] - 25) < 0.1]
        self.short_rows = _one_each(trusted)[:LONGEST]
        self.long_rows = _one_each(
            [r for r in dev if not r["trusted_sync"] and 12 < r["duration_s"] < 20]
        )[:LONGEST]
        # A woman who listens and smiles; left out of training.
        self.listeners = [r for r in rows if r["id"] == "affdac9f5fad86ef_0"]
        self.cartoon_file = root / "examples" / "talk.mp4"

    @lru_cache(maxsize=24)  # noqa: B019 - one stock a run
    def _read(self, file: str, name: str, speaker: str) -> Take:
        return Take.read(self.corpus / file, name, speaker)

    def _take(self, row: dict[str, Any]) -> Take:
        return self._read(row["file"], row["id"], str(row["speaker"]))

    def short(self, n: int) -> Take:
        """Recording number ``n`` (they repeat)."""
        return self._take(self.short_rows[n % len(self.short_rows)])

    def long(self, n: int) -> Take:
        """A long recording."""
        return self._take(self.long_rows[n % len(self.long_rows)])

    def listener(self) -> Take:
        """Somebody who says nothing."""
        return self._take(self.listeners[0])

    @lru_cache(maxsize=1)  # noqa: B019
    def cartoon(self) -> Take:
        """The drawn talker, in step."""
        take = Take.read(self.cartoon_file, "talk", "drawn")
        return replace(take, sound=hf.moved(take.sound, -120.0, take.end_s))


def _one_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One recording a speaker."""
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = str(row["speaker"]).replace("_", "-").removeprefix("lrs3-")
        seen.setdefault(key, row)
    return list(seen.values())


def simple(take: Take, sound: Sound, picture: Picture | None = None, **more: Any) -> Film:
    """One face in a small room."""
    key = None if picture else take.name
    picture = picture or hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    return Film(picture, list(take.times), sound, key=key, **more)


def voice(take: Take, offset_ms: float) -> Sound:
    """The recording's sound, early by ``offset_ms``."""
    return hf.moved(take.sound, offset_ms, take.end_s)


# Builders: (stock, number, offset in ms) -> film


def plain(s: Stock, n: int, ms: float) -> Film:
    return simple(s.short(n), voice(s.short(n), ms))


def beside(
    s: Stock,
    n: int,
    ms: float,
    *,
    other: str,
    left: bool = True,
    sides: tuple[int, int] = (240, 240),
) -> Film:
    """The speaker and somebody else, whose ``other`` way of moving is named."""
    take, more = s.short(n), s.short(n + 1)
    second = {"talks": more.at, "listens": more.listening, "photo": more.still}[other]
    xs = (40, 350) if left else (350, 40)
    picture = hf.scene_of((take.at, xs[0], 60, sides[0]), (second, xs[1], 40, sides[1]))
    return simple(take, voice(take, ms), picture)


def in_turns(s: Stock, n: int, ms: float) -> Film:
    a, b = s.short(n), s.short(n + 1)
    change, end = a.end_s, a.end_s + b.end_s

    def first(t: float) -> hf.Image:
        return a.at(t) if t < change else a.listening(t)

    def second(t: float) -> hf.Image:
        return b.listening(t) if t < change else b.at(t - change)

    picture = hf.scene_of((first, 40, 60, 240), (second, 370, 60, 240))
    sound = np.concatenate([voice(a, ms), voice(b, ms)], 1)
    return Film(picture, [k / 25 for k in range(int(end * 25))], sound)


def off_screen(
    s: Stock, n: int, ms: float, *, way: str, long: bool = False, others: int = 1
) -> Film:
    """The voice of somebody who is not to be seen."""
    pick = s.long if long else s.short
    faces, heard = [pick(n + k) for k in range(others)], pick(n + others + 2)
    ways = [getattr(f, way) for f in faces]
    end = min(min(f.end_s for f in faces), heard.end_s)
    picture = None if others > 1 else hf.scene_of((ways[0], 60, 12, 216), width=336, height=240)
    side = 480 // others
    picture = picture or hf.scene_of(
        *[(w, 20 + (side + 60) * k, 60, side) for k, w in enumerate(ways)]
    )
    times = [float(t) for t in faces[0].times if t < end]
    return Film(picture, times, hf.moved(heard.sound, ms, end))


def listener(s: Stock, n: int, ms: float) -> Film:
    take, heard = s.listener(), s.short(n)
    end = heard.end_s
    picture = hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    return Film(picture, [float(t) for t in take.times if t < end], voice(heard, ms))


def half_off(s: Stock, n: int, ms: float) -> Film:
    """The own voice first, then a stranger's over the talking face."""
    take, heard = s.short(n), s.short(n + 3)
    sound = voice(take, ms)
    half = sound.shape[1] // 2
    sound[:, half:] = hf.moved(heard.sound, 0, take.end_s)[:, half:]
    return simple(take, sound)


def seen(
    s: Stock, n: int, ms: float, *, change: Callable[..., hf.Image], timed: bool = False
) -> Film:
    """The picture of the face changed."""
    take = s.short(n)
    how = (lambda t: change(take.at(t), t)) if timed else (lambda t: change(take.at(t)))
    picture = hf.scene_of((how, 60, 12, 216), width=336, height=240)
    return simple(take, voice(take, ms), picture)


def worn(s: Stock, n: int, ms: float, *, thing: Any) -> Film:
    take = s.short(n)
    picture = hf.scene_of((hf.worn(take, thing), 60, 12, 216), width=336, height=240)
    return simple(take, voice(take, ms), picture)


def small(s: Stock, n: int, ms: float, *, face: int) -> Film:
    take = s.short(n)
    at = (180 + 70 * (n % 8), 120 + 40 * (n % 6))
    picture = hf.scene_of((take.at, *at, round(face / FACE_SHARE)), width=1280, height=720, seed=n)
    return simple(take, voice(take, ms), picture)


def cartoon(s: Stock, n: int, ms: float, *, own: bool) -> Film:
    take = s.cartoon()
    heard = take if own else s.short(n)
    end = min(take.end_s, heard.end_s)
    picture = hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    times = [float(t) for t in take.times if t < end]
    return Film(picture, times, hf.moved(heard.sound, ms, end))


def drawn_stranger(s: Stock, n: int, ms: float) -> Film:
    film = off_screen(s, n, ms, way="at")
    take = s.short(n)
    film.picture = hf.scene_of((lambda t: hf.drawn(take.at(t)), 60, 12, 216), width=336, height=240)
    return film


def heard(
    s: Stock, n: int, ms: float, *, change: Callable[[Sound, int], Sound], **more: Any
) -> Film:
    """The sound changed."""
    take = s.short(n)
    return simple(take, change(voice(take, ms), n), **more)


def only(s: Stock, n: int, ms: float, *, make: Callable[[float, int], Sound]) -> Film:
    """Another sound in place of the voice."""
    take = s.short(n)
    return simple(take, make(take.end_s, n))


def slow_frames(s: Stock, n: int, ms: float, *, fps: float, doubled: bool = False) -> Film:
    take = s.short(n)
    shown = hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    if doubled:  # 25 frames a second, every second one a copy of the one before
        return simple(take, voice(take, ms), lambda t: shown(np.floor(t * 12.5 + 1e-3) / 12.5))
    film = simple(take, voice(take, ms), shown)
    film.times = [k / fps for k in range(int(take.end_s * fps))]
    film.video = {"preset": "ultrafast", "crf": "33"}
    return film


def black_lead(s: Stock, n: int, ms: float) -> Film:
    take, lead = s.short(n), 2.48
    film = plain(s, n, ms)
    shown, quiet = film.picture, np.zeros((1, round(lead * hf.RATE)), np.float32)
    film.picture = lambda t: shown(t - lead) if t >= lead else np.zeros((240, 336, 3), np.uint8)
    film.times = [k / 25 for k in range(int((lead + take.end_s) * 25))]
    film.key = None
    film.sound = np.concatenate([quiet, film.sound], 1)
    return film


def cuts(s: Stock, n: int, ms: float, *, away: str) -> Film:
    """A cut every second: to another frame of the speaker, to a landscape, to a listener."""
    take, other = s.short(n), s.short(n + 1)
    wide = hf.scene_of((take.at, 230, 60, 200), seed=n)
    close = hf.scene_of((lambda t: take.at(t)[:, ::-1], 170, 0, 360), seed=n + 40)
    elsewhere = {
        "close": close,
        "land": lambda t: hf.room(640, 360, n + 80),
        "listener": hf.scene_of((other.listening, 170, 0, 360), seed=n + 40),
    }[away]
    return simple(take, voice(take, ms), lambda t: (wide, elsewhere)[int(t) % 2](t))


def late_sound(s: Stock, n: int, ms: float) -> Film:
    film = plain(s, n, ms)
    film.sound_from_s = 1.3
    return film


def one_second(s: Stock, n: int, ms: float) -> Film:
    film = plain(s, n, ms)
    start = film.sound.shape[1] // 2 - hf.RATE // 2
    film.sound[:, :start] = film.sound[:, start + hf.RATE :] = 0
    return film


def surround(s: Stock, n: int, ms: float) -> Film:
    take = s.short(n)
    tune = hf.music(take.end_s, n)
    own = voice(take, ms)
    rows = [0.4 * tune, 0.4 * tune, own, 0 * own, 0.3 * tune, 0.3 * tune]
    sound = np.concatenate([r[:, : own.shape[1]] for r in rows])
    return simple(take, sound, audio="aac", layout="5.1", bit_rate=256_000)


def left_only(s: Stock, n: int, ms: float) -> Film:
    own = voice(s.short(n), ms)
    return simple(s.short(n), np.concatenate([own, 0 * own]), layout="stereo")


def over(s: Stock, n: int, ms: float, *, db: float) -> Film:
    """An interpreter's voice over the speaker's own."""
    take, other = s.short(n), s.short(n + 3)
    return simple(take, hf.mixed(voice(take, ms), hf.moved(other.sound, 0, take.end_s), db))


def noise(sound: Sound, n: int, db: float) -> Sound:
    rng = np.random.default_rng(n)
    return hf.mixed(sound, rng.normal(0, 1, sound.shape).astype(np.float32), db)


def echo(sound: Sound, n: int) -> Sound:
    late = hf.moved(sound, -230.0, sound.shape[1] / hf.RATE)
    return sound + 0.5 * late


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
    watched: dict[str, Any] = {}

    def _see(self, path: Any, info: Any, stats: DecodeStats, progress: Any) -> Any:
        if self.key is None:
            return super()._see(path, info, stats, progress)
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
