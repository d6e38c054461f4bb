"""Putting files right: the sound moves, all else stays, and nothing half-done is ever left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from factory import write_media
from measure import errors_ms
from offset_clips import clip, digest, hashes
from spoil import truncate
from typer.testing import CliRunner

import avsync
from avsync import FixFailedError, FixRefusedError, MediaWriteError, containers, remux, repair
from avsync._paths import bundled_models_dir
from avsync.cli import app
from avsync.errors import InvalidOptionError, MediaNotFoundError, MediaReadError
from avsync.result import SyncResult

needs_model = pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)
run = CliRunner().invoke


def result(path: object, **more: Any) -> SyncResult:
    known = {"status": "out_of_sync", "offset_ms": 120, "probability": 0.97, "windows": 4}
    return SyncResult(path=str(path), model="fake", **{**known, **more})


class FakeDetector:
    """Gives its answers one after the other."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers: Iterator[dict[str, Any]] = iter(answers)
        self.cuts: Sequence[float] = ()

    def score(
        self,
        path: Path,
        *,
        audio_stream: int | None = None,
        progress: Any,
        cuts: Sequence[float] = (),
    ) -> SyncResult:
        self.cuts = cuts
        progress(1.0)
        return result(path, **next(self.answers))


GOOD: dict[str, Any] = {"status": "in_sync", "offset_ms": 8, "probability": 0.95}
NO_FACE: dict[str, Any] = {
    "status": "no_face",
    "offset_ms": None,
    "probability": None,
    "windows": 0,
}


def fix_by(path: Path, out: Path | None, *answers: dict[str, Any], **options: Any) -> Any:
    detector: Any = FakeDetector(*answers)
    return avsync.fix(path, out, detector=detector, **options)


# --- Measured: accepted, refused, failed


def test_a_measured_offset_is_repaired_and_measured_again(tmp_path: Path) -> None:
    made = clip(tmp_path, offset_ms=120)
    out = tmp_path / "out.mp4"
    seen: list[float] = []
    done = fix_by(made.path, out, {}, GOOD, progress=seen.append)
    assert errors_ms(out) == pytest.approx([0.0] * 4, abs=2.0)
    assert (done.offset_ms, done.residual_ms) == (120.0, 8.0)
    assert done.after.path == str(out)
    assert done.describe() == (
        "the audio was delayed by 120 ms; measured again: audio leads by 8 ms"
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert repair.FixResult.model_validate_json(done.model_dump_json()) == done


PARTS = [
    {"start_s": 0, "end_s": 60, "offset_ms": 160, "probability": 0.9},
    {"start_s": 60, "end_s": 90, "offset_ms": 0, "probability": 0.9},
]


@pytest.mark.parametrize(
    ("answer", "words", "forced"),
    [
        (NO_FACE, "not judged (no_face): no face was found", False),
        ({**NO_FACE, "status": "ambiguous"}, "not judged (ambiguous)", False),
        ({"probability": 0.5}, "only 50 % sure, and 80 % are asked for", True),
        (
            {"segments": PARTS},
            "2 parts have offsets of their own (audio leads by 160 ms, in",
            False,
        ),
        ({"status": "drift", "drift_ms_per_min": 12.0}, "drifts by +12.0 ms per minute", False),
    ],
)
def test_a_weak_measurement_is_refused(
    answer: dict[str, Any], words: str, forced: bool, tmp_path: Path
) -> None:
    made = clip(tmp_path, offset_ms=120)
    out = tmp_path / "out.mp4"
    with pytest.raises(FixRefusedError) as caught:
        fix_by(made.path, out, answer)
    assert words in str(caught.value)
    assert "nothing was written" in str(caught.value)
    assert caught.value.measured.status == answer.get("status", "out_of_sync")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    if forced:
        assert fix_by(made.path, out, answer, GOOD, force=True).status == "fixed"
    else:
        with pytest.raises(FixRefusedError):
            fix_by(made.path, out, answer, GOOD, force=True)
        assert not out.exists()


def test_a_file_in_sync_is_left_alone(tmp_path: Path) -> None:
    made = clip(tmp_path)
    out = tmp_path / "out.mp4"
    done = fix_by(made.path, out, GOOD)
    assert (done.status, done.out, done.audio) == ("already_in_sync", None, ())
    assert done.describe() == "already in sync; nothing was written"
    assert not out.exists()
    assert fix_by(made.path, out, GOOD, GOOD, force=True).status == "fixed"
    assert errors_ms(out) == pytest.approx([8.0] * 4, abs=2.0)


@pytest.mark.parametrize(
    "after", [{"offset_ms": 55}, NO_FACE, {"status": "drift", "drift_ms_per_min": 9.0}]
)
def test_a_residual_leaves_no_output(after: dict[str, Any], tmp_path: Path) -> None:
    made = clip(tmp_path, offset_ms=120)
    out = tmp_path / "out.mp4"
    out.write_text("what was there before")
    with pytest.raises(FixFailedError, match="not kept"):
        fix_by(made.path, out, {}, after)
    assert out.read_text() == "what was there before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_drift_takes_the_middle_for_its_anchor(tmp_path: Path) -> None:
    made = clip(tmp_path, "flac.mkv")
    out = tmp_path / "out.mkv"
    whole = {"start_s": 0, "end_s": 3, "offset_ms": 50, "probability": 0.9}
    answer = {"status": "drift", "drift_ms_per_min": 600.0, "offset_ms": 50, "segments": [whole]}
    done = fix_by(made.path, out, answer, GOOD, drift=True)
    assert done.drift_ms_per_min == 600.0
    late = [50 + 10 * (t - 1.5) for t in made.events_s]
    assert errors_ms(out) == pytest.approx(late, abs=2.0)
    assert "a drift of +600.0 ms per minute was undone" in done.describe()


# --- Nothing half-done


def test_an_exception_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = clip(tmp_path)
    before = digest(made.path)
    counted = iter(range(10**6))
    send = remux._Writer._send

    def broken(self: Any, packet: Any, lane: Any) -> None:
        if next(counted) == 40:
            raise fault
        send(self, packet, lane)

    monkeypatch.setattr(remux._Writer, "_send", broken)
    faults: list[tuple[BaseException, type[BaseException]]] = [
        (OSError(28, "No space left on device"), MediaWriteError),
        (RuntimeError("a bug"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ]
    for fault, kind in faults:  # noqa: B007
        counted = iter(range(10**6))
        with pytest.raises(kind):
            avsync.fix(made.path, tmp_path / "out.mp4", offset_ms=100)
        assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert digest(made.path) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    made = clip(tmp_path)
    size = made.path.stat().st_size
    code = f"""
import resource, sys
from avsync import MediaWriteError, fix
resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))
try:
    fix(sys.argv[1], sys.argv[2], offset_ms=100)
except MediaWriteError as error:
    print(error)
"""
    out = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "out.mp4: cannot be written" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_kill_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    made = clip(tmp_path, offset_ms=50)
    before = digest(made.path)
    code = """
import os, sys
from avsync import fix, remux
send, count = remux._Writer._send, iter(range(10**6))
def deadly(*arguments):
    if next(count) == 60:
        os.kill(os.getpid(), 9)
    send(*arguments)
remux._Writer._send = deadly
fix(sys.argv[1], offset_ms=50, in_place=True)
"""
    done = subprocess.run([sys.executable, "-c", code, str(made.path)], timeout=60)
    assert done.returncode == -9
    assert digest(made.path) == before
    visible = [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert visible == ["clip.mp4"]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_film_that_breaks_off_is_refused(ending: str, tmp_path: Path) -> None:
    made = write_media(tmp_path / f"clip.{ending}", options={"movflags": "faststart"})
    truncate(made.path, 0.4)
    out = tmp_path / f"out.{ending}"
    with pytest.raises(MediaReadError, match=r"breaks off: the picture ends at .* 3\.2 s"):
        avsync.fix(made.path, out, offset_ms=50)
    assert [p.name for p in tmp_path.iterdir()] == [f"clip.{ending}"]
    done = avsync.fix(made.path, out, offset_ms=50, force=True)
    assert any("the picture ends at" in w for w in done.warnings)
    assert hashes(out) == hashes(made.path)


def test_a_damaged_copy_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = clip(tmp_path)
    write = repair.write_moved

    def careless(source: Path, target: Path, **options: Any) -> Any:
        copied = write(source, target, **{**options, "shift_s": 0.05})
        return type(copied)(
            **{
                **{name: getattr(copied, name) for name in copied.__slots__},
                "moved": [containers.Moved(1, 0, "aac", "edit_list", options["shift_s"])],
            }
        )

    monkeypatch.setattr(repair, "write_moved", careless)
    with pytest.raises(FixFailedError, match="did not move as asked"):
        avsync.fix(made.path, tmp_path / "out.mp4", offset_ms=100)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_in_place_keeps_the_original(tmp_path: Path) -> None:
    made = clip(tmp_path, offset_ms=100)
    before = digest(made.path)
    for out in (made.path, tmp_path / "." / "clip.mp4"):
        with pytest.raises(InvalidOptionError, match="--in-place"):
            avsync.fix(made.path, out, offset_ms=100)
    with pytest.raises(InvalidOptionError, match="no new file was named"):
        avsync.fix(made.path, offset_ms=100)
    done = avsync.fix(made.path, offset_ms=100, in_place=True)
    backup = tmp_path / "clip.mp4.bak"
    assert done.backup == str(backup)
    assert digest(backup) == before
    assert errors_ms(made.path) == pytest.approx([0.0] * 4, abs=2.0)
    repaired = digest(made.path)
    with pytest.raises(InvalidOptionError, match="is there already"):
        avsync.fix(made.path, offset_ms=100, in_place=True)
    assert (digest(made.path), digest(backup)) == (repaired, before)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    made = clip(tmp_path)
    out = tmp_path / "out.mp4"
    text = tmp_path / "text.mp4"
    text.write_text("a letter")
    mute = write_media(tmp_path / "mute.mp4", audio=None).path
    with pytest.raises(MediaNotFoundError):
        avsync.fix(tmp_path / "gone.mp4", out, offset_ms=1)
    with pytest.raises(MediaReadError):
        avsync.fix(text, out, offset_ms=1)
    with pytest.raises(MediaReadError, match="no audio stream"):
        avsync.fix(mute, out, offset_ms=1)
    with pytest.raises(InvalidOptionError, match=r"must end in one of \.mp4"):
        avsync.fix(made.path, tmp_path / "out.flv", offset_ms=1)
    with pytest.raises(InvalidOptionError, match="no folder"):
        avsync.fix(made.path, tmp_path / "nowhere" / "out.mp4", offset_ms=1)
    with pytest.raises(InvalidOptionError, match="offset_ms"):
        avsync.fix(made.path, out, offset_ms=float("nan"))
    with pytest.raises(InvalidOptionError, match="give no offset"):
        avsync.fix(made.path, out, offset_ms=1, drift=True)
    with pytest.raises(MediaWriteError, match=r"h264\) has no place in a webm file"):
        avsync.fix(made.path, tmp_path / "out.webm", offset_ms=1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["clip.mp4", "mute.mp4", "text.mp4"]


# --- The command


def test_command_and_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = clip(tmp_path, offset_ms=120)
    film, out = str(made.path), tmp_path / "out.mp4"
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr("avsync.detector.SyncDetector", lambda **options: FakeDetector(*answers))

    def fix(*arguments: object) -> Any:
        return run(app, ["fix", *map(str, arguments)])

    done = fix(film, "-o", out, "--offset-ms", "120")
    assert done.exit_code == 0
    assert f"{film}: the audio was delayed by 120 ms" in done.stdout
    assert "moved by an edit list, packets unchanged" in done.stdout
    out.unlink()
    assert fix(film, "-o", film, "--offset-ms", "1").exit_code == 2
    assert fix(film, "-o", tmp_path / "out.flv", "--offset-ms", "1").exit_code == 2
    assert fix(tmp_path / "gone.mp4", "-o", out, "--offset-ms", "1").exit_code == 4
    answers[:] = [NO_FACE]
    refused = fix(film, "-o", out, "--json")
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["status"] == "refused"
    assert "no face was found" in refused.stderr
    answers[:] = [{}, {"offset_ms": 90}]
    assert fix(film, "-o", out).exit_code == 5
    answers[:] = [GOOD]
    still = fix(film, "-o", out)
    assert (still.exit_code, out.exists()) == (0, False)
    assert "already in sync; nothing was written" in still.stdout
    answers[:] = [{}, GOOD]
    told = json.loads(fix(film, "-o", out, "--json").stdout)
    assert (told["status"], told["residual_ms"], told["out"]) == ("fixed", 8.0, str(out))


@needs_model
def test_a_real_talk_end_to_end(root: Path, tmp_path: Path) -> None:
    talk = root / "examples" / "talk.mp4"
    detector = avsync.SyncDetector(threads=1)
    out = tmp_path / "talk.mp4"
    done = avsync.fix(talk, out, detector=detector)
    assert done.measured is not None
    assert done.measured.status == "out_of_sync"
    assert done.offset_ms == pytest.approx(120, abs=40)
    after = detector.score(out)
    assert after.status == "in_sync"
    assert after.offset_ms == pytest.approx(0, abs=40)
    assert done.residual_ms == after.offset_ms
    assert hashes(out) == hashes(talk)
    assert hashes(out, "audio") == hashes(talk, "audio")
