"""Export of the encoder pair to ONNX, checked against torch before anything is written in place.

Two graphs with a dynamic time axis, opset 17:

- ``video.onnx``: ``crops`` (frames, 64, 96) float32 grey 0..255 → ``tokens`` (frames - 4, d);
- ``audio.onnx``: ``mel`` (4 n, 80) float32 natural-log mel → ``tokens`` (n, d), or (2 n, d) where
  features of speech are part of it: of each tick and half a tick later, which share these.

BatchNorm is folded into the convolutions by ONNX Runtime, when a session is made. A token is the
local and the context unit vector side by side, each times the root of its share, so that a dot
product of two tokens is the weighted mean of both cosines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avsync.errors import AVSyncError
from avsync.runtime import DESCRIPTION, Calibration, GraphFile, ModelCard
from avsync.training.encoder import (
    FRAME_STACK,
    EncoderConfig,
    SyncEncoder,
    shipped,
)
from avsync.training.halve import eighth, halve

__all__ = ["export_model", "load_weights", "mean_weights", "save_weights"]

OPSET = 17
PARITY = 1e-4
#: Weights from this size on whose names begin so are kept in 8 bit; what their scales are called.
SPEECH, EIGHTH, SCALE = "audio.speech.", 1024, ":scale"


class _VideoGraph(nn.Module):
    def __init__(self, model: SyncEncoder) -> None:
        super().__init__()
        self.tower = model.video

    def forward(self, crops: Tensor) -> Tensor:
        local, wide = self.tower(crops.unsqueeze(0))
        return shipped(local, wide)[0]


class _AudioGraph(nn.Module):
    def __init__(self, model: SyncEncoder) -> None:
        super().__init__()
        self.tower, self.steps = model.audio, model.audio_steps

    def forward(self, mel: Tensor) -> Tensor:
        if self.steps == 2:
            return shipped(*self.tower.halves(mel))
        local, wide = self.tower(mel.unsqueeze(0))
        return shipped(local, wide)[0]


def save_weights(model: SyncEncoder, file: Path) -> None:
    """Only what is needed to export again or to start from: config, half-precision weights.

    Matrices taken from Whisper are kept in 8 bit, as they came, with a scale for each output.
    """
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith(SPEECH) and value.dim() > 1 and value.numel() >= EIGHTH:
            small, scale = eighth(value.float().numpy())
            state[name], state[name + SCALE] = torch.from_numpy(small), torch.from_numpy(scale)
        else:
            state[name] = value.half() if value.is_floating_point() else value
    torch.save({"config": model.config.model_dump(), "weights": state}, file)


def load_weights(file: Path) -> SyncEncoder:
    """A model from :func:`save_weights` or from a training state (its moving average).

    Raises:
        AVSyncError: not such a file.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if "average" in state:
            config, weights = state["config"]["encoder"], state["average"]
        else:
            config, weights = state["config"], state["weights"]
        model = SyncEncoder(EncoderConfig.model_validate(config))
        model.load_state_dict(_floats(weights))
    except Exception as err:  # torch raises many kinds for a bad file
        raise AVSyncError(f"{file}: not a checkpoint of this model ({err})") from err
    return model.eval()


def mean_weights(files: Sequence[Path]) -> SyncEncoder:
    """The model whose weights, and running means, are the mean of those in ``files``.

    Runs that began from the same weights lie near enough to one another for that; their mean is
    as a rule better than each. One named twice counts twice.

    Raises:
        AVSyncError: not such files, or networks of different shapes.
    """
    models = [load_weights(file) for file in files]
    if not models:
        raise AVSyncError("no checkpoints to take the mean of: name one at least")
    for file, model in zip(files, models, strict=True):
        if model.config != models[0].config:
            raise AVSyncError(f"{file}: its network is not that of {files[0]}; no mean of both")
    states = [model.state_dict() for model in models]
    mean = {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v
        for k, v in states[0].items()
    }
    models[0].load_state_dict(mean)
    return models[0]


def _floats(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in single precision, counts as they are."""
    scales = {k.removesuffix(SCALE): v for k, v in weights.items() if k.endswith(SCALE)}
    out = {
        k: v.float() if v.is_floating_point() or k in scales else v
        for k, v in weights.items()
        if not k.endswith(SCALE)
    }
    return out | {k: out[k] * scale for k, scale in scales.items()}


def _export(graph: nn.Module, example: Tensor, name: str, axis: str, file: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It is recommended that constant folding")
        torch.onnx.export(
            graph,
            (example,),
            str(file),
            input_names=[name],
            output_names=["tokens"],
            dynamic_axes={name: {0: axis}, "tokens": {0: "tokens"}},
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,  # norms stay, so that weights stay halves
            dynamo=False,
        )
    halve(file)


def _check(graph: nn.Module, file: Path, name: str, inputs: list[Tensor]) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for x in inputs:
        with torch.no_grad():
            want = graph(x).numpy()
        got = session.run(None, {name: x.numpy()})[0]
        if got.shape != want.shape:
            raise AVSyncError(f"{file.name}: shape {got.shape} where torch gives {want.shape}")
        worst = max(worst, float(np.abs(got - want).max()))
    if worst > PARITY:
        raise AVSyncError(f"{file.name}: differs from torch by {worst:.2e} (> {PARITY})")
    return worst


def export_model(
    model: SyncEncoder, folder: str | Path, *, name: str, calibration: Calibration, phases: int = 2
) -> dict[str, float]:
    """Write ``video.onnx``, ``audio.onnx`` and ``model.json`` into ``folder``.

    8-bit graphs that are there are of other weights: they are removed, and a warning says which
    command makes new ones.

    Returns:
        The largest difference to torch of each graph. Nothing in ``folder`` is touched unless
        both are within 1e-4.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = model.eval().float()
    rng = torch.Generator().manual_seed(0)
    graphs: list[tuple[str, nn.Module, str, list[Tensor]]] = [
        (
            "video",
            _VideoGraph(model),
            "crops",
            [torch.rand(n, 64, 96, generator=rng) * 255 for n in (40, 9, 71)],
        ),
        (
            "audio",
            _AudioGraph(model),
            "mel",
            [torch.randn(n, 80, generator=rng) * 3 - 5 for n in (120, 32, 284)],
        ),
    ]
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        files = {}
        for kind, graph, input_name, inputs in graphs:
            graph.eval()
            file = Path(scratch) / f"{kind}.onnx"
            _export(graph, inputs[0], input_name, "frames", file)
            worst[kind] = _check(graph, file, input_name, inputs)
            files[kind] = GraphFile(
                file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest()
            )
        card = ModelCard(
            name=name,
            format="avsync-tokens-1",
            video=files["video"],
            audio=files["audio"],
            crop_height=64,
            crop_width=96,
            stack_reach=FRAME_STACK // 2,
            context_reach=sum(model.config.video_dilations),
            audio_reach=model.audio_reach,
            phases=phases,
            audio_steps=model.audio_steps,
            dim=model.config.local_dim + model.config.context_dim,
            local_dim=model.config.local_dim,
            opset=OPSET,
            calibration=calibration,
        )
        for kind in files:
            shutil.move(Path(scratch) / f"{kind}.onnx", target / f"{kind}.onnx")
    (target / DESCRIPTION).write_text(card.model_dump_json(indent=1, exclude_none=True) + "\n")
    _remove_8_bit(target)
    return worst


def _remove_8_bit(folder: Path) -> None:
    files = (folder / f"{kind}_int8.onnx" for kind in ("video", "video_context", "audio"))
    stale = [f for f in files if f.exists()]
    for file in stale:
        file.unlink()
    if stale:
        warnings.warn(
            f"{folder}: the 8-bit graphs were of other weights and are removed; the CPU is slower "
            "without. New ones: python -m avsync.training.quantise CORPUS --cache CACHE "
            f"-o {folder}",
            RuntimeWarning,
            stacklevel=3,
        )


def main() -> None:
    """``python -m avsync.training.export``: checkpoint → bundled ONNX files."""
    parser = argparse.ArgumentParser(description="Export a landed checkpoint to ONNX.")
    parser.add_argument("--checkpoint", default="models/checkpoint.pt")
    parser.add_argument("-o", "--out", default="models")
    options = parser.parse_args()
    old = ModelCard.model_validate_json((Path(options.out) / DESCRIPTION).read_text())
    worst = export_model(
        load_weights(Path(options.checkpoint)),
        options.out,
        name=old.name,
        calibration=old.calibration,
        phases=old.phases,
    )
    sys.stdout.write(json.dumps({"largest difference to torch": worst}) + "\n")


if __name__ == "__main__":
    main()
