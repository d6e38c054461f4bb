"""The command line: what it prints where, exit codes, and no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_result import REQUIRED_KEYS

import avsync
from avsync._console import Exit, complain, expand_patterns
from avsync._console import clock as _clock
from avsync._paths import bundled_models_dir
from avsync.cli import app
from avsync.errors import (
    DependencyMissingError,
    InvalidOptionError,
    MediaNotFoundError,
    MediaReadError,
    ModelNotFoundError,
)
from avsync.result import SyncResult

needs_model = pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)


class FakeDetector:
    """Answers by the file's name and keeps how it was made and asked."""

    made: dict[str, Any]
    asked: list[tuple[str, int | None]]

    def __init__(self, model: str | None = None, **options: Any) -> None:
        if model == "nowhere":
            raise ModelNotFoundError("nowhere: no model.json there")
        type(self).made = {"model": model, **options}
        type(self).asked = []

    def score(
        self,
        path: str,
        *,
        audio_stream: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> SyncResult:
        self.asked.append((path, audio_stream))
        for share in (0.0, 0.5, 1.0):
            if progress is not None:
                progress(share)
        name = Path(path).stem
        answers: dict[str, dict[str, Any]] = {
            "good": {"status": "in_sync", "offset_ms": 12, "probability": 0.97},
            "late": {"status": "out_of_sync", "offset_ms": -120, "probability": 0.974},
            "cuts": {
                "status": "out_of_sync",
                "offset_ms": 160,
                "probability": 0.9,
                "warnings": ["the file is cut off after 75.2 s"],
                "segments": [
                    {"start_s": 0, "end_s": 65.5, "offset_ms": 160, "probability": 0.9, "track": 0},
                    {"start_s": 65.5, "end_s": 75.2, "offset_ms": 0, "probability": 0.88},
                ],
            },
            "mute": {"status": "no_audio"},
        }
        if name == "gone":
            raise MediaNotFoundError(f"{path}: no such file")
        if name == "text":
            raise MediaReadError("not media, or damaged beyond reading")
        if name == "stream":
            raise InvalidOptionError(f"{path}: no audio stream 3; it has 1")
        if name == "setup":
            raise DependencyMissingError("ONNX Runtime is not installed: pip install 'avsync[cpu]'")
        if name == "stop":
            raise KeyboardInterrupt
        return SyncResult(path=path, model="fake", windows=4, **answers[name])


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process with the fake detector: (exit code, stdout, stderr)."""
    monkeypatch.setattr("avsync.detector.SyncDetector", FakeDetector)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app(list(arguments), prog_name="avsync")
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"avsync {avsync.__version__}\n", "")


def test_verdict_in_words(run: Run) -> None:
    assert run("score", "dir/good.mp4") == (
        0,
        "dir/good.mp4: audio leads by 12 ms (97 % sure), in sync\n",
        "",
    )


def test_verdict_out_of_sync_says_how_to_repair(run: Run) -> None:
    code, out, err = run("score", "late.mp4")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "late.mp4: audio lags by 120 ms (97 % sure), out of sync",
        "  to repair: advance the audio by 120 ms (mpv --audio-delay=-0.120)",
    ]


def test_several_segments_are_listed(run: Run) -> None:
    code, out, _ = run("score", "cuts.mp4")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1:] == [
        "warning: the file is cut off after 75.2 s",
        "from to offset sure face",
        "0:00.0 1:05.5 audio leads by 160 ms 90 % 0",
        "1:05.5 1:15.2 in sync 88 %",
    ]
    assert "repair" not in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00.0"),
        (59.96, "1:00.0"),
        (3599.0, "59:59.0"),
        (3661.25, "1:01:01.2"),
        (-2, "-0:02.0"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert _clock(seconds) == text


def test_json_lines(run: Run) -> None:
    code, out, err = run("score", "--json", "good.mp4", "mute.mp4", "gone.mp4", "late.mp4")
    assert code == Exit.unreadable
    good, mute, gone, late = (json.loads(line) for line in out.splitlines())
    for line in (good, mute, gone, late):
        assert list(line)[: len(REQUIRED_KEYS)] == REQUIRED_KEYS
    assert (good["path"], good["status"], good["offset_ms"]) == ("good.mp4", "in_sync", 12.0)
    assert (mute["status"], mute["offset_ms"], mute["direction"]) == ("no_audio", None, None)
    assert (gone["status"], gone["error"]) == ("error", "gone.mp4: no such file")
    assert (gone["segments"], gone["offset_ms"], gone["model"]) == ([], None, None)
    assert (late["direction"], late["model"]) == ("audio_lags", "fake")
    assert err == "avsync: gone.mp4: no such file\n"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (["good.mp4", "late.mp4"], 0),
        (["good.mp4", "mute.mp4"], 3),
        (["mute.mp4", "gone.mp4"], 4),
        (["gone.mp4", "mute.mp4", "good.mp4"], 4),
        (["text.mp4"], 4),
        (["stream.mp4"], 2),
        (["stream.mp4", "mute.mp4"], 3),
        (["setup.mp4"], 2),
        (["stop.mp4"], 130),
    ],
)
def test_exit_codes(run: Run, files: list[str], code: int) -> None:
    for json_flag in ([], ["--json"]):
        found, _, err = run("score", *json_flag, *files)
        assert found == code
        assert "Traceback" not in err


def test_a_file_that_fails_does_not_stop_the_others(run: Run) -> None:
    code, out, err = run("score", "text.mp4", "good.mp4")
    assert code == 4
    assert out == "good.mp4: audio leads by 12 ms (97 % sure), in sync\n"
    assert err == "avsync: text.mp4: not media, or damaged beyond reading\n"


def test_set_up_faults_stop_at_once(run: Run) -> None:
    code, out, err = run("score", "good.mp4", "setup.mp4", "late.mp4")
    assert code == 2
    assert [path for path, _ in FakeDetector.asked] == ["good.mp4", "setup.mp4"]
    assert out.count("\n") == 1
    assert err == "avsync: ONNX Runtime is not installed: pip install 'avsync[cpu]'\n"


def test_model_that_is_not_there(run: Run) -> None:
    assert run("score", "--model", "nowhere", "good.mp4") == (
        2,
        "",
        "avsync: nowhere: no model.json there\n",
    )


def test_options_reach_the_detector(run: Run) -> None:
    run("score", "good.mp4")
    assert FakeDetector.made == {
        "model": "default",
        "provider": "auto",
        "threads": None,
        "tolerance": "ebu",
        "max_offset_ms": None,
        "exhaustive": False,
        "budget_s": None,
    }
    assert FakeDetector.asked == [("good.mp4", None)]
    options = "--model M --provider cpu --threads 2 --tolerance itu --max-offset-ms 2000"
    run("score", *options.split(), "--budget", "2m", "--audio-stream", "1", "good.mp4")
    assert FakeDetector.made == {
        "model": "M",
        "provider": "cpu",
        "threads": 2,
        "tolerance": "itu",
        "max_offset_ms": 2000.0,
        "exhaustive": False,
        "budget_s": 120.0,
    }
    assert FakeDetector.asked == [("good.mp4", 1)]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["score"], "FILE"),
        (["scoer", "a.mp4"], "scoer"),
        (["score", "--provider", "tpu", "a.mp4"], "--provider"),
        (["score", "--max-offset-ms", "wide", "a.mp4"], "--max-offset-ms"),
        (["score", "--audio-stream", "-1", "a.mp4"], "--audio-stream"),
        (["score", "--threads", "0", "a.mp4"], "--threads"),
        (["score", "--frobnicate", "a.mp4"], "--frobnicate"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], hint: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert hint in err
    assert "Traceback" not in err


@needs_model
@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("--tolerance", "eub", "unknown tolerance 'eub': name one of ebu, itu"),
        ("--max-offset-ms", "0", "max_offset_ms"),
        ("--max-offset-ms", "10001", "max_offset_ms"),
        ("--model", "nowhere", "nowhere"),
    ],
)
def test_options_that_the_detector_refuses(option: str, value: str, hint: str) -> None:
    done = avsync_command("score", option, value, "a.mp4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_patterns_the_shell_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("late.mp4", "good.mp4", "odd[1].mp4"):
        (tmp_path / name).touch()
    assert expand_patterns(["*.mp4"]) == ["good.mp4", "late.mp4", "odd[1].mp4"]
    assert expand_patterns(["odd[1].mp4", "g*.mp4"]) == ["odd[1].mp4", "good.mp4"]
    assert expand_patterns(["*.mkv", "-"]) == ["*.mkv", "-"]
    code, out, _ = run("score", "[gl]*.mp4")
    assert (code, out.count("sure")) == (0, 2)


def test_error_lines_are_one_line_and_printable(capsys: pytest.CaptureFixture[str]) -> None:
    complain("caf\udce9.mp4:\n  broken\tfile")
    assert capsys.readouterr().err == "avsync: caf\\udce9.mp4: broken file\n"


def avsync_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``avsync ...`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "avsync", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def test_help_names_the_command_and_the_exit_codes() -> None:
    assert "score" in avsync_command("--help").stdout
    done = avsync_command("score", "--help", env={**os.environ, "COLUMNS": "100"})
    text = " ".join(done.stdout.replace("│", " ").split())
    assert done.returncode == 0
    for option in ("--json", "--model", "--provider", "--tolerance", "--audio-stream"):
        assert option in text
    assert "4 a file could not be read" in text


WITH_FAKE = """
import sys
sys.path.insert(0, {tests!r})
import avsync.detector, test_cli
avsync.detector.SyncDetector = test_cli.FakeDetector
sys.argv = ["avsync", *{arguments!r}]
from avsync.cli import main
main()
"""


def with_fake(*arguments: str) -> list[str]:
    tests = str(Path(__file__).parent)
    return [sys.executable, "-c", WITH_FAKE.format(tests=tests, arguments=arguments)]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal (POSIX)")
@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_progress_bar_is_on_the_terminal_only(json_flag: list[str]) -> None:
    ours, theirs = os.openpty()
    command = with_fake("score", *json_flag, "good.mp4", "late.mp4")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, timeout=120, check=False, env=environment
    )
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert "1/2 good.mp4" in shown
    assert "2/2 late.mp4" in shown
    assert "100%" in shown
    assert b"1/2" not in done.stdout
    assert b"\x1b" not in done.stdout


def test_reader_that_goes_away_is_no_error() -> None:
    command = with_fake("score", "--json", *["good.mp4"] * 2000)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["status"] == "in_sync"
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=120)
    assert b"Traceback" not in err


@needs_model
def test_missing_onnxruntime_is_one_sentence() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None; sys.argv = ['avsync', 'score', 'a.mp4']\n"
        "from avsync.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("avsync: ONNX Runtime is not installed: pip install")
    assert done.stderr.count("\n") == 1


@needs_model
def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no film\n" * 50, "utf-8")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    names = ["gone.mp4", "text.mp4", "empty.mp4", "folder", "none/*.mp4"]
    done = avsync_command("score", "--json", *names, cwd=tmp_path)
    assert done.returncode == 4
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == names
    assert {line["status"] for line in lines} == {"error"}
    assert all(name in line["error"] for name, line in zip(names, lines, strict=True))
    assert done.stderr.count("\n") == len(names)
    assert all(line.startswith("avsync: ") for line in done.stderr.splitlines())


@needs_model
def test_files_that_cannot_be_judged(tmp_path: Path) -> None:
    from factory import write_media

    write_media(tmp_path / "noface.mp4")
    write_media(tmp_path / "noaudio.mp4", audio=None)
    write_media(tmp_path / "novideo.m4a", video=None)
    names = ["noface.mp4", "noaudio.mp4", "novideo.m4a"]
    done = avsync_command("score", "--json", *names, cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["no_face", "no_audio", "no_video"]
    assert {line["offset_ms"] for line in lines} == {None}
    assert all(line["reason"] for line in lines)
    assert (done.returncode, done.stderr) == (3, "")
