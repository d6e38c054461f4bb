"""Options that the training commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

Command = Callable[..., None]

CHECKPOINT = Path("models/checkpoint.pt")


class Loss(str, Enum):
    """How a student learns from its teacher."""

    none = "none"
    kd = "kd"
    fitnet = "fitnet"
    rkd = "rkd"
    minilm = "minilm"
    mtd = "mtd"


class Device(str, Enum):
    """Where training runs."""

    cpu = "cpu"
    cuda = "cuda"


class Optimiser(str, Enum):
    """How weights are updated."""

    adamw = "adamw"
    muon = "muon"


Data = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Folder of clips; index.jsonl gives split, speaker, source."),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Run folder; a run there is resumed.")
]
Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Cached features (default: OUT/cache).")
]
Tokens = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Cached tokens (default: OUT/tokens).")
]
Checkpoint = Annotated[
    Path, typer.Option("--encoder", metavar="FILE", help="Encoder pair: checkpoint or state.pt.")
]
Cleaned = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="cleaned.json of an encoder run: take those clips too."),
]
Clips = Annotated[
    int | None, typer.Option(min=2, metavar="N", help="Only N clips, speakers taking turns.")
]
Variants = Annotated[
    int, typer.Option(min=1, max=8, help="Stretches of every clip: one as it is, others augmented.")
]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
Windows = Annotated[int, typer.Option(min=3, help="Windows a step, each with seven sounds.")]
Dim = Annotated[int, typer.Option(min=8, help="Width; a multiple of 8.")]
Dropout = Annotated[float, typer.Option(min=0, max=0.9, help="Share of numbers left out.")]
Context = Annotated[
    bool, typer.Option("--context/--no-context", help="Also see the encoders' context tokens.")
]
Prior = Annotated[
    bool, typer.Option("--prior/--no-prior", help="Begin with the cosine of the encoders' heads.")
]
Stride = Annotated[
    int, typer.Option(min=1, help="Measure only every so many-th window of the dev clips.")
]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
Seed = Annotated[int, typer.Option(help="Of weights, dropout and batches.")]
OptimiserOption = Annotated[Optimiser, typer.Option(help="How weights are updated.")]
DeviceOption = Annotated[Device, typer.Option(help="Where training runs.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that read clips.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Minutes = Annotated[
    float | None, typer.Option(help="End after this time; the rate follows the clock.")
]
Batch = Annotated[int, typer.Option(min=2, help="Windows a step.")]
Warmup = Annotated[int, typer.Option(min=1, help="Steps in which the learning rate rises.")]
Length = Annotated[int, typer.Option(min=8, help="Tokens (25 a second) of a window.")]
Start = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Take these weights to begin with.")
]
TrustedOnly = Annotated[
    bool, typer.Option("--trusted-only", help="Only clips whose source is known for exact sync.")
]
CleanWith = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL", help="Re-centre or drop the others by this checkpoint or model folder."
    ),
]
Strength = Annotated[
    float, typer.Option(min=0.0, help="Of augmentation: 1 for a long run, less for a stretch more.")
]
LastStrength = Annotated[
    float | None, typer.Option(min=0.0, help="Of augmentation, at the end of the run.")
]
Widen = Annotated[
    bool, typer.Option("--widen", help="Also other face proportions, voices and paces.")
]
Style = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of clips whose features take on another's statistics."),
]
Near = Annotated[
    float, typer.Option(min=0, help="Weight of placing single tokens within a frame only.")
]
Strangers = Annotated[
    float, typer.Option(min=0, help="Weight of telling the own sound from other clips'.")
]
Dilations = Annotated[
    str | None,
    typer.Option(
        metavar="TICKS", help="Of a context's convolutions, as 1,2,4,8; what --start lacks is new."
    ),
]
Extra = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Clips of 'rerender': a share of each batch.")
]
ExtraShare = Annotated[float, typer.Option(min=0, max=0.9, help="That share.")]
ExchangeWith = Annotated[
    Path | None,
    typer.Option("--exchange", metavar="DIR", help="Common folder of runs that learn together."),
]
Speech = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Features of speech to begin with, made by 'speech'."),
]
Meshes = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Clips meshed by 'rerender': also learn the lips' shape."),
]
Lips = Annotated[float, typer.Option(min=0, help="Weight of learning the lips' shape.")]


def encoder_run(
    steps: Steps = 4000,
    minutes: Minutes = None,
    warmup: Warmup = 100,
    batch: Batch = 16,
    tokens: Length = 40,
    start: Start = None,
    trusted_only: TrustedOnly = False,
    clean_with: CleanWith = None,
    strength: Strength = 1.0,
    last_strength: LastStrength = None,
    optimiser: OptimiserOption = Optimiser.adamw,
    widen: Widen = False,
    style: Style = 0.0,
    near: Near = 0.0,
    strangers: Strangers = 0.0,
    video_dilations: Dilations = None,
    audio_dilations: Dilations = None,
    extra: Extra = None,
    extra_share: ExtraShare = 0.3,
    exchange: ExchangeWith = None,
    speech: Speech = None,
    meshes: Meshes = None,
    lips: Lips = 0.3,
    learning_rate: Rate = 1e-3,
    seed: Seed = 0,
    threads: Threads = 2,
    device: DeviceOption = Device.cpu,
) -> None:
    """What the commands that train the encoder pair take."""


def network_run(
    data: Data,
    out: Out,
    cache: Cache = None,
    tokens: Tokens = None,
    encoder: Checkpoint = CHECKPOINT,
    cleaned: Cleaned = None,
    clips: Clips = None,
    variants: Variants = 2,
    steps: Steps = 400,
    windows: Windows = 12,
    dim: Dim = 64,
    dropout: Dropout = 0.1,
    context: Context = True,
    prior: Prior = True,
    learning_rate: Rate = 1e-3,
    seed: Seed = 0,
    stride: Stride = 3,
    jobs: Jobs = 2,
    threads: Threads = 1,
    device: DeviceOption = Device.cpu,
) -> None:
    """What the commands that train cross-attention networks take."""


def takes(shared: Command, **defaults: Any) -> Callable[[Command], Command]:
    """Add the options of ``shared`` to a command's own, some with other defaults.

    The command gets them all as keywords, those not given as well.
    """

    def extend(command: Command) -> Command:
        ours = inspect.signature(shared, eval_str=True).parameters.values()
        own = inspect.signature(command, eval_str=True).parameters.values()
        every = [p for p in own if p.kind is not p.VAR_KEYWORD]
        every += [p.replace(default=defaults.get(p.name, p.default)) for p in ours]
        signature = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in every])

        @functools.wraps(command)
        def filled(**given: Any) -> None:
            bound = signature.bind(**given)
            bound.apply_defaults()
            command(**bound.arguments)

        filled.__dict__["__signature__"] = signature
        return filled

    return extend
