"""The face mesh run by ONNX Runtime: mediapipe's own points, wherever the face goes."""

from __future__ import annotations

import numpy as np
import pytest
from test_faces import EYES, Image, Place, portrait, scene  # noqa: F401  portrait is a fixture

from avsync import graphs, mesh
from avsync._paths import bundled_models_dir
from avsync.mesh import MESH_FILE, mesh_again

pytest.importorskip("onnxruntime")
if not (bundled_models_dir() / MESH_FILE).is_file():
    pytest.skip(f"no {MESH_FILE} is bundled", allow_module_level=True)


def by_mediapipe(pictures: list[Image]) -> list[np.ndarray]:
    graph = graphs.take("mesh")
    height, width = pictures[0].shape[:2]
    points = []
    for picture in pictures:
        (found,) = graph.process(picture).multi_face_landmarks
        points.append(graphs.points_of(found) * [width, height, width])
    graphs.give_back("mesh", graph)
    return points


@pytest.mark.parametrize("width", [60, 120, 260])
def test_the_points_are_mediapipes(portrait: Image, width: int) -> None:  # noqa: F811
    """A face that moves to the right and nears; each mesh starts from the one before."""
    places = [Place(0.3 * width + 2.0 * i, 0.2 * width, width + i) for i in range(12)]
    pictures = [scene(portrait, [place], 4 * width, 3 * width) for place in places]
    want = by_mediapipe(pictures)
    eye = EYES * width / 94
    points = want[0]
    for picture, true in zip(pictures[1:], want[1:], strict=True):
        found = mesh_again(picture, points)
        assert found is not None
        points, sure = found
        assert sure > 0.9
        assert np.abs(points - true).mean() < 0.002 * eye


def test_turned_faces_are_seen_upright(portrait: Image) -> None:  # noqa: F811
    import cv2

    upright = scene(portrait, [Place(160, 60, 110)], 640, 420)
    turns = [cv2.getRotationMatrix2D((290.0, 200.0), 4.0 * i, 1.0) for i in range(10)]
    turned = [cv2.warpAffine(upright, t, (640, 420), borderMode=cv2.BORDER_REFLECT) for t in turns]
    want = by_mediapipe(turned)
    points = want[0]
    for picture, true in zip(turned[1:], want[1:], strict=True):
        found = mesh_again(picture, points)
        assert found is not None
        points = found[0]
        assert np.abs(points - true).mean() < 0.2


def test_where_the_face_has_gone_it_is_not_sure(portrait: Image) -> None:  # noqa: F811
    there = scene(portrait, [Place(160, 60, 110)], 640, 420)
    gone = scene(portrait, [], 640, 420)
    found = mesh_again(gone, by_mediapipe([there])[0])
    assert found is not None
    assert found[1] < graphs.MIN_SCORE


def test_without_the_graph_mediapipe_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "_session", lambda: None)
    assert mesh_again(np.zeros((64, 64, 3), np.uint8), np.ones((468, 3))) is None
