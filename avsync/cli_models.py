"""Commands around models and measures: ``export``, ``evaluate``, ``evaluate-generated``, ``lse``.

Registered in :mod:`avsync.cli`.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from avsync._console import (
    AudioStreamOption,
    Exit,
    JsonLinesOption,
    ModelOption,
    Provider,
    ProviderOption,
    ThreadsOption,
    ToleranceOption,
    clean_exit,
    complain,
    expand_patterns,
    progress_bar,
    stdout_console,
)
from avsync.errors import (
    AVSyncError,
    DependencyMissingError,
    InvalidOptionError,
    MediaReadError,
)
from avsync.result import offset_words, printable_path

if TYPE_CHECKING:
    from avsync.metrics import LipSyncError
    from avsync.protocol import ProtocolReport

__all__ = ["evaluate", "evaluate_generated", "export", "lse"]


class Architecture(str, Enum):
    """The published networks."""

    vocalist = "vocalist"
    mtdvocalist = "mtdvocalist"
    syncnet = "syncnet"


class Protocol(str, Enum):
    """Evaluation protocols."""

    lrs2 = "lrs2"


class TableForm(str, Enum):
    """How a table is written."""

    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


_FORM_OF = {".tex": TableForm.latex, ".csv": TableForm.csv, ".json": TableForm.json}


def export(
    arch: Annotated[Architecture, typer.Option(help="Which published network it is.")],
    checkpoint: Annotated[
        Path, typer.Option(metavar="FILE", help="Published weights (a torch state_dict).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Model folder to write.")],
) -> None:
    """Turn published weights into a model folder for --model.

    Three ONNX graphs (video, audio, fusion) and model.json, each graph checked against torch
    before it is written. The checkpoint is read without running code from it. Needs
    the extra "train". Exit code: 0 written, 2 otherwise.
    """
    with clean_exit():
        try:
            from avsync.training.export_published import export_checkpoint
        except ImportError as error:
            if isinstance(error, AVSyncError):
                raise
            raise DependencyMissingError(
                f"exporting needs {error.name or 'torch'}: pip install 'avsync[train]'"
            ) from error
        card = export_checkpoint(checkpoint, out, arch=arch.value)
        worst = ", ".join(f"{k} {v:.1e}" for k, v in card.difference_to_torch.items())
        typer.echo(f"{printable_path(out)}: {card.name}; differs from torch by at most {worst}")


def evaluate(
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of clips in sync, such as LRS2's main."),
    ],
    model: Annotated[
        str, typer.Option(metavar="DIR", help="'default' or a folder with an exported model.")
    ] = "default",
    protocol: Annotated[Protocol, typer.Option(help="Which protocol.")] = Protocol.lrs2,
    listing: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Clips to take, such as LRS2's test.txt."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N clips.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    provider: ProviderOption = Provider.auto,
    threads: ThreadsOption = None,
) -> None:
    """Measure a model's accuracy by the published protocol, beside the published rows.

    5-frame windows against shifts of ±15 frames, right within ±1; K = 7 to 15 average
    neighbouring windows; accuracy per clip, then the mean. A folder with index.jsonl gives its
    dev clips of trusted sync, any other all videos in and under it. Exit code: 0 measured, 2 not,
    4 some clip could not be read or held no face (they are named and not counted).
    """
    with clean_exit():
        from avsync.detector import SyncDetector
        from avsync.protocol import evaluate as run
        from avsync.protocol import find_clips

        detector = SyncDetector(model=model, provider=provider.value, threads=threads)
        clips = find_clips(data, listing)[:limit]
        with progress_bar(f"{len(clips)} clips") as progress:
            report = run(detector, clips, data=str(data), progress=progress)
        for path, why in report.left_out:
            complain(f"left out: {why}" if path in why else f"left out: {path}: {why}")
        if as_json:
            typer.echo(json.dumps({"protocol": protocol.value, **report.as_dict()}))
        else:
            stdout_console().print(_protocol_table(report))
    raise typer.Exit(Exit.unreadable if report.left_out else Exit.ok)


def _protocol_table(report: ProtocolReport) -> Table:
    from avsync.protocol import FRAME_COUNTS, PUBLISHED

    table = Table(
        title=f"{report.clips} clips, {report.windows} windows: % within ±1 frame",
        caption=f"{report.model}: {report.note}. Other rows: as published, on the LRS2 test set.",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("model", overflow="fold")
    table.add_column("measured on", overflow="fold")
    for frames in FRAME_COUNTS:
        table.add_column(f"K={frames}", justify="right", no_wrap=True)
    mine = [f"{100 * report.accuracy[k]:.2f}" for k in FRAME_COUNTS]
    table.add_row(report.model, report.data or "these clips", *mine)
    for name, row in PUBLISHED.items():
        table.add_row(name, "LRS2 test", *map(str, row))
    return table


def evaluate_generated(
    sets: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", exists=True, help="Folders of clips, a set each."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the table here.")
    ] = None,
    form: Annotated[
        TableForm | None,
        typer.Option("--format", help="Default: by OUT's ending (.md, .tex, .csv, .json)."),
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write a row a clip here as well.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="SyncNet's model folder, for LSE-D and LSE-C."),
    ] = None,
    model: ModelOption = "default",
    tolerance: ToleranceOption = "ebu",
    max_offset_ms: Annotated[
        float, typer.Option(metavar="MS", help="Largest offset to look for, up to 10000.")
    ] = 600.0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Worker processes.")] = 1,
    provider: ProviderOption = Provider.auto,
    threads: ThreadsOption = None,
) -> None:
    """Measure generated clips: a row a folder, for papers.

    Mean |offset| of the clips that could be judged, share in sync of all clips, the score at no
    shift (a clip that is fine but late scores badly), how many could be judged, and LSE-D and
    LSE-C with SyncNet's weights. Exit code: 0 measured, 2 usage or set-up error, 4 some clip could
    not be read (it is named, and counts as not in sync).
    """
    with clean_exit():
        from avsync.report import write_file
        from avsync.sync_report import sync_report, sync_table

        chosen = form or _FORM_OF.get(out.suffix.lower() if out else "", TableForm.markdown)
        reports = []
        for folder in sets:
            with progress_bar(folder.name) as progress:
                report = sync_report(
                    folder,
                    model=model,
                    weights=weights,
                    jobs=jobs,
                    tolerance=tolerance,
                    max_offset_ms=max_offset_ms,
                    provider=provider.value,
                    threads=threads,
                    progress=progress,
                )
            reports.append(report)
        unread = [c for r in reports for c in r.clips if c.status == "error"]
        for clip in unread:
            complain(f"not read: {clip.reason}")
        table = sync_table(reports, chosen.value)
        if clips is not None:
            rows = [r.clips_csv().split("\n", 1) for r in reports]
            write_file(clips, (rows[0][0] + "\n" + "".join(r[1] for r in rows)).encode())
        if out is None:
            typer.echo(table, nl=False)
        else:
            write_file(out, table.encode())
            complain(f"written: {printable_path(out)}")
    raise typer.Exit(Exit.unreadable if unread else Exit.ok)


def lse(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Video files.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder written by avsync export --arch syncnet."),
    ] = None,
    as_json: JsonLinesOption = False,
    min_track_s: Annotated[
        float, typer.Option(min=0.2, metavar="S", help="Leave out faces seen for less.")
    ] = 1.0,
    audio_stream: AudioStreamOption = None,
    provider: ProviderOption = Provider.auto,
    threads: ThreadsOption = None,
) -> None:
    """Measure LSE-D (lower is better) and LSE-C (higher is better) with SyncNet's weights.

    As the Wav2Lip evaluation defines them, per face and for the file. Exit code: 0 every file was
    measured, 2 usage or set-up error, 3 a file holds nothing to measure, 4 a file could not be
    read.
    """
    with clean_exit():
        from avsync.metrics import LipSyncMeter

        meter = LipSyncMeter(
            model, provider=provider.value, threads=threads, min_track_s=min_track_s
        )
        console = stdout_console()
        codes = []
        for path in expand_patterns(files):
            try:
                with progress_bar(PurePath(path).name) as progress:
                    found = meter.measure(path, audio_stream=audio_stream, progress=progress)
            except (InvalidOptionError, MediaReadError, FileNotFoundError) as error:
                message = str(error)
                complain(message if path in message else f"{path}: {message}")
                if as_json:
                    typer.echo(json.dumps(_unread(path, message, meter.name)))
                wrong = isinstance(error, InvalidOptionError)
                codes.append(Exit.usage if wrong else Exit.unreadable)
                continue
            if as_json:
                typer.echo(found.model_dump_json())
            else:
                _print_lse(console, found)
            codes.append(Exit.ok if found.status is None else Exit.not_judged)
    raise typer.Exit(Exit.worst(codes))


def _unread(path: str, message: str, model: str) -> dict[str, Any]:
    from avsync.metrics import LipSyncError

    line = LipSyncError(path=path, model=model).model_dump(mode="json")
    return {**line, "status": "error", "error": printable_path(message)}


def _print_lse(console: Any, found: LipSyncError) -> None:
    if found.lse_d is None or found.lse_c is None or found.offset_ms is None:
        console.print(f"{found.path}: not measured: {found.reason}")
    else:
        console.print(f"{found.path}: {_lse_words(found.lse_d, found.lse_c, found.offset_ms)}")
    for warning in found.warnings:
        console.print(f"  warning: {warning}")
    if len(found.tracks) > 1:
        for t in found.tracks:
            words = _lse_words(t.lse_d, t.lse_c, t.offset_ms)
            console.print(f"  face {t.id}, {t.start_s:.1f} to {t.end_s:.1f} s: {words}")


def _lse_words(lse_d: float, lse_c: float, offset_ms: float) -> str:
    return f"LSE-D {lse_d:.3f}, LSE-C {lse_c:.3f}, {offset_words(offset_ms)}"
