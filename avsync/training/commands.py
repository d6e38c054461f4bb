"""``python -m avsync.training.commands``: from a folder of clips to a model that ships.

… cache  ../shared/corpus --cache CACHE
… train  ../shared/corpus --cache CACHE --out RUN1 --trusted-only
… train  ../shared/corpus --cache CACHE --out RUN2 --start RUN1/state.pt --clean-with RUN1/state.pt
… export ../shared/corpus --cache CACHE --checkpoint RUN2/state.pt --out models
… calibrate ../shared/corpus --cache CACHE --out models    (a part of export)

Then :mod:`avsync.training.quantise` makes the 8-bit graphs for the CPU; an export removes old ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from avsync import cli_train_options as o
from avsync.errors import AVSyncError
from avsync.training.data import ClipFeatures, build_cache, list_clips, load_features

__all__ = ["app", "index_rows"]

app = typer.Typer(help="Make a model from a folder of talking-face clips.", no_args_is_help=True)

Data = Annotated[Path, typer.Argument(help="Folder of clips; index.jsonl gives split and source.")]
Cache = Annotated[Path, typer.Option(help="Folder for the cached features.")]
#: Left out of training: stimuli that were made out of sync, and listening faces.
UNFIT = ("filyp/mcgurk_task", "evonneng/learning2listen")
GENERATED_WEIGHT = 0.6
#: In the run folder: what cleaning found, so that a resumed run goes on with the same.
CLEANED = "cleaned.json"
#: A GPU is fed by so many threads; a batch takes the CPU longer to draw than the GPU to compute.
SAMPLERS = 8


def index_rows(data: Path) -> dict[str, dict[str, Any]]:
    """The index rows of a folder of clips by id, without sources unfit for training."""
    rows = {r["id"]: r for r in list_clips(data)}
    return {k: r for k, r in rows.items() if r.get("source") not in UNFIT}


def _load(cache: Path, ids: Sequence[str]) -> list[ClipFeatures]:
    files = [cache / f"{i}.npz" for i in ids]
    return [load_features(f) for f in files if f.exists()]


def _trusted(row: dict[str, Any]) -> bool:
    return bool(row.get("trusted_sync", True)) and row.get("kind") != "generated"


@app.command()
def cache(data: Data, cache: Cache, jobs: Annotated[int, typer.Option()] = 2) -> None:
    """Make mouth crops and mels of every clip; resumes where it stopped."""
    counts = build_cache(data, cache, clips=list(index_rows(data).values()), jobs=jobs)
    typer.echo(json.dumps(counts))


@app.command()
def rerender(
    data: Data,
    meshes: Annotated[Path, typer.Option(help="Folder for crops with their face meshes.")],
    out: Annotated[Path, typer.Option(help="Folder for the new clips; train takes it as --extra.")],
    seed: Annotated[int, typer.Option()] = 0,
    jobs: Annotated[int, typer.Option()] = 2,
) -> None:
    """Put the lips of clips known to be in sync on other faces; resumes where it stopped."""
    from avsync.training.rerender import build_meshes, build_rerendered

    rows = {k: r for k, r in index_rows(data).items() if r.get("split", "train") == "train"}
    drivers = [k for k, r in rows.items() if _trusted(r)]
    stills = [k for k, r in rows.items() if k not in drivers and r.get("kind", "real") == "real"]
    files = {k: data / rows[k]["file"] for k in (*drivers, *stills)}
    counts = {"meshed": build_meshes(files, meshes, whole=set(drivers), jobs=jobs)}
    who = {k: str(r.get("speaker") or r.get("source") or k) for k, r in rows.items()}
    counts["rerendered"] = build_rerendered(meshes, out, drivers, who, seed=seed, jobs=jobs)
    typer.echo(json.dumps(counts))


@app.command()
def speech(
    data: Data,
    cache: Cache,
    whisper: Annotated[Path, typer.Option(help="smart-turn-v3.*.onnx of pipecat-ai's wheel.")],
    out: Annotated[Path, typer.Option(help="File for the features; train takes it as --speech.")],
    layers: Annotated[int, typer.Option()] = 2,
    minutes: Annotated[float, typer.Option()] = 5.0,
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    """Make Whisper's first layers local, on the sound of clips known to be in sync."""
    import torch

    from avsync.training.speech import save_speech
    from avsync.training.speech_distil import Original, distil, sounds_of

    torch.set_num_threads(threads)
    rows = {k: r for k, r in index_rows(data).items() if r.get("split", "train") == "train"}
    clips = _load(cache, [k for k, r in rows.items() if _trusted(r)])
    files = {k: data / r["file"] for k, r in rows.items()}
    sounds, mels = sounds_of(files, clips, Original(whisper, layers, threads=threads))
    features, figures = distil(whisper, layers, sounds, mels, minutes=minutes)
    save_speech(features, out)
    typer.echo(json.dumps(figures))


@app.command()
@o.takes(o.encoder_run)
def train(
    data: Data,
    cache: Cache,
    out: Annotated[Path, typer.Option(help="Run folder; resumed when it holds a state.")],
    **options: Any,
) -> None:
    """Train the encoder pair; validates on the dev split's trusted clips at every save."""
    from avsync.training.encoder import EncoderConfig, grown
    from avsync.training.evaluate import validate
    from avsync.training.exchange import Exchange
    from avsync.training.export import load_weights
    from avsync.training.fit import Sampler, TrainConfig, Trainer, together
    from avsync.training.lips import load_shapes
    from avsync.training.speech import load_speech

    start, clean_with, extra, exchange, speech, meshes = (
        options[name] for name in ("start", "clean_with", "extra", "exchange", "speech", "meshes")
    )
    device, seed = options["device"].value, options["seed"]
    rows = index_rows(data)
    dev = _load(
        cache, [k for k, r in rows.items() if r.get("split") == "dev" and r.get("trusted_sync")]
    )
    clips = _load(cache, [k for k, r in rows.items() if r.get("split", "train") == "train"])
    late: dict[str, float] = {}
    weight: dict[str, float] = {}
    others = [c for c in clips if not _trusted(rows[c.clip])]
    if options["trusted_only"]:
        clips = [c for c in clips if _trusted(rows[c.clip])]
    elif clean_with is not None or (out / CLEANED).exists():
        late, weight = _own_offsets(out, clean_with, others, rows)
        clips = [c for c in clips if _trusted(rows[c.clip]) or c.clip in late]
    for clip in clips:
        if rows[clip.clip].get("kind") == "generated":
            weight[clip.clip] = GENERATED_WEIGHT * weight.get(clip.clip, 1.0)
    widths = EncoderConfig() if start is None else load_weights(start).config
    heard = None if speech is None else load_speech(speech)
    more_of = {
        "speech_layers": None if heard is None else len(heard.layers),
        "video_dilations": _ticks(options["video_dilations"]),
        "audio_dilations": _ticks(options["audio_dilations"]),
    }
    widths = widths.model_copy(update={k: v for k, v in more_of.items() if v is not None})
    given = {k: v for k, v in options.items() if k in TrainConfig.model_fields}
    given |= {"optimiser": options["optimiser"].value}
    given |= {"lips": 0.0 if meshes is None else options["lips"]}
    config = TrainConfig(encoder=widths, **given)
    trainer = Trainer(config, device=device)
    if (out / "state.pt").exists():
        trainer.load(out / "state.pt")
    elif start is not None:
        trainer.model.load_state_dict(grown(load_weights(start), widths).state_dict())
        if heard is not None:
            trainer.model.audio.speech.load_state_dict(heard.state_dict())
        trainer.average.load_state_dict(trainer.model.state_dict())
    if exchange is not None:
        name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:12]
        both = {"model": trainer.model, "average": trainer.average}
        trainer.exchange = Exchange(exchange, name, both).step
    more = [] if extra is None else _load(extra, sorted(f.stem for f in extra.glob("*.npz")))
    draws: list[Callable[[], Any]] = []
    shapes = None if meshes is None else load_shapes(meshes, clips)
    for each in seed + trainer.done + 100_000 * np.arange(1 if device == "cpu" else SAMPLERS):
        taken = round(config.batch * options["extra_share"]) if more else 0
        drawn: dict[str, Any] = {"tokens": config.tokens, "paces": config.widen, "lips": shapes}
        sampler = Sampler(clips, late, weight, seed=each, **drawn)
        draws.append(partial(sampler.draw, config.batch - taken))
        if taken:
            beside = Sampler(more, late, seed=each + 1, **drawn)
            draws[-1] = partial(together, draws[-1], partial(beside.draw, taken))
    length = sum(len(c.crops) for c in sampler.clips) / 1500
    said = f"{len(sampler.clips)} clips, {length:.0f} min" + f", {len(more)} re-rendered" * bool(
        more
    )
    said += "" if shapes is None else f", {len(shapes)} with the shape of the lips"
    typer.echo(f"training on {said}; dev {len(dev)} clips")
    local = config.encoder.local_dim
    trainer.run(
        draws,
        out,
        validate=lambda model: validate(model, dev, local=local),
    )


def _ticks(given: str | None) -> tuple[int, ...] | None:
    """Dilations as the command line gives them."""
    if given is None:
        return None
    parts = given.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise AVSyncError(f"dilations are whole numbers of ticks, as 1,2,4, not {given!r}")
    return tuple(int(part) for part in parts)


def _own_offsets(
    out: Path, model: Path | None, clips: list[ClipFeatures], rows: dict[str, dict[str, Any]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Late columns and weights of the clips kept; a run is resumed with what it began with."""
    from avsync.runtime import SyncModel
    from avsync.training.clean import by_checkpoint, by_model, clean
    from avsync.training.export import load_weights

    kept = out / CLEANED
    if model is not None and not kept.exists():
        if model.is_dir():
            scored = partial(by_model, SyncModel(model, provider="cpu"))
        else:
            scored = partial(by_checkpoint, load_weights(model))
        cleaned = clean(scored, clips, rows)
        out.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"late": cleaned.late, "weight": cleaned.weight}))
        typer.echo(
            f"cleaned {len(clips)} clips: {cleaned.recentred} moved by 20 ms or more, "
            f"{cleaned.from_source} by their source, {cleaned.dropped} dropped"
        )
    found = json.loads(kept.read_text())
    return found["late"], found["weight"]


@app.command()
def export(
    data: Data,
    cache: Cache,
    checkpoint: Annotated[
        list[Path],
        typer.Option(help="A run's state.pt, or a landed checkpoint; of several the mean."),
    ],
    out: Annotated[Path, typer.Option(help="Model folder.")] = Path("models"),
    name: Annotated[str, typer.Option()] = "avsync-base-1",
) -> None:
    """Export to ONNX, calibrate on the dev split, keep a small checkpoint."""
    from avsync.runtime import Calibration
    from avsync.training.calibrate import FEATURES, NO_WEIGHTS
    from avsync.training.export import export_model, load_weights, mean_weights, save_weights

    mean = mean_weights(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(mean, out / "checkpoint.pt")
    model = load_weights(out / "checkpoint.pt")  # export what is kept, half precision and all
    blank = Calibration(scale=20, features=FEATURES, weights=NO_WEIGHTS, method="not calibrated")
    worst = export_model(model, out, name=name, calibration=blank)
    typer.echo(json.dumps({"parity": worst}))
    calibrate(data, cache, out)


@app.command()
def calibrate(
    data: Data,
    cache: Cache,
    out: Annotated[Path, typer.Option(help="Model folder.")] = Path("models"),
) -> None:
    """Calibrate an exported model on the dev split: model.json and reliability.png.

    Trusted clips calibrate with their own sound and with strangers', the others with strangers'.
    """
    from avsync.runtime import SyncModel
    from avsync.training.calibrate import fit_calibration
    from avsync.training.evaluate import shipped_tokens
    from avsync.training.reliability import plot_reliability

    rows = index_rows(data)
    dev = _load(cache, [k for k, r in rows.items() if r.get("split") == "dev"])
    model = SyncModel(out, provider="cpu")
    pairs = [shipped_tokens(model, c) for c in dev]
    late = [0.0 if rows[c.clip].get("trusted_sync") else float("nan") for c in dev]
    speakers = [str(rows[c.clip].get("speaker") or rows[c.clip].get("source")) for c in dev]
    fitted, checked = fit_calibration(pairs, late_ms=late, groups=speakers)
    card = model.card.model_copy(update={"calibration": fitted})
    beside = out / "model.json.part"
    beside.write_text(card.model_dump_json(indent=1, exclude_none=True) + "\n")
    plot_reliability(checked, out / "reliability.png")
    beside.replace(out / "model.json")
    typer.echo(json.dumps({"calibration": checked.figures(fitted.gate), "clips": len(pairs)}))


def main() -> None:
    """Command line with one-line errors."""
    try:
        app(prog_name="avsync-train")
    except AVSyncError as err:
        typer.echo(f"avsync: {err}", err=True)
        raise SystemExit(2) from err


if __name__ == "__main__":
    main()
