"""8-bit graphs: tokens near the full ones, named beside them, and nothing written unless so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("sympy")

from tiny_model import DIM, TINY, copy_tiny
from token_streams import random_crops, random_mel, stream_video

from avsync.errors import AVSyncError
from avsync.runtime import SyncModel
from avsync.training import quantise as module
from avsync.training.data import ClipFeatures
from avsync.training.quantise import CHECKS, TICKS, quantise


def clips(count: int) -> list[ClipFeatures]:
    """Clips of noise, their sound four columns longer at both ends."""
    return [
        ClipFeatures(
            clip=f"clip{i}",
            first=0,
            crops=random_crops(TICKS, i),
            valid=np.ones(TICKS, bool),
            opening=np.zeros(TICKS, np.float32),
            mel=random_mel(4 * TICKS + 8, i).astype(np.float16),
            lead=4,
            eye_px=60.0,
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A tiny model with 8-bit graphs, and how like the full ones they are said to be."""
    folder = copy_tiny(tmp_path_factory.mktemp("tiny") / "m")
    return folder, quantise(folder, clips(CHECKS + 3))


def cosine(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_tokens_are_near_the_full_ones_but_not_the_same(
    made: tuple[Path, dict[str, float]],
) -> None:
    folder, likeness = made
    small = SyncModel(folder, provider="cpu", threads=1)
    full = SyncModel(folder, provider="cpu", threads=1, eight_bit=False)
    crops, mel = random_crops(44, 99)[:, 8:72, 8:104], random_mel(160, 99)
    for kind, got, want in (
        ("video", small.encode_video(crops), full.encode_video(crops)),
        ("audio", small.encode_audio(mel), full.encode_audio(mel)),
    ):
        assert got.shape == want.shape == (40, DIM)
        assert np.abs(got - want).max() > 1e-4
        assert cosine(got, want).mean() > 0.998
        assert cosine(got, want).mean() == pytest.approx(likeness[kind], abs=0.001)


def test_the_card_keeps_all_it_had_and_names_the_new_graphs(
    made: tuple[Path, dict[str, float]],
) -> None:
    folder, _ = made
    before = json.loads((TINY / "model.json").read_text())
    before["calibration"]["gate"] = 0.8  # what is not said is said in full
    before["audio_steps"] = 1
    card = json.loads((folder / "model.json").read_text())
    assert {k: card[k] for k in before} == before
    assert set(card) - set(before) == {"video_int8", "audio_int8"}
    for kind in ("video", "audio"):
        assert (folder / f"{kind}.onnx").read_bytes() == (TINY / f"{kind}.onnx").read_bytes()
        data = (folder / f"{kind}_int8.onnx").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert card[f"{kind}_int8"] == {"file": f"{kind}_int8.onnx", "sha256": digest}
    assert len(list(folder.iterdir())) == 5


def test_too_few_clips(tmp_path: Path) -> None:
    with pytest.raises(AVSyncError, match="16 clips with a face; more than 16 are needed"):
        quantise(copy_tiny(tmp_path / "m"), clips(CHECKS))


def test_nothing_is_touched_when_the_tokens_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_tiny(tmp_path / "m")
    monkeypatch.setattr(module, "LIKENESS", 0.99999)
    with pytest.raises(AVSyncError, match=r"video_int8\.onnx: cosine 0\.999\d \(< 0\.99999\)"):
        quantise(folder, clips(CHECKS + 2))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in TINY.iterdir()
    }


def exported(folder: Path, **more: Any) -> Path:
    """A tiny encoder pair of random weights as it is exported."""
    torch = pytest.importorskip("torch")
    from tiny_encoder import TINY as TINY_ENCODER

    from avsync.training.encoder import SyncEncoder
    from avsync.training.export import export_model

    torch.manual_seed(0)
    model = SyncEncoder(TINY_ENCODER.model_copy(update=more)).eval()
    if model.config.speech_layers:
        torch.nn.init.normal_(model.audio.speech_out.weight, std=0.02)
    calibration = SyncModel(TINY, provider="cpu", threads=1).card.calibration
    folder.mkdir(exist_ok=True)
    export_model(model, folder, name="tiny", calibration=calibration)
    return folder


def test_pictures_become_8_bit_before_they_are_stacked_and_tokens_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    early, late = exported(tmp_path / "early"), exported(tmp_path / "late")
    quantise(early, clips(CHECKS + 3))
    monkeypatch.setattr(module, "_quantised_early", lambda file: None)
    quantise(late, clips(CHECKS + 3))
    crops = random_crops(44, 99)[:, 8:72, 8:104]
    tokens = [
        SyncModel(folder, provider="cpu", threads=1).encode_video(crops) for folder in (early, late)
    ]
    np.testing.assert_array_equal(*tokens)

    def stacked_before(folder: Path) -> bool:
        """Whether pictures are stacked in single precision."""
        graph = onnx.load(str(folder / "video_int8.onnx")).graph
        made = {out: node for node in graph.node for out in node.output}
        names = [n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"]
        while names:
            node = made.get(names.pop())
            if node is not None and node.op_type in module.MOVES:
                if node.op_type == "Concat":
                    return True
                names.append(node.input[0])
        return False

    assert stacked_before(late)
    assert not stacked_before(early)


def test_the_pictures_graph_in_two_gives_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(exported(tmp_path / "two"), clips(CHECKS + 3))
    monkeypatch.setattr(module, "part", lambda *_, **__: False)
    quantise(exported(tmp_path / "one"), clips(CHECKS + 3))
    two, one = (SyncModel(tmp_path / n, provider="cpu", threads=1) for n in ("two", "one"))
    assert two.parted
    assert not one.parted
    assert not SyncModel(tmp_path / "two", threads=1, provider="cpu", eight_bit=False).parted
    for count in (5, 20, 21, 44):
        crops = random_crops(count, count)[:, 8:72, 8:104]
        np.testing.assert_allclose(two.encode_video(crops), one.encode_video(crops), atol=1e-6)
    for count, sizes, block in ((1, [], 256), (3, [1, 1], 1), (90, [7, 30, 1], 16), (90, [], 256)):
        crops = random_crops(count, 7)
        got, want = (stream_video(model, crops, sizes, block) for model in (two, one))
        assert got.shape == (count, 16)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_of_speech_the_weights_alone_are_multiplied_in_8_bit(tmp_path: Path) -> None:
    import onnx

    exported(tmp_path, speech_layers=1)
    likeness = quantise(tmp_path, clips(CHECKS + 3))
    assert likeness["audio"] > 0.995
    graph = onnx.load(str(tmp_path / "audio_int8.onnx")).graph
    stored = {tensor.name for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    products = [node for node in graph.node if node.op_type == "MatMul" and "/speech/" in node.name]

    def is_8_bit(value: str) -> bool:
        return value in made and made[value].op_type == "DequantizeLinear"

    weighing = [n for n in products if is_8_bit(n.input[1]) and made[n.input[1]].input[0] in stored]
    assert len(weighing) == 7  # mels, four of the attention, two of the layer
    assert all(is_8_bit(node.input[0]) for node in weighing)
    attending = [node for node in products if node not in weighing]
    assert len(attending) == 2
    assert not any(is_8_bit(name) for node in attending for name in node.input)
