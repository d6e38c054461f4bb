"""The BLAS of the process has one thread while a door is open, and what it had afterwards."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from avsync import SyncDetector
from avsync.blas import one_blas_thread
from avsync.errors import MediaNotFoundError
from avsync.stream import SyncStream


def threads() -> set[int]:
    # OpenCV's own OpenBLAS is built without threads
    return {
        lib["num_threads"]
        for lib in threadpool_info()
        if lib["user_api"] == "blas" and lib.get("threading_layer") != "disabled"
    }


@one_blas_thread
def seen_inside(then: object = None) -> set[int]:
    """Docs stay."""
    if callable(then):
        then()
    return threads()


def test_limited_inside_and_restored() -> None:
    with threadpool_limits(2, "blas"):
        assert threads() == {2}
        assert seen_inside() == {1}
        assert threads() == {2}
    assert seen_inside.__doc__ == "Docs stay."


def test_nested_and_failing_calls() -> None:
    def fail() -> None:
        raise ValueError("no")

    with threadpool_limits(2, "blas"):
        assert seen_inside(seen_inside) == {1}
        with pytest.raises(ValueError, match="no"):
            seen_inside(fail)
        assert threads() == {2}


def test_a_failed_score_leaves_blas_as_it_was() -> None:
    with threadpool_limits(2, "blas"):
        with pytest.raises(MediaNotFoundError):
            SyncDetector(provider="cpu").score("no such file.mp4")
        assert threads() == {2}


@pytest.mark.parametrize(
    "door",
    [
        SyncDetector.score,
        SyncDetector.score_arrays,
        SyncDetector.score_crops,
        SyncDetector.embed_video,
        SyncDetector.embed_audio,
        SyncDetector.score_grid,
        SyncStream.push_video,
        SyncStream.push_audio,
        SyncStream.push_frame,
        SyncStream.finish,
    ],
)
def test_every_door_that_computes_is_limited(door: object) -> None:
    assert hasattr(door, "__wrapped__")
