"""mediapipe's face mesh as an ONNX graph, which ONNX Runtime runs in half of mediapipe's time.

    pip install tflite onnx
    python -m avsync.training.face_mesh -o models

The weights are read from ``face_landmark.tflite`` in mediapipe's wheel (Apache-2.0, Google) and
kept as they are. A PRelu is written as what ONNX Runtime's blocked layout runs quickly: ``a x`` and
``(1 - a) relu(x)`` as convolutions of one pixel and channel each, added.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.errors import DependencyMissingError, ModelCorruptError
from avsync.mesh import MESH_FILE, MESH_SIDE

__all__ = ["convert"]

NUMBERS: dict[int, type[np.generic]] = {0: np.float32, 1: np.float16, 2: np.int32}


class _Writer:
    """Collects ONNX nodes while it walks through a TFLite graph (NHWC there, NCHW here)."""

    def __init__(self, data: bytes) -> None:
        try:
            import onnx.helper
            import tflite
        except ImportError as err:
            raise DependencyMissingError(f"{err.name} is missing: pip install tflite onnx") from err
        self.onnx, self.tflite = onnx, tflite
        self.model: Any = tflite.Model.GetRootAsModel(data, 0)
        self.graph: Any = self.model.Subgraphs(0)
        self.known: dict[int, npt.NDArray[Any]] = {}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, tensor: int) -> npt.NDArray[Any]:
        if tensor in self.known:
            return self.known[tensor]
        found = self.graph.Tensors(tensor)
        data = self.model.Buffers(found.Buffer()).DataAsNumpy().tobytes()
        return np.frombuffer(data, NUMBERS[found.Type()]).reshape(found.ShapeAsNumpy())

    def weight(self, values: npt.NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def options(self, operator: Any, kind: str) -> Any:
        found = getattr(self.tflite, kind)()
        table = operator.BuiltinOptions()
        found.Init(table.Bytes, table.Pos)
        return found

    def pads(self, options: Any, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """ONNX pads (top, left, bottom, right)."""
        if options.Padding() == self.tflite.Padding.VALID:
            return [0, 0, 0, 0]
        steps = (options.StrideH(), options.StrideW())
        wanted = [
            max(0, (-(-n // s) - 1) * s + k - n)
            for n, s, k in zip(size, steps, kernel, strict=True)
        ]
        return [w // 2 for w in wanted] + [w - w // 2 for w in wanted]

    def convolution(self, operator: Any, inputs: list[int], output: str, *, deep: bool) -> None:
        options = self.options(operator, "DepthwiseConv2DOptions" if deep else "Conv2DOptions")
        if options.FusedActivationFunction():
            raise ModelCorruptError("a fused activation, which this graph had not")
        weight = self.constant(inputs[1]).transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2))
        size = self.graph.Tensors(inputs[0]).ShapeAsNumpy()[1:3]
        bias = self.weight(self.constant(inputs[2]))
        self.node(
            "Conv",
            [f"t{inputs[0]}", self.weight(weight), bias],
            output,
            kernel_shape=weight.shape[2:],
            strides=(options.StrideH(), options.StrideW()),
            pads=self.pads(options, size, weight.shape[2:]),
            group=weight.shape[0] if deep else 1,
        )

    def prelu(self, inputs: list[int], output: str) -> None:
        slope = self.constant(inputs[1]).reshape(-1, 1, 1, 1)
        source = f"t{inputs[0]}"
        relu = self.node("Relu", [source], f"{output}_relu")
        parts = [
            self.node(
                "Conv", [x, self.weight(w)], f"{output}_{n}", group=len(w), kernel_shape=(1, 1)
            )
            for n, (x, w) in enumerate(((source, slope), (relu, 1 - slope)))
        ]
        self.node("Add", parts, output)

    def walk(self) -> None:
        kinds = {n: k for k, n in vars(self.tflite.BuiltinOperator).items() if isinstance(n, int)}
        for number in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(number)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
            output = f"t{operator.Outputs(0)}"
            if kind == "DEQUANTIZE":
                halved = self.constant(inputs[0])
                self.known[operator.Outputs(0)] = halved.astype(np.float32)
            elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                self.convolution(operator, inputs, output, deep=kind != "CONV_2D")
            elif kind == "PRELU":
                self.prelu(inputs, output)
            elif kind == "ADD":
                self.node("Add", [f"t{i}" for i in inputs], output)
            elif kind == "MAX_POOL_2D":
                options = self.options(operator, "Pool2DOptions")
                kernel = (options.FilterHeight(), options.FilterWidth())
                size = self.graph.Tensors(inputs[0]).ShapeAsNumpy()[1:3]
                steps = (options.StrideH(), options.StrideW())
                pads = self.pads(options, size, kernel)
                self.node(
                    "MaxPool", [f"t{inputs[0]}"], output,
                    kernel_shape=kernel, strides=steps, pads=pads,
                )  # fmt: skip
            elif kind == "PAD":
                more = self.constant(inputs[1])[[0, 3, 1, 2]].astype(np.int64)
                self.node("Pad", [f"t{inputs[0]}", self.weight(more.T.reshape(-1))], output)
            else:
                raise ModelCorruptError(f"an operator that is not known here: {kind}")


def convert(data: bytes) -> bytes:
    """The ONNX file: ``picture`` (1, 192, 192, 3) float32 0..1 to ``points`` and ``score``.

    ``points`` (1404,) are x, y, z of 468 points in pixels of the picture, ``score`` (1,) a logit.

    Raises:
        DependencyMissingError: tflite or onnx is not installed.
        ModelCorruptError: not the graph that mediapipe 0.10 carries.
    """
    writer = _Writer(data)
    helper, number = writer.onnx.helper, writer.onnx.TensorProto.FLOAT
    shape = [1, MESH_SIDE, MESH_SIDE, 3]
    writer.node("Transpose", ["picture"], f"t{writer.graph.Inputs(0)}", perm=[0, 3, 1, 2])
    writer.walk()
    flat = writer.weight(np.array([-1], np.int64))
    for i, name in enumerate(("points", "score")):
        writer.node("Reshape", [f"t{writer.graph.Outputs(i)}", flat], name)
    graph = helper.make_graph(
        writer.nodes,
        "face_mesh",
        [helper.make_tensor_value_info("picture", number, shape)],
        [
            helper.make_tensor_value_info("points", number, [1404]),
            helper.make_tensor_value_info("score", number, [1]),
        ],
        writer.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    writer.onnx.checker.check_model(model)
    out: bytes = model.SerializeToString()
    return out


def main() -> None:
    """``python -m avsync.training.face_mesh``."""
    import mediapipe

    parser = argparse.ArgumentParser(description="Make the face mesh's ONNX graph.")
    parser.add_argument("-o", "--out", type=Path, default=Path("models"))
    options = parser.parse_args()
    source = Path(mediapipe.__file__).parent / "modules/face_landmark/face_landmark.tflite"
    (options.out / MESH_FILE).write_bytes(convert(source.read_bytes()))
    sys.stdout.write(f"{options.out / MESH_FILE}\n")


if __name__ == "__main__":
    main()
