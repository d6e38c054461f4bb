"""Which stretches of a long file are looked at, when that is enough, and how they are put together.

The film here is a function: the offset (ms) at each instant, None where nobody speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from avsync import looks
from avsync._console import parse_seconds
from avsync.detector import SyncDetector
from avsync.errors import InvalidOptionError
from avsync.look_plan import LOOK_S
from avsync.looks import MOST_LOOKS, look_around, look_at_all
from avsync.offsets import Evidence, merge
from avsync.runtime import read_graphs
from avsync.seams import NOBODY, Look, continued
from avsync.verdict import TrackSight

HOUR = 3600.0


def evidence(first: int, count: int, tracks: dict[int, tuple[int, int]]) -> Evidence:
    """Windows ``first`` on; each track is seen from its first to before its last window."""
    scores = np.full((len(tracks), count, 5), np.nan, np.float32)
    pairs = np.zeros((len(tracks), count), np.int64)
    for k, (number, (low, high)) in enumerate(tracks.items()):
        scores[k, low:high] = number
        pairs[k, low:high] = 15
    ticks = (first + np.arange(count)) * 15
    return Evidence(tuple(tracks), ticks, scores, pairs, 2, 20.0, count)


class Film:
    """Stands in for the watcher: says the offset where it is looked."""

    def __init__(self, offset_ms: Callable[[float], float | None], length: float = HOUR) -> None:
        self.info = SimpleNamespace(start_s=0.0, duration_s=length)
        self.path = "film"
        self.offset_ms = offset_ms
        self.places: list[tuple[float, float | None]] = []

    def look(self, start_s: float, end_s: float | None, **_: Any) -> Look:
        self.places.append((start_s, end_s))
        end = self.info.duration_s if end_s is None else end_s
        found = self.offset_ms((start_s + end) / 2)
        part = None if found is None else evidence(round(start_s / 0.6), 25, {0: (0, 25)})
        return Look(start_s, end, part, [], 10.0, found, NOBODY)


@pytest.fixture(autouse=True)
def _no_key_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "key_before", lambda path, at: at)


def around(film: Film, **options: Any) -> list[Look]:
    return look_around(film, **options)  # type: ignore[arg-type]


def test_a_constant_offset_is_sure_after_a_few_looks_at_all_parts() -> None:
    film = Film(lambda t: 120.0 + 10 * np.sin(t))
    found = around(film)
    assert len(found) == 4
    middles = sorted(k.middle_s for k in found)
    assert middles[0] < 0.05 * HOUR
    assert middles[-1] > 0.95 * HOUR
    assert all(k.end_s - k.start_s == pytest.approx(LOOK_S) for k in found)
    assert all(abs(k.start_s / 0.6 - round(k.start_s / 0.6)) < 1e-6 for k in found)


def test_a_drift_is_sure_as_well() -> None:
    film = Film(lambda t: 60 + 100 * t / 3600)
    assert len(around(film)) == 4


@pytest.mark.parametrize("share", [0.2, 0.617, 0.9])
def test_a_jump_is_looked_for_until_its_place_is_known(share: float) -> None:
    film = Film(lambda t: 80.0 if t < share * HOUR else 280.0)
    found = around(film)
    assert len(found) < MOST_LOOKS - 6
    before = max(k.end_s for k in found if k.offset_ms == 80.0)
    after = min(k.start_s for k in found if k.offset_ms == 280.0)
    assert before - LOOK_S / 2 <= share * HOUR <= after + LOOK_S / 2
    assert after - before < 45


def test_where_nobody_speaks_it_looks_elsewhere() -> None:
    film = Film(lambda t: 50.0 if t % 1200 > 1000 else None)
    found = around(film)
    assert sum(k.offset_ms is not None for k in found) >= 4


def test_stretches_reach_as_far_as_the_bundled_model_sees() -> None:
    card, _, _ = read_graphs()
    tick_s = looks.TICK_MS / 1000
    assert card.video_halo * tick_s <= looks.MARGIN_S
    assert card.audio_halo * tick_s <= 2 * looks.MARGIN_S


def test_a_silent_film_ends() -> None:
    assert 30 < len(around(Film(lambda t: None))) < 80


def test_offsets_that_never_agree_end() -> None:
    wild = np.random.default_rng(0)
    assert len(around(Film(lambda t: float(wild.uniform(-500, 500))))) <= 200


@pytest.mark.parametrize("every", [0.0, 10.0, 30.0, 1000.0])
@pytest.mark.parametrize("length", [125.0, 200.0, 450.0])
def test_nothing_is_looked_at_twice(
    length: float, every: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same window would count for two; ``every`` so many seconds is a key frame."""
    if every:
        monkeypatch.setattr(looks, "key_before", lambda path, at: at // every * every)
    spoken = Film(lambda t: 40.0 if length / 2 - 20 < t < length / 2 + 20 else None, length)
    found = sorted((round(k.start_s / 0.6), round(k.end_s / 0.6)) for k in around(spoken))
    assert all(one[1] <= other[0] for one, other in pairwise(found))
    covered = 0.6 * sum(high - low for low, high in found)
    assert 0.8 * length < covered <= length + 15


def test_a_budget_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(looks.time, "monotonic", lambda: float(next(clock)))
    assert len(around(Film(lambda t: None), budget_s=25.0)) == 3


def test_the_whole_film_in_pieces_without_gap() -> None:
    film = Film(lambda t: 1.0, length=1000.0)
    look_at_all(film)  # type: ignore[arg-type]
    assert film.places == [*((90.0 * i, 90.0 * (i + 1)) for i in range(10)), (900.0, None)]


def test_merged_evidence_is_in_order_of_time_and_shares_rows() -> None:
    late = evidence(100, 10, {7: (0, 4), 8: (5, 10)})
    early = evidence(0, 6, {1: (0, 6), 2: (2, 6)})
    whole = merge([late, early])
    assert whole.ticks.tolist() == [*range(0, 90, 15), *range(1500, 1650, 15)]
    assert whole.seen_windows == 16
    assert whole.scores.shape == (2, 16, 5)
    assert whole.track_ids == (1, 2, 7, 8)
    for part, start in ((early, 0), (late, 6)):
        for k, number in enumerate(part.track_ids):
            for w in np.flatnonzero(part.pairs[k]):
                row = np.flatnonzero(whole.whose[:, start + w] == number)
                assert len(row) == 1
                np.testing.assert_array_equal(whole.scores[row[0], start + w], number)
    assert (whole.whose == -1).sum() == (whole.pairs == 0).sum()


def test_merged_evidence_merges_again() -> None:
    parts = [evidence(20 * i, 10, {3 * i: (0, 4), 3 * i + 1: (2, 10)}) for i in range(4)]
    once = merge(parts)
    twice = merge([merge(parts[2:]), merge(parts[:2])])
    assert twice.track_ids == once.track_ids == (0, 1, 3, 4, 6, 7, 9, 10)
    for name in ("ticks", "scores", "pairs", "owners"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(once, name))


def test_merged_evidence_takes_other_names() -> None:
    both = merge([evidence(0, 10, {1: (0, 4), 2: (5, 10), 3: (0, 10)})])
    renamed = both.renamed({1: 2, 2: 1})
    assert renamed.track_ids == (2, 1, 3)
    for old, new in ((1, 2), (2, 1), (3, 3), (-1, -1)):
        np.testing.assert_array_equal(renamed.whose == new, both.whose == old)


def test_a_face_at_a_seam_keeps_its_number() -> None:
    def sight(number: int, low: float, high: float, left: float) -> TrackSight:
        return TrackSight(number, low, high, 80.0, (left, 0, left + 80, 100), 0.1, high - low)

    before = Look(0, 300, None, [sight(3, 200, 300.5, 10), sight(4, 0, 90, 400)], 9, 0.0, NOBODY)
    after = Look(
        300,
        600,
        evidence(500, 10, {5: (0, 9), 6: (0, 9), 7: (3, 9)}),
        [sight(5, 299.5, 400, 15), sight(6, 299.5, 400, 410), sight(7, 350, 380, 12)],
        9,
        0.0,
        NOBODY,
    )
    joined = continued(before, after)
    assert [s.id for s in joined.sights] == [3, 6, 7]
    assert joined.evidence is not None
    assert joined.evidence.track_ids == (3, 6, 7)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("1.5m", 90), (" 2h ", 7200), ("0.5S", 0.5)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "3d", "1m30"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="give 30s, 2m or 1h"):
        parse_seconds(text)


@pytest.mark.parametrize("options", [{"budget_s": 0.0}, {"budget_s": 5, "exhaustive": True}])
def test_budgets_that_make_no_sense(options: Any) -> None:
    with pytest.raises(InvalidOptionError, match="budget_s must be above 0"):
        SyncDetector(**options)
