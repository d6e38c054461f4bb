"""The pool of mediapipe's graphs: used again by one at a time, never with another's face."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from avsync import graphs
from avsync._quiet import quiet_native_stderr


class Fake:
    """A graph that counts what is done with it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pictures: list[Any] = []
        self.closed = False

    def process(self, picture: Any) -> None:
        self.pictures.append(picture)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_spare", {})
    monkeypatch.setattr(graphs, "_owner", os.getpid())


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_made", Fake)


@pytest.mark.usefixtures("_fakes")
class TestPool:
    def test_no_two_have_the_same_at_once(self) -> None:
        one, other = graphs.take("mesh"), graphs.take("mesh")
        assert one is not other
        graphs.give_back("mesh", one)
        assert graphs.take("mesh") is one
        assert graphs.take("mesh") not in (one, other)

    def test_kinds_are_kept_apart(self) -> None:
        near = graphs.take("detector 0")
        graphs.give_back("detector 0", near)
        assert graphs.take("detector 1").kind == "detector 1"
        assert graphs.take("detector 0") is near

    @pytest.mark.parametrize(("kind", "blanks"), [("mesh", 2), ("detector 0", 1)])
    def test_a_mesh_that_is_used_again_sees_a_blank_picture_first(
        self, kind: str, blanks: int
    ) -> None:
        graph = graphs.take(kind)
        graphs.give_back(kind, graph)
        assert graphs.take(kind) is graph
        assert len(graph.pictures) == blanks
        assert not any(p.any() for p in graph.pictures)

    def test_more_than_are_kept_are_closed(self) -> None:
        taken = [graphs.take("mesh") for _ in range(graphs.KEPT + 2)]
        for graph in taken:
            graphs.give_back("mesh", graph)
        assert [g.closed for g in taken] == [False] * graphs.KEPT + [True] * 2

    def test_a_child_process_makes_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = graphs.take("mesh")
        graphs.give_back("mesh", graph)
        parent = os.getpid()
        monkeypatch.setattr(graphs.os, "getpid", lambda: parent + 1)
        own = graphs.take("mesh")
        assert own is not graph
        graphs.give_back("mesh", own)
        assert graphs.take("mesh") is own


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("mesh", "multi_face_landmarks"),
        ("detector 0", "detections"),
        ("detector 1", "detections"),
    ],
)
def test_real_graphs_come_back_and_see_no_face_in_grey(kind: str, field: str) -> None:
    graph = graphs.take(kind)
    assert getattr(graph.process(np.full((96, 96, 3), 128, np.uint8)), field) is None
    graphs.give_back(kind, graph)
    assert graphs.take(kind) is graph
    graph.close()


@pytest.mark.parametrize("whole", [True, False])
def test_points_are_those_of_the_message(whole: bool) -> None:
    """Read from its bytes, or one by one where a message holds more than three floats a point."""
    from mediapipe.framework.formats import landmark_pb2

    want = np.random.default_rng(0).uniform(-1, 2, (478, 3)).astype(np.float32)
    found = landmark_pb2.NormalizedLandmarkList()
    for x, y, z in want:
        found.landmark.add(x=x, y=y, z=z)
    if not whole:
        found.landmark[5].visibility = 0.5
    np.testing.assert_array_equal(graphs.points_of(found), want[:468])


def test_graphs_are_made_without_executors_and_mediapipe_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mediapipe.python import solution_base

    bindings = solution_base.calculator_graph
    made, configs = bindings.CalculatorGraph, []

    def noted(graph_config: Any) -> Any:
        configs.append(graph_config)
        return made(graph_config=graph_config)

    monkeypatch.setattr(bindings, "CalculatorGraph", noted)
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    with quiet_native_stderr():
        ours = graphs._made("detector 0")
        assert bindings.CalculatorGraph is noted
        theirs = graphs._solution("detector 0")
        assert ours.process(picture).detections == theirs.process(picture).detections
    ours.close()
    theirs.close()
    assert [len(config.executor) for config in configs] == [0, 1]
    assert [config.num_threads for config in configs] == [0, 0]
