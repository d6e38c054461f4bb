"""8-bit graphs of a model folder: taken by default, checked as the full ones, left on request."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tiny_model import TINY, copy_tiny
from token_streams import random_crops, random_mel

from avsync.errors import ModelCorruptError, ModelNotFoundError
from avsync.runtime import SyncModel, read_graphs

pytest.importorskip("onnxruntime")

KINDS = ("video", "audio")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model; its own graphs serve as 8-bit ones too, in files of their own."""
    data = {kind: (TINY / f"{kind}.onnx").read_bytes() for kind in KINDS}
    named = {
        f"{kind}_int8": {"file": f"{kind}_int8.onnx", "sha256": hashlib.sha256(d).hexdigest()}
        for kind, d in data.items()
    }
    target = copy_tiny(tmp_path / "m", **named)
    for kind in KINDS:
        (target / f"{kind}_int8.onnx").write_bytes(data[kind])
    return target


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_one_is_noticed_as_any_graph(folder: Path, kind: str) -> None:
    said = []
    for name in (f"{kind}_int8.onnx", f"{kind}.onnx"):
        damage(folder / name)
        with pytest.raises(ModelCorruptError, match="does not match its SHA-256") as caught:
            SyncModel(folder, provider="cpu", threads=1, eight_bit="int8" in name)
        said.append(str(caught.value).replace(name, "FILE"))
    assert said[0] == said[1]
    assert said[0].startswith(f"{folder / 'FILE'}: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_one_is_named(folder: Path, kind: str) -> None:
    (folder / f"{kind}_int8.onnx").unlink()
    with pytest.raises(ModelNotFoundError, match=rf"{kind}_int8\.onnx: missing"):
        SyncModel(folder, provider="cpu", threads=1)


def test_without_them_only_the_full_graphs_are_read(folder: Path) -> None:
    for kind in KINDS:
        damage(folder / f"{kind}_int8.onnx")
    model = SyncModel(folder, provider="cpu", threads=1, eight_bit=False)
    plain = SyncModel(TINY, provider="cpu", threads=1)
    crops, mel = random_crops(20)[:, :64, :96], random_mel(80)
    np.testing.assert_array_equal(model.encode_video(crops), plain.encode_video(crops))
    np.testing.assert_array_equal(model.encode_audio(mel), plain.encode_audio(mel))
    _, video, audio = read_graphs(folder)
    assert video == (TINY / "video.onnx").read_bytes()
    assert audio == (TINY / "audio.onnx").read_bytes()


def test_by_default_the_full_graphs_are_not_read(folder: Path) -> None:
    for kind in KINDS:
        damage(folder / f"{kind}.onnx")
    model = SyncModel(folder, provider="cpu", threads=1)
    assert model.encode_audio(random_mel(80)).shape == (20, model.card.dim)
