"""Pieces with a shift each: put together to the sample, joined where it is quiet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.splice import FADE_S, Piece, Splicer

RATE = 1000
HALF = round(FADE_S * RATE / 2)


def spliced(pieces: list[Piece], line: np.ndarray, sizes: list[int], origin: int = 0) -> np.ndarray:
    splicer = Splicer(pieces, RATE, origin)
    splicer._block = 1
    blocks, at = [], 0
    for size in sizes:
        blocks += list(splicer.feed(line[:, at : at + size]))
        at += size
    blocks += list(splicer.feed(line[:, at:], last=True))
    return np.concatenate(blocks, axis=1)


@given(
    st.lists(st.integers(1, 400), max_size=8),
    st.lists(st.tuples(st.integers(150, 900), st.integers(-120, 120)), min_size=1, max_size=4),
    st.integers(-300, 300),
)
def test_each_piece_has_its_own_shift(
    sizes: list[int], more: list[tuple[int, int]], origin: int
) -> None:
    line = np.arange(1.0, 4001.0)[None] * np.array([[1.0], [-2.0]])
    first = 0.05
    pieces, at = [Piece(0.0, first)], max(0, origin) + 300
    for length, shift in more:
        pieces.append(Piece(at / RATE, first + shift / RATE))
        at += length + 150
    out = spliced(pieces, line, sizes, origin)
    borders = [0, *(round(p.start_s * RATE) - origin for p in pieces[1:])]
    assert out.shape == (2, max(borders[-1] + HALF, 4000 + more[-1][1]))
    for number, (begin, shift) in enumerate(zip(borders, [0, *(m[1] for m in more)], strict=True)):
        end = [*borders, out.shape[1] + HALF][number + 1]
        at_sample = np.arange(begin + (HALF if number else 0), end - HALF)
        source = at_sample - shift
        want = np.where((source >= 0) & (source < 4000), source + 1.0, 0.0)
        assert np.array_equal(out[0, at_sample], want)
        assert np.array_equal(out[1, at_sample], -2 * want)


@pytest.mark.parametrize(("kind", "silence"), [("f4", 0), ("i2", 0), ("u1", 128)])
def test_the_fade_is_even_and_keeps_the_kind(kind: str, silence: int) -> None:
    line = np.full((1, 2000), 200 if kind == "u1" else 100, kind)
    line[:, 1000:] = silence
    out = spliced([Piece(0, 0), Piece(0.9, -0.5)], line, [700, 700])
    assert out.dtype == kind
    assert out.shape == (1, 1500)
    fade = out[0, 900 - HALF : 900 + HALF].astype(float)
    assert np.all(np.diff(fade) < 0)
    assert fade.mean() == pytest.approx((float(line[0, 0]) + silence) / 2, abs=0.6)
    assert np.all(out[0, : 900 - HALF] == line[0, 0])
    assert np.all(out[0, 900 + HALF :] == silence)
