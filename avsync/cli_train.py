"""``avsync train``: make models from a folder of clips; registered in :mod:`avsync.cli`.

Everything that needs torch is imported inside the commands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsync._console import clean_exit, progress_bar
from avsync.cli_train_options import (
    Cache,
    Data,
    Device,
    Jobs,
    Loss,
    Out,
    Threads,
    encoder_run,
    network_run,
    takes,
)
from avsync.errors import AVSyncError, DependencyMissingError

if TYPE_CHECKING:
    from avsync.training.fusion_fit import FusionTrainConfig
    from avsync.training.fusion_runs import TokenCorpus

__all__ = ["app"]

app = typer.Typer(
    help="Make models from a folder of talking-face clips (extra 'train').", no_args_is_help=True
)


@contextlib.contextmanager
def _session() -> Iterator[None]:
    """One-line errors, and a clear one where the extra is missing."""
    with clean_exit():
        try:
            import torch  # noqa: F401
            import tqdm  # noqa: F401
        except ImportError as error:
            raise DependencyMissingError(
                f"training needs {error.name}: pip install 'avsync[train]'"
            ) from error
        yield


def _corpus(
    *,
    data: Path,
    out: Path,
    cache: Path | None,
    tokens: Path | None,
    encoder: Path,
    cleaned: Path | None,
    clips: int | None,
    variants: int,
    context: bool,
    device: Device,
    jobs: int,
    threads: int,
) -> TokenCorpus:
    """Features and tokens of the clips, made where missing."""
    import torch

    from avsync.training.commands import index_rows
    from avsync.training.data import build_cache
    from avsync.training.fusion_runs import prepare

    if device is Device.cuda and not torch.cuda.is_available():
        raise AVSyncError("device 'cuda': torch finds no GPU here; take --device cpu")
    torch.set_num_threads(threads)
    rows = index_rows(data)
    if cache is None:
        cache = out / "cache"
        build_cache(data, cache, clips=list(rows.values()), jobs=jobs)
    with progress_bar("tokens") as progress:
        return prepare(
            rows,
            cache,
            tokens or out / "tokens",
            encoder,
            variants=range(variants),
            limit=clips,
            cleaned=cleaned,
            context=context,
            device=device.value,
            progress=progress,
        )


@app.command()
@takes(encoder_run)
def encoder(data: Data, out: Out, cache: Cache = None, jobs: Jobs = 2, **options: Any) -> None:
    """Train the encoder pair that turns mouths and sound into tokens."""
    with _session():
        from avsync.training import commands
        from avsync.training.data import build_cache

        if cache is None:
            cache = out / "cache"
            build_cache(data, cache, clips=list(commands.index_rows(data).values()), jobs=jobs)
        commands.train(data=data, cache=cache, out=out, **options)


@app.command()
@takes(network_run, dim=352, learning_rate=4e-4)
def teacher(**options: Any) -> None:
    """Train a wide cross-attention network over the encoders' tokens."""
    with _session():
        _train(**options)


@app.command()
@takes(network_run)
def student(
    teacher: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A teacher's state.pt.")
    ] = None,
    loss: Annotated[Loss, typer.Option(help="How it learns from the teacher.")] = Loss.mtd,
    **options: Any,
) -> None:
    """Train a narrow cross-attention network, with a teacher's help or without."""
    with _session():
        if teacher is None and loss is not Loss.none:
            raise AVSyncError(f"loss '{loss.value}' needs a teacher: give --teacher RUN/state.pt")
        _train(teacher=teacher, loss=loss, **options)


def _prepared(
    *,
    dim: int,
    dropout: float,
    prior: bool,
    context: bool,
    device: Device,
    steps: int,
    windows: int,
    learning_rate: float,
    seed: int,
    **more: Any,
) -> tuple[TokenCorpus, FusionTrainConfig]:
    """Tokens and configuration that a command's options ask for."""
    from avsync.training.fusion import FusionConfig
    from avsync.training.fusion_fit import FusionTrainConfig

    corpus = _corpus(context=context, device=device, **more)
    widths = {"dim": dim, "dropout": dropout, "prior": prior}
    return corpus, FusionTrainConfig(
        fusion=FusionConfig.on(corpus.encoder, context=context, **widths),
        steps=steps,
        windows=windows,
        learning_rate=learning_rate,
        seed=seed,
        bf16=device is Device.cuda,
    )


def _train(
    stride: int, teacher: Path | None = None, loss: Loss = Loss.none, **options: Any
) -> None:
    from avsync.training.fusion_runs import train

    corpus, config = _prepared(**options)
    config = config.model_copy(update={"loss": loss.value})
    with progress_bar(f"{config.steps} steps") as progress:
        figures = train(
            corpus,
            options["out"],
            config,
            teacher=teacher,
            stride=stride,
            device=options["device"].value,
            progress=progress,
        )
    typer.echo(json.dumps(figures))


@app.command()
@takes(network_run)
def table(
    teacher: Annotated[Path, typer.Option(metavar="FILE", help="A teacher's state.pt.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of every loss.")] = 2,
    **options: Any,
) -> None:
    """Train the same student under every distillation loss, in step; print the table."""
    with _session():
        from avsync.training.fusion_runs import distil_all, distillation_table

        stride, out, device = options.pop("stride"), options["out"], options["device"].value
        corpus, config = _prepared(**options)
        with progress_bar(f"{len(Loss)} losses") as progress:
            more: dict[str, Any] = {"device": device, "progress": progress}
            distil_all(corpus, out, teacher, config, seeds=range(seeds), **more)
        with progress_bar("measuring") as progress:
            (out / "table.json").unlink(missing_ok=True)
            distillation_table(
                corpus, out, teacher, stride=stride, device=device, progress=progress
            )
        typer.echo((out / "table.md").read_text("utf-8"))


@app.command()
def cache(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The feature cache.")],
    jobs: Jobs = 2,
) -> None:
    """Make mouth crops and mels of every clip; resumes where it stopped."""
    with _session():
        from avsync.training import commands

        commands.cache(data, out, jobs=jobs)


@app.command()
def rerender(
    data: Data,
    meshes: Annotated[Path, typer.Option(metavar="DIR", help="For crops with their face meshes.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="For the new clips.")],
    seed: Annotated[int, typer.Option(help="Of who gets whose face.")] = 0,
    jobs: Jobs = 2,
) -> None:
    """Put the lips of clips known to be in sync on other faces; 'encoder --extra' takes them."""
    given = locals()
    with _session():
        from avsync.training import commands

        commands.rerender(**given)


@app.command()
def speech(
    data: Data,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="The feature cache.")],
    whisper: Annotated[Path, typer.Option(metavar="FILE", help="Smart Turn v3's ONNX file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The features.")],
    layers: Annotated[int, typer.Option(min=1, max=4, help="Of Whisper's four.")] = 2,
    minutes: Annotated[float, typer.Option(min=0, help="Of training.")] = 5.0,
    threads: Threads = 2,
) -> None:
    """Make Whisper's first layers local; 'encoder --speech' takes them."""
    given = locals()
    with _session():
        from avsync.training import commands

        commands.speech(**given)


@app.command()
def pack(
    data: Data,
    cache: Annotated[Path, typer.Option(metavar="DIR", help="The feature cache.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of shards.")],
    shard_mib: Annotated[float, typer.Option(min=1, help="Largest shard (MiB).")] = 60.0,
) -> None:
    """Pack a feature cache into small shards, to carry it to another machine."""
    with _session():
        from avsync.training import commands
        from avsync.training.pack import pack as run

        files = [cache / f"{clip}.npz" for clip in commands.index_rows(data)]
        files = [f for f in files if f.exists()]
        index = data / "index.jsonl"
        text = index.read_text("utf-8") if index.exists() else ""
        with progress_bar("packing") as progress:
            shards = run(files, out, index=text, shard_mib=shard_mib, progress=progress)
        for shard in shards:
            typer.echo(f"{shard}: {shard.stat().st_size / (1 << 20):.1f} MiB")


@app.command()
def unpack(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD", help="Shards to unpack.")],
    cache: Annotated[Path, typer.Option(metavar="DIR", help="The feature cache to fill.")],
) -> None:
    """Fill a feature cache from shards; train from it with --data and --cache naming it."""
    with _session():
        from avsync.training.pack import unpack as run

        with progress_bar("unpacking") as progress:
            count = run(shards, cache, progress=progress)
        typer.echo(f"{count} clips")
