"""What a recogniser of speech knows: the first layers of Whisper, as part of the audio encoder.

Hours of talk in this project's corpus are few; Whisper (tiny, MIT licence) heard 680,000 hours in
many languages. Its convolutions and first Transformer layers are read out of Smart Turn v3
(BSD-2-Clause, Daily), an ONNX file in the wheel of ``pipecat-ai``. They are made local: a frame
attends to those up to :data:`REACH` away, by a learned bias of the distance in place of absolute
positions, so that tokens do not depend on where a piece of sound begins. :func:`distil` teaches
that form to give the features of the original; training goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.errors import AVSyncError, DependencyMissingError

__all__ = [
    "WIDTH",
    "SpeechFeatures",
    "load_speech",
    "load_whisper",
    "read_graph",
    "save_speech",
]

WIDTH, HEADS, MEL = 384, 6, 80
#: Whisper's names in Smart Turn's file begin so.
PREFIX = "inner.encoder."
#: Frames (20 ms) that are attended to on either side.
REACH = 16


def _windows(x: Tensor, *shape: int) -> Tensor:
    """(B, n + 2 REACH, …), n of which in chunks of 2 REACH with REACH to either side.

    They are (B n / 2 REACH, 4 REACH, *shape).
    """
    chunk = 2 * REACH
    halves = (part.reshape(-1, chunk, *shape) for part in (x[:, :-chunk], x[:, chunk:]))
    return torch.cat(list(halves), 1)


class _Attention(nn.Module):
    """Attention within a band, over (B, n, WIDTH); what lies further off is not computed."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.distance = nn.Parameter(torch.zeros(2 * REACH + 1, HEADS))

    def forward(self, x: Tensor, away: Tensor, beyond: Tensor) -> Tensor:
        """The attention of each frame; n is a multiple of 2 REACH.

        Args:
            away: (2 REACH, 4 REACH), how many frames a key is later than the query, plus
                REACH + 1. beyond: (B n / 2 REACH, 1, 1, 4 REACH), -1e4 where there is no key.
        """
        heads = (HEADS, WIDTH // HEADS)
        q = self.query(x).reshape(-1, 2 * REACH, *heads).transpose(1, 2)
        keys = self.key(x), self.value(x)
        ring = (torch.cat([y[:, -REACH:], y, y[:, :REACH]], 1) for y in keys)  # ends are no keys
        k, v = (_windows(y, *heads).transpose(1, 2) for y in ring)
        far = self.distance.new_full((1, HEADS), -1e4)
        bias = torch.cat([far, self.distance, far])[away].permute(2, 0, 1)
        weight = (q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + bias + beyond).softmax(-1)
        y: Tensor = self.out((weight @ v).transpose(1, 2).reshape(x.shape[0], -1, WIDTH))
        return y


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = _Attention()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, 4 * WIDTH)
        self.outer = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, away: Tensor, beyond: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), away, beyond)
        y: Tensor = x + self.outer(F.gelu(self.inner(self.norm(x))))
        return y


class SpeechFeatures(nn.Module):
    """(B, 4 N, 80) log-mel of :mod:`avsync.mel` → (B, 2 N, WIDTH): frame i lies on column 2 i."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.mel = nn.Linear(MEL, MEL)
        self.first = nn.Conv1d(MEL, WIDTH, 3, padding=1)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, 2, padding=1)
        self.position = nn.Parameter(torch.zeros(WIDTH))
        self.layers = nn.ModuleList(_Layer() for _ in range(layers))

    @property
    def reach(self) -> int:
        """Mel columns on either side of its own that a frame depends on."""
        return 2 * REACH * len(self.layers) + 3

    def forward(self, mel: Tensor) -> Tensor:
        """Features of mels, see the class."""
        x = F.gelu(self.first(self.mel(mel).transpose(1, 2)))
        x = F.gelu(self.second(x)).transpose(1, 2) + self.position
        t, chunk = x.shape[1], 2 * REACH
        full = torch.cat([x, *[x[:, :1]] * (chunk - 1)], 1)  # what fills it up is no matter
        x = full[:, : (t + chunk - 1) // chunk * chunk]
        query, key = (torch.arange(n, device=x.device) for n in (chunk, 2 * chunk))
        later = key[None, :] - REACH - query[:, None]
        away = later.clamp(-REACH - 1, REACH + 1) + REACH + 1
        # Frames that came to fill the last chunk are no keys, nor is what lies beyond an end.
        there = (t - torch.arange(x.shape[1], device=x.device)).clamp(0, 1)
        none = query[:REACH] * 0
        there = torch.cat([none, there, none]) + x[:, :1, 0] * 0
        beyond = (_windows(there)[:, None, None] - 1) * 1e4
        for layer in self.layers:
            x = layer(x, away, beyond)
        return x[:, :t]


def _opened(file: Path) -> Any:
    """Smart Turn v3's ONNX file."""
    try:
        import onnx
    except ImportError as err:
        raise DependencyMissingError(f"{err.name} is missing: pip install 'avsync[train]'") from err
    try:
        model = onnx.load(str(file))
    except Exception as err:  # of the file or of protobuf, many kinds
        raise AVSyncError(f"{file}: no ONNX file ({err})") from err
    if not any(name.startswith(PREFIX) for node in model.graph.node for name in node.input):
        raise AVSyncError(
            f"{file}: not Smart Turn v3; it lies in the wheel of pipecat-ai, under "
            "pipecat/audio/turn/smart_turn/data"
        )
    return model


def _session(model: Any, outputs: Sequence[str], *, threads: int = 1) -> Any:
    """A session of a graph that gives these of its values."""
    import onnx
    import onnxruntime as ort

    del model.graph.output[:]
    for name in outputs:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    data = model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def read_graph(file: Path, *, threads: int = 1) -> tuple[Any, list[str]]:
    """A session, and its outputs' names: what comes of the convolutions, and of each layer.

    Raises:
        AVSyncError: another file. DependencyMissingError: onnx or onnxruntime is not installed.
    """
    model = _opened(file)
    norms = ("self_attn_layer_norm.weight", f"{PREFIX}layer_norm.weight")
    names = [
        node.input[0]
        for node in model.graph.node
        if node.op_type == "LayerNormalization" and node.input[1].endswith(norms)
    ]
    return _session(model, names, threads=threads), names


def _weights(file: Path) -> dict[str, Tensor]:
    """Whisper's weights by their names there, matrices (in, out)."""
    from onnx import numpy_helper

    model = _opened(file)
    nodes = list(model.graph.node)
    made = {node.output[0]: node for node in nodes}
    values: dict[str, str] = {}  # a weight's name: the value of the graph that it is
    for node in nodes:
        for name in node.input:
            if not name.startswith(PREFIX):
                continue
            values[name.removesuffix("_DequantizeLinear_Output")] = name
            if node.op_type != "Add" or "layers." not in name:
                continue
            # A bias is added to a product, whose matrix has no name of its own.
            (other,) = (i for i in node.input if i != name)
            while made[other].op_type in ("DequantizeLinear", "QuantizeLinear"):
                other = made[other].input[0]
            seen, matrix = made[other].input[:2]
            values[name.replace(".bias", ".weight")] = matrix
            if name.endswith("q_proj.bias"):  # keys have no bias: theirs is added to nothing
                (keys,) = (
                    n.input[1]
                    for n in nodes
                    if n.op_type == "MatMul"
                    and n.input[0] == seen
                    and n.output[0].startswith("linear_")
                )
                values[name.replace("q_proj.bias", "k_proj.weight")] = keys
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    out = {k: numpy_helper.to_array(stored[v]) for k, v in values.items() if v in stored}
    rest = sorted({v for v in values.values() if v not in stored})
    zeros = np.zeros((1, MEL, 800), np.float32)
    found = dict(zip(rest, _session(model, rest).run(rest, {"input_features": zeros}), strict=True))
    out |= {k: found[v] for k, v in values.items() if v in found}
    return {k.removeprefix(PREFIX): torch.tensor(v) for k, v in out.items()}


def load_whisper(file: str | Path, layers: int = 1) -> SpeechFeatures:
    """The first layers of Whisper (tiny) as they stand in ``smart-turn-v3.*.onnx``.

    Raises:
        AVSyncError: another file. DependencyMissingError: onnx or onnxruntime is not installed.
    """
    weights = _weights(Path(file))
    out = SpeechFeatures(layers)
    state = out.state_dict()
    for ours, theirs in (("first", "conv1"), ("second", "conv2")):
        state[f"{ours}.weight"] = weights[f"{theirs}.weight"]
        state[f"{ours}.bias"] = weights[f"{theirs}.bias"]
    state["position"] = weights["embed_positions.weight"].mean(0)
    for i in range(layers):
        for ours, theirs in _NAMES.items():
            there = f"layers.{i}.{theirs}"
            norm = theirs.endswith("norm")
            weight = weights[f"{there}.weight"]
            state[f"layers.{i}.{ours}.weight"] = weight if norm else weight.T.contiguous()
            if theirs != "self_attn.k_proj":
                state[f"layers.{i}.{ours}.bias"] = weights[f"{there}.bias"]
    out.load_state_dict(state)
    return out


def save_speech(features: SpeechFeatures, file: Path) -> None:
    """What :func:`load_speech` reads."""
    torch.save({"layers": len(features.layers), "weights": features.state_dict()}, file)


def load_speech(file: Path) -> SpeechFeatures:
    """Features made by ``avsync train speech``.

    Raises:
        AVSyncError: not such a file.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        out = SpeechFeatures(int(state["layers"]))
        out.load_state_dict(state["weights"])
    except Exception as err:  # torch raises many kinds for a bad file
        raise AVSyncError(f"{file}: no features of speech made by 'speech' ({err})") from err
    return out


_NAMES = {
    "attention_norm": "self_attn_layer_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "norm": "final_layer_norm",
    "inner": "fc1",
    "outer": "fc2",
}
