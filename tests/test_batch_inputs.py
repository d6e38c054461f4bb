"""What a batch is about: folders, patterns, lists, where copies go, wrong options."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_fake import touch

from avsync.batch import BatchOptions, _limit_s, plan_batch
from avsync.batch_inputs import Inputs, find_inputs, place_copies
from avsync.errors import InvalidOptionError, ModelNotFoundError


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_folders_patterns_lists_and_names() -> None:
    touch("in/b.mp4", "in/a.MKV", "in/notes.txt", "in/.hid.mp4", "in/.git/x.mp4", "in/s/c.ts")
    touch("odd[1].bin", "more/x.mp4", "more/x.srt", "@home.mp4", "late/y.mp4")
    Path("list.txt").write_text(
        "\ufeff# a comment\r\nmore/x.mp4\r\n\n  \nin/b.mp4\nlat*\n", "utf-8"
    )
    assert find_inputs(["in"]).paths == ("in/a.MKV", "in/b.mp4", "in/s/c.ts")
    assert find_inputs(["more/*", "in/*.mp4"]).paths == ("more/x.mp4", "in/b.mp4")
    assert find_inputs(["in/**"]).paths == ("in/a.MKV", "in/b.mp4", "in/s/c.ts")
    assert find_inputs(["@list.txt"]).paths == ("more/x.mp4", "in/b.mp4", "late/y.mp4")
    assert find_inputs(["odd[1].bin", "@home.mp4"]).paths == ("odd[1].bin", "@home.mp4")
    # each file once, whichever way it is named; a file that is not there stays
    named = find_inputs(["in/b.mp4", "./in/../in/b.mp4", "in", "gone.mp4"], lists=["list.txt"])
    assert named.paths[:4] == ("in/b.mp4", "in/a.MKV", "in/s/c.ts", "gone.mp4")
    assert len(named.paths) == 6
    assert find_inputs(["in"], leave_out=["in/s"]).paths == ("in/a.MKV", "in/b.mp4")


@pytest.mark.parametrize("arguments", [[], ["empty"], ["@none.txt"]])
def test_nothing_to_do_is_an_error(arguments: list[str]) -> None:
    Path("empty").mkdir()
    with pytest.raises(InvalidOptionError):
        find_inputs(arguments)


def test_copies_keep_the_folders() -> None:
    touch("in/a.mp4", "in/s/b.wmv", "other/c.mp4")
    suffixes = (".mp4", ".mkv")
    places = place_copies(find_inputs(["in"]), "D", suffixes)
    assert places == ["D/a.mp4", "D/s/b.wmv.mkv"]
    assert place_copies(find_inputs(["in/s", "other"]), "D", suffixes) == [
        "D/in/s/b.wmv.mkv",
        "D/other/c.mp4",
    ]
    assert place_copies(find_inputs(["i*/**"]), "D", suffixes)[0] == "D/in/a.mp4"
    with pytest.raises(InvalidOptionError, match="would replace the input"):
        place_copies(find_inputs(["in"]), "in", suffixes)
    here = str(Path.cwd())
    clash = Inputs((f"{here}/a.wmv", f"{here}/a.wmv.mkv"), here)
    with pytest.raises(InvalidOptionError, match="two files"):
        place_copies(clash, "D", suffixes)


def test_plan_refuses_nonsense() -> None:
    inputs = Inputs(("a.mp4",), ".")
    for options in (
        {"jobs": 0},
        {"engine": "slurm"},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"retries": -1},
        {"tolerance": "eub"},
    ):
        with pytest.raises(InvalidOptionError):
            plan_batch(inputs, BatchOptions(**options))
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        plan_batch(inputs, BatchOptions(model="nowhere"))
    assert _limit_s(None, twice=False) == 300
    assert _limit_s(10_000_000, twice=True) == 1200
    assert _limit_s(10**12, twice=False) == 6 * 3600
