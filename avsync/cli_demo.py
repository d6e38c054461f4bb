"""The ``demo`` command; registered in :mod:`avsync.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avsync._console import Exit, clean_exit, complain, progress_bar, stdout_console
from avsync.result import offset_words, printable_path

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")
    ] = Path("avsync-demo"),
    offset_ms: Annotated[
        float, typer.Option(metavar="MS", help="The offset to put in, positive = audio leads.")
    ] = 250.0,
) -> None:
    """Try everything on the bundled sample: put an offset in, find it, repair it, write a report.

    Nothing is downloaded. Exit code: 0 found and repaired within 40 ms, 2 usage or set-up error,
    3 not found.
    """
    with clean_exit():
        from avsync.demo import RIGHT_WITHIN_MS, run_demo

        with progress_bar("demo") as progress:
            done = run_demo(out, offset_ms=offset_ms, progress=progress)
        console = stdout_console()
        console.print(f"put in:   {offset_words(done.offset_ms)} ({printable_path(done.shifted)})")
        console.print(f"found:    {done.before.describe()}")
        console.print(f"repaired: {done.repair.describe()}")
        console.print(f"          {done.repair.out}")
        console.print(f"report:   {printable_path(done.report)}")
    if not done.right:
        complain(f"the offset was not found, or is not gone, within {RIGHT_WITHIN_MS:g} ms")
        raise typer.Exit(Exit.not_judged)
