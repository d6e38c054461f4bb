"""Files that are broken, cut or not fit to be judged: the right status or error, and exit code.

All go through the real command in one run, as a person would give it a folder of odds and ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spoil
from factory import AudioSpec, VideoSpec, write_media

from avsync._paths import bundled_models_dir

pytestmark = pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)

TALK_MS = 120.0  # examples/talk.mp4: its sound is early by this much
NEAR_MS = 40.0


@dataclass(frozen=True)
class Run:
    """What one call of the command did."""

    code: int
    lines: dict[str, dict[str, Any]]  # the JSON lines by the file's name
    stderr: str


def command(*arguments: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "avsync", "score", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Run(done.returncode, {Path(line["path"]).name: line for line in lines}, done.stderr)


@pytest.fixture(scope="module")
def odds_and_ends(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files made from the sample: each lacks something."""
    folder = tmp_path_factory.mktemp("hard")
    talk = root / "examples" / "talk.mp4"
    picture, width, height = spoil.footage(talk)
    voice = AudioSpec(signal=spoil.recording(talk))
    face = VideoSpec(picture=picture, width=width, height=height)
    still = VideoSpec(picture=lambda t, flash: picture(1.0, False), width=width, height=height)
    black = VideoSpec(picture=lambda t, flash: np.zeros((64, 96, 3), np.uint8))
    rng = np.random.default_rng(5)
    hiss = AudioSpec(signal=lambda t: rng.normal(0.0, 0.1, len(t)))
    hush = AudioSpec(signal=np.zeros_like)

    write_media(folder / "mute.mp4", video=face, audio=None, duration_s=1)
    write_media(folder / "blind.m4a", video=None, audio=voice, duration_s=1)
    write_media(
        folder / "song.mp3", video=None, audio=AudioSpec("libmp3lame"), duration_s=1, cover=True
    )
    write_media(folder / "black.mp4", video=black, audio=voice, duration_s=3)
    write_media(folder / "silence.mp4", video=face, audio=hush, duration_s=2.4)
    write_media(folder / "noise.mkv", video=face, audio=hiss, duration_s=2.4)
    write_media(folder / "still.mp4", video=still, audio=voice, duration_s=3)
    write_media(folder / "short.mp4", video=face, audio=voice, duration_s=0.3)
    write_media(folder / "second.mp4", video=face, audio=voice, duration_s=1)
    cut = spoil.remux(talk, folder / "cut.mp4", options={"movflags": "faststart"})
    spoil.truncate(cut, 0.75)
    spoil.remux(talk, folder / "late.ts", start_s=1.4, audio_late_s=0.2)
    spoil.write_text_named_mp4(folder / "text.mp4")
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    spoil.truncate(spoil.remux(talk, folder / "headless.mp4"), 0.5)
    return folder


@pytest.fixture(scope="module")
def run(odds_and_ends: Path) -> Run:
    """The command over all of them, and one that is not there."""
    names = sorted(p.name for p in odds_and_ends.iterdir())
    return command(*(str(odds_and_ends / n) for n in [*names, "nowhere.mp4"]))


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("mute.mp4", "no_audio"),
        ("blind.m4a", "no_video"),
        ("song.mp3", "no_video"),
        ("black.mp4", "no_face"),
        ("silence.mp4", "no_speech"),
        ("noise.mkv", "no_speech"),
        ("still.mp4", "not_speaking"),
        ("short.mp4", "too_short"),
        ("second.mp4", "too_short"),
    ],
)
def test_status_says_why_there_is_no_offset(run: Run, name: str, status: str) -> None:
    line = run.lines[name]
    assert line["status"] == status
    assert line["offset_ms"] is None
    assert line["direction"] is None
    assert line["segments"] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.mp4", "no such file"),
        ("text.mp4", "not a media file that can be read"),
        ("empty.mp4", "the file is empty"),
        ("folder.mp4", "is a folder"),
        ("headless.mp4", "not a media file that can be read"),
    ],
)
def test_error_says_what_is_wrong_with_the_file(run: Run, name: str, words: str) -> None:
    line = run.lines[name]
    assert line["status"] == "error"
    assert line["offset_ms"] is None
    assert words in line["error"]
    told = [text for text in run.stderr.splitlines() if name in text]
    assert len(told) == 1
    assert words in told[0]


def test_a_cut_film_is_judged_by_what_is_left(run: Run) -> None:
    line = run.lines["cut.mp4"]
    assert line["status"] == "out_of_sync"
    assert line["offset_ms"] == pytest.approx(TALK_MS, abs=NEAR_MS)
    assert line["direction"] == "audio_leads"
    assert any("breaks off" in w for w in line["warnings"])
    assert any("though the file declares 8.0 s" in w for w in line["warnings"])


def test_another_container_clock_changes_nothing(run: Run) -> None:
    line = run.lines["late.ts"]
    assert line["status"] == "out_of_sync"
    assert line["offset_ms"] == pytest.approx(TALK_MS - 200, abs=NEAR_MS)
    assert line["direction"] == "audio_lags"
    assert line["tracks"][0]["start_s"] == pytest.approx(1.4, abs=0.1)
    assert line["tracks"][0]["end_s"] == pytest.approx(9.4, abs=0.1)
    assert line["warnings"] == []


def test_one_run_over_all_of_them(run: Run, odds_and_ends: Path) -> None:
    assert len(run.lines) == len(list(odds_and_ends.iterdir())) + 1
    assert run.code == 4
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [("nowhere.mp4", 4), ("text.mp4", 4), ("mute.mp4", 3)],
)
def test_exit_codes_one_by_one(name: str, code: int, odds_and_ends: Path) -> None:
    alone = command(str(odds_and_ends / name))
    assert alone.code == code
    assert "Traceback" not in alone.stderr
    assert list(alone.lines) == [name]
