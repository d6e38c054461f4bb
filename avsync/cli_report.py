"""The ``report`` command, and what ``score --report`` and ``--plot`` write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from avsync._console import clean_exit, complain
from avsync.errors import InvalidOptionError
from avsync.report_lines import Unread, read_lines
from avsync.result import SyncResult

__all__ = ["ScoreReport", "report"]


class ScoreReport:
    """What ``score`` is to leave behind: looked at before the work, written after it.

    Raises:
        InvalidOptionError: a plot of several files, or by a name that no plot can have.
    """

    def __init__(self, report: Path | None, plot: Path | None, n_files: int) -> None:
        self.report, self.plot = report, plot
        self.results: list[SyncResult | Unread] = []
        if plot is not None:
            from avsync.report import check_plot

            check_plot(plot)
            if n_files != 1:
                raise InvalidOptionError(f"--plot takes one file, not {n_files}: use --report")

    def add(self, result: SyncResult | Unread) -> None:
        """Keep a result, if it will be needed."""
        if self.report is not None or self.plot is not None:
            self.results.append(result)

    def write(self) -> None:
        """Write what was asked for, and say on standard error where it is."""
        from avsync.report import plot, write_report

        if self.report is not None:
            complain(f"report: {write_report(self.results, self.report)}")
        for result in self.results:
            if self.plot is not None and isinstance(result, SyncResult):
                complain(f"plot: {plot(result, self.plot)}")


def report(
    files: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS", help="JSON lines of score or batch; - is stdin."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR|OUT.html", help="Folder for the index and the pages."
        ),
    ],
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails/--no-thumbnails", help="Pictures of faces, from the videos."),
    ] = True,
) -> None:
    """Make HTML reports of results: an index that sorts and filters, and a page per file.

    The pages hold all they show and open from disk. Prints the page to open. Exit code: 0 done,
    2 the results cannot be read or the report cannot be written.
    """
    with clean_exit():
        from avsync.report import write_report

        lines: list[SyncResult | Unread] = []
        for name in files:
            lines += _results(name)
        typer.echo(str(write_report(lines, out, thumbnails=thumbnails)))


def _results(name: str) -> list[SyncResult | Unread]:
    try:
        if name == "-":
            return read_lines(sys.stdin, "standard input")
        with Path(name).open(encoding="utf-8") as stream:
            return read_lines(stream, name)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InvalidOptionError(f"{name}: cannot be read ({reason})") from error
