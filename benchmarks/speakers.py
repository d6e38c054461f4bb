"""How often it is right who speaks: real faces side by side, composed at the level of tokens.

    python benchmarks/speakers.py ../shared/corpus --tokens /tmp/tokens

Each dev clip of at least 4 s is followed and heard once; the tokens are kept in ``--tokens``. Its
sound is moved by the offset that the product finds for it (clips without one are left out), for
in one recording all people have one offset. Scenes are then put together of two clips A and B of
different speakers:

* "one speaks": both faces, the sound of A;
* "in turns": both faces move their lips all the time; every 3 s the sound changes from A to B;
* "photo": the face of A, and B's first mouth for ever, the sound of A;
* "off screen": the face of B, the sound of A after 3 s of B's own (so that there is an offset).

Prints by kind: moments (0.2 s of speech, half a window away from changes) whose most likely
speaker is right, the median distance of a change of turn from the true one, and how ``speaking``
of each face comes out; and for all moments the reliability of the probability.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avsync import SyncDetector
from avsync.media import DecodeStats, probe
from avsync.offsets import AudioTokens, TrackTokens
from avsync.result import SyncResult
from avsync.verdict import TrackSight
from avsync.whole import judged

TURN = 75
EDGE_S = 0.3


@dataclass(frozen=True, slots=True)
class Talker:
    """Tokens of one clip, both from tick 0 on, as long as each other."""

    face: TrackTokens
    sound: AudioTokens


def load(detector: SyncDetector, path: Path, kept: Path, *, least: int) -> Talker | None:
    """Tokens of a clip's face and sound from the file ``kept``, or made and put there.

    None where they are of fewer than ``least`` ticks (1/25 s) together.
    """
    if not kept.is_file():
        tracks, _ = detector._see(path, probe(path), DecodeStats(), None)
        sound, _ = detector._hear(path, None, DecodeStats())
        if not tracks or sound is None:
            return None
        face = max(tracks, key=lambda t: int(t.valid.sum()))
        np.savez(
            kept,
            first=face.first,
            tokens=face.tokens,
            valid=face.valid,
            afirst=sound.first,
            atokens=sound.tokens,
            speech=sound.speech,
        )
    with np.load(kept) as z:
        first, phases = max(int(z["first"]), -(-int(z["afirst"]) // 2)), 2
        skip, askip = first - int(z["first"]), first * phases - int(z["afirst"])
        count = min(len(z["tokens"]) - skip, (len(z["atokens"]) - askip) // phases)
        if count < least:
            return None
        face = TrackTokens(0, 0, z["tokens"][skip:][:count], z["valid"][skip:][:count])
        rows = slice(askip, askip + count * phases)
        return Talker(face, AudioTokens(0, phases, z["atokens"][rows], z["speech"][rows]))


def people(
    detector: SyncDetector, corpus: Path, split: str, tokens: Path, *, least_s: int
) -> Iterator[tuple[dict[str, Any], Talker | None]]:
    """Each clip of at least ``least_s`` in a split: its index row and :func:`load`'s answer."""
    tokens.mkdir(parents=True, exist_ok=True)
    for line in (corpus / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] == split and row["duration_s"] >= least_s:
            kept = tokens / f"{row['id']}.npz"
            yield row, load(detector, corpus / row["file"], kept, least=25 * least_s)


def cut(face: TrackTokens, count: int, number: int) -> TrackTokens:
    """The first ``count`` ticks as face ``number``."""
    return TrackTokens(number, 0, face.tokens[:count], face.valid[:count])


def scene(kind: str, a: Talker, b: Talker) -> tuple[list[TrackTokens], AudioTokens, np.ndarray]:
    """Faces, sound, and whose it is at every tick: 0 A, 1 B, -1 nobody."""
    count = min(len(a.face.tokens), len(b.face.tokens))
    faces = [cut(a.face, count, 0), cut(b.face, count, 1)]
    whose = np.zeros(count, int)
    if kind == "in turns":
        whose = np.arange(count) // TURN % 2
    elif kind == "off screen":
        faces = [cut(b.face, count, 1)]
        whose = np.where(np.arange(count) < TURN, 1, -1)
    elif kind == "photo":
        still = np.repeat(faces[1].tokens[count // 2 : count // 2 + 1], count, 0)
        faces[1] = replace(faces[1], tokens=still)
    own = np.repeat(whose, 2) == 1
    tokens = np.where(own[:, None], b.sound.tokens[: 2 * count], a.sound.tokens[: 2 * count])
    speech = np.where(own, b.sound.speech[: 2 * count], a.sound.speech[: 2 * count])
    return faces, AudioTokens(0, 2, tokens, speech.astype(np.float32)), whose


def answer(detector: SyncDetector, faces: list[TrackTokens], sound: AudioTokens) -> SyncResult:
    """The product's verdict on the scene."""
    sights = [
        TrackSight(f.id, 0.0, len(f.tokens) / 25, 100.0, (0, 0, 100, 100), 0.05, 10.0)
        for f in faces
    ]
    common = {"path": "scene", "model": detector.engine.name, "tolerance": detector.tolerance}
    return judged(detector, faces, sights, sound, float(sound.speech.sum()) / 50, common)


def in_step(detector: SyncDetector, talker: Talker) -> Talker | None:
    """The clip with its sound moved to an offset of zero (to 20 ms); None without an offset."""
    offset = answer(detector, [talker.face], talker.sound).offset_ms
    if offset is None:
        return None
    sound, steps = talker.sound, round(offset / 20)
    tokens, speech = np.roll(sound.tokens, steps, 0), np.roll(sound.speech, steps)
    return replace(talker, sound=replace(sound, tokens=tokens, speech=speech))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--tokens", type=Path, required=True, help="folder to keep tokens in")
    parser.add_argument("--pairs", type=int, default=100, help="scenes of each kind")
    options = parser.parse_args()
    detector = SyncDetector(provider="cpu", threads=1)
    found_in = people(detector, options.corpus, options.split, options.tokens, least_s=4)
    clips = [(row["speaker"], talker and in_step(detector, talker)) for row, talker in found_in]
    talkers = [(name, talker) for name, talker in clips if talker is not None]
    print(f"{len(talkers)} of {len(clips)} clips have an offset of their own")
    rng = np.random.default_rng(0)
    sure: list[tuple[float, bool]] = []
    for kind in ("one speaks", "in turns", "photo", "off screen"):
        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.pairs):
            i, j = rng.choice(len(talkers), 2, replace=False)
            (name_a, a), (name_b, b) = talkers[i], talkers[j]
            if name_a == name_b:
                continue
            faces, sound, whose = scene(kind, a, b)
            result = answer(detector, faces, sound)
            found["judged"].append(result.status.judged)
            if not result.status.judged:
                continue
            shift = result.offset_ms or 0.0
            edges = np.flatnonzero(np.diff(whose)) + 1
            for track in result.tracks:
                name = "speaker" if track.id in whose else "silent"
                found[name].append(track.speaking if track.speaking is not None else np.nan)
            for turn in result.turns:
                for tick in range(round(turn.start_s * 25) + 2, round(turn.end_s * 25), 5):
                    at = min(max(tick, 0), len(whose) - 1)
                    if len(edges) and np.abs(edges - at).min() < EDGE_S * 25:
                        continue
                    truth = None if whose[at] < 0 else int(whose[at])
                    found["right"].append(turn.track == truth)
                    sure.append((turn.probability, turn.track == truth))
            changes = [
                t.start_s * 25
                for s, t in zip(result.turns, result.turns[1:], strict=False)
                if s.track != t.track
            ]
            for edge in edges:
                near = min((abs(c - edge) / 25 for c in changes), default=np.nan)
                found["edge"].append(near if near <= 2 else np.nan)
            found["extra"].append(max(0, len(changes) - len(edges)))
            found["shift"].append(shift)
        right, edge = np.array(found["right"]), np.array(found["edge"])
        text = f"{kind}: {len(found['judged'])} scenes, {np.mean(found['judged']):.0%} judged; "
        text += f"{len(right)} moments, {np.mean(right):.1%} right"
        if len(edge):
            text += (
                f"; changes found {np.mean(np.isfinite(edge)):.0%}, off by "
                f"{np.nanmedian(edge):.2f} s"
            )
        text += f"; false changes a scene {np.mean(found['extra']):.2f}"
        for name in ("speaker", "silent"):
            if found[name]:
                values = np.array(found[name])
                text += f"; {name} >= 0.5: {np.mean(values >= 0.5):.0%} of {len(values)}"
        print(text, flush=True)
    values = np.array(sure)
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 1.01)):
        rows_in = (values[:, 0] >= low) & (values[:, 0] < high)
        if rows_in.any():
            print(
                f"said {low:.2f} to {min(high, 1):.2f}: {values[rows_in, 1].mean():.1%} right of "
                f"{rows_in.sum()}, said {values[rows_in, 0].mean():.1%} on average"
            )


if __name__ == "__main__":
    main()
