"""The face mesh's ONNX graph is what its maker makes of mediapipe's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from avsync._paths import bundled_models_dir
from avsync.mesh import MESH_FILE

mediapipe = pytest.importorskip("mediapipe")
pytest.importorskip("onnx")
pytest.importorskip("tflite", reason="needs pip install tflite")


def test_the_shipped_graph_can_be_made_again() -> None:
    import onnx

    from avsync.training.face_mesh import convert

    source = Path(mediapipe.__file__).parent / "modules/face_landmark/face_landmark.tflite"
    made = onnx.load_from_string(convert(source.read_bytes()))
    assert made == onnx.load(bundled_models_dir() / MESH_FILE)
