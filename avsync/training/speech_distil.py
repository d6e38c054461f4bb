"""Whisper's layers made local: they learn to give, of this project's mels, what they gave.

The original sees mels of its own, 8 s at a time, and knows where in these a frame lies;
:class:`avsync.training.speech.SpeechFeatures` knows neither. It starts from the same weights and is
trained on the corpus's sound, changed as in training, to give the original's features of the
sound as it is, each number measured by its usual spread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from avsync.errors import AVSyncError
from avsync.media import iter_audio
from avsync.mel import HOP, MEL_BANDS, MEL_HZ, SAMPLE_RATE, log_mel, mel_filters
from avsync.training.augment import augment_mel
from avsync.training.data import ClipFeatures
from avsync.training.loop import cosine
from avsync.training.speech import REACH, WIDTH, SpeechFeatures, load_whisper, read_graph

__all__ = ["Original", "Sound", "distil", "sounds_of", "whisper_mel"]

FloatArray = npt.NDArray[np.float32]

#: The original sees so much at once (s); windows of it begin so far apart, and what lies within
#: so much of an edge is taken from the neighbour.
WINDOW_S, EVERY_S, EDGE_S = 8, 6, 1
N_FFT = 400
#: Frames (20 ms) of a piece that is trained on, and those at its edges that are not judged.
FRAMES, EDGE = 160, REACH + 2


def whisper_mel(samples: FloatArray) -> FloatArray:
    """What Smart Turn v3 takes of up to 8 s at 16 kHz (n,): (80, 800), column c at c / 100 s."""
    x = np.zeros(WINDOW_S * SAMPLE_RATE, np.float32)
    x[: len(samples)] = samples[: len(x)]
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    padded = np.pad(x.astype(np.float64), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    filters = mel_filters(n_fft=N_FFT, bands=MEL_BANDS, f_min=0.0, f_max=SAMPLE_RATE / 2)
    found = np.log10(np.maximum(power @ filters, 1e-10))
    out: FloatArray = ((np.maximum(found, found.max() - 8) + 4) / 4).T.astype(np.float32)
    return out


class Original:
    """The first ``layers`` of Whisper as Smart Turn v3's file runs them.

    Raises:
        AVSyncError: not that file. DependencyMissingError: onnx or onnxruntime is not installed.
    """

    def __init__(self, file: Path, layers: int, *, threads: int = 1) -> None:
        self.session, names = read_graph(file, threads=threads)
        if not 1 <= layers < len(names):
            raise AVSyncError(f"{file}: has {len(names) - 1} layers of Whisper, not {layers}")
        self.output = names[layers]

    def features(self, samples: FloatArray) -> FloatArray:
        """(n,) at 16 kHz → (1 + n // 320, WIDTH): row i at 20 i ms."""
        rows = len(samples) // 320 + 1
        out = np.zeros((rows, WIDTH), np.float32)
        for begin in range(0, max(1, len(samples) - EDGE_S * SAMPLE_RATE), EVERY_S * SAMPLE_RATE):
            mel = whisper_mel(samples[begin : begin + WINDOW_S * SAMPLE_RATE])
            found = self.session.run([self.output], {"input_features": mel[None]})[0][0]
            first, skip = begin // 320, 50 * EDGE_S * (begin > 0)
            part = found[skip : rows - first]
            out[first + skip : first + skip + len(part)] = part
        return out


@dataclass(frozen=True, slots=True)
class Sound:
    """A clip's mel (M, 80), the original's features (R, WIDTH), and the column of row 0."""

    mel: FloatArray
    wanted: FloatArray
    column: int

    def piece(self, row: int) -> tuple[FloatArray, FloatArray]:
        """FRAMES rows from ``row`` on and the columns below them (2 FRAMES, 80)."""
        at = self.column + 2 * row + np.arange(2 * FRAMES)
        return self.mel[at.clip(0, len(self.mel) - 1)], self.wanted[row : row + FRAMES]


def sounds_of(
    files: dict[str, Path], clips: Sequence[ClipFeatures], original: Original
) -> tuple[list[Sound], npt.NDArray[np.float64]]:
    """Sounds of cached clips long enough, and the map (81, 80) from our mels to Whisper's.

    The last row of the map is what is added. Fitted by least squares on the first 8 s of clips.
    """
    sounds: list[Sound] = []
    ours, theirs = [], []
    for clip in clips:
        pieces = list(iter_audio(files[clip.clip]))
        samples = np.concatenate([p.samples for p in pieces]).astype(np.float32)
        if len(samples) < 320 * (FRAMES + 1):
            continue
        start_s = clip.first / 25 - clip.lead / MEL_HZ
        sounds.append(
            Sound(
                clip.mel.astype(np.float32),
                original.features(samples),
                round((pieces[0].start_s - start_s) * MEL_HZ),
            )
        )
        columns = min(len(samples), WINDOW_S * SAMPLE_RATE) // HOP
        ours.append(log_mel(samples[: WINDOW_S * SAMPLE_RATE])[:columns])
        theirs.append(whisper_mel(samples).T[:columns])
    if not sounds:
        raise AVSyncError(f"none of {len(clips)} clips has {FRAMES / 50:g} s of sound")
    x = np.concatenate(ours).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    ridge = 1e-5 * len(x) * np.eye(MEL_BANDS + 1)
    return sounds, np.linalg.solve(x.T @ x + ridge, x.T @ np.concatenate(theirs))


def distil(
    file: Path,
    layers: int,
    sounds: Sequence[Sound],
    mels: npt.NDArray[np.float64],
    *,
    minutes: float,
    batch: int = 12,
    learning_rate: float = 6e-4,
    strength: float = 0.5,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[SpeechFeatures, dict[str, Any]]:
    """Local layers trained on ``sounds``, and figures: steps, error at first and at last.

    Every tenth of the sounds is not trained on but measured: mean square error in the variance of
    each number, of the sound as it is.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = load_whisper(file, layers)
    with torch.no_grad():
        model.mel.weight.copy_(torch.from_numpy(mels[:-1].T))
        model.mel.bias.copy_(torch.from_numpy(mels[-1]))
    held, trained = list(sounds[::10]), [s for i, s in enumerate(sounds) if i % 10]
    spread = torch.from_numpy(np.concatenate([s.wanted[::7] for s in sounds]).std(0) + 0.02)

    def error() -> float:
        model.eval()
        with torch.no_grad():
            found = []
            for sound in held:
                mel, wanted = sound.piece((len(sound.wanted) - FRAMES) // 2)
                missed = (model(torch.from_numpy(mel)[None])[0] - torch.from_numpy(wanted)) / spread
                found.append(float(missed[EDGE:-EDGE].square().mean()))
        model.train()
        return float(np.mean(found))

    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    figures: dict[str, Any] = {"sounds": len(sounds), "before": round(error(), 4)}
    began, steps, part = time.monotonic(), 0, 0.0
    while part < 1:
        part = (time.monotonic() - began) / (60 * minutes) if minutes else 1.0
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1, (steps + 1) / 20) * cosine(part)
        chosen = [trained[i] for i in rng.integers(0, len(trained), batch)]
        pairs = [s.piece(int(rng.integers(0, len(s.wanted) - FRAMES + 1))) for s in chosen]
        mel, wanted = (torch.from_numpy(np.stack(x)) for x in zip(*pairs, strict=True))
        missed = ((model(augment_mel(mel, strength=strength)) - wanted) / spread)[:, EDGE:-EDGE]
        loss = F.smooth_l1_loss(missed, torch.zeros_like(missed))
        if not math.isfinite(float(loss.detach())):
            raise AVSyncError("the features of speech did not learn: their loss is not finite")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        steps += 1
        if progress is not None:
            progress(min(1.0, part))
    return model.eval(), figures | {"steps": steps, "after": round(error(), 4)}
