"""Stages that run at the same time: the same items, the same errors, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from avsync.overlap import ahead, cores


def threads() -> int:
    return sum(t.name == "avsync-ahead" for t in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_the_same_items_in_the_same_order(depth: int) -> None:
    assert list(ahead(range(50), depth)) == list(range(50))
    assert threads() == 0


def test_made_in_another_thread_and_at_most_so_far_ahead() -> None:
    made: list[int] = []
    where: set[int] = set()

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            where.add(threading.get_ident())
            yield i

    most = 0
    for item in ahead(items(), 2):
        most = max(most, len(made) - item)
    # one handed over, two waiting, one in the making
    assert most <= 4
    assert where
    assert threading.get_ident() not in where


def test_what_the_making_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"):
        got.extend(ahead(items(), 5))
    seen = ahead(items(), 5)
    assert [next(seen), next(seen)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(seen)
    assert threads() == 0


def test_stopping_early_ends_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    seen = ahead(items(), 2)
    assert next(seen) == 0
    seen.close()
    assert closed.is_set()
    assert threads() == 0


def test_at_least_one_core() -> None:
    assert cores() >= 1
