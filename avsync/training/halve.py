"""Weights of a graph stored in 16 or 8 bit where that loses nothing: half the file or less.

Landed checkpoints hold half-precision weights, and 32 bits of each are half zeros; of some they
hold 8-bit ones with a scale for each output (:func:`eighth`). ONNX Runtime computes what stands
between these and the float32 weights once, while a session is made, and runs the same graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_VALUES", "eighth", "halve"]

#: Smaller tensors (biases, norms, scales) stay as they are.
LEAST_VALUES = 1024

FloatArray = npt.NDArray[np.float32]


def eighth(weight: FloatArray, axis: int = 0) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """8-bit weights, and the scale along ``axis``: the product is the nearest there is.

    The scales have 11 bits each, so that the largest product, divided by 127, gives them back.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    most = np.abs(weight).max(others, keepdims=True)
    scale = (most / 127).clip(6e-8, 6e4).astype(np.float16).astype(np.float32)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale


def _narrowed(name: str, values: FloatArray) -> tuple[list[Any], list[Any]] | None:
    """Tensors that hold the weights in fewer bits, and nodes that make them of these."""
    from onnx import TensorProto, helper, numpy_helper

    for axis in (0, -1) if values.ndim > 1 else ():
        small, scale = eighth(values, axis)
        if np.array_equal(small * scale, values):
            tensors = {f"{name}.eighth": small, f"{name}.scale": scale}
            nodes = [
                helper.make_node(
                    "Cast", [f"{name}.eighth"], [f"{name}.cast"], to=TensorProto.FLOAT
                ),
                helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
            ]
            return [numpy_helper.from_array(v, k) for k, v in tensors.items()], nodes
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), values):
        return None
    cast = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
    return [numpy_helper.from_array(half, f"{name}.half")], [cast]


def halve(file: Path) -> None:
    """Store in fewer bits, in place, the large float32 weights of an ONNX file that these hold.

    All others stay as they are. Two files of the same graph come out the same.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(str(file))
    stored, made = [], []
    for tensor in model.graph.initializer:
        found = None
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= LEAST_VALUES:
            found = _narrowed(tensor.name, numpy_helper.to_array(tensor))
        tensors, nodes = found or ([tensor], [])
        stored += tensors
        made += nodes
    nodes = [*made, *model.graph.node]
    for field, values in ((model.graph.initializer, stored), (model.graph.node, nodes)):
        kept = list(values)
        del field[:]
        field.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
