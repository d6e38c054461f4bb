"""Results: invariants, words, tolerances and JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import avsync
from avsync.errors import InvalidOptionError
from avsync.result import (
    DEFAULT_TOLERANCE,
    MIN_WINDOWS,
    TOLERANCES,
    Curve,
    Segment,
    Status,
    SyncResult,
    Tolerance,
    Track,
    direction_of,
    offset_words,
    percent_sure,
)

REQUIRED_KEYS = [
    "path",
    "status",
    "offset_ms",
    "direction",
    "probability",
    "drift_ms_per_min",
    "segments",
    "tracks",
    "duration_s",
    "model",
    "avsync_version",
]
UNJUDGED = [status for status in Status if not status.judged]


def judged(**changes: Any) -> SyncResult:
    values: dict[str, Any] = {
        "path": "clips/talk.mp4",
        "status": "out_of_sync",
        "offset_ms": -120.0,
        "probability": 0.974,
        "windows": 5,
        "model": "default",
    }
    return SyncResult(**{**values, **changes})


def full() -> SyncResult:
    return judged(
        segments=[{"start_s": 0, "end_s": 6.2, "offset_ms": -118, "probability": 0.9, "track": 0}],
        tracks=[Track(id=0, start_s=0, end_s=6.2, face_px=88, box=(10, 20, 98, 120), speaking=0.9)],
        duration_s=6.24,
        curve=Curve(shift_ms=(-40, 0, 40), score=(0.1, 0.9, 0.2)),
        warnings=["the file is cut off after 6.2 s"],
        speech_s=5.5,
    )


def test_statuses_are_those_of_the_contract() -> None:
    assert [status.value for status in Status] == [
        "in_sync",
        "out_of_sync",
        "drift",
        "ambiguous",
        "no_face",
        "no_speech",
        "not_speaking",
        "no_audio",
        "no_video",
        "too_short",
    ]
    assert [status for status in Status if status.judged] == ["in_sync", "out_of_sync", "drift"]
    assert f"{Status.no_face}" == "no_face"


@pytest.mark.parametrize(
    ("offset_ms", "direction", "words"),
    [
        (120.0, "audio_leads", "audio leads by 120 ms"),
        (-80.4, "audio_lags", "audio lags by 80 ms"),
        (0.5, "audio_leads", "audio leads by 1 ms"),
        (-2.5, "audio_lags", "audio lags by 3 ms"),
        (0.49, "aligned", "in sync"),
        (-0.0, "aligned", "in sync"),
    ],
)
def test_direction_and_words(offset_ms: float, direction: str, words: str) -> None:
    assert direction_of(offset_ms) == direction
    assert offset_words(offset_ms) == words
    windows = MIN_WINDOWS
    result = judged(offset_ms=offset_ms, windows=windows)
    assert result.direction == direction


def test_direction_that_contradicts_the_offset_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not fit"):
        judged(direction="audio_leads")
    with pytest.raises(ValidationError, match="does not fit"):
        SyncResult(path="a", status=Status.no_face, model="m", direction="aligned")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "talk.mp4: audio lags by 120 ms (97 % sure), out of sync"),
        (
            {"status": "in_sync", "offset_ms": 18},
            "talk.mp4: audio leads by 18 ms (97 % sure), in sync",
        ),
        ({"status": "in_sync", "offset_ms": 0}, "talk.mp4: in sync (97 % sure)"),
        ({"offset_ms": 0.2}, "talk.mp4: no offset on the whole (97 % sure), out of sync"),
        (
            {"status": "drift", "offset_ms": 55, "drift_ms_per_min": 12.34, "probability": 1},
            "talk.mp4: audio leads by 55 ms and drifts by +12.3 ms per minute (99 % sure), "
            "out of sync",
        ),
        (
            {"status": "no_speech", "offset_ms": None, "probability": None, "windows": 0},
            "talk.mp4: not judged: no speech was found in the sound",
        ),
        (
            {
                "status": "too_short",
                "offset_ms": None,
                "probability": None,
                "reason": "a mouth is seen for 0.3 s",
            },
            "talk.mp4: not judged: a mouth is seen for 0.3 s",
        ),
    ],
)
def test_verdict_in_words(changes: dict[str, Any], words: str) -> None:
    assert str(judged(**changes)) == words


@pytest.mark.parametrize(
    ("probability", "percent"), [(0.0, 1), (0.29, 29), (0.5799, 57), (0.9999, 99), (1.0, 99)]
)
def test_percentages_are_rounded_down_and_never_certain(probability: float, percent: int) -> None:
    assert percent_sure(probability) == percent


@pytest.mark.parametrize("status", UNJUDGED)
def test_no_number_without_evidence(status: Status) -> None:
    result = SyncResult(path="a.mp4", status=status, model="m")
    assert (result.offset_ms, result.direction, result.probability) == (None, None, None)
    assert result.reason
    with pytest.raises(ValidationError, match="goes without offset_ms"):
        SyncResult(path="a.mp4", status=status, model="m", offset_ms=40.0)
    with pytest.raises(ValidationError, match="goes without offset_ms"):
        SyncResult(path="a.mp4", status=status, model="m", drift_ms_per_min=4.0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offset_ms": None}, "needs offset_ms and probability"),
        ({"probability": None}, "needs offset_ms and probability"),
        ({"windows": MIN_WINDOWS - 1}, "an offset needs 3"),
        ({"status": "in_sync", "offset_ms": 41.0}, r"outside the tolerance ebu \(\+40/-60 ms\)"),
        ({"status": "drift"}, "needs drift_ms_per_min"),
        ({"reason": "because"}, "needs no reason"),
        ({"probability": 1.2}, "less than or equal to 1"),
        ({"probability": -0.1}, "greater than or equal to 0"),
        ({"offset_ms": math.nan}, "finite"),
        ({"duration_s": -1.0}, "greater than or equal to 0"),
        ({"status": "fine"}, "Input should be"),
        ({"offset": 3.0}, "Extra inputs"),
    ],
)
def test_results_that_contradict_themselves_are_refused(
    changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValidationError, match=match):
        judged(**changes)


def test_results_are_frozen() -> None:
    result = judged()
    with pytest.raises(ValidationError, match="frozen"):
        result.offset_ms = 0.0  # type: ignore[misc]


def test_json_line_has_the_required_keys_first_and_in_order() -> None:
    line = full().model_dump_json()
    assert "\n" not in line
    data = json.loads(line)
    assert list(data)[: len(REQUIRED_KEYS)] == REQUIRED_KEYS
    assert data["offset_ms"] == -120.0
    assert data["direction"] == "audio_lags"
    assert data["avsync_version"] == avsync.__version__
    assert data["tolerance"] == {"name": "ebu", "early_ms": 40.0, "late_ms": 60.0}
    assert data["segments"] == [
        {"start_s": 0.0, "end_s": 6.2, "offset_ms": -118.0, "probability": 0.9, "track": 0}
    ]
    assert data["tracks"] == [
        {
            "id": 0,
            "start_s": 0.0,
            "end_s": 6.2,
            "face_px": 88.0,
            "box": [10.0, 20.0, 98.0, 120.0],
            "speaking": 0.9,
            "score": None,
            "share": None,
        }
    ]
    assert list(data["tracks"][0])[:3] == ["id", "start_s", "end_s"]
    assert data["curve"] == {"shift_ms": [-40.0, 0.0, 40.0], "score": [0.1, 0.9, 0.2]}


def test_json_comes_back_as_the_same_result() -> None:
    for result in (full(), SyncResult(path="b", status=Status.ambiguous, model="m")):
        assert SyncResult.model_validate_json(result.model_dump_json()) == result


def test_numbers_are_rounded_once_and_for_all() -> None:
    result = judged(offset_ms=np.float32(-119.98765), probability=0.123456, duration_s=1.23456789)
    assert result.offset_ms == -119.99
    assert result.probability == 0.1235
    assert result.duration_s == 1.2346
    zero = judged(status="in_sync", offset_ms=-0.001)
    assert math.copysign(1.0, zero.offset_ms or 0.0) == 1.0


def test_paths_of_any_bytes_can_be_written_as_json() -> None:
    result = judged(path=b"caf\xe9 \xc3\xa9.mp4")
    assert json.loads(result.model_dump_json())["path"] == "caf\\udce9 é.mp4"


def test_segment_and_curve_are_checked() -> None:
    with pytest.raises(ValidationError, match="before it starts"):
        Segment(start_s=2.0, end_s=1.0, offset_ms=0.0, probability=0.5)
    with pytest.raises(ValidationError, match="2 shifts but 1 scores"):
        Curve(shift_ms=(0.0, 40.0), score=(1.0,))
    with pytest.raises(ValidationError, match="ascend"):
        Curve(shift_ms=(40.0, 0.0), score=(1.0, 2.0))
    with pytest.raises(ValidationError, match="before it starts"):
        Track(id=0, start_s=2.0, end_s=1.0, face_px=40, box=(0, 0, 40, 40))


@pytest.mark.parametrize(
    ("name", "early", "late"),
    [("ebu", 40, 60), ("itu", 45, 125), ("itu-acceptable", 90, 185), ("atsc", 15, 45)],
)
def test_named_tolerances(name: str, early: float, late: float) -> None:
    tolerance = Tolerance.parse(name.upper())
    assert tolerance is TOLERANCES[name]
    assert tolerance.contains(early)
    assert not tolerance.contains(early + 0.01)
    assert tolerance.contains(-late)
    assert not tolerance.contains(-late - 0.01)


def test_default_tolerance_is_ebu() -> None:
    assert DEFAULT_TOLERANCE.name == "ebu"
    assert list(TOLERANCES) == ["ebu", "itu", "itu-acceptable", "atsc"]


@pytest.mark.parametrize("value", ["45,125", "+45/-125", " 45 , -125 ", (45, 125), (45.0, -125.0)])
def test_tolerance_of_two_numbers(value: Any) -> None:
    tolerance = Tolerance.parse(value)
    assert (tolerance.name, tolerance.early_ms, tolerance.late_ms) == ("custom", 45.0, 125.0)
    assert str(tolerance) == "custom (+45/-125 ms)"
    assert Tolerance.parse(tolerance) is tolerance


@pytest.mark.parametrize(
    "value", ["", "eub", "45", "45,", "1,2,3", "-45,125", "nan,3", "inf,3", (1,), (1, None), "4;5"]
)
def test_tolerance_that_makes_no_sense(value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"unknown tolerance .* ebu, itu"):
        Tolerance.parse(value)


@given(
    offset=st.floats(-1000, 1000),
    early=st.floats(0, 500),
    late=st.floats(0, 500),
)
def test_rounding_never_breaks_an_answer(offset: float, early: float, late: float) -> None:
    """A verdict taken before rounding is still accepted after it."""
    tolerance = Tolerance.parse((early, late))
    inside = -late <= offset <= early
    result = judged(
        status=Status.in_sync if inside else Status.out_of_sync,
        offset_ms=offset,
        tolerance=tolerance,
        windows=MIN_WINDOWS,
    )
    assert result.offset_ms == pytest.approx(offset, abs=0.0051)
    assert (result.direction == "audio_leads") == (round(offset, 2) >= 0.5)
