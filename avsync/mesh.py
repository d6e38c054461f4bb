"""The face mesh of a face whose place is known, by ONNX Runtime, as mediapipe's graph makes it.

mediapipe finds a face; from there on each mesh says where the next one is to be looked for, as in
mediapipe's own graph (a square 1.5 times as large as the mesh, turned with the eyes), and both give
the same points to a hundredth of a pixel, in half the time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync._paths import bundled_models_dir
from avsync.errors import ModelNotFoundError
from avsync.picture import sampled

__all__ = ["MESH_FILE", "MESH_SIDE", "mesh_again"]

FloatArray = npt.NDArray[np.float64]

#: The graph, made by :mod:`avsync.training.face_mesh`, and the side (px) of what it sees.
MESH_FILE = "face_mesh.onnx"
MESH_SIDE = 192
#: What it sees is this many times as large as the mesh.
AROUND = 1.5
#: Outer corners of the eyes.
EYES = (33, 263)


@lru_cache(maxsize=1)
def _session() -> Any:
    """None where ONNX Runtime or the graph is not installed."""
    try:
        import onnxruntime

        file = bundled_models_dir() / MESH_FILE
    except (ImportError, ModelNotFoundError):
        return None
    if not file.is_file():
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def mesh_again(image: npt.NDArray[np.uint8], before: FloatArray) -> tuple[FloatArray, float] | None:
    """Points (468, 3) in pixels of a face that was meshed a moment ago, and how sure it is (0..1).

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (468, 3) its points then, in pixels of ``image``; a pixel's edge is a whole number.

    Returns:
        None where this cannot be run: ask mediapipe.
    """
    session = _session()
    if session is None:
        return None
    low, high = before[:, :2].min(0), before[:, :2].max(0)
    centre, side = (low + high) / 2, AROUND * float((high - low).max())
    across = before[EYES[1], :2] - before[EYES[0], :2]
    across = across / max(float(np.hypot(*across)), 1e-9)
    turn = side * np.array([[across[0], -across[1]], [across[1], across[0]]])
    linear = turn / MESH_SIDE
    matrix = np.column_stack([linear, centre - turn @ [0.5, 0.5]])
    seen = sampled(image, matrix, MESH_SIDE, MESH_SIDE)
    found, score = session.run(None, {"picture": seen[None] * np.float32(1 / 255)})
    points = found.reshape(-1, 3).astype(np.float64) / MESH_SIDE
    points[:, :2] = (points[:, :2] - 0.5) @ turn.T + centre
    points[:, 2] *= side
    return points, float(1 / (1 + np.exp(-score[0])))
