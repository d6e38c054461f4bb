"""The ``avsync`` command.

Each command is a function here or in a module of its own, registered on :data:`app`; heavy modules
are imported inside the function, so that ``avsync --help`` is quick. Standard output carries
results only; progress, warnings about the run and errors go to standard error.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from avsync import (
    __version__,
    cli_batch,
    cli_demo,
    cli_fix,
    cli_models,
    cli_report,
    cli_speakers,
    cli_train,
)
from avsync._console import (
    AudioStreamOption,
    Exit,
    JsonLinesOption,
    MaxOffsetOption,
    ModelOption,
    Provider,
    ProviderOption,
    ThreadsOption,
    ToleranceOption,
    clean_exit,
    clock,
    complain,
    expand_patterns,
    parse_seconds,
    progress_bar,
    stdout_console,
)
from avsync._process import begin_process
from avsync.errors import SETUP_ERRORS, AVSyncError, InvalidOptionError
from avsync.report_lines import Unread
from avsync.result import (
    Status,
    SyncResult,
    offset_words,
    percent_sure,
    printable_path,
    unread_line,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["app", "main"]

app = typer.Typer(
    name="avsync",
    help="Tell whether sound and lips of a video are in step, and by how much they are not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_STYLES = {Status.in_sync: "green", Status.out_of_sync: "red", Status.drift: "red"}


def main() -> None:
    """Entry point of the console script.

    numpy is not loaded yet: its BLAS gets one thread in what runs outside the SDK's doors, too
    (:mod:`avsync.blas`), and in the processes of a batch.
    """
    begin_process()
    app(prog_name="avsync")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"avsync {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Tell whether sound and lips of a video are in step, and by how much they are not."""


@app.command()
def score(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Video files.")],
    as_json: JsonLinesOption = False,
    model: ModelOption = "default",
    provider: ProviderOption = Provider.auto,
    tolerance: ToleranceOption = "ebu",
    max_offset_ms: MaxOffsetOption = None,
    audio_stream: AudioStreamOption = None,
    threads: ThreadsOption = None,
    exhaustive: Annotated[
        bool,
        typer.Option("--exhaustive", help="Look at all of a file, however long it is."),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop looking at a long file after this time: 30s, 2m."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html|DIR", help="HTML report; of several files, an index."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Plot of one file: png, svg or pdf.")
    ] = None,
) -> None:
    """Score files: offset, how sure, and whether that is in sync.

    A positive offset means that the audio leads (is early). Exit code: 0 every file was judged,
    2 usage or set-up error, 3 a file could not be judged (its status says why), 4 a file could
    not be read.
    """
    with clean_exit():
        from avsync.detector import SyncDetector

        paths = expand_patterns(files)
        reports = cli_report.ScoreReport(report, plot, len(paths))
        detector = SyncDetector(
            model=model,
            provider=provider.value,
            threads=threads,
            tolerance=tolerance,
            max_offset_ms=max_offset_ms,
            exhaustive=exhaustive,
            budget_s=None if budget is None else parse_seconds(budget),
        )
        console = stdout_console()
        codes = []
        for position, path in enumerate(paths):
            try:
                with progress_bar(_label(path, position, len(paths))) as progress:
                    result = detector.score(path, audio_stream=audio_stream, progress=progress)
            except SETUP_ERRORS:
                raise
            except AVSyncError as error:
                complain(_with_path(path, error))
                if as_json:
                    _print_json_error(path, error)
                wrong_option = isinstance(error, InvalidOptionError)
                codes.append(Exit.usage if wrong_option else Exit.unreadable)
                reports.add(Unread(printable_path(path), printable_path(str(error))))
                continue
            reports.add(result)
            if as_json:
                typer.echo(result.model_dump_json())
            else:
                _print_result(console, result)
            codes.append(Exit.ok if result.status.judged else Exit.not_judged)
        reports.write()
    raise typer.Exit(Exit.worst(codes))


app.command()(cli_fix.fix)
app.command()(cli_batch.batch)
app.command()(cli_report.report)
app.command()(cli_speakers.speakers)
app.command()(cli_demo.demo)
app.command()(cli_models.export)
app.command()(cli_models.evaluate)
app.command()(cli_models.evaluate_generated)
app.command()(cli_models.lse)
app.add_typer(cli_train.app, name="train")


def _label(path: str, position: int, total: int) -> str:
    name = PurePath(path).name
    return f"{position + 1}/{total} {name}" if total > 1 else name


def _with_path(path: str, error: AVSyncError) -> str:
    message = str(error)
    return message if path in message else f"{path}: {message}"


def _print_json_error(path: str, error: AVSyncError) -> None:
    line = {**unread_line(path), "error": printable_path(str(error))}
    typer.echo(json.dumps(line, ensure_ascii=False))


def _print_result(console: Console, result: SyncResult) -> None:
    """The verdict in a line, and under it what else is worth a person's knowing."""
    verdict = Text(result.describe(), style=_STYLES.get(result.status, "yellow"))
    console.print(Text.assemble(f"{result.path}: ", verdict))
    for warning in result.warnings:
        console.print(f"  warning: {warning}")
    if result.looked_at_s is not None and result.duration_s is not None:
        seen, length = clock(result.looked_at_s), clock(result.duration_s)
        console.print(f"  looked at {seen} of {length} (--exhaustive looks at all of it)")
    if result.status is Status.out_of_sync and result.offset_ms and len(result.segments) < 2:
        verb = "delay" if result.offset_ms > 0 else "advance"
        amount = round(abs(result.offset_ms))
        delay = f"{result.offset_ms / 1000:.3f}"
        console.print(f"  to repair: {verb} the audio by {amount} ms (mpv --audio-delay={delay})")
    if len(result.segments) > 1:
        console.print(_segment_table(result))


def _segment_table(result: SyncResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in ("from", "to", "offset", "sure", "face"):
        table.add_column(heading, justify="left" if heading == "offset" else "right")
    for segment in result.segments:
        table.add_row(
            clock(segment.start_s),
            clock(segment.end_s),
            offset_words(segment.offset_ms),
            f"{percent_sure(segment.probability)} %",
            "" if segment.track is None else str(segment.track),
        )
    return table
