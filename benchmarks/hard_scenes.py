"""How each hard film is made: the recordings, and a builder for every kind of film.

A builder takes the stock of recordings, the film's number and the offset (ms) that the sound is
given, and returns a :class:`hard_films.Film`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import hard_films as hf
import numpy as np
from hard_films import Film, Picture, Sound, Take

#: Share of a corpus picture that its face is wide.
FACE_SHARE = 0.62
#: So many recordings are used, the longest.
LONGEST = 8


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
    """One face that speaks."""
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
    """Two faces; who speaks changes half-way, and the other listens."""
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
    """A real listener and the voice of somebody else."""
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
    """Something worn, held or put before the face."""
    take = s.short(n)
    picture = hf.scene_of((hf.worn(take, thing), 60, 12, 216), width=336, height=240)
    return simple(take, voice(take, ms), picture)


def small(s: Stock, n: int, ms: float, *, face: int) -> Film:
    """A small face somewhere in a 720p picture."""
    take = s.short(n)
    at = (180 + 70 * (n % 8), 120 + 40 * (n % 6))
    picture = hf.scene_of((take.at, *at, round(face / FACE_SHARE)), width=1280, height=720, seed=n)
    return simple(take, voice(take, ms), picture)


def cartoon(s: Stock, n: int, ms: float, *, own: bool) -> Film:
    """The drawn talker, with its own voice or a recorded one."""
    take = s.cartoon()
    heard = take if own else s.short(n)
    end = min(take.end_s, heard.end_s)
    picture = hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    times = [float(t) for t in take.times if t < end]
    return Film(picture, times, hf.moved(heard.sound, ms, end))


def drawn_stranger(s: Stock, n: int, ms: float) -> Film:
    """A face made a cartoon, and a stranger's voice."""
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
    """Fewer frames a second, or every frame twice."""
    take = s.short(n)
    shown = hf.scene_of((take.at, 60, 12, 216), width=336, height=240)
    if doubled:  # 25 frames a second, every second one a copy of the one before
        return simple(take, voice(take, ms), lambda t: shown(np.floor(t * 12.5 + 1e-3) / 12.5))
    film = simple(take, voice(take, ms), shown)
    film.times = [k / fps for k in range(int(take.end_s * fps))]
    film.video = {"preset": "ultrafast", "crf": "33"}
    return film


def black_lead(s: Stock, n: int, ms: float) -> Film:
    """Black and silence before the speaker comes."""
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
    """The sound track begins after the picture."""
    film = plain(s, n, ms)
    film.sound_from_s = 1.3
    return film


def one_second(s: Stock, n: int, ms: float) -> Film:
    """All is silent but a second in the middle."""
    film = plain(s, n, ms)
    start = film.sound.shape[1] // 2 - hf.RATE // 2
    film.sound[:, :start] = film.sound[:, start + hf.RATE :] = 0
    return film


def surround(s: Stock, n: int, ms: float) -> Film:
    """5.1 channels: the voice in the centre, music in the others."""
    take = s.short(n)
    tune = hf.music(take.end_s, n)
    own = voice(take, ms)
    rows = [0.4 * tune, 0.4 * tune, own, 0 * own, 0.3 * tune, 0.3 * tune]
    sound = np.concatenate([r[:, : own.shape[1]] for r in rows])
    return simple(take, sound, audio="aac", layout="5.1", bit_rate=256_000)


def left_only(s: Stock, n: int, ms: float) -> Film:
    """Two channels, one of them empty."""
    own = voice(s.short(n), ms)
    return simple(s.short(n), np.concatenate([own, 0 * own]), layout="stereo")


def over(s: Stock, n: int, ms: float, *, db: float) -> Film:
    """An interpreter's voice over the speaker's own."""
    take, other = s.short(n), s.short(n + 3)
    return simple(take, hf.mixed(voice(take, ms), hf.moved(other.sound, 0, take.end_s), db))


def noise(sound: Sound, n: int, db: float) -> Sound:
    """White noise added."""
    rng = np.random.default_rng(n)
    return hf.mixed(sound, rng.normal(0, 1, sound.shape).astype(np.float32), db)


def echo(sound: Sound, n: int) -> Sound:
    """The sound once more, later and softer."""
    late = hf.moved(sound, -230.0, sound.shape[1] / hf.RATE)
    return sound + 0.5 * late
