"""A picture graph in two: what each picture gives by itself, and what its context makes of it.

A context sees 0.6 s to either side. Where tokens are made block by block that is computed anew at
each block's ends; the convolutions of the pictures, which are nearly all of the work, need not be,
once they are a graph of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["part"]

#: The first node of a context, and what may stand between it and what the context rests on.
FIRST = "/context/norms.0/"
EIGHT_BIT = ("DequantizeLinear", "QuantizeLinear")


def part(whole: Path, pictures: Path, context: Path, *, local_dim: int) -> bool:
    """Write the two graphs of a picture graph; together they give the same numbers.

    ``pictures`` gives ``features`` (T, local_dim + width) in place of ``tokens`` (T, dim), of which
    ``context`` makes these.

    Returns:
        False where ``whole`` has no context of the kind that is known here; nothing is written.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(whole))
    graph = model.graph
    made = {out: node for node in graph.node for out in node.output}
    first = next((node for node in graph.node if FIRST in node.name), None)
    joined = next((node for node in reversed(graph.node) if node.op_type == "Concat"), None)
    if first is None or joined is None:
        return False
    around, (local, wide) = first.input[0], joined.input
    while made[around].op_type in EIGHT_BIT:
        around = made[around].input[0]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    width = int(np.prod(weights[first.input[1]].dims))

    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, list(inputs), [output], **attributes)

    constants = {"zero": 0, "one": 1, "split": local_dim, "end": 1 << 30}

    def save(file: Path, source: str, ends: list[str], before: list[Any], after: list[Any]) -> None:
        """What lies between values of the graph, with nodes put before it and after it."""
        cut = onnx.utils.Extractor(model).extract_model([source], ends)
        nodes = [*before, *cut.graph.node, *after]
        new = [
            (cut.graph.node, nodes),
            (cut.graph.output, [value(after[-1].output[0], "frames", None)]),
        ]
        if before:
            new.append((cut.graph.input, [value("features", "frames", local_dim + width)]))
        for field, values in new:
            del field[:]
            field.extend(values)
        used = {name for n in nodes for name in n.input}
        for name, number in constants.items():
            if f"part_{name}" in used:
                constant = numpy_helper.from_array(np.array([number], np.int64), f"part_{name}")
                cut.graph.initializer.append(constant)
        onnx.checker.check_model(cut)
        onnx.save(cut, str(file))

    known = {info.name for info in graph.value_info}
    shapes = {around: width, local: None, wide: None}
    graph.value_info.extend(value(n, 1, None, s) for n, s in shapes.items() if n not in known)
    features = [
        node("Squeeze", [local, "part_zero"], "part_local"),
        node("Squeeze", [around, "part_zero"], "part_around"),
        node("Concat", ["part_local", "part_around"], "features", axis=1),
    ]
    save(pictures, graph.input[0].name, [local, around], [], features)
    before = [
        node("Slice", ["features", "part_zero", "part_split", "part_one"], "part_local"),
        node("Slice", ["features", "part_split", "part_end", "part_one"], "part_around"),
        node("Unsqueeze", ["part_around", "part_zero"], around),
    ]
    after = [
        node("Squeeze", [wide, "part_zero"], "part_wide"),
        node("Concat", ["part_local", "part_wide"], "tokens", axis=1),
    ]
    save(context, around, [wide], before, after)
    return True
