"""From a model's graphs to 8-bit ones for the CPU: half the time a token, the same scores.

    python -m avsync.training.quantise ../shared/corpus --cache CACHE -o models

Weights become 8-bit by channel, activations 8-bit by the range they take on mouths and sounds of
training clips (ONNX Runtime's static quantisation, QDQ, convolutions only). The full graphs stay
beside them for CUDA. That of the picture becomes two (:mod:`avsync.training.part`). The new graphs
are named in ``model.json``; an export removes them, so run it after each.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.errors import AVSyncError
from avsync.runtime import DESCRIPTION, GraphFile, ModelCard
from avsync.training.data import ClipFeatures, list_clips, load_features
from avsync.training.halve import LEAST_VALUES, eighth, halve
from avsync.training.part import part

__all__ = ["quantise"]

#: Ticks taken of each clip, and clips for the ranges and for the check.
TICKS = 50
CLIPS = 48
CHECKS = 16
#: An 8-bit token must have at least this mean cosine with the full one.
LIKENESS = 0.995

Inputs = dict[str, npt.NDArray[np.float32]]


def _inputs(clip: ClipFeatures, card: ModelCard) -> dict[str, Inputs]:
    """What the graphs get for the first ticks of a clip."""
    top = (clip.crops.shape[1] - card.crop_height) // 2
    left = (clip.crops.shape[2] - card.crop_width) // 2
    crops = clip.crops[:TICKS, top : top + card.crop_height, left : left + card.crop_width]
    mel = clip.mel[clip.lead : clip.lead + 4 * TICKS]
    mel = mel[: len(mel) // 4 * 4]
    return {
        "video": {"crops": crops.astype(np.float32)},
        "audio": {"mel": mel.astype(np.float32)},
    }


class _Reader:
    """Hands ONNX Runtime one clip after the other."""

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._rest: Iterator[Inputs] = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._rest, None)


def _kept_exact(file: Path) -> list[str]:
    """Nodes that stay in single precision where there are layers of speech: all but their weights'.

    What is added up between such layers, and products of two activations, do not bear 8 bits. The
    rest of the network is quantised as it is without: convolutions with what follows them.
    """
    import onnx

    graph = onnx.load(str(file)).graph
    if not any("/speech/" in node.name for node in graph.node):
        return []
    stored = {tensor.name for tensor in graph.initializer}
    out = []
    for node in graph.node:
        heard = "/speech/" in node.name
        weighs = any(name in stored for name in node.input)
        exact = not (heard and weighs) if node.op_type == "MatMul" else heard
        if exact and node.name and node.op_type != "Conv":
            out.append(node.name)
    return out


#: Operators that move numbers and change none, what they move comes first (Concat: each input).
MOVES = ("Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def _quantised_early(file: Path) -> None:
    """Let a convolution's input become 8 bit before it is stacked, not after: so that is a quarter.

    The numbers are the same. A :data:`MOVES` chain from one value to a ``QuantizeLinear`` is found
    from its end; where it begins, that node is put.
    """
    import onnx

    model = onnx.load(str(file))
    graph = model.graph
    made = {out: node for node in graph.node for out in node.output}
    asked = [node for node in graph.node if node.op_type != "Shape"]  # that is the same in 8 bit
    users = Counter(name for node in asked for name in node.input)
    for last in [n for n in graph.node if n.op_type == "QuantizeLinear"]:
        chain: list[Any] = []
        sources, open_ends = set(), [last.input[0]]
        while open_ends:
            name = open_ends.pop()
            node = made.get(name)
            if node is None or node.op_type not in MOVES or users[name] > 1:
                sources.add(name)
                continue
            chain.append(node)
            open_ends += node.input if node.op_type == "Concat" else node.input[:1]
        if len(sources) > 1 or not any(node.op_type == "Concat" for node in chain):
            continue
        (source,), stacked = sources, last.input[0]
        small = f"{source}_8bit"
        for node in chain:
            node.input[:] = [small if name == source else name for name in node.input]
        for node in graph.node:
            node.input[:] = [stacked if name == last.output[0] else name for name in node.input]
        last.input[0], last.output[0] = source, small
        graph.node.remove(last)
        begin = next((i for i, n in enumerate(graph.node) if source in n.output), -1)
        graph.node.insert(begin + 1, last)
        moved = {name for node in chain for name in node.output}
        kept = [info for info in graph.value_info if info.name not in moved]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    onnx.save(model, str(file))


def _rounded(file: Path) -> None:
    """Bring the matrices that stay single precision to 8 bit an output, for the file's size."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(file))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in stored:
            continue
        tensor = stored[node.input[1]]
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LEAST_VALUES:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            small, scale = eighth(values, 0 if turned else -1)
            tensor.CopyFrom(numpy_helper.from_array(small * scale, tensor.name))
    onnx.save(model, str(file))


def _tokens(files: Sequence[Path], inputs: Sequence[Inputs]) -> Any:
    """Unit tokens of all inputs, by graphs each of which takes what the one before it gives."""
    import onnxruntime as ort

    for file in files:
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        name = session.get_outputs()[0].name
        inputs = [{name: session.run(None, dict(x))[0]} for x in inputs]
    tokens = np.concatenate([x[name] for x in inputs])
    return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)


def quantise(folder: Path, clips: Sequence[ClipFeatures]) -> dict[str, float]:
    """Write the 8-bit graphs into a model folder and name them there.

    Args:
        clips: at least ``CHECKS`` + 1; the last ``CHECKS`` are for the check only.

    Returns:
        Mean cosine of the 8-bit tokens with the full ones, by graph.

    Raises:
        AVSyncError: too few clips, or tokens too different; nothing is written then.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if len(clips) <= CHECKS:
        raise AVSyncError(f"{len(clips)} clips with a face; more than {CHECKS} are needed")
    card = ModelCard.model_validate_json((folder / DESCRIPTION).read_text("utf-8"))
    inputs = [_inputs(clip, card) for clip in clips]
    likeness: dict[str, float] = {}
    graphs: dict[str, GraphFile] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for kind in ("video", "audio"):
            full, out = folder / getattr(card, kind).file, Path(scratch) / f"{kind}_int8.onnx"
            ready = Path(scratch) / f"{kind}.ready.onnx"
            quant_pre_process(str(full), str(ready), skip_symbolic_shape=True)
            exact = _kept_exact(ready)
            quantize_static(
                str(ready),
                str(out),
                _Reader([x[kind] for x in inputs[:-CHECKS]]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # without VNNI sums of two products may overflow 16 bits
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Relu", "Add", *(["MatMul"] if exact else [])],
                nodes_to_exclude=exact,
            )
            _quantised_early(out)
            _rounded(out)
            files = [out]
            context = Path(scratch) / "video_context_int8.onnx"
            if kind == "video" and part(out, out, context, local_dim=card.local_dim):
                files.append(context)
            for file in files:
                halve(file)
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                graphs[file.stem] = GraphFile(file=file.name, sha256=digest)
            rest = [x[kind] for x in inputs[-CHECKS:]]
            likeness[kind] = float((_tokens([full], rest) * _tokens(files, rest)).sum(1).mean())
            if likeness[kind] < LIKENESS:
                raise AVSyncError(f"{out.name}: cosine {likeness[kind]:.4f} (< {LIKENESS})")
        for graph in graphs.values():
            shutil.move(Path(scratch) / graph.file, folder / graph.file)
    none = {"video_context_int8": None}
    named = card.model_copy(update=none | graphs).model_dump_json(indent=1, exclude_none=True)
    (folder / DESCRIPTION).write_text(named + "\n")
    return likeness


def main() -> None:
    """``python -m avsync.training.quantise``."""
    parser = argparse.ArgumentParser(description="Make 8-bit graphs for the CPU.")
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--cache", type=Path, required=True, help="its features, see `cache`")
    parser.add_argument("-o", "--out", type=Path, default=Path("models"))
    options = parser.parse_args()
    names = sorted(c["id"] for c in list_clips(options.corpus) if c.get("split") != "dev")
    files = [f for f in (options.cache / f"{name}.npz" for name in names) if f.exists()]
    clips = [
        clip
        for clip in map(load_features, files[:: max(1, len(files) // (2 * CLIPS))])
        if len(clip.crops) >= TICKS and clip.valid[:TICKS].all()
    ][: CLIPS + CHECKS]
    sys.stdout.write(f"cosine of 8-bit and full tokens: {quantise(options.out, clips)}\n")


if __name__ == "__main__":
    main()
