"""How often a stranger's voice is given an offset: faces of dev clips with other speakers' sound.

    python benchmarks/strangers.py ../shared/corpus --tokens /tmp/tokens

Each clip of at least 2 s is followed and heard once; the tokens are kept in ``--tokens`` (those of
one model and version only: empty it when either changes). Each face then gets the sound of
``--strangers`` clips of other speakers in place of its own, and is judged by the product's verdict;
the longer of both is cut. For comparison: its own sound, as it is and moved by FAR_S either way, so
that the wide search has to find it. Prints how many are given an offset, by the length of what is
judged, and how many of the offsets that were moved are off by more than 40 ms.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from speakers import Talker, answer, cut, people

from avsync import SyncDetector
from avsync.offsets import AudioTokens

LENGTHS_S = (2, 4, 8, 16, 1000)
FAR_S = (0.9, 1.7, 3.3, 4.5)


def with_sound(face: Talker, other: Talker) -> tuple[Talker, int]:
    """The face of one and the sound of the other, and how many ticks that is."""
    count = min(len(face.face.tokens), len(other.face.tokens))
    sound = AudioTokens(0, 2, other.sound.tokens[: 2 * count], other.sound.speech[: 2 * count])
    return Talker(cut(face.face, count, 0), sound), count


def far(detector: SyncDetector, talker: Talker) -> Iterator[tuple[bool, bool]]:
    """Whether an offset is given, and the right one, where the own sound is moved by FAR_S."""
    plain = answer(detector, [talker.face], talker.sound).offset_ms
    for seconds in FAR_S if plain is not None else ():
        for steps in (round(50 * seconds), -round(50 * seconds)):
            sound = replace(talker.sound, first=talker.sound.first + steps)
            found = answer(detector, [talker.face], sound).offset_ms
            right = found is not None and abs(found - plain + 20 * steps) <= 40
            yield found is not None, right


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--tokens", type=Path, required=True, help="folder to keep tokens in")
    parser.add_argument("--strangers", type=int, default=13, help="to each face")
    options = parser.parse_args()
    detector = SyncDetector(provider="cpu", threads=1)
    clips = people(detector, options.corpus, options.split, options.tokens, least_s=LENGTHS_S[0])
    talkers = [(str(row["speaker"] or row["source"]), t) for row, t in clips if t is not None]
    rng = np.random.default_rng(0)
    said: dict[tuple[str, int], list[bool]] = defaultdict(list)
    wrong = 0
    for name, face in talkers:
        others = [other for who, other in talkers if who != name]
        picked = [others[i] for i in rng.permutation(len(others))[: options.strangers]]
        for kind, sounds in (("own", [face]), ("another's", picked)):
            for other in sounds:
                both, count = with_sound(face, other)
                claimed = answer(detector, [both.face], both.sound).offset_ms is not None
                length = next(s for s in LENGTHS_S[1:] if count < 25 * s)
                said[kind, length].append(claimed)
                said[kind, 0].append(claimed)
        for claimed, right in far(detector, face):
            length = next(s for s in LENGTHS_S[1:] if len(face.face.tokens) < 25 * s)
            said["own, moved", length].append(claimed)
            said["own, moved", 0].append(claimed)
            wrong += claimed and not right
    table = Table(title=f"given an offset, of {len(talkers)} clips")
    spans = {0: "all"} | {
        b: f"{a} to {b} s" if b < 1000 else f"{a} s and more"
        for a, b in itertools.pairwise(LENGTHS_S)
    }
    for column in ("sound", *spans.values()):
        table.add_column(column)
    for kind in ("own", "own, moved", "another's"):
        cells = [said[kind, s] for s in spans]
        table.add_row(
            kind, *(f"{sum(c)} of {len(c)} ({np.mean(c):.1%})" if c else "–" for c in cells)
        )
    Console(width=130).print(table)
    Console().print(f"moved by {FAR_S} s either way: {wrong} of the offsets given are wrong")


if __name__ == "__main__":
    main()
