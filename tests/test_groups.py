"""How the benchmark of accuracy by group cuts crops and tells groups apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from token_streams import chunk, random_crops


@pytest.fixture
def groups(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import groups

    return groups


def test_crops_of_a_stretch(groups: Any) -> None:
    crops = random_crops(30)
    (part,) = groups.cut([chunk(crops[:20], 100), chunk(crops[20:], 120)], 110, 125)
    assert (part.first, len(part), part.last) == (110, 15, True)
    np.testing.assert_array_equal(part.crops, crops[10:25])
    (begin,) = groups.cut([chunk(crops, 100)], 90, 103)
    assert (begin.first, len(begin.valid)) == (100, 3)
    assert groups.cut([chunk(crops, 100)], 130, 140) == []
    assert groups.cut([chunk(crops, 100)], 80, 100) == []


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "not known"),
        (9.9, "below 10 px"),
        (10, "10 to 20 px"),
        (19, "10 to 20 px"),
        (20, "from 20 px"),
    ],
)
def test_bands(groups: Any, value: float | None, name: str) -> None:
    assert groups._banded(value, (10, 20), "px") == name


def test_bands_are_in_order_of_their_numbers(groups: Any) -> None:
    names = ["from 20 px", "10 to 20 px", "below 10 px", "voice", "8 s"]
    assert sorted(names, key=groups._natural) == [
        "below 10 px",
        "8 s",
        "10 to 20 px",
        "from 20 px",
        "voice",
    ]


def test_what_is_counted(groups: Any) -> None:
    def answer(clip: str, said: float | None, guess: float | None) -> Any:
        result = SimpleNamespace(offset_ms=said)
        return groups.Answer({"id": clip}, None, 4.0, 100.0, result, guess, None)

    some = [answer("a", 110.0, 110.0), answer("a", None, 95.0), answer("b", 150.0, 150.0)]
    some.append(answer("b", None, None))
    assert [a.kind.split(",")[0] for a in some] == ["right", "abstained", "wrong", "abstained"]
    assert groups._row(some) == ["2", "4", "50.0", "50.0", "30.0", "50", "50.0"]
