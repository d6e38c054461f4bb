"""``avsync train``: its commands, and what it says without the extra or a teacher."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from avsync.cli import app
from avsync.training.data import ClipFeatures, save_features


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def test_help_names_all() -> None:
    shown = run("--help").output
    for name in ("cache", "encoder", "teacher", "student", "table", "pack", "unpack"):
        assert name in shown


def test_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "torch":
            raise ImportError("no", name="torch")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    found = run("teacher", "--data", str(tmp_path), "--out", str(tmp_path / "run"))
    assert found.exit_code == 2
    assert "pip install 'avsync[train]'" in found.output


def small_corpus(folder: Path, clips: int = 6, ticks: int = 30) -> Path:
    """Index and feature cache of clips that hold noise: enough to run everything once."""
    rows = []
    (folder / "cache").mkdir()
    for i in range(clips):
        rng = np.random.default_rng(i)
        name = f"clip{i}"
        split = "dev" if i < 2 else "train"
        rows.append({"id": name, "file": f"{name}.mkv", "split": split, "trusted_sync": True})
        rows[-1] |= {"source": f"source{i % 3}", "speaker": f"speaker{i}", "kind": "real"}
        features = ClipFeatures(
            clip=name,
            first=0,
            crops=rng.integers(0, 256, (ticks, 80, 112)).astype(np.uint8),
            valid=np.ones(ticks, bool),
            opening=np.zeros(ticks, np.float32),
            mel=rng.normal(-4, 2, (4 * ticks, 80)).astype(np.float16),
            lead=0,
            eye_px=60.0,
        )
        save_features(features, folder / "cache" / f"{name}.npz")
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_encoder_by_either_optimiser(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from avsync.training.encoder import EncoderConfig, SyncEncoder
    from avsync.training.export import save_weights

    folder = small_corpus(tmp_path, ticks=60)
    small = EncoderConfig(video_channels=(4, 4, 4, 4), audio_channels=(4, 4, 4), dim=8)
    save_weights(SyncEncoder(small), tmp_path / "first.pt")
    common = ["--data", str(folder), "--cache", str(folder / "cache"), "--threads", "1"]
    common += ["--steps", "1", "--batch", "2", "--start", str(tmp_path / "first.pt")]
    for optimiser in ("adamw", "muon"):
        out = tmp_path / optimiser
        done = run("encoder", *common, "--out", str(out), "--optimiser", optimiser)
        assert done.exit_code == 0, (done.output, done.exception)
        state = torch.load(out / "state.pt", weights_only=True)
        assert state["done"] == 1
        assert state["config"]["optimiser"] == optimiser


def test_encoder_that_hears_speech_and_sees_lips(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from avsync.training.data import load_features
    from avsync.training.encoder import EncoderConfig, SyncEncoder
    from avsync.training.export import load_weights, save_weights
    from avsync.training.rerender import POINTS, MeshedClip
    from avsync.training.speech import SpeechFeatures, save_speech

    folder = small_corpus(tmp_path, ticks=60)
    small = EncoderConfig(video_channels=(4, 4, 4, 4), audio_channels=(4, 4, 4), dim=8)
    save_weights(SyncEncoder(small), tmp_path / "first.pt")
    save_speech(SpeechFeatures(1), tmp_path / "speech.pt")
    (tmp_path / "meshes").mkdir()
    for file in (folder / "cache").glob("*.npz"):
        clip = load_features(file)
        points = np.random.default_rng(0).uniform(0, 80, (len(clip.crops), len(POINTS), 2))
        MeshedClip(clip, points).save(tmp_path / "meshes" / file.name)
    common = ["--data", str(folder), "--cache", str(folder / "cache"), "--threads", "1"]
    common += [
        "--batch",
        "2",
        "--speech",
        str(tmp_path / "speech.pt"),
        "--out",
        str(tmp_path / "o"),
    ]
    common += ["--meshes", str(tmp_path / "meshes"), "--start", str(tmp_path / "first.pt")]
    done = run("encoder", *common, "--steps", "1")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "with the shape of the lips" in done.output
    state = torch.load(tmp_path / "o" / "state.pt", weights_only=True)
    assert state["config"]["encoder"]["speech_layers"] == 1
    assert state["config"]["lips"] == 0.3
    again = run("encoder", *common, "--steps", "2")
    assert again.exit_code == 0, (again.output, again.exception)
    assert load_weights(tmp_path / "o" / "state.pt").config.speech_layers == 1


def test_teacher_student_table_and_shards(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("tqdm")
    from avsync.training.encoder import EncoderConfig, SyncEncoder
    from avsync.training.export import save_weights

    data = small_corpus(tmp_path)
    torch.manual_seed(0)
    widths = EncoderConfig(
        video_channels=(4, 4, 4, 4), audio_channels=(4, 4, 4), dim=16, local_dim=8, context_dim=8
    )
    save_weights(SyncEncoder(widths).eval(), tmp_path / "encoder.pt")
    common = ["--data", str(data), "--cache", str(tmp_path / "cache")]
    common += ["--tokens", str(tmp_path / "tokens"), "--encoder", str(tmp_path / "encoder.pt")]
    common += ["--steps", "2", "--windows", "3", "--variants", "1"]
    wide = run("teacher", *common, "--out", str(tmp_path / "teacher"), "--dim", "32")
    assert wide.exit_code == 0, wide.output
    assert len(list((tmp_path / "tokens").glob("*.0.npz"))) == 4
    assert len(list((tmp_path / "tokens").glob("*.-1.npz"))) == 2
    figures = json.loads(wide.output)
    assert 0 <= figures["joint_5"] <= 1
    state = str(tmp_path / "teacher" / "state.pt")
    narrow = [*common, "--dim", "16", "--out", str(tmp_path / "student")]
    refused = run("student", *narrow)
    assert refused.exit_code == 2
    assert "--teacher" in refused.output
    taught = run("student", *narrow, "--teacher", state)
    assert json.loads(taught.output)["parameters"] < figures["parameters"]
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["loss"], config["steps"]) == ("mtd", 2)
    assert config["fusion"]["context_dim"] == 8
    shown = run(
        "table", *common, "--teacher", state, "--out", str(tmp_path / "table"), "--dim", "8"
    )
    assert [line.split(" |")[0] for line in shown.output.strip().splitlines()[2:]] == [
        "| teacher", "| none", "| kd", "| fitnet", "| rkd", "| minilm", "| mtd",
    ]  # fmt: skip
    shards = run("pack", *common[:4], "--out", str(tmp_path / "shards"))
    assert "shard-000.zip" in shards.output
    first = str(tmp_path / "shards" / "shard-000.zip")
    back = run("unpack", first, "--cache", str(tmp_path / "again"))
    assert back.output.strip() == "6 clips"
    assert len(list((tmp_path / "again").glob("*.npz"))) == 6
