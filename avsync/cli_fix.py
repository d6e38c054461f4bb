"""The ``fix`` command: put a file right; registered in :mod:`avsync.cli`."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from avsync._console import (
    Exit,
    MaxOffsetOption,
    ModelOption,
    Provider,
    ProviderOption,
    ThreadsOption,
    clean_exit,
    complain,
    progress_bar,
    stdout_console,
)
from avsync.errors import MediaNotFoundError, MediaReadError
from avsync.result import offset_words, printable_path

if TYPE_CHECKING:
    from rich.console import Console

    from avsync.repair import FixResult

__all__ = ["FAILED", "fix"]

FAILED = 5
"""Exit code: the new file could not be written, or did not pass the check and was not kept."""


def fix(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The video to put right.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="OUT", help="The new file; its ending counts."),
    ] = None,
    offset_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="Repair this offset, positive = audio leads; no measuring."
        ),
    ] = None,
    audio_stream: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only this audio stream, counted from 0."),
    ] = None,
    reencode_audio: Annotated[
        bool, typer.Option("--reencode-audio", help="Encode the sound anew, exact to the sample.")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="Undo a measured drift by resampling the sound.")
    ] = False,
    piecewise: Annotated[
        bool,
        typer.Option("--piecewise", help="Move parts with offsets of their own each by its own."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Repair though not sure, in sync already, or broken off."),
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace FILE and keep it as FILE.bak.")
    ] = False,
    min_probability: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, metavar="P", help="How sure the offset must be, 0 to 1."),
    ] = 0.8,
    model: ModelOption = "default",
    provider: ProviderOption = Provider.auto,
    tolerance: Annotated[
        str, typer.Option(metavar="NAME|EARLY,LATE", help="What counts as in sync.")
    ] = "ebu",
    max_offset_ms: MaxOffsetOption = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Put a file right: measure, move the sound, look again, and only then name it OUT.

    Picture, subtitles, chapters and all else are copied bit for bit; FILE is only read. A file
    that is in sync already is left alone (exit code 0, nothing written) unless --force.

    Exit code: 0 put right or in sync already, 2 usage or set-up error, 3 refused (not judged, not
    sure enough, drifting, or several offsets), 4 FILE could not be read, 5 OUT could not be
    written or did not pass the check. After all but 0 there is no new file.
    """
    with clean_exit():
        from avsync import repair
        from avsync.remux import MediaWriteError

        detector = None
        if offset_ms is None:
            from avsync.detector import SyncDetector

            detector = SyncDetector(
                model=model,
                provider=provider.value,
                threads=threads,
                tolerance=tolerance,
                max_offset_ms=max_offset_ms,
                exhaustive=True,
            )
        try:
            with progress_bar(PurePath(file).name) as progress:
                done = repair.fix(
                    file,
                    out,
                    offset_ms=offset_ms,
                    audio_stream=audio_stream,
                    reencode_audio=reencode_audio,
                    drift=drift,
                    piecewise=piecewise,
                    force=force,
                    in_place=in_place,
                    min_probability=min_probability,
                    detector=detector,
                    progress=progress,
                )
        except repair.FixRefusedError as error:
            _end(file, error, "refused", Exit.not_judged, as_json)
        except (repair.FixFailedError, MediaWriteError) as error:
            _end(file, error, "failed", FAILED, as_json)
        except (MediaNotFoundError, MediaReadError) as error:
            _end(file, error, "error", Exit.unreadable, as_json)
        if as_json:
            typer.echo(done.model_dump_json())
        else:
            _print_done(stdout_console(), done)


def _end(file: str, error: Exception, status: str, code: int, as_json: bool) -> None:
    message = str(error) if file in str(error) else f"{file}: {error}"
    complain(message)
    if as_json:
        line = {
            "path": printable_path(file),
            "out": None,
            "status": status,
            "error": printable_path(message),
        }
        typer.echo(json.dumps(line, ensure_ascii=False))
    raise typer.Exit(code)


def _print_done(console: Console, done: FixResult) -> None:
    """What was done in a line, and under it what else is worth a person's knowing."""
    console.print(Text.assemble(f"{done.path}: ", Text(done.describe(), style="green")))
    if done.measured is not None:
        console.print(f"  measured: {done.measured.describe()}")
    for warning in done.warnings:
        console.print(f"  warning: {warning}")
    if done.out is not None:
        console.print(f"  written: {done.out}")
    for move in done.audio:
        ways = {
            "edit_list": "moved by an edit list, packets unchanged",
            "time_stamps": "moved by its time stamps, packets unchanged",
            "encoded_anew": f"encoded anew ({move.encoder})",
        }
        console.print(f"  audio {move.position} ({move.codec}): {ways[move.method]}")
    if done.backup is not None:
        console.print(f"  original: {done.backup}")
    for number, piece in enumerate(done.pieces, 1):
        console.print(
            f"  piece {number} from {piece.start_s:.2f} s: {offset_words(piece.offset_ms)}; "
            f"measured again: {offset_words(piece.residual_ms)}"
        )
