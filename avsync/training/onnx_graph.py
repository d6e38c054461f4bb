"""An exported ONNX graph as a torch module, so that what ships can be differentiated.

Weights *and* structure are read from the file: whatever encoder is exported, large or small, runs
here with no second description of it. Only operators that token graphs are made of are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.errors import DependencyMissingError, ModelCorruptError

__all__ = ["OnnxGraph"]

#: Tensors, or None for an optional input that is left out.
Inputs = Sequence[Any]
Attributes = dict[str, Any]


class OnnxGraph(nn.Module):
    """One input, one output; differentiable, and frozen: its weights are buffers.

    Integers (shapes, axes) stay on the CPU, floats follow ``.to()``. ``torch.vmap`` adds a batch.

    Args:
        data: the bytes of an ONNX file.
        name: what messages call it.

    Raises:
        ModelCorruptError: not an ONNX file, or an operator that is not known here.
        DependencyMissingError: onnx is not installed.
    """

    def __init__(self, data: bytes, name: str = "graph") -> None:
        super().__init__()
        try:
            import onnx
            from onnx import helper, numpy_helper
        except ImportError as err:
            raise DependencyMissingError(
                "reading a model's weights into torch needs onnx: pip install 'avsync[train]'"
            ) from err
        try:
            graph = onnx.load_from_string(data).graph
        except Exception as err:  # protobuf's own kinds
            raise ModelCorruptError(f"{name}: not an ONNX file ({err})") from err
        self._whole: dict[str, Tensor] = {}
        self._floats: dict[str, str] = {}
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._steps: list[tuple[str, list[str], str, Attributes]] = []
        for node in graph.node:
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                stored[node.output[0]] = numpy_helper.to_array(given["value"])
                continue
            if node.op_type == "Cast" and node.input[0] in stored:  # weights kept as halves
                kind = helper.tensor_dtype_to_np_dtype(given["to"])
                stored[node.output[0]] = stored[node.input[0]].astype(kind)
                continue
            if node.op_type not in _OPERATORS or len(node.output) != 1:
                raise ModelCorruptError(
                    f"{name}: its operator {node.op_type} has no counterpart in avsync's torch "
                    "runner; give the training checkpoint (a .pt file) in place of the folder"
                )
            self._steps.append((node.op_type, list(node.input), node.output[0], given))
        used = {name for _, inputs, _, _ in self._steps for name in inputs}
        for name, array in stored.items():
            if name in used:
                self._keep(name, array)
        (self._input,) = (i.name for i in graph.input if i.name not in stored)
        self._output = graph.output[0].name

    def _keep(self, name: str, array: Any) -> None:
        value = torch.from_numpy(array.copy())
        if value.is_floating_point():
            self._floats[name] = f"value{len(self._floats)}"
            self.register_buffer(self._floats[name], value)
        else:
            self._whole[name] = value

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph on its one input."""
        known: dict[str, Tensor | None] = {"": None, self._input: x, **self._whole}
        known |= {name: getattr(self, buffer) for name, buffer in self._floats.items()}
        for kind, inputs, output, given in self._steps:
            known[output] = _OPERATORS[kind]([known[i] for i in inputs], given)
        out = known[self._output]
        if out is None:
            raise ModelCorruptError("the graph has no output")
        return out


def _axes(inputs: Inputs, given: Attributes, at: int = 1) -> list[int]:
    """``axes``: an input since opset 13 or 18, an attribute before."""
    tensor = inputs[at] if len(inputs) > at else None
    return list(given["axes"]) if tensor is None else list(tensor.tolist())


def _conv(inputs: Inputs, given: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    rank = weight.dim() - 2
    pads = given.get("pads", [0] * 2 * rank)
    # ONNX: all begins, then all ends, first axis first; torch: last axis first, in pairs.
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[rank + axis])]
    same = pads[:rank] == pads[rank:]
    conv: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return conv(
        x if same else F.pad(x, pairs),
        weight,
        bias,
        stride=given.get("strides", [1] * rank),
        padding=pads[:rank] if same else 0,
        dilation=given.get("dilations", [1] * rank),
        groups=given.get("group", 1),
    )


def _average_pool(inputs: Inputs, given: Attributes) -> Tensor:
    pads = given.get("pads", [0, 0, 0, 0])
    if any(pads):
        raise ModelCorruptError("the graph pads an average pool, which is not known here")
    pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d)[len(given["kernel_shape"]) - 1]
    return pool(inputs[0], given["kernel_shape"], given.get("strides", [1] * (len(pads) // 2)))


def _gemm(inputs: Inputs, given: Attributes) -> Tensor:
    a, b = inputs[0], inputs[1]
    a = a.T if given.get("transA") else a
    b = b.T if given.get("transB") else b
    out = given.get("alpha", 1.0) * (a @ b)
    if len(inputs) > 2 and inputs[2] is not None:
        out = out + given.get("beta", 1.0) * inputs[2]
    return out


def _layer_norm(inputs: Inputs, given: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    shape = x.shape[given.get("axis", -1) :]
    bias = inputs[2] if len(inputs) > 2 else None
    return F.layer_norm(x, shape, weight, bias, given.get("epsilon", 1e-5))


def _batch_norm(inputs: Inputs, given: Attributes) -> Tensor:
    x, weight, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, weight, bias, eps=given.get("epsilon", 1e-5))


def _slice(inputs: Inputs, given: Attributes) -> Tensor:
    x, starts, ends = inputs[0], inputs[1].tolist(), inputs[2].tolist()
    axes = _axes(inputs, {"axes": range(len(starts))}, 3)
    steps = inputs[4].tolist() if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _gather(inputs: Inputs, given: Attributes) -> Tensor:
    x, index, axis = inputs[0], inputs[1], given.get("axis", 0)
    if index.dim() == 0:
        return x.select(axis, int(index))
    flat = x.index_select(axis, index.flatten().to(x.device))
    return flat.unflatten(axis, index.shape)


def _reshape(inputs: Inputs, given: Attributes) -> Tensor:
    x, wanted = inputs[0], inputs[1].tolist()
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(sizes)


def _unsqueeze(inputs: Inputs, given: Attributes) -> Tensor:
    x, axes = inputs[0], _axes(inputs, given)
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def _clip(inputs: Inputs, given: Attributes) -> Tensor:
    low = inputs[1] if len(inputs) > 1 else None
    high = inputs[2] if len(inputs) > 2 else None
    return torch.clamp(inputs[0], low, high)


def _div(inputs: Inputs, given: Attributes) -> Tensor:
    whole = not inputs[0].is_floating_point()
    return torch.div(inputs[0], inputs[1], rounding_mode="trunc" if whole else None)


_Operator = Callable[[Inputs, Attributes], Tensor]


def _plain(function: Callable[..., Any]) -> _Operator:
    return lambda inputs, given: function(*inputs)


_OPERATORS: dict[str, _Operator] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, a: x[0].to({1: torch.float32, 7: torch.int64}[a["to"]]),
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "Conv": _conv,
    "Div": _div,
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": lambda x, a: x[0] * x[0].new_ones(x[1].tolist()),
    "Flatten": lambda x, a: x[0].reshape(math.prod(x[0].shape[: a.get("axis", 1)]), -1),
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _plain(torch.as_tensor),
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "Mul": _plain(torch.mul),
    "Pow": _plain(torch.pow),
    "ReduceL2": lambda x, a: torch.linalg.vector_norm(
        x[0],
        dim=_axes(x, a),
        keepdim=bool(a.get("keepdims", 1)),
    ),
    "ReduceMean": lambda x, a: torch.mean(
        x[0],
        _axes(x, a),
        bool(a.get("keepdims", 1)),
    ),
    "Relu": _plain(torch.relu),
    "Range": _plain(torch.arange),
    "Reshape": _reshape,
    "Shape": lambda x, a: torch.tensor(list(x[0].shape)),
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda x, a: torch.softmax(x[0], a.get("axis", -1)),
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": lambda x, a: x[0].squeeze(tuple(_axes(x, a))),
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda x, a: x[0].permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}
