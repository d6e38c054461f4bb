"""The three ONNX graphs of each published network against torch, and the engine that runs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from avsync.errors import InvalidOptionError, ModelCorruptError, ModelNotFoundError  # noqa: E402
from avsync.published import CONVENTIONS  # noqa: E402
from avsync.published_model import PublishedCard, PublishedModel  # noqa: E402
from avsync.token_blocks import TokenBlocks  # noqa: E402
from avsync.training import export_published  # noqa: E402
from avsync.training.export_published import (  # noqa: E402
    export_checkpoint,
    export_network,
    three_graphs,
)

ARCHS = ["mtdvocalist", "syncnet", pytest.param("vocalist", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def engine(exported: Any) -> Any:
    """The loaded model of an architecture, loaded once."""
    made: dict[str, PublishedModel] = {}

    def load(arch: str) -> PublishedModel:
        if arch not in made:
            made[arch] = PublishedModel(exported(arch), provider="cpu", threads=1)
        return made[arch]

    return load


def windows(arch: str, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    taken = CONVENTIONS[arch]
    rng = np.random.default_rng(seed)
    video = rng.uniform(0, taken.peak, (batch, *taken.video_shape))
    return video.astype(np.float32), rng.uniform(-4, 4, (batch, *taken.audio_shape)).astype(
        np.float32
    )


def agree(got: np.ndarray, want: Any) -> None:
    """Within 1e-4; relative where the numbers are larger than 1."""
    expected = want.numpy()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("arch", ARCHS)
def test_graphs_are_torch(arch: str, batch: int, engine: Any, golden_network: Any) -> None:
    model, network = engine(arch), golden_network(arch)
    video, audio = windows(arch, batch, 11)
    with torch.no_grad():
        video_tokens = network.encode_video(torch.from_numpy(video))
        audio_tokens = network.encode_audio(torch.from_numpy(audio))
        fused = network.fuse(video_tokens, audio_tokens)
    agree(model.encode_video(video), video_tokens)
    agree(model.encode_audio(audio), audio_tokens)
    score = fused if arch == "syncnet" else fused.logits
    agree(model.fuse(video_tokens.numpy(), audio_tokens.numpy()), score)
    agree(model.fuse(model.encode_video(video), model.encode_audio(audio)), score)


@pytest.mark.parametrize("arch", ARCHS)
def test_golden_scores_through_onnx(
    arch: str, engine: Any, golden: Any, golden_inputs: Any
) -> None:
    model = engine(arch)
    lip, audio = ("lip", "audio") if arch == "syncnet" else ("video", "mel")
    score = model.fuse(
        model.encode_video(golden_inputs[lip].numpy()),
        model.encode_audio(golden_inputs[audio].numpy()),
    )
    if arch == "syncnet":
        assert score == pytest.approx(np.diag(golden["syncnet"]["pairwise_l2"]), rel=1e-3)
    else:
        name = {"vocalist": "teacher", "mtdvocalist": "student"}[arch]
        assert score == pytest.approx(golden[name]["logits"], abs=1e-4)


@pytest.mark.parametrize("arch", ["mtdvocalist", "syncnet"])
def test_no_batch_norm_and_no_3d_convolution_is_left(arch: str, exported: Any) -> None:
    for kind in ("video", "audio", "fusion"):
        graph = onnx.load(exported(arch) / f"{kind}.onnx").graph
        assert "BatchNormalization" not in {node.op_type for node in graph.node}
        assert max((len(t.dims) for t in graph.initializer), default=0) <= 4
        for value in (*graph.input, *graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param in {"batch", "windows", "sounds"}
    graph = onnx.load(exported("mtdvocalist") / "video.onnx").graph
    weights = [t for t in graph.initializer if len(t.dims) == 4]
    assert len(weights) == 17  # stored once each, although frames share them in slices


def test_rewritten_video_is_exact_at_the_windows_ends_too(golden_network: Any) -> None:
    """With all frames but one at zero, every tap of every kernel is seen on its own."""
    network = golden_network("mtdvocalist")
    rewritten = three_graphs(network)["video"]
    volume = three_graphs(network, rewrite=False)["video"]
    video = torch.zeros(5, 15, 48, 96)
    for frame in range(5):
        video[frame, 3 * frame : 3 * frame + 3] = torch.rand(3, 48, 96) * 255
    with torch.no_grad():
        want = network.encode_video(video)
        agree(rewritten(video).numpy(), want)
        agree(volume(video).numpy(), want)


def test_rewrite_refuses_what_it_cannot_do() -> None:
    from avsync.training.export_published import _FrameConv
    from avsync.training.networks import ConvBlock

    with pytest.raises(ValueError, match="number of frames"):
        _FrameConv(ConvBlock(3, 4, (3, 3, 3), (1, 1, 2), (1, 1, 1)).eval())


@pytest.mark.parametrize("arch", ["mtdvocalist", "syncnet"])
def test_card(arch: str, exported: Any) -> None:
    folder = exported(arch)
    card = json.loads((folder / "model.json").read_text())
    assert card["format"] == "avsync-published-2"
    assert card["arch"] == arch
    expected = {
        "mtdvocalist": ("half", 96, "rgb", 255, "vocalist_mel", [15, 48, 96], "logit"),
        "syncnet": ("full", 224, "bgr", 255, "syncnet_mfcc", [3, 5, 224, 224], "distance"),
    }
    keys = ("face", "side", "colour", "peak", "audio", "video_shape", "score")
    assert tuple(card["input"][key] for key in keys) == expected[arch]
    for kind in ("video", "audio", "fusion"):
        data = (folder / card[kind]["file"]).read_bytes()
        assert card[kind]["sha256"] == hashlib.sha256(data).hexdigest()
        assert 0 < card["difference_to_torch"][kind] < 1e-3
    assert sorted(p.name for p in folder.iterdir()) == [
        "audio.onnx",
        "fusion.onnx",
        "model.json",
        "video.onnx",
    ]
    assert PublishedCard.read(folder).arch == arch


def test_graph_that_differs_from_torch_is_not_put_in_place(
    tmp_path: Path, golden_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: Any, *, rewrite: bool) -> dict[str, Any]:
        graphs = three_graphs(network, rewrite=rewrite)
        with torch.no_grad():
            graphs["audio"].cnn[0].weight[0, 0, 0, 0] += 0.5
        return graphs

    monkeypatch.setattr(export_published, "three_graphs", wrong)
    (tmp_path / "video.onnx").write_bytes(b"an older one")
    with pytest.raises(ModelCorruptError, match="audio: ONNX differs from torch"):
        export_network(golden_network("syncnet"), "syncnet", tmp_path)
    assert (tmp_path / "video.onnx").read_bytes() == b"an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["video.onnx"]


def test_checkpoint_to_model_folder(
    tmp_path: Path, golden_state: Any, golden: Any, golden_inputs: Any
) -> None:
    state = {f"module.{name}": t for name, t in golden_state("mtdvocalist").items()}
    torch.save({"state_dict": state, "global_step": 9}, tmp_path / "net.pth")
    card = export_checkpoint(tmp_path / "net.pth", tmp_path / "out" / "model")
    assert card.arch == "mtdvocalist"
    model = PublishedModel(tmp_path / "out" / "model", provider="cpu")
    flipped = model.fuse(
        model.encode_video(golden_inputs["video"].numpy()),
        model.encode_audio(golden_inputs["mel"].numpy()[::-1].copy()),
    )
    assert flipped == pytest.approx(golden["student"]["logits_mel_flipped"], abs=1e-4)
    with pytest.raises(ModelCorruptError, match="not the weights of syncnet"):
        export_checkpoint(tmp_path / "net.pth", tmp_path / "other", arch="syncnet")
    assert not (tmp_path / "other").exists()


def test_score_grid_is_each_pair_in_its_place(engine: Any) -> None:
    student = engine("mtdvocalist")
    video, audio = windows("mtdvocalist", 4, 3)
    v, a = student.encode_video(video), student.encode_audio(audio)
    grid = student.score_grid(v, a[:3], reach=2, batch=3)
    assert grid.shape == (4, 5)
    for i in range(4):
        for k in range(5):
            j = i + k - 2
            if 0 <= j < 3:
                pair = student.fuse(v[i : i + 1], a[j : j + 1])[0]
                assert grid[i, k] == pytest.approx(pair, abs=1e-5)
            else:
                assert np.isnan(grid[i, k])
    later = student.score_grid(v[1:], a[:3], reach=2, audio_first=-1)
    assert np.array_equal(np.isnan(later), np.isnan(grid[1:]))
    assert later == pytest.approx(grid[1:], abs=1e-5, nan_ok=True)
    with pytest.raises(InvalidOptionError):
        student.score_grid(v, a, reach=-1)


@pytest.mark.parametrize("arch", ["mtdvocalist", "syncnet"])
def test_tokens_kept_on_the_device_score_the_same(
    arch: str, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, with the CPU as the device: values are bound, not copied."""
    plain, bound = (PublishedModel(exported(arch), provider="cpu", threads=1) for _ in range(2))
    monkeypatch.setattr(bound, "_keeps", True)
    video, audio = windows(arch, 5, 7)
    v = TokenBlocks.joined([bound.held("video", video[:3]), bound.held("video", video[3:])])
    a = TokenBlocks.joined([bound.held("audio", audio[:1]), bound.held("audio", audio[1:])])
    assert not any(isinstance(value, np.ndarray) for value in (*v.values, *a.values))
    want = plain.score_grid(plain.encode_video(video), plain.encode_audio(audio), reach=3)
    fetched = []
    monkeypatch.setattr(TokenBlocks, "numpy", lambda self: fetched.append(self))
    got = bound.score_grid(v, a, reach=3, batch=4)
    assert got == pytest.approx(want, rel=1e-4, abs=1e-5, nan_ok=True)
    part = bound.score_grid(v[1:4], a[2:], reach=3, audio_first=1)
    there = np.isfinite(part)
    assert there.sum() == 9  # three faces, three sounds
    assert part[there] == pytest.approx(want[1:4][there], rel=1e-4, abs=1e-5)
    assert not fetched  # nothing but scores left the device


def test_folders_of_the_older_format_say_what_to_do(exported: Any, tmp_path: Path) -> None:
    folder = copy(exported("syncnet"), tmp_path / "old")
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace("published-2", "published-1"))
    with pytest.raises(ModelCorruptError, match="run avsync export on the weights again"):
        PublishedModel(folder)


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_damaged_folders_are_refused(exported: Any, tmp_path: Path) -> None:
    source = exported("syncnet")
    with pytest.raises(ModelNotFoundError, match=r"model\.json"):
        PublishedModel(tmp_path)

    folder = copy(source, tmp_path / "bit")
    data = bytearray((folder / "audio.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "audio.onnx").write_bytes(data)
    with pytest.raises(ModelCorruptError, match="SHA-256"):
        PublishedModel(folder)

    folder = copy(source, tmp_path / "gone")
    (folder / "fusion.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match="fusion"):
        PublishedModel(folder)

    text = (source / "model.json").read_text()
    for name, changed, words in (
        ("arch", text.replace('"syncnet"', '"lipnet"'), "lipnet"),
        ("colour", text.replace('"bgr"', '"rgb"'), "not that of syncnet"),
        ("format", text.replace("avsync-published-2", "avsync-tokens-1"), "card"),
        ("json", text[:-5], "card"),
    ):
        folder = copy(source, tmp_path / name)
        (folder / "model.json").write_text(changed)
        with pytest.raises(ModelCorruptError, match=words):
            PublishedModel(folder)

    with pytest.raises(InvalidOptionError, match="threads"):
        PublishedModel(source, threads=0)
