"""Accuracy by length of a stretch, by face and by source: what ``accuracy.py --by length`` adds.

Stretches of 1, 2, 4 and 8 s are cut out of each clip, spread over it, and a shift is put into each
one's sound. Crops and samples are cut and then go the product's own way, so that nothing beyond
the stretch is seen or heard; faces are followed once a clip. The truth is the shift and the clip's
own offset: none where the source is known to be in sync, else what is said of the whole clip;
clips of which nothing is said are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as progress_track
from rich.table import Table

from avsync import SyncResult, graphs
from avsync.crops import CropChunk
from avsync.estimates import estimate
from avsync.media import AudioPiece, iter_grid_frames, read_audio
from avsync.offsets import gather
from avsync.watch import hear, see_crops
from avsync.whole import judged

if TYPE_CHECKING:
    from accuracy import Clip

LENGTHS_S = (1.0, 2.0, 4.0, 8.0)
#: Stretches of each length a clip gives at most, and the one whose groups are told apart.
STRETCHES = 3
GROUPED_S = 4.0
SHIFTS_MS = (-330, 170, -90, 410)
NEAR_MS = 40.0
#: Shifts that would bring the offset beyond this share of what is searched are not taken.
MOST_SHARE = 0.9
RATE = 16_000
#: Examples of each kind in the picture of curves, of stretches longer than the shortest.
EXAMPLES = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of one stretch; ``guess_ms``: where its curve is highest, said or not.

    ``truth_ms``: the offset that it has. ``curve``: offsets (ms) and mean scores.
    """

    row: dict[str, Any]
    yaw: float | None
    length_s: float
    truth_ms: float
    result: SyncResult
    guess_ms: float | None
    curve: tuple[NDArray[np.float32], NDArray[np.float32]] | None

    @property
    def error_ms(self) -> float | None:
        """Of what was said; None where nothing was."""
        said = self.result.offset_ms
        return None if said is None else said - self.truth_ms

    @property
    def guessed(self) -> bool:
        """Whether the highest score is at the right place."""
        return self.guess_ms is not None and abs(self.guess_ms - self.truth_ms) <= NEAR_MS

    @property
    def kind(self) -> str:
        """ "right", "wrong", or "abstained" in one of two ways."""
        if self.error_ms is None:
            return "abstained, could be right" if self.guessed else "abstained, would be wrong"
        return "right" if abs(self.error_ms) <= NEAR_MS else "wrong"


def cut(chunks: Sequence[CropChunk], first: int, last: int) -> list[CropChunk]:
    """The crops of ticks ``first`` up to before ``last``, a chunk a face."""
    tracks: dict[int, list[CropChunk]] = defaultdict(list)
    for chunk in chunks:
        tracks[chunk.track].append(chunk)
    out = []
    for parts in tracks.values():
        low = max(0, first - parts[0].first)
        high = last - parts[0].first
        fields = ("crops", "valid", "boxes", "opening", "eye_px", "ages")
        rows = {f: np.concatenate([getattr(p, f) for p in parts]) for f in fields}
        rows = {f: values[low : max(0, high)] for f, values in rows.items()}
        if len(rows["crops"]):
            out.append(replace(parts[0], first=parts[0].first + low, last=True, **rows))
    return out


def head_yaw(path: Path, every: int = 25) -> float | None:
    """How far the head is turned aside: median over the clip, degrees; None: no mesh was found."""
    mesh = graphs.take("mesh")
    turns = []
    for frame in iter_grid_frames(path):
        if frame.tick % every:
            continue
        graphs.forget(mesh)
        found = mesh.process(np.ascontiguousarray(frame.picture.rgb())).multi_face_landmarks
        if found:  # from one side of the face to the other; x and z are in the same unit
            right, left = (found[0].landmark[i] for i in (234, 454))
            turns.append(abs(np.degrees(np.arctan2(left.z - right.z, left.x - right.x))))
    graphs.give_back("mesh", mesh)
    return float(np.median(turns)) if turns else None


def own_offset(clip: Clip, plain: SyncResult) -> float | None:
    """The offset (ms) that a clip has before its sound is moved; None: not known."""
    return 0.0 if clip.row["trusted_sync"] else plain.offset_ms


def answers(clips: Sequence[tuple[Clip, SyncResult]], console: Console) -> list[Answer]:
    """What is said of stretches of all clips; each comes with what is said of the whole of it."""
    found: list[Answer] = []
    count = 0
    limit = clips[0][0].detector.max_offset_ms
    for clip, plain in progress_track(clips, "stretches", console=console):
        own = own_offset(clip, plain)
        if own is None:
            continue
        sound = read_audio(clip.path, sample_rate=RATE)
        yaw = head_yaw(clip.path)
        ticks = [c.first for c in clip.chunks] + [c.first + len(c) for c in clip.chunks]
        start = max(sound.start_s, min(ticks, default=0) / 25)
        end = min(sound.end_s, max(ticks, default=0) / 25)
        for length in LENGTHS_S:
            room = end - start - length
            for place in np.linspace(0, room, STRETCHES) if room >= 0 else ():
                fit = [s for s in SHIFTS_MS if abs(own - s) <= MOST_SHARE * limit]
                if not fit:
                    continue
                shift = fit[count % len(fit)]
                count += 1
                first = round((start + place) * 25)
                result, guess, curve = _judged(clip, sound, first, round(length * 25), shift)
                found.append(
                    Answer(clip.row, yaw, length, own - shift, result, guess, curve)
                )  # later sound: the audio leads by less
    return found


def _judged(
    clip: Clip, sound: AudioPiece, first: int, count: int, shift_ms: int
) -> tuple[SyncResult, float | None, Any]:
    """One stretch (ticks) with its sound later by ``shift_ms``, and where its curve is highest."""
    detector = clip.detector
    engine = detector.engine
    low = round((first / 25 - shift_ms / 1000 - sound.start_s) * RATE)
    index = np.arange(low, low + count * RATE // 25)
    there = (index >= 0) & (index < len(sound.samples))
    samples = np.where(there, sound.samples[index.clip(0, len(sound.samples) - 1)], 0)
    audio, speech_s = hear(engine, [AudioPiece(first / 25, RATE, samples.astype(np.float32))])
    tracks, sights = see_crops(engine, cut(clip.chunks, first, first + count))
    common = {
        "path": str(clip.path),
        "model": engine.name,
        "tolerance": detector.tolerance,
        "duration_s": count / 25,
    }
    result = judged(detector, tracks, sights, audio, speech_s, common)
    evidence = gather(tracks, audio, max_offset_ms=result.max_offset_ms) if tracks else None
    if evidence is None or not len(evidence):
        return result, None, None
    best = estimate(evidence, engine.calibration)
    return result, best.offset_ms, (evidence.shifts_ms, best.curve)


def _row(found: Sequence[Answer]) -> list[str]:
    errors = [a.error_ms for a in found if a.error_ms is not None]
    count = len(found)
    return [
        str(len({a.row["id"] for a in found})),
        str(count),
        f"{100 * len(errors) / count:.1f}",
        f"{100 * float(np.mean(np.abs(errors) <= NEAR_MS)):.1f}" if errors else "-",
        f"{np.median(np.abs(errors)):.1f}" if errors else "-",
        f"{np.max(np.abs(errors)):.0f}" if errors else "-",
        f"{100 * sum(a.guessed for a in found) / count:.1f}",
    ]


def _banded(value: float | None, edges: Sequence[float], unit: str) -> str:
    if value is None:
        return "not known"
    place = sum(value >= e for e in edges)
    low = f"{edges[place - 1]:g}" if place else ""
    high = f"{edges[place]:g}" if place < len(edges) else ""
    if low and high:
        return f"{low} to {high} {unit}"
    return f"{'from' if low else 'below'} {low or high} {unit}"


def tables(found: Sequence[Answer], console: Console) -> dict[str, Any]:
    """Print accuracy by length, and by group at one length; returns the same for JSON."""
    by: dict[str, Callable[[Answer], str]] = {
        "length": lambda a: f"{a.length_s:g} s",
        "face in the source": lambda a: _banded(a.row["face_px"], (80, 160, 240), "px"),
        "head turned aside": lambda a: _banded(a.yaw, (10, 20, 30), "degrees"),
        "frames a second": lambda a: _banded(a.row["fps"], (24.5, 25.5), "fps"),
        "source": lambda a: str(a.row["source"].split("/")[0]),
    }
    out: dict[str, Any] = {}
    for name, group in by.items():
        part = found if name == "length" else [a for a in found if a.length_s == GROUPED_S]
        table = Table(title=f"by {name}" + ("" if name == "length" else f", {GROUPED_S:g} s each"))
        columns = (
            name,
            "clips",
            "stretches",
            "answered %",
            "of these right %",
            "median |err| ms",
            "worst ms",
            "highest score right %",
        )
        for column in columns:
            table.add_column(column)
        out[name] = {}
        for value in sorted({group(a) for a in part}, key=_natural):
            cells = _row([a for a in part if group(a) == value])
            table.add_row(value, *cells)
            out[name][value] = dict(zip(columns[1:], cells, strict=True))
        console.print(table)
    console.print("by language: the index does not know it")
    return out


def _natural(text: str) -> tuple[float, str]:
    """Bands in order of their numbers, "below" first; names after."""
    first = text.split()[0]
    if first == "below":
        return -1.0, text
    numbers = [w for w in text.split() if w.replace(".", "").isdigit()]
    return (float(numbers[0]) if numbers else 1e9), text


def draw(found: Sequence[Answer], path: Path, seed: int = 7) -> None:
    """Curves of some right, abstained and wrong answers (scores over offsets, nothing else)."""
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    rows: dict[str, list[Answer]] = {}
    for kind in ("right", "abstained, could be right", "abstained, would be wrong", "wrong"):
        some = [a for a in found if a.kind == kind and a.curve and a.length_s > LENGTHS_S[0]]
        if some:
            rows[kind] = [some[i] for i in rng.permutation(len(some))[:EXAMPLES]]
    figure = Figure(figsize=(3.1 * EXAMPLES, 0.6 + 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), EXAMPLES, squeeze=False)
    for line, (kind, picked) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(kind, fontsize=9)
        for plot in line[len(picked) :]:
            plot.axis("off")
        for plot, answer in zip(line, picked, strict=False):
            _draw_one(plot, answer)
    wrong = sum(a.kind == "wrong" for a in found)
    figure.suptitle(
        f"score over offset; {wrong} of {len(found)} stretches were answered wrong; "
        "dashed: the truth, dotted: what was said",
        fontsize=10,
    )
    figure.supxlabel("offset, ms (positive = audio leads)", fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_one(plot: Any, answer: Answer) -> None:
    plot.plot(*(answer.curve or ()), color="#2459c9", linewidth=1.2)
    plot.axvline(answer.truth_ms, color="#137044", linestyle="--", linewidth=1)
    said = answer.result.offset_ms
    if said is not None:
        plot.axvline(said, color="#b42323", linestyle=":", linewidth=1.4)
    words = answer.result.status.value if said is None else f"said {said:+.0f} ms"
    sure = answer.result.probability
    words += "" if sure is None else f" ({min(99.0, 100 * sure):.0f} %)"
    title = f"{answer.length_s:g} s: {words}\ntruth {answer.truth_ms:+.0f} ms"
    plot.set_title(title, fontsize=8)
    plot.tick_params(labelsize=7)
