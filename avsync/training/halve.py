"""Weights of a graph stored in half precision where that loses nothing: half the file.

Landed checkpoints hold half-precision weights, and 32 bits of each are half zeros. ONNX Runtime
computes the ``Cast`` of a constant once, while a session is made, and runs the same float32 graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["halve"]

#: Smaller tensors (biases, norms, scales) stay as they are.
LEAST_VALUES = 1024


def halve(file: Path) -> None:
    """Store as float16, in place, the large float32 weights of an ONNX file that float16 holds.

    All others stay as they are. Two files of the same graph come out the same.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(file))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_VALUES:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float16)
        if not np.array_equal(narrow.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(narrow, f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
