"""Export to ONNX: the same tokens as torch, and nothing written unless they are."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from token_streams import random_crops, random_mel, stream_audio, stream_video  # noqa: E402

from avsync.errors import AVSyncError  # noqa: E402
from avsync.runtime import Calibration, SyncModel  # noqa: E402
from avsync.training import export  # noqa: E402
from avsync.training.encoder import EncoderConfig, SyncEncoder  # noqa: E402
from avsync.training.export import (  # noqa: E402
    export_model,
    load_weights,
    mean_weights,
    save_weights,
)

SMALL = EncoderConfig(
    video_channels=(4, 6, 8, 10), audio_channels=(4, 6, 8), dim=16, local_dim=6, context_dim=10
)
CALIBRATION = Calibration(scale=20, features=("margin",), weights=(0.5, 2.0), method="by hand")


@pytest.fixture(scope="module")
def encoder() -> SyncEncoder:
    """Random weights, and BatchNorm statistics as after some training."""
    torch.manual_seed(3)
    model = SyncEncoder(SMALL)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def folder(encoder: SyncEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model")
    worst = export_model(encoder, target, name="small", calibration=CALIBRATION, phases=4)
    assert set(worst) == {"video", "audio"}
    assert max(worst.values()) < 1e-4
    return target


@pytest.fixture(scope="module")
def model(folder: Path) -> SyncModel:
    return SyncModel(folder, provider="cpu", threads=1)


def test_card_and_files(folder: Path, model: SyncModel) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["audio.onnx", "model.json", "video.onnx"]
    card = model.card
    assert (card.name, card.phases, card.opset) == ("small", 4, 17)
    assert (card.dim, card.local_dim) == (16, 6)
    assert (card.crop_height, card.crop_width) == (64, 96)
    assert (card.stack_reach, card.context_reach) == (2, 7)
    assert card.calibration == CALIBRATION
    raw = json.loads((folder / "model.json").read_text())
    for kind in ("video", "audio"):
        data = (folder / raw[kind]["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == raw[kind]["sha256"]


def test_opset_and_free_time_axis(folder: Path) -> None:
    import onnx

    for kind, shape in (("video", [None, 64, 96]), ("audio", [None, 80])):
        graph = onnx.load(folder / f"{kind}.onnx")
        assert [o.version for o in graph.opset_import if not o.domain] == [17]
        (source,) = graph.graph.input
        dims = [d.dim_value or None for d in source.type.tensor_type.shape.dim]
        assert dims == shape
        assert [o.name for o in graph.graph.output] == ["tokens"]


def test_norms_are_no_work_at_run_time(folder: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime as ort

    for kind in ("video", "audio"):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / f"{kind}.onnx")
        ort.InferenceSession(str(folder / f"{kind}.onnx"), options)
        run = {n.op_type for n in onnx.load(tmp_path / f"{kind}.onnx").graph.node}
        assert not run & {"BatchNormalization", "Cast"}


@pytest.mark.parametrize("frames", [5, 12, 200])
def test_video_tokens_equal_torch(encoder: SyncEncoder, model: SyncModel, frames: int) -> None:
    crops = random_crops(frames)[:, :64, :96]
    with torch.no_grad():
        local, wide = encoder.video(torch.from_numpy(crops.astype(np.float32))[None])
    want = torch.cat([local * 0.5, wide * 0.75**0.5], -1)[0].numpy()
    got = model.encode_video(crops)
    assert got.shape == (frames - 4, 16)
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("columns", [4, 60, 1000])
def test_audio_tokens_equal_torch(encoder: SyncEncoder, model: SyncModel, columns: int) -> None:
    mel = random_mel(columns)
    with torch.no_grad():
        local, wide = encoder.audio(torch.from_numpy(mel)[None])
    want = torch.cat([local * 0.5, wide * 0.75**0.5], -1)[0].numpy()
    np.testing.assert_allclose(model.encode_audio(mel), want, atol=1e-4)


def test_a_dot_product_weighs_both_cosines(encoder: SyncEncoder, model: SyncModel) -> None:
    crops, mel = random_crops(30)[:, :64, :96], random_mel(104)
    with torch.no_grad():
        v_local, v_wide, a_local, a_wide = encoder(
            torch.from_numpy(crops.astype(np.float32))[None], torch.from_numpy(mel)[None]
        )
    want = (0.25 * (v_local * a_local).sum(-1) + 0.75 * (v_wide * a_wide).sum(-1))[0].numpy()
    got = (model.encode_video(crops) * model.encode_audio(mel)).sum(1)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_streams_of_the_real_architecture(model: SyncModel) -> None:
    """The context that the card states is the encoder's: pieces give what the whole gives."""
    crops, mel = random_crops(130), random_mel(530)
    whole = stream_video(model, crops, [], block=10**6)
    np.testing.assert_allclose(stream_video(model, crops, [9, 50], 24), whole, atol=1e-4)
    _, heard = stream_audio(model, mel, 1, [], block=10**6)
    np.testing.assert_allclose(stream_audio(model, mel, 1, [70, 9], 24)[1], heard, atol=1e-4)


def test_nothing_is_touched_when_torch_and_onnx_differ(
    encoder: SyncEncoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.json").write_text("old")
    (tmp_path / "video.onnx").write_text("old")
    monkeypatch.setattr(export, "PARITY", -1.0)
    with pytest.raises(AVSyncError, match=r"video\.onnx: differs from torch by"):
        export_model(encoder, tmp_path, name="x", calibration=CALIBRATION)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "video.onnx"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"old"}


def test_stale_8_bit_graphs_are_removed_not_left(encoder: SyncEncoder, tmp_path: Path) -> None:
    """Not in ``model.json``, not beside it, and the command for new ones is said."""
    export_model(encoder, tmp_path, name="x", calibration=CALIBRATION)
    for kind in ("video", "video_context", "audio", "mine"):
        (tmp_path / f"{kind}_int8.onnx").write_text("of other weights")
    with pytest.warns(RuntimeWarning, match=r"avsync\.training\.quantise CORPUS --cache") as said:
        export_model(encoder, tmp_path, name="x", calibration=CALIBRATION)
    assert len([w for w in said if w.category is RuntimeWarning]) == 1
    assert str(tmp_path) in str(said[-1].message)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["audio.onnx", "mine_int8.onnx", "model.json", "video.onnx"]
    assert "int8" not in (tmp_path / "model.json").read_text()
    SyncModel(tmp_path, provider="cpu", threads=1)


class TestWeights:
    def test_there_and_back_in_half_precision(self, encoder: SyncEncoder, tmp_path: Path) -> None:
        file = tmp_path / "checkpoint.pt"
        save_weights(encoder, file)
        again = load_weights(file)
        assert again.config == SMALL
        assert not again.training
        for (name, a), b in zip(
            encoder.state_dict().items(), again.state_dict().values(), strict=True
        ):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6, msg=name)

    def test_a_training_state_gives_its_moving_average(
        self, encoder: SyncEncoder, tmp_path: Path
    ) -> None:
        file = tmp_path / "state.pt"
        other = SyncEncoder(SMALL)
        state: dict[str, Any] = {
            "config": {"encoder": SMALL.model_dump(), "steps": 5},
            "model": other.state_dict(),
            "average": encoder.state_dict(),
        }
        torch.save(state, file)
        got = load_weights(file)
        for a, b in zip(encoder.parameters(), got.parameters(), strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("kind", ["missing", "text", "other keys", "other widths"])
    def test_what_is_no_checkpoint(self, kind: str, tmp_path: Path) -> None:
        file = tmp_path / "checkpoint.pt"
        if kind == "text":
            file.write_text("no checkpoint")
        elif kind == "other keys":
            torch.save({"weights": {}}, file)
        elif kind == "other widths":
            save_weights(SyncEncoder(SMALL), file)
            state = torch.load(file, weights_only=True)
            state["config"]["dim"] = 24
            torch.save(state, file)
        with pytest.raises(AVSyncError, match=r"checkpoint\.pt: not a checkpoint of this model"):
            load_weights(file)

    def test_pickled_code_is_not_run(self, tmp_path: Path) -> None:
        file, trap = tmp_path / "checkpoint.pt", tmp_path / "trap"
        torch.save({"config": Bomb(trap), "weights": {}}, file)
        with pytest.raises(AVSyncError):
            load_weights(file)
        assert not trap.exists()


class Bomb:
    """What a hostile checkpoint would hold: a file appears where it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trap,))


class TestMean:
    def test_of_weights_one_named_twice_counts_twice(
        self, encoder: SyncEncoder, tmp_path: Path
    ) -> None:
        other = copy.deepcopy(encoder)
        with torch.no_grad():
            for value in other.parameters():
                value += 0.3
        files = [tmp_path / "one.pt", tmp_path / "other.pt"]
        for file, model in zip(files, (encoder, other), strict=True):
            save_weights(model, file)
        one, two = (load_weights(file).state_dict() for file in files)
        mean = mean_weights([files[0], files[1], files[1]]).state_dict()
        assert mean.keys() == one.keys()
        for name, value in mean.items():
            wanted = (one[name] + 2 * two[name]) / 3
            torch.testing.assert_close(value.float(), wanted.float(), atol=1e-6, rtol=1e-5)

    def test_of_other_networks_or_of_none_is_refused(
        self, encoder: SyncEncoder, tmp_path: Path
    ) -> None:
        save_weights(encoder, tmp_path / "one.pt")
        save_weights(SyncEncoder(EncoderConfig(video_channels=(8, 8, 8, 8))), tmp_path / "two.pt")
        with pytest.raises(AVSyncError, match=r"two\.pt: its network is not that of"):
            mean_weights([tmp_path / "one.pt", tmp_path / "two.pt"])
        with pytest.raises(AVSyncError, match="name one at least"):
            mean_weights([])
