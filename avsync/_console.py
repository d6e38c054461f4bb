"""What the commands share: exit codes, files to work on, error lines and the progress bar."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from avsync.errors import AVSyncError, InvalidOptionError
from avsync.result import TOLERANCES, printable_path

__all__ = [
    "Exit",
    "Provider",
    "clean_exit",
    "clock",
    "complain",
    "expand_patterns",
    "parse_seconds",
    "progress_bar",
    "stdout_console",
]


class Provider(str, Enum):
    """Execution providers of ONNX Runtime."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Exit(IntEnum):
    """Exit codes of every command; where several files end differently, see :meth:`worst`."""

    ok = 0
    usage = 2
    """The command line or the set-up is wrong: option, model, ONNX Runtime, provider."""
    not_judged = 3
    """A file could not be judged; its status says why."""
    unreadable = 4
    """A file could not be read."""
    interrupted = 130
    """Stopped by Ctrl-C."""

    @staticmethod
    def worst(codes: Sequence[Exit]) -> Exit:
        """The code of a run over several files: the highest of theirs."""
        return max(codes, default=Exit.ok)


ModelOption = Annotated[
    str, typer.Option(metavar="DIR", help="'default' or a folder with an exported model.")
]
ProviderOption = Annotated[
    Provider, typer.Option(help="Where the model runs; auto takes a GPU if it can.")
]
ToleranceOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|EARLY,LATE",
        help=f"What counts as in sync: {', '.join(TOLERANCES)}, or ms early,late.",
    ),
]
MaxOffsetOption = Annotated[
    float | None,
    typer.Option(
        metavar="MS",
        help="Largest offset to look for, up to 10000; by itself 600, and 5000 where nothing "
        "stands out.",
    ),
]
AudioStreamOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Which audio stream, counted from 0.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads of the model.")
]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON object per file and line.")
]


def complain(message: str) -> None:
    """One line on standard error, made safe for any terminal encoding."""
    line = " ".join(f"avsync: {message}".split())
    typer.echo(printable_path(line), err=True)


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """End a command cleanly: an AVSyncError is one line and exit 2, Ctrl-C is exit 130."""
    try:
        yield
    except AVSyncError as error:
        complain(str(error))
        raise typer.Exit(Exit.usage) from error
    except KeyboardInterrupt:
        complain("stopped")
        raise typer.Exit(Exit.interrupted) from None


def expand_patterns(arguments: Sequence[str]) -> list[str]:
    """File arguments as given, with patterns that the shell left alone (``*?[``) filled in.

    An argument that exists is never taken for a pattern; a pattern that matches nothing stays as
    it is, so that it is reported as a file that is not there.
    """
    paths: list[str] = []
    for argument in arguments:
        matches: list[str] = []
        if glob.has_magic(argument) and not Path(argument).exists():
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
        paths.extend(matches or [argument])
    return paths


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.s, hours only where there are any."""
    sign = "-" if seconds < 0 else ""
    minutes, rest = divmod(round(abs(seconds), 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{sign}{hours}:{minutes:02d}:{rest:04.1f}"
    return f"{sign}{minutes}:{rest:04.1f}"


def parse_seconds(text: str) -> float:
    """A length of time in seconds: ``30``, ``30s``, ``2m``, ``1h``.

    Raises:
        InvalidOptionError: anything else.
    """
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text.strip().lower()[-1:])
    try:
        return float(text if unit is None else text.strip()[:-1]) * (unit or 1.0)
    except ValueError as err:
        raise InvalidOptionError(f"{text!r} is no length of time: give 30s, 2m or 1h") from err


def stdout_console() -> Console:
    """The console for results: plain when standard output is no terminal."""
    return Console(highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error while that is a terminal, gone at the end; otherwise nothing.

    Yields the function to report to: share done (0..1) -> None.
    """
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    with (
        _own_stderr() as stream,
        Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        ) as progress,
    ):
        task = progress.add_task(printable_path(label), total=1.0)
        yield lambda share: progress.update(task, completed=min(1.0, max(0.0, share)))


@contextlib.contextmanager
def _own_stderr() -> Iterator[TextIO]:
    """Standard error on a descriptor of its own, which ``quiet_native_stderr`` does not touch."""
    descriptor = os.dup(sys.stderr.fileno())
    with open(descriptor, "w", encoding=sys.stderr.encoding, errors="replace") as stream:  # noqa: PTH123
        yield stream
