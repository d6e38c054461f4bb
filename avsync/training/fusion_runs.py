"""Whole runs of fusion networks on a corpus: tokens, teacher, student, distillation table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avsync.errors import AVSyncError
from avsync.training.encoder import SyncEncoder
from avsync.training.export import load_weights
from avsync.training.fusion import FusionNetwork, parameters
from avsync.training.fusion_data import FusionSampler
from avsync.training.fusion_eval import evaluate
from avsync.training.fusion_fit import FusionTrainConfig, FusionTrainer, load_fusion
from avsync.training.losses import LOSSES
from avsync.training.token_cache import WHOLE, TokenClip, cache_tokens, load_tokens, with_context

__all__ = [
    "METHODS",
    "STUDENT",
    "TEACHER",
    "TokenCorpus",
    "distil_all",
    "distillation_table",
    "prepare",
    "speaker_turns",
    "train",
]

Rows = dict[str, dict[str, Any]]
Progress = Callable[[float], None]
#: Widths: with the shared front end counted in both, the student is 17 % of the teacher.
TEACHER = {"dim": 352}
STUDENT = {"dim": 64}
METHODS = ("none", "kd", "fitnet", "rkd", "minilm", "mtd")


@dataclass(frozen=True, slots=True)
class TokenCorpus:
    """Tokens to train on and to validate on, and what is known of the training clips."""

    encoder: SyncEncoder
    clips: list[TokenClip]
    dev: list[TokenClip]
    weights: dict[str, float]
    groups: dict[str, str]

    def sampler(self, config: FusionTrainConfig, *, seed: int) -> FusionSampler:
        """Draws training windows."""
        return FusionSampler(
            self.clips, self.weights, self.groups, lengths=config.lengths, seed=seed
        )


def speaker_turns(rows: Rows, ids: Sequence[str]) -> list[str]:
    """Clips in such an order that every speaker's first comes before any one's second."""
    seen: Counter[str] = Counter()
    rank = {}
    for clip in ids:
        who = str(rows[clip].get("speaker") or rows[clip].get("source"))
        rank[clip] = seen[who]
        seen[who] += 1
    return sorted(ids, key=lambda clip: rank[clip])


def prepare(
    rows: Rows,
    cache: Path,
    tokens: Path,
    checkpoint: Path,
    *,
    variants: Sequence[int] = (0, 1),
    ticks: int = 48,
    limit: int | None = None,
    cleaned: Path | None = None,
    context: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TokenCorpus:
    """Encode what is not yet there, and load it.

    Args:
        rows: index rows by clip; ``split``, ``trusted_sync``, ``speaker``, ``source`` count.
        cache: feature cache. tokens: token cache of this encoder pair. checkpoint: the encoders.
        variants: of the training clips, in this order; each clip's, before the next variant.
        limit: so many training clips, speakers taking turns (default all).
        cleaned: ``cleaned.json`` of an encoder run: clips of unsure sync are re-centred or
            dropped by it; without it only clips of trusted sync are taken.
        context: give the context stack's tokens too.
    """
    encoder = load_weights(checkpoint)
    late: dict[str, float] = {}
    weights: dict[str, float] = {}
    if cleaned is not None:
        found = json.loads(cleaned.read_text("utf-8"))
        late, weights = found["late"], found["weight"]
    usable = [
        k
        for k, r in rows.items()
        if r.get("split", "train") == "train"
        and (k in late or (r.get("trusted_sync", True) and r.get("kind") != "generated"))
    ]
    train = speaker_turns(rows, usable)[:limit]
    dev = [k for k, r in rows.items() if r.get("split") == "dev" and r.get("trusted_sync")]
    passes = [(dev, WHOLE), *((train, v) for v in variants)]
    everything, before = sum(len(ids) for ids, _ in passes), 0
    for ids, variant in passes:

        def report(count: int, before: int = before) -> None:
            if progress is not None:
                progress((before + count) / everything)

        before += len(ids)
        files = [f for f in (cache / f"{k}.npz" for k in ids) if f.exists()]
        cache_tokens(
            encoder,
            files,
            tokens,
            variant=variant,
            late_columns=late,
            ticks=ticks,
            device=device,
            progress=report,
        )
    clips, seen = load_tokens(tokens, train, variants), load_tokens(tokens, dev, [WHOLE])
    if not clips:
        raise AVSyncError(f"{cache}: no features of training clips; run `avsync train cache` first")
    encoder = encoder.cpu()
    if context:
        clips, seen = ([with_context(encoder, c) for c in some] for some in (clips, seen))
    groups = {k: str(rows[k].get("source")) for k in train}
    if len(set(groups.values())) < 2:
        groups = {k: str(rows[k].get("speaker") or k) for k in train}
    return TokenCorpus(encoder, clips, seen, weights, groups)


def train(
    corpus: TokenCorpus,
    out: Path,
    config: FusionTrainConfig,
    *,
    teacher: Path | None = None,
    frames: Sequence[int] = (5, 15),
    stride: int = 3,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train one network, resuming where ``out`` holds a state; returns its dev figures."""
    taught = None if teacher is None else load_fusion(teacher).to(device)
    trainer = FusionTrainer(config, corpus.encoder, teacher=taught, device=device)
    state = out / "state.pt"
    if state.exists():
        trainer.load(state)
    sampler = corpus.sampler(config, seed=config.seed + 1000 * trainer.done)
    trainer.run([lambda: sampler.draw(config.windows)], out, progress=progress)
    network, encoder = trainer.average, corpus.encoder
    figures = _sizes(network, encoder)
    if corpus.dev:
        figures |= evaluate(network, corpus.dev, encoder=encoder, frames=frames, stride=stride)
    (out / "dev.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _sizes(network: FusionNetwork, encoder: SyncEncoder) -> dict[str, float]:
    """Parameters that training moves, and with what of the encoders stands before them."""
    towers = (encoder.video, encoder.audio)
    heads = sum(parameters(head) for head in network.heads())
    front = sum(parameters(t.encoder) for t in towers) + (heads if network.config.prior else 0)
    if network.config.context_dim:
        front += sum(parameters(t.context) for t in towers)
    own = parameters(network) - heads
    return {"parameters": own, "with_front_end": own + front}


def distil_all(
    corpus: TokenCorpus,
    out: Path,
    teacher: Path,
    config: FusionTrainConfig,
    *,
    losses: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1),
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """The same student under every loss: same steps, same batches, the same seeds.

    All students go in step, so that the teacher answers each batch once; a seed changes the
    initial weights and the dropout, not the batches. States go to ``out/LOSS-SEED.pt``, from which
    a run that was cut short goes on.
    """
    unknown = set(losses) - set(LOSSES)
    if unknown:
        raise AVSyncError(f"no such loss: {', '.join(sorted(unknown))}")
    taught = load_fusion(teacher).to(device)
    trainers = {}
    for loss in losses:
        for seed in seeds:
            own = config.model_copy(update={"loss": loss, "seed": seed})
            trainers[f"{loss}-{seed}"] = FusionTrainer(
                own, corpus.encoder, teacher=taught, device=device
            )
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"{name}.pt" for name in trainers}
    if all(file.exists() for file in files.values()):
        for name, trainer in trainers.items():
            trainer.load(files[name])
    done = {trainer.done for trainer in trainers.values()}
    if len(done) > 1:
        raise AVSyncError(f"{out}: students of different steps; give another --out")
    first = done.pop()
    sampler = corpus.sampler(config, seed=config.seed + 1000 * first)
    with (out / "log.jsonl").open("a" if first else "w") as log:
        for n in range(first, config.steps):
            batch = sampler.draw(config.windows).to(torch.device(device))
            with torch.no_grad():
                answer = taught(*batch.pairs())
            line: dict[str, float] = {"step": n + 1}
            for name, trainer in trainers.items():
                line[name] = round(trainer.step(batch, answer)["shift"], 4)
            log.write(json.dumps(line) + "\n")
            log.flush()
            if trainer.done % config.save_every == 0 or trainer.done == config.steps:
                for name, trainer in trainers.items():
                    trainer.save(files[name])
            if progress is not None:
                progress((n + 1) / config.steps)


def distillation_table(
    corpus: TokenCorpus,
    out: Path,
    teacher: Path,
    *,
    frames: Sequence[int] = (5, 15),
    stride: int = 3,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure the teacher and the students that :func:`distil_all` left in ``out`` on dev clips.

    Rows go to ``out/table.json``, the table to ``out/table.md``; a row there is not made again.
    """
    done = out / "table.json"
    rows: list[dict[str, Any]] = json.loads(done.read_text("utf-8")) if done.exists() else []
    seen = {(r["loss"], r["seed"]) for r in rows}
    states = [("teacher", 0, teacher)]
    for file in out.glob("*-*.pt"):
        loss, number = file.stem.rsplit("-", 1)
        states.append((loss, int(number), file))
    order = ("teacher", *METHODS)
    states.sort(key=lambda state: (order.index(state[0]), state[1]))
    for n, (loss, seed, file) in enumerate(states):
        if (loss, seed) not in seen:
            network = load_fusion(file).to(device)
            row: dict[str, Any] = {"loss": loss, "seed": seed} | _sizes(network, corpus.encoder)
            rows.append(row | evaluate(network, corpus.dev, frames=frames, stride=stride))
            done.write_text(json.dumps(rows, indent=1) + "\n")
        if progress is not None:
            progress((n + 1) / len(states))
    (out / "table.md").write_text(table_markdown(rows, frames))
    return rows


def table_markdown(rows: Sequence[dict[str, Any]], frames: Sequence[int]) -> str:
    """Mean ± half the range over seeds, a line per loss."""
    columns = [*(f"joint_{k}" for k in frames), "auc_logit"]
    heads = [*(f"K={k}" for k in frames), "own sound against a stranger's (AUC)"]
    lines = [f"| loss | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for loss in dict.fromkeys(r["loss"] for r in rows):
        cells = []
        for column in columns:
            values = [100 * r[column] for r in rows if r["loss"] == loss and column in r]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "–")
        lines.append(f"| {loss} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
