"""A file built as Smart Turn v3's is, with random weights and two of Whisper's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["smart_turn_file"]

WIDTH, HEADS, LAYERS = 384, 6, 2
PREFIX = "inner.encoder."


class _Graph:
    """Collects nodes; weights are 8-bit with a scale, as there, or plain numbers."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.rng = np.random.default_rng(0)
        self.count = 0

    def node(self, kind: str, inputs: list[str], output: str = "", **given: Any) -> str:
        from onnx import helper

        self.count += 1
        output = output or f"val_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [output], f"node_{self.count}", **given))
        return output

    def plain(self, values: Any, name: str = "") -> str:
        from onnx import numpy_helper

        self.count += 1
        name = name or f"const_{self.count}"
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def matrix(self, shape: tuple[int, ...], output: str = "") -> str:
        small = self.rng.integers(-127, 128, shape).astype(np.int8)
        scale = self.plain(np.float32(0.3 / np.sqrt(np.prod(shape[-2:])) / 10))
        return self.node("DequantizeLinear", [self.plain(small), scale], output)

    def vector(self, name: str, mean: float = 0.0) -> str:
        return self.plain(
            (
                self.rng.standard_normal(WIDTH if "fc1" not in name else 4 * WIDTH) * 0.1 + mean
            ).astype(np.float32),
            PREFIX + name,
        )

    def gelu(self, x: str) -> str:
        turned = self.node("Div", [x, self.plain(np.float32(np.sqrt(2)))])
        more = self.node("Add", [self.node("Erf", [turned]), self.plain(np.float32(1))])
        half = self.node("Mul", [self.plain(np.float32(0.5)), more])
        return self.node("Mul", [x, half])

    def norm(self, x: str, name: str) -> str:
        weights = [self.vector(f"{name}.weight", 1.0), self.vector(f"{name}.bias")]
        return self.node("LayerNormalization", [x, *weights], axis=-1)

    def linear(self, x: str, name: str, shape: tuple[int, int], *, bias: bool = True) -> str:
        self.count += 1
        product = self.node(
            "MatMul", [x, self.matrix(shape)], "" if bias else f"linear_{self.count}"
        )
        return self.node("Add", [product, self.vector(f"{name}.bias")]) if bias else product

    def heads(self, x: str, order: list[int]) -> str:
        sizes = self.plain(np.array([1, -1, HEADS, WIDTH // HEADS]))
        return self.node("Transpose", [self.node("Reshape", [x, sizes])], perm=order)

    def layer(self, x: str, at: str) -> str:
        y = self.norm(x, f"{at}.self_attn_layer_norm")
        square, part = (WIDTH, WIDTH), f"{at}.self_attn"
        q = self.heads(self.linear(y, f"{part}.q_proj", square), [0, 2, 1, 3])
        k = self.heads(self.linear(y, f"{part}.k_proj", square, bias=False), [0, 2, 3, 1])
        v = self.heads(self.linear(y, f"{part}.v_proj", square), [0, 2, 1, 3])
        scale = self.plain(np.float32((WIDTH // HEADS) ** -0.5))
        weight = self.node("Softmax", [self.node("Mul", [self.node("MatMul", [q, k]), scale])])
        seen = self.node("Transpose", [self.node("MatMul", [weight, v])], perm=[0, 2, 1, 3])
        seen = self.node("Reshape", [seen, self.plain(np.array([1, -1, WIDTH]))])
        x = self.node("Add", [x, self.linear(seen, f"{part}.out_proj", square)])
        y = self.linear(self.norm(x, f"{at}.final_layer_norm"), f"{at}.fc1", (WIDTH, 4 * WIDTH))
        return self.node("Add", [x, self.linear(self.gelu(y), f"{at}.fc2", (4 * WIDTH, WIDTH))])


def smart_turn_file(file: Path) -> Path:
    """Write the file; positions are all zero."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    x = "input_features"
    for name, shape, stride in (("conv1", (WIDTH, 80, 3), 1), ("conv2", (WIDTH, WIDTH, 3), 2)):
        weight = graph.matrix(shape, f"{PREFIX}{name}.weight_DequantizeLinear_Output")
        bias = graph.vector(f"{name}.bias")
        x = graph.gelu(graph.node("Conv", [x, weight, bias], pads=[1, 1], strides=[stride]))
    zeros = graph.plain(np.zeros((400, WIDTH), np.float32), f"{PREFIX}embed_positions.weight")
    x = graph.node("Add", [graph.node("Transpose", [x], perm=[0, 2, 1]), zeros])
    for i in range(LAYERS):
        x = graph.layer(x, f"layers.{i}")
    graph.node("ReduceMean", [graph.norm(x, "layer_norm")], "logits")
    wanted = [
        (TensorProto.FLOAT, "input_features", [1, 80, 800]),
        (TensorProto.FLOAT, "logits", None),
    ]
    ends = [helper.make_tensor_value_info(name, kind, shape) for kind, name, shape in wanted]
    made = helper.make_graph(graph.nodes, "g", ends[:1], ends[1:], graph.stored)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=8), str(file))
    return file
