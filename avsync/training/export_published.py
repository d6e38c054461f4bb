"""Published networks to ONNX: three graphs, so that every window is encoded once.

``video.onnx`` and ``audio.onnx`` turn windows into tokens, ``fusion.onnx`` scores pairs of them;
only the fusion runs for each shift. Batch size is free in all. BatchNorm is folded into the
convolutions. ONNX Runtime's convolution in three dimensions is slow on a CPU, so the temporal
ones are rewritten, exactly, as convolutions in two: each frame's output is one 2-D convolution
over the frames that its kernel reaches, stacked as channels; taps beyond the window's ends, which
would meet zero padding, are left out with their weights. ``benchmarks/encode_once.py`` measures
both forms.

Beside the graphs lies ``model.json`` (:class:`avsync.published_model.PublishedCard`).
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from avsync.errors import DependencyMissingError, ModelCorruptError
from avsync.published import CONVENTIONS, FRAMES
from avsync.published_model import GRAPH_NAMES, PublishedCard
from avsync.runtime import DESCRIPTION, GraphFile
from avsync.training.checkpoints import load_network
from avsync.training.networks import ConvBlock, VocaLiST
from avsync.training.syncnet import SyncNet

__all__ = ["OPSET", "TOLERANCE", "export_checkpoint", "export_network", "three_graphs"]

OPSET = 17
#: Largest difference to torch that is let through: absolute, or relative to the largest output
#: where that is above 1 (the published SyncNet's embeddings are tens, not ones).
TOLERANCE = 1e-4

PublishedNetwork = VocaLiST | SyncNet
#: Names of first axes; the fusion is given any number of tokens of each.
AXES = {"video_tokens": "windows", "audio_tokens": "sounds"}


class _Folded(nn.Module):
    """A :class:`ConvBlock` whose batch norm is part of its convolution."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.conv = fuse_conv_bn_eval(*block.conv_block)
        self.residual = block.residual

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv(maps)
        return functional.relu(out + maps if self.residual else out)


class _FrameConv(nn.Module):
    """A folded block with kernel order (H, W, T) on a list of frames, each (B, C, H, W)."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(*block.conv_block)
        # (out, in, H, W, T) → (out, T·in, H, W): the channels of stacked frames, time-major.
        self.weight = nn.Parameter(conv.weight.detach().permute(0, 4, 1, 2, 3).flatten(1, 2))
        self.bias = nn.Parameter(conv.bias.detach())
        self.channels = conv.in_channels
        self.reach = conv.kernel_size[2] // 2
        self.stride = conv.stride[:2]
        self.padding = conv.padding[:2]
        self.residual = block.residual
        if conv.stride[2] != 1 or conv.padding[2] != self.reach:
            raise ValueError("only convolutions that keep the number of frames can be rewritten")

    def forward(self, frames: list[Tensor]) -> list[Tensor]:
        outputs = []
        for t, frame in enumerate(frames):
            first, last = max(0, t - self.reach), min(len(frames) - 1, t + self.reach)
            stacked = torch.cat(frames[first : last + 1], 1) if last > first else frame
            taps = slice(
                (first - t + self.reach) * self.channels,
                (last - t + self.reach + 1) * self.channels,
            )
            out = functional.conv2d(
                stacked, self.weight[:, taps], self.bias, self.stride, self.padding
            )
            outputs.append(functional.relu(out + frame if self.residual else out))
        return outputs


class _VideoAsFrames(nn.Module):
    """``VocaLiST.encode_video`` without a 3-D convolution."""

    def __init__(self, network: VocaLiST) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_FrameConv(block) for block in network.vid_prenet])

    def forward(self, video: Tensor) -> Tensor:
        frames = list(video.split(3, dim=1))
        for block in self.blocks:
            frames = block(frames)
        return torch.stack([frame.flatten(1) for frame in frames], dim=1)


class _VideoAsVolume(nn.Module):
    """``VocaLiST.encode_video`` with its 3-D convolutions, batch norms folded."""

    def __init__(self, network: VocaLiST) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[_Folded(block) for block in network.vid_prenet])

    def forward(self, video: Tensor) -> Tensor:
        maps = self.blocks(video.unflatten(1, (FRAMES, 3)).permute(0, 2, 3, 4, 1))
        return maps.flatten(2).transpose(1, 2)


class _Audio(nn.Module):
    """``VocaLiST.encode_audio``, batch norms folded."""

    def __init__(self, network: VocaLiST) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[_Folded(block) for block in network.aud_prenet])

    def forward(self, mel: Tensor) -> Tensor:
        return self.blocks(mel).squeeze(2).transpose(1, 2)


class _Fusion(nn.Module):
    """``fuse`` of the pairs of tokens at two indices (B,): logits, or SyncNet's distances.

    Picked by the graph, so that on a GPU tokens need not leave its memory.
    """

    def __init__(self, network: PublishedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, video_tokens: Tensor, audio_tokens: Tensor, video_index: Tensor, audio_index: Tensor
    ) -> Tensor:
        fused = self.network.fuse(video_tokens[video_index], audio_tokens[audio_index])
        return fused if isinstance(fused, Tensor) else fused.logits


def _fold(layers: nn.Sequential) -> list[nn.Module]:
    """The layers of a SyncNet part with batch norms folded into what stands before them."""
    out: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
            out[-1] = fuse_conv_bn_eval(out[-1], layer)
        elif isinstance(layer, nn.BatchNorm1d):
            out[-1] = fuse_linear_bn_eval(out[-1], layer)
        elif not (isinstance(layer, nn.MaxPool2d) and layer.kernel_size == 1):
            out.append(layer)
    return out


def _flat(layer: nn.Module) -> nn.Module:
    """A 3-D layer of SyncNet's lip part in 2-D: its first kernel spans all frames, others one."""
    if isinstance(layer, nn.MaxPool3d):
        return nn.MaxPool2d(layer.kernel_size[1:], layer.stride[1:], layer.padding[1:])
    if not isinstance(layer, nn.Conv3d):
        return layer
    weight = layer.weight.detach().flatten(1, 2)  # (out, in·T, H, W), colour-major as the input
    conv = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        layer.kernel_size[1:],
        layer.stride[1:],
        layer.padding[1:],
    )
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(layer.bias.detach())
    return conv


class _Embedding(nn.Module):
    """``SyncNet.encode_video`` or ``encode_audio``; ``flat`` for the lip part in 2-D."""

    def __init__(self, cnn: nn.Sequential, head: nn.Sequential, *, flat: bool) -> None:
        super().__init__()
        layers = _fold(cnn)
        self.flat = flat
        self.cnn = nn.Sequential(*[_flat(layer) if flat else layer for layer in layers])
        self.head = nn.Sequential(*_fold(head))

    def forward(self, window: Tensor) -> Tensor:
        maps = self.cnn(window.flatten(1, 2) if self.flat else window)
        return self.head(maps.flatten(1))


def three_graphs(network: PublishedNetwork, *, rewrite: bool = True) -> dict[str, nn.Module]:
    """The modules that become the graphs "video", "audio" and "fusion", in eval mode.

    rewrite: temporal convolutions in 2-D; False keeps them in 3-D (for comparison).
    """
    network.eval()
    graphs: dict[str, nn.Module]
    if isinstance(network, SyncNet):
        graphs = {
            "video": _Embedding(network.netcnnlip, network.netfclip, flat=rewrite),
            "audio": _Embedding(network.netcnnaud, network.netfcaud, flat=False),
            "fusion": _Fusion(network),
        }
    else:
        graphs = {
            "video": _VideoAsFrames(network) if rewrite else _VideoAsVolume(network),
            "audio": _Audio(network),
            "fusion": _Fusion(network),
        }
    return {kind: graph.eval() for kind, graph in graphs.items()}


def _write(graph: nn.Module, kind: str, example: tuple[Tensor, ...], file: Path) -> None:
    inputs, output = GRAPH_NAMES[kind]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter: deprecations, shapes seen as constants
        torch.onnx.export(
            graph,
            example,
            str(file),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: {0: AXES.get(name, "batch")} for name in (*inputs, output)},
            opset_version=OPSET,
            # Folding would store each slice of the weights that the frames share; ONNX Runtime
            # makes those slices as it loads.
            do_constant_folding=kind != "video",
            dynamo=False,
        )


def _random_inputs(arch: str, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows of a published model, uniform over the range of its input."""
    taken = CONVENTIONS[arch]
    top = 4.0 if taken.audio == "vocalist_mel" else 20.0
    random = torch.Generator().manual_seed(seed)
    video = torch.rand(batch, *taken.video_shape, generator=random) * taken.peak
    audio = (torch.rand(batch, *taken.audio_shape, generator=random) * 2 - 1) * top
    return video, audio


def _reference(network: PublishedNetwork, arch: str, batch: int, seed: int) -> dict[str, Tensor]:
    """Inputs and outputs of all three graphs by name, from the network as published."""
    video, audio = _random_inputs(arch, batch, seed)
    with torch.no_grad():
        video_tokens, audio_tokens = network.encode_video(video), network.encode_audio(audio)
        seen, heard = torch.arange(batch).repeat_interleave(2), torch.arange(2 * batch) % batch
        score = _Fusion(network)(video_tokens, audio_tokens, seen, heard)
    return {
        "video": video,
        "audio": audio,
        "video_tokens": video_tokens,
        "audio_tokens": audio_tokens,
        "video_index": seen,
        "audio_index": heard,
        "score": score,
    }


def _check(kind: str, file: Path, references: list[dict[str, Tensor]]) -> float:
    """The largest difference to torch over all references.

    Raises:
        ModelCorruptError: it is above :data:`TOLERANCE`, or a shape differs.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyMissingError(
            "an export is checked with ONNX Runtime: pip install 'avsync[cpu]'"
        ) from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs, output = GRAPH_NAMES[kind]
    worst = 0.0
    for reference in references:
        want = reference[output].numpy()
        got = session.run([output], {name: reference[name].numpy() for name in inputs})[0]
        if got.shape != want.shape:
            raise ModelCorruptError(f"{kind}: shape {got.shape} where torch gives {want.shape}")
        difference = float(np.abs(got - want).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(want).max())):
            raise ModelCorruptError(f"{kind}: ONNX differs from torch by {difference:.2e}")
        worst = max(worst, difference)
    return worst


def export_network(
    network: PublishedNetwork, arch: str, folder: str | Path, *, rewrite: bool = True
) -> PublishedCard:
    """Write the three graphs and ``model.json`` of a published network into ``folder``.

    arch: a name of :data:`avsync.published.CONVENTIONS`. rewrite: see :func:`three_graphs`.
    Each graph is run on random windows (batches of 1 and 3) against the network as it is before
    any file gets its name; ``model.json`` comes last.

    Raises:
        ModelCorruptError: a graph differs from torch; nothing was put in place.
        DependencyMissingError: onnx or ONNX Runtime is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise DependencyMissingError(
            "exporting needs the onnx package: pip install 'avsync[train]'"
        ) from error
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    graphs = three_graphs(network, rewrite=rewrite)
    references = [_reference(network, arch, batch, batch) for batch in (3, 1)]
    files: dict[str, GraphFile] = {}
    differences: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        for kind, (inputs, _) in GRAPH_NAMES.items():
            file = Path(scratch) / f"{kind}.onnx"
            _write(graphs[kind], kind, tuple(references[0][name] for name in inputs), file)
            onnx.checker.check_model(str(file))
            differences[kind] = _check(kind, file, references)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            files[kind] = GraphFile(file=file.name, sha256=digest)
        card = PublishedCard.describe(
            arch,
            video=files["video"],
            audio=files["audio"],
            fusion=files["fusion"],
            opset=OPSET,
            difference_to_torch=differences,
        )
        description = Path(scratch) / DESCRIPTION
        description.write_text(card.model_dump_json(indent=1) + "\n", "utf-8")
        for name in (*(f"{kind}.onnx" for kind in files), DESCRIPTION):
            (Path(scratch) / name).replace(target / name)
    return card


def export_checkpoint(
    checkpoint: str | Path, folder: str | Path, *, arch: str | None = None
) -> PublishedCard:
    """Read a published checkpoint strictly and write its model folder.

    arch: None tells it from the checkpoint's names and shapes.

    Raises:
        InvalidOptionError, ModelNotFoundError, ModelCorruptError: see
            :func:`avsync.training.checkpoints.load_network`.
        ModelCorruptError, DependencyMissingError: see :func:`export_network`.
    """
    name, network = load_network(checkpoint, arch)
    return export_network(network, name, folder)
