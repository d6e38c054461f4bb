"""The ``batch`` command: many files into one results file; registered in :mod:`avsync.cli`."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from avsync._console import (
    AudioStreamOption,
    Exit,
    MaxOffsetOption,
    ModelOption,
    Provider,
    ProviderOption,
    ToleranceOption,
    _own_stderr,
    clean_exit,
    complain,
    stdout_console,
)
from avsync.errors import DependencyMissingError
from avsync.result import Status

if TYPE_CHECKING:
    from avsync.batch import BatchPlan
    from avsync.batch_file import ResultsFile, Tally
    from avsync.batch_work import BatchItem, Task

__all__ = ["batch"]

#: Without a terminal, a line of progress is printed this often (s).
LINE_EVERY_S = 60.0


class Engine(str, Enum):
    """Who does the work."""

    local = "local"
    ray = "ray"


def batch(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUTS", help="Files, folders (recursive), patterns, URLs, @LISTS."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Results, a JSON line per file.")
    ] = Path("results.jsonl"),
    listing: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="FILE", help="Text list of inputs; - is standard input."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The results as a table, at the end.")
    ] = None,
    fix_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Repair what is out of sync into this folder."),
    ] = None,
    drift: Annotated[
        bool, typer.Option("--drift", help="Repairs undo a measured drift as well.")
    ] = False,
    piecewise: Annotated[
        bool, typer.Option("--piecewise", help="Repairs move parts each by its own offset.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Repair what is out of sync though not sure enough.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="HTML reports with an index, at the end.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Workers; default one per core."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="local: worker processes; ray: actors of Ray.")
    ] = Engine.local,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Ray cluster; auto: the one running here.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the results file; skip what is done.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Resume, and do again what failed.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", help="Time limit of a file; default by its size."),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tries more for a file whose worker died.")
    ] = 1,
    model: ModelOption = "default",
    provider: ProviderOption = Provider.auto,
    tolerance: ToleranceOption = "ebu",
    max_offset_ms: MaxOffsetOption = None,
    audio_stream: AudioStreamOption = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads of each worker's model.")
    ] = None,
) -> None:
    """Score many files, and repair what is out of sync (--fix-dir).

    One JSON line per file is written as soon as it is done; the file is valid whenever the batch
    is stopped or killed, and --resume goes on. A file that crashes or hangs its worker costs that
    file only. Files done count by size, time of change, model and options. --csv and --report are
    written after Ctrl-C too, of what is done.

    Exit code, over all files: 0 every file was judged, 2 usage or set-up error, 3 a file could not
    be judged or its repair was refused, 4 a file could not be read, crashed or took too long, 5 a
    repaired copy could not be written or did not pass its check, 130 stopped by Ctrl-C.
    """
    with clean_exit():
        from avsync.batch import BatchOptions, plan_batch
        from avsync.batch_file import ResultsFile
        from avsync.batch_inputs import find_inputs

        make_report = None if report is None else _report_maker()
        options = BatchOptions(
            jobs=jobs,
            engine=engine.value,
            timeout_s=timeout,
            retries=retries,
            fix_dir=fix_dir,
            drift=drift,
            piecewise=piecewise,
            force=force,
            model=model,
            provider=provider.value,
            threads=threads,
            tolerance=tolerance,
            max_offset_ms=max_offset_ms,
            audio_stream=audio_stream,
            ray_address=ray_address,
        )
        leave_out = [folder for folder in (fix_dir, report) if folder is not None]
        found = find_inputs(inputs or [], lists=listing or [], leave_out=leave_out)
        plan = plan_batch(found, options)
        with ResultsFile(out, plan.run) as results:
            code = _run(plan, results, resume or retry_failed, retry_failed)
        if csv is not None:
            from avsync.batch_file import write_csv

            write_csv(out, csv)
        if make_report is not None:
            make_report(out, report)
    raise typer.Exit(code)


def _run(plan: BatchPlan, results: ResultsFile, resume: bool, retry_failed: bool) -> int:
    """Do what is left, and say how it went; the exit code."""
    from avsync.batch import run_batch
    from avsync.batch_file import Tally

    tasks: list[Task] = list(plan.tasks)
    tally = Tally()
    if resume:
        tasks, tally = results.resume(tasks, retry_failed=retry_failed)
    else:
        results.create()
    skipped = len(plan.tasks) - len(tasks)
    meter = _Meter(tasks)
    stopped = False
    try:
        with contextlib.closing(run_batch(plan, tasks)) as items, _shown(meter) as show:
            for item in items:
                with _ctrl_c_waits():
                    results.append(item)
                    tally.add_item(item)
                    meter.add(item)
                show()
                if item.error is not None:
                    complain(item.error)
                elif item.fix is not None and item.fix.error is not None:
                    complain(f"not repaired: {item.fix.error}")
    except KeyboardInterrupt:
        stopped = True
    _summary(stdout_console(), tally, meter, skipped, results.path)
    if stopped:
        left = len(tasks) - meter.files
        complain(f"stopped with {left} files to go; --resume goes on")
        return Exit.interrupted
    return _exit_code(tally)


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C takes effect after the block: what stands in the results file is counted too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _exit_code(tally: Tally) -> int:
    from avsync.cli_fix import FAILED

    codes: list[int] = [Exit.ok]
    if set(tally.status) & _NOT_JUDGED or tally.fix["refused"]:
        codes.append(Exit.not_judged)
    if tally.status["error"]:
        wrong_option = tally.errors["InvalidOptionError"] == tally.status["error"]
        codes.append(Exit.usage if wrong_option else Exit.unreadable)
    if tally.fix["failed"]:
        codes.append(FAILED)
    return max(codes)


_NOT_JUDGED = {status.value for status in Status if not status.judged}


def _report_maker() -> Any:
    """The function that makes the reports, looked for before hours of work are done."""
    try:
        importlib.import_module("jinja2")
        return importlib.import_module("avsync.report").write_batch
    except (ImportError, AttributeError) as error:
        raise DependencyMissingError(f"--report cannot be made here ({error})") from error


class _Meter:
    """How fast it goes. Time left goes by bytes where all are known, else by files."""

    def __init__(self, tasks: list[Task]) -> None:
        self.total = len(tasks)
        self.files = 0
        self.media_s = 0.0
        sizes = [task.size for task in tasks]
        self._all_bytes = 0 if None in sizes else sum(size or 0 for size in sizes)
        self._bytes = 0
        self._started = time.monotonic()

    def add(self, item: BatchItem) -> None:
        """Count a file that is done."""
        self.files += 1
        self._bytes += item.size or 0
        if item.result is not None:
            self.media_s += item.result.duration_s or 0.0

    @property
    def elapsed_s(self) -> float:
        """Since the batch began."""
        return max(1e-6, time.monotonic() - self._started)

    @property
    def left_s(self) -> float | None:
        """Until all is done; None when it cannot be told yet."""
        share = self._bytes / self._all_bytes if self._all_bytes else self.files / (self.total or 1)
        return self.elapsed_s * (1 - share) / share if share > 0 else None

    def rates(self) -> str:
        """Files per second and media time per time."""
        return (
            f"{self.files / self.elapsed_s:.2f} files/s, "
            f"{self.media_s / self.elapsed_s:.1f} × real time"
        )

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {_duration(self.left_s)} left"
        return f"{self.files}/{self.total} files, {self.rates()}{left}"


@contextlib.contextmanager
def _shown(meter: _Meter) -> Iterator[Callable[[], None]]:
    """Show the meter on standard error: a bar on a terminal, else a line every minute.

    Yields the function to call after each file.
    """
    if not sys.stderr.isatty():
        last = time.monotonic()

        def line() -> None:
            nonlocal last
            if time.monotonic() - last > LINE_EVERY_S:
                last = time.monotonic()
                typer.echo(f"avsync: {meter}", err=True)

        yield line
        return
    with (
        _own_stderr() as stream,
        Progress(
            BarColumn(),
            TextColumn("{task.fields[meter]}", markup=False),
            console=Console(file=stream),
            transient=True,
        ) as progress,
    ):
        bar = progress.add_task("", total=meter.total, meter=meter)
        yield lambda: progress.update(bar, completed=meter.files)


def _summary(console: Console, tally: Tally, meter: _Meter, skipped: int, results: Path) -> None:
    """The closing lines: how many of each kind, the repairs, the speed."""
    total = sum(tally.status.values())
    kinds = [str(status) for status in Status] + ["error"]
    parts = [f"{tally.status[kind]} {kind}" for kind in kinds if tally.status[kind]]
    earlier = f" ({skipped} done before)" if skipped else ""
    console.print(f"{total} files{earlier}: {', '.join(parts) or 'none done'}")
    if tally.errors:
        console.print("  errors: " + ", ".join(f"{n} {k}" for k, n in tally.errors.most_common()))
    if tally.fix:
        words = (f"{tally.fix[k]} {k}" for k in ("fixed", "refused", "failed") if tally.fix[k])
        console.print(f"  repairs: {', '.join(words)}")
    if meter.files:
        console.print(f"  {meter.files} files in {_duration(meter.elapsed_s)}: {meter.rates()}")
    console.print(f"  results: {results}")


def _duration(seconds: float) -> str:
    """Seconds as 12 s, 3:05 min or 2:03:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"
