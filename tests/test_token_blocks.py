"""Tokens in blocks: views of them, and pairs of them block by block."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avsync.token_blocks import TokenBlocks


def blocks(sizes: list[int], start: int) -> TokenBlocks:
    """Tokens that carry their own number, from ``start`` on, in blocks of these sizes."""
    ends = np.cumsum([0, *sizes])
    parts = [np.arange(a, b, dtype=np.float32)[:, None] + start for a, b in pairwise(ends)]
    return TokenBlocks.joined([TokenBlocks.of(part) for part in parts])


def test_views_do_not_copy() -> None:
    whole = blocks([3, 2, 4], 0)
    assert len(whole) == 9
    assert whole.numpy()[:, 0].tolist() == list(range(9))
    some = whole[2:7]
    assert some.values is whole.values
    assert some.numpy()[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert some[np.array([True, False, False, True, True])].numpy()[:, 0].tolist() == [2, 5, 6]
    again = TokenBlocks.joined([whole[7:], some[:1]])
    assert again.numpy()[:, 0].tolist() == [7, 8, 2]
    assert TokenBlocks.joined([]).numpy().shape == (0, 1)


@given(
    seen=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    heard=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_every_pair_comes_once(
    seen: list[int], heard: list[int], batch: int, data: st.DataObject
) -> None:
    video, audio = blocks(seen, 0), blocks(heard, 100)
    pair = st.tuples(st.integers(0, sum(seen) - 1), st.integers(0, sum(heard) - 1))
    wanted = np.array(data.draw(st.lists(pair, min_size=1, max_size=30)))
    got = np.zeros((len(wanted), 2))
    times = np.zeros(len(wanted), int)
    for v, a, rows, columns, which in TokenBlocks.pairs(video, audio, *wanted.T, batch):
        assert len(which) <= batch
        got[which, 0], got[which, 1] = v[rows, 0], a[columns, 0] - 100
        times[which] += 1
    assert (times == 1).all()
    assert (got == wanted).all()
