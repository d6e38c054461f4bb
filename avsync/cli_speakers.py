"""``avsync speakers``: who speaks when."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from avsync._console import (
    AudioStreamOption,
    Exit,
    JsonLinesOption,
    MaxOffsetOption,
    ModelOption,
    Provider,
    ProviderOption,
    ThreadsOption,
    clean_exit,
    clock,
    complain,
    expand_patterns,
    progress_bar,
    stdout_console,
)
from avsync.errors import SETUP_ERRORS, AVSyncError, InvalidOptionError
from avsync.result import SyncResult, percent_sure, printable_path, unread_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["speakers"]

_KEYS = ("path", "status", "reason", "offset_ms", "probability", "duration_s", "speech_s")
_FACE = ("id", "start_s", "end_s", "face_px", "box", "speaking", "share", "score")


def speakers(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Video files.")],
    as_json: JsonLinesOption = False,
    model: ModelOption = "default",
    provider: ProviderOption = Provider.auto,
    max_offset_ms: MaxOffsetOption = None,
    audio_stream: AudioStreamOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Tell who speaks when: which face, or nobody who is seen.

    A face is known by its lips being in step with the sound. Exit code: 0 every file has turns,
    2 usage or set-up error, 3 of a file it cannot be told (its status says why), 4 a file could
    not be read.
    """
    with clean_exit():
        from avsync.detector import SyncDetector

        paths = expand_patterns(files)
        detector = SyncDetector(
            model=model,
            provider=provider.value,
            threads=threads,
            max_offset_ms=max_offset_ms,
            exhaustive=True,
        )
        console = stdout_console()
        codes = []
        for path in paths:
            try:
                with progress_bar(path) as progress:
                    result = detector.score(path, audio_stream=audio_stream, progress=progress)
            except SETUP_ERRORS:
                raise
            except AVSyncError as error:
                complain(str(error) if path in str(error) else f"{path}: {error}")
                if as_json:
                    line = {**unread_line(path), "error": printable_path(str(error)), "turns": []}
                    typer.echo(json.dumps(line, ensure_ascii=False))
                wrong = isinstance(error, InvalidOptionError)
                codes.append(Exit.usage if wrong else Exit.unreadable)
                continue
            if as_json:
                typer.echo(json.dumps(_line(result), ensure_ascii=False))
            else:
                _print(console, result)
            codes.append(Exit.ok if result.turns else Exit.not_judged)
    raise typer.Exit(Exit.worst(codes))


def _line(result: SyncResult) -> dict[str, object]:
    whole = result.model_dump(mode="json")
    return {
        **{key: whole[key] for key in _KEYS},
        "tracks": [{key: track[key] for key in _FACE} for track in whole["tracks"]],
        "turns": whole["turns"],
        "model": whole["model"],
        "avsync_version": whole["avsync_version"],
    }


def _print(console: Console, result: SyncResult) -> None:
    if not result.turns:
        console.print(f"{result.path}: cannot be told: {result.reason or 'no speech was found'}")
        return
    console.print(f"{result.path}: {result.describe()}")
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("from", "to", "who", "sure"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for turn in result.turns:
        who = "nobody seen" if turn.track is None else f"face {turn.track}"
        sure = f"{percent_sure(turn.probability)} %"
        table.add_row(clock(turn.start_s), clock(turn.end_s), who, sure)
    console.print(table)
    for track in result.tracks:
        if track.share is None:
            continue
        left, top, right, bottom = (round(v) for v in track.box)
        console.print(
            f"  face {track.id}: {clock(track.start_s)} to {clock(track.end_s)} "
            f"at {left},{top} to {right},{bottom}, speaks {track.share:.0%} of the speech"
        )
