"""A tiny but real model folder in the ``avsync-tokens-1`` format, with real temporal context.

Made of fixed random weights; it knows nothing of lips. It is for tests of everything around the
model: a video token rests on 5 frames and its context on 3 tokens to either side, an audio token
on 17 mel columns (8 to either side) and on 3 tokens to either side, zero-padded at the ends as in
the shipped model.

``tests/data/tiny_model`` holds what ``python tests/tiny_model.py`` writes, so that tests need no
onnx; where onnx is installed, a test compares the two.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONTEXT_REACH", "DIM", "LOCAL_DIM", "TINY", "copy_tiny", "write_tiny_model"]

TINY = Path(__file__).resolve().parent / "data" / "tiny_model"
LOCAL_DIM = 8
DIM = 16
CONTEXT_REACH = 3
DILATIONS = (1, 2)
OPSET = 17

FEATURES = ("posterior_log_odds", "agreeing_share", "margin")
CALIBRATION = {
    "scale": 20.0,
    "features": list(FEATURES),
    "weights": [-4.0, 0.5, 3.0, 8.0],
    "method": "set by hand for tests",
}

Weights = npt.NDArray[np.float32]


def _random(rng: np.random.Generator, *shape: int) -> Weights:
    fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


class _Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def const(self, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"const{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, *shape: int) -> str:
        return self.const(_random(self.rng, *shape))

    def unit(self, x: str) -> str:
        """Unit vectors over the channels of (1, C, T)."""
        norm = self.node("ReduceL2", x, axes=[1], keepdims=1)
        return self.node("Div", x, self.node("Add", norm, self.const(np.float32([1e-6]))))

    def tower(self, x: str) -> str:
        """(1, LOCAL_DIM, T) → (T, DIM): unit local and unit context vectors, times sqrt(1/2)."""
        wide = x
        for d in DILATIONS:
            mixed = self.node(
                "Conv", wide, self.random(LOCAL_DIM, LOCAL_DIM, 3), dilations=[d], pads=[d, d]
            )
            wide = self.node("Add", wide, self.node("Tanh", mixed))
        both = self.node("Concat", self.unit(x), self.unit(wide), axis=1)
        scaled = self.node("Mul", both, self.const(np.float32([0.5**0.5])))
        flat = self.node("Squeeze", scaled, self.const(np.array([0], np.int64)))
        return self.node("Transpose", flat, perm=[1, 0])

    def build(self, source: str, shape: list[Any], out: str) -> bytes:
        from onnx import TensorProto, checker, helper

        self.node("Identity", out)
        self.nodes[-1].output[0] = "tokens"
        graph = helper.make_graph(
            self.nodes,
            source,
            [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["tokens", DIM])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def _video_graph(seed: int) -> bytes:
    """crops (F, 64, 96) 0..255 → tokens (F - 4, DIM)."""
    g = _Graph(seed)
    x = g.node("Unsqueeze", "crops", g.const(np.array([1], np.int64)))
    x = g.node("AveragePool", x, kernel_shape=[16, 16], strides=[16, 16])
    x = g.node("Reshape", x, g.const(np.array([-1, 24], np.int64)))
    x = g.node("Mul", g.node("Sub", x, g.const(np.float32([128]))), g.const(np.float32([1 / 64])))
    x = g.node("Unsqueeze", g.node("Transpose", x, perm=[1, 0]), g.const(np.array([0], np.int64)))
    x = g.node("Tanh", g.node("Conv", x, g.random(LOCAL_DIM, 24, 5)))
    return g.build("crops", ["frames", 64, 96], g.tower(x))


def _audio_graph(seed: int) -> bytes:
    """mel (4 N, 80) → tokens (N, DIM), token n centred on column 4 n."""
    g = _Graph(seed)
    x = g.node("Mul", g.node("Add", "mel", g.const(np.float32([6]))), g.const(np.float32([0.25])))
    x = g.node("MatMul", x, g.random(80, LOCAL_DIM))
    x = g.node("Unsqueeze", g.node("Transpose", x, perm=[1, 0]), g.const(np.array([0], np.int64)))
    x = g.node("Conv", x, g.random(LOCAL_DIM, LOCAL_DIM, 17), strides=[4], pads=[8, 8])
    return g.build("mel", ["frames", 80], g.tower(g.node("Tanh", x)))


def write_tiny_model(
    folder: Path,
    *,
    phases: int = 2,
    seed: int = 1,
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Write ``video.onnx``, ``audio.onnx`` and ``model.json`` into ``folder`` (needs onnx)."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {"video": _video_graph(seed), "audio": _audio_graph(seed + 1)}
    files = {}
    for kind, data in graphs.items():
        (folder / f"{kind}.onnx").write_bytes(data)
        files[kind] = {"file": f"{kind}.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    card = {
        "name": "tiny",
        "format": "avsync-tokens-1",
        **files,
        "crop_height": 64,
        "crop_width": 96,
        "stack_reach": 2,
        "context_reach": CONTEXT_REACH,
        "phases": phases,
        "dim": DIM,
        "local_dim": LOCAL_DIM,
        "opset": OPSET,
        "calibration": calibration or CALIBRATION,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return folder


def copy_tiny(folder: Path, **changes: Any) -> Path:
    """Copy the committed model into ``folder``, with entries of ``model.json`` replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = json.loads((TINY / "model.json").read_text("utf-8")) | changes
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    write_tiny_model(TINY)
