"""mediapipe's graphs, kept for the whole process.

To make one takes as long as to follow a face for a second; files that follow one another in a
process share them. Each graph is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._quiet import quiet_native_stderr

__all__ = ["MIN_SCORE", "forget", "give_back", "points_of", "take"]

MIN_SCORE = 0.5
#: At most so many unused graphs of a kind are kept.
KEPT = 8

#: How protocol buffers write a point of three floats in a list: tag and length, thrice tag and
#: number. A message that looks otherwise is read by its own methods.
_POINT = np.dtype(
    [("a", "<u2"), ("b", "u1"), ("x", "<f4"), ("c", "u1"), ("y", "<f4"), ("d", "u1"), ("z", "<f4")]
)
_TAGS = {"a": 0x0F0A, "b": 0x0D, "c": 0x15, "d": 0x1D}

_lock = threading.Lock()
_making = threading.Lock()
_spare: dict[str, list[Any]] = {}
_owner = os.getpid()


def take(kind: str) -> Any:
    """A graph that nobody uses, one of "mesh", "detector 0" (near) and "detector 1" (far)."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # after a fork the parent's graphs have lost their threads
            _spare.clear()
            _owner = os.getpid()
        if _spare.get(kind):
            graph = _spare[kind].pop()
            if kind == "mesh":
                forget(graph)
            return graph
    with quiet_native_stderr():
        graph = _made(kind)
        forget(graph)  # the first picture starts what is logged
    return graph


def give_back(kind: str, graph: Any) -> None:
    """Let others have it."""
    with _lock:
        spare = _spare.setdefault(kind, [])
        if len(spare) < KEPT:
            spare.append(graph)
            return
    graph.close()


def forget(graph: Any) -> None:
    """Make a face mesh search afresh, not where the face was in the last picture.

    A blank picture does it; ``reset`` takes thrice as long and writes to standard error.
    """
    graph.process(np.zeros((64, 64, 3), np.uint8))


def points_of(landmarks: Any) -> npt.NDArray[np.float64]:
    """(468, 3): the face mesh's points x, y, z as shares of the picture's width and height.

    They are read from the message's bytes, which is ten times as quick as to ask for each number.
    """
    data = np.frombuffer(landmarks.SerializeToString(), np.uint8)
    count = len(landmarks.landmark)
    if len(data) == count * _POINT.itemsize:
        found = data.view(_POINT)
        if all((found[name] == tag).all() for name, tag in _TAGS.items()):
            points = np.stack([found[axis] for axis in "xyz"], 1)[:468]
            return np.asarray(points, np.float64)
    return np.array([(p.x, p.y, p.z) for p in landmarks.landmark[:468]], np.float64)


@contextlib.contextmanager
def _without_threads() -> Iterator[None]:
    """mediapipe's graphs that are made here run in the thread that asks them.

    By themselves they run in threads of their own, and what each of these has ever needed stays
    with it: 43 MB more after the second look at a 1080p film than after the first.
    """
    from mediapipe.python import solution_base

    bindings = solution_base.calculator_graph
    made = bindings.CalculatorGraph

    def graph(graph_config: Any) -> Any:
        del graph_config.executor[:]
        graph_config.num_threads = 0
        return made(graph_config=graph_config)

    bindings.CalculatorGraph = graph
    try:
        yield
    finally:
        bindings.CalculatorGraph = made


def _made(kind: str) -> Any:
    with _making, _without_threads():
        return _solution(kind)


def _solution(kind: str) -> Any:
    import mediapipe as mp

    if kind == "mesh":
        return mp.solutions.face_mesh.FaceMesh(
            static_image_mode=False,
            max_num_faces=1,
            min_detection_confidence=MIN_SCORE,
            min_tracking_confidence=MIN_SCORE,
        )
    return mp.solutions.face_detection.FaceDetection(
        model_selection=int(kind[-1]), min_detection_confidence=MIN_SCORE
    )
