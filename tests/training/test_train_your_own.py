"""examples/train_your_own: its README's commands, in its order, on clips of two seconds."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from short_talk import write_part
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_encoder import TINY  # noqa: E402

from avsync.cli import app  # noqa: E402
from avsync.training.commands import app as training  # noqa: E402
from avsync.training.encoder import SyncEncoder  # noqa: E402
from avsync.training.export import save_weights  # noqa: E402

#: So small that a step and an export take no time.


def commands(readme: Path) -> list[list[str]]:
    """The commands of the README's second block, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", readme.read_text("utf-8"), re.M | re.S)
    return [shlex.split(line) for line in blocks[1].splitlines()]


@pytest.mark.slow
def test_from_a_folder_to_a_model(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for speaker, length_s in {"anna": 2.4, "bert": 2.2, "cleo": 2.6, "dora": 2.3}.items():
        (tmp_path / "CLIPS" / speaker).mkdir(parents=True)
        clip = tmp_path / "CLIPS" / speaker / "1.mp4"
        write_part(root / "examples/talk.mp4", clip, length_s)
    torch.manual_seed(0)
    save_weights(SyncEncoder(TINY), tmp_path / "tiny.pt")
    places = {
        "models/checkpoint.pt": str(tmp_path / "tiny.pt"),
        "examples/talk.mp4": str(tmp_path / "CLIPS/anna/1.mp4"),
        **{name: str(tmp_path / name) for name in ("CLIPS", "CACHE", "RUN", "MODEL")},
    }
    small = {
        "cache": ["--jobs", "1"],
        "train": ["--steps", "2", "--batch", "2", "--threads", "1"],
    }
    done: Any = None
    lines = commands(root / "examples/train_your_own/README.md")
    assert [line[0] for line in lines] == ["python", "python", "python", "python", "avsync"]
    for line in lines:
        words = [places.get(w, w.replace("RUN/", places["RUN"] + "/")) for w in line]
        if "make_index.py" in words[1]:
            monkeypatch.setattr(sys, "argv", [*words[1:], "--dev", "0.5"])
            runpy.run_path(str(root / words[1]), run_name="__main__")
            rows = [json.loads(row) for row in (tmp_path / "CLIPS/index.jsonl").open()]
            assert [r["split"] for r in rows] == ["dev", "train", "dev", "train"]
        elif words[0] == "python":
            assert words[1:3] == ["-m", "avsync.training.commands"]
            done = CliRunner().invoke(training, [*words[3:], *small.get(words[3], [])])
            assert done.exit_code == 0, (words, done.output, done.exception)
        else:
            done = CliRunner().invoke(app, [*words[1:], "--json"])
    card = json.loads((tmp_path / "MODEL/model.json").read_text())
    assert card["name"] == "mine"
    assert card["calibration"]["weights"]
    scored = json.loads(done.stdout)
    assert scored["model"] == "mine"
    assert done.exit_code == (0 if scored["offset_ms"] is not None else 3)
