"""A sync loss for generators: how well do generated mouths go with a given voice?

    loss = SyncLoss()                               # the bundled model, frozen
    mouths = crop_mouths(generated, places)         # (B, T, 3, 64, 96), 25 fps, 0..1
    loss(mouths, waveform).backward()               # gradient to the generated pixels only

The expert is the detector's own model with its shipped weights, in torch (extra ``train``). Where
the lips are in a picture comes from :func:`avsync.places.find_mouths` (on the *real* frames) or,
for face meshes of your own, :func:`avsync.places.mouth_places`.

Framing without either: upright face, 96 x 64 pixels of which 88 are the distance between the outer
eye corners, the middle 0.08 eye distances below that of the lips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avsync.errors import DependencyMissingError, InvalidArrayError, InvalidOptionError

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ImportError as error:
    raise DependencyMissingError("avsync.loss needs torch: pip install 'avsync[train]'") from error

from avsync import mel as numpy_mel
from avsync.crops import CROP_HEIGHT, CROP_WIDTH
from avsync.estimates import NEAR_MS
from avsync.offsets import MIN_PAIRED, TICK_MS, WINDOW_TICKS
from avsync.runtime import read_graphs
from avsync.training.onnx_graph import OnnxGraph

__all__ = ["SyncLoss", "crop_mouths", "log_mel", "sample_windows"]

FPS = 25
SAMPLES_A_TICK = numpy_mel.SAMPLE_RATE // FPS
COLUMNS_A_TICK = numpy_mel.MEL_HZ // FPS
#: Weights of R, G, B in grey (ITU-R BT.601), as OpenCV takes them.
GREY = (0.299, 0.587, 0.114)
#: Logit per unit of score, and audio tokens a tick, of a checkpoint, which has no card.
CHECKPOINT_SCALE = 20.0
CHECKPOINT_PHASES = 2
MAX_SAMPLES_A_PIXEL = 8

Reduction = Literal["mean", "sum", "none"]


class SyncLoss(nn.Module):
    """Differentiable with respect to the mouths' pixels, given the sound.

    With ``contrast_ms`` a window of 0.6 s is asked which shift of its sound is its own: the loss
    is the cross-entropy of no shift against those up to ``contrast_ms`` either way, scaled as the
    detector's posterior is; shifts within 40 ms are no negatives. It is near 0 where the detector
    would be sure and near log(number of shifts) by chance, and cannot be lowered by mouths that go
    a little with any sound. With None it is 1 - cosine, after the sync losses of Wav2Lip (Prajwal
    et al., ACM Multimedia 2020), from 0 to 2.

    Args:
        model: "default", a model folder that avsync's export wrote, or a training checkpoint
            (``.pt``).
        contrast_ms: the largest shift of the negatives, ms; None for the plain cosine.
        window: frames that are averaged before shifts are compared; a shorter clip is one window.
        reduction: "mean" or "sum" over the clips, or "none" for (B,).
        scale: logit per unit of mean score; None takes the model's calibration (20 for a
            checkpoint).

    Raises:
        ModelNotFoundError, ModelCorruptError: no such model, or damaged.
        DependencyMissingError: onnx is not installed.
        InvalidOptionError: a published model, or an option out of range.
    """

    def __init__(
        self,
        model: str | Path = "default",
        *,
        contrast_ms: float | None = 400.0,
        window: int = WINDOW_TICKS,
        reduction: Reduction = "mean",
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise InvalidOptionError(f"reduction {reduction!r} is unknown: mean, sum or none")
        if window < 1:
            raise InvalidOptionError(f"window must be 1 frame or more, not {window}")
        if contrast_ms is not None and not 2 * NEAR_MS <= contrast_ms <= 10_000:
            raise InvalidOptionError(
                f"contrast_ms must be from {2 * NEAR_MS:g} to 10000, or None, not {contrast_ms}"
            )
        expert = _load(model)
        self.crop_height, self.crop_width = expert.size
        self.stack_reach = expert.stack_reach
        self.phases, self.audio_steps = expert.phases, expert.audio_steps
        self.scale = expert.scale if scale is None else scale
        self.window = window
        self.reduction = reduction
        self.contrast = contrast_ms is not None
        self.reach = math.ceil((contrast_ms or 0) * self.phases / TICK_MS)
        self.video = expert.video
        self.audio = expert.audio
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> SyncLoss:
        """Nothing: the expert stays as it is when the module around it is trained."""
        return super().train(False)

    @property
    def shifts_ms(self) -> Tensor:
        """The offset (S,) that each column of :meth:`scores` stands for, positive = audio leads."""
        steps = torch.arange(-self.reach, self.reach + 1)
        return -steps * (TICK_MS / self.phases)

    def forward(self, mouths: Tensor, audio: Tensor, *, start_s: float = 0.0) -> Tensor:
        """The loss.

        Args:
            mouths: (B, T, 3, H, W) RGB or (B, T, 1, H, W) grey in 0..1 at 25 fps, T of 5 or more;
                H x W that of the model (64 x 96), or of stored crops (80 x 112), whose middle is
                taken. See :func:`crop_mouths`.
            audio: (B, N) waveform at 16 kHz, full scale 1; or (B, M, 80) mels of :func:`log_mel`.
            start_s: time of the first sample (or column) on the clock on which frame t is at
                t / 25 s; negative where the sound begins before the pictures, which gives the
                negatives something to be cut from. Whole ticks (0.04 s) for mels.

        Raises:
            InvalidArrayError: shapes that do not fit, or sound that does not cover the pictures.
        """
        grid, known = self.scores(mouths, audio, start_s=start_s)
        mean, there = self._windows(grid, known)
        own = there[self.reach]
        if not bool(own.any()):
            raise InvalidArrayError(
                f"the sound does not cover the pictures: {mouths.shape[1] / FPS:.2f} s of pictures "
                f"from 0 s, sound from {start_s:g} s on"
            )
        if self.contrast:
            apart = self.shifts_ms.abs().to(there.device)
            asked = there & ((apart == 0) | (apart > NEAR_MS))[:, None]
            logits = (self.scale * mean).masked_fill(~asked, -torch.inf)
            each = torch.logsumexp(logits[..., own], 1) - logits[:, self.reach, own]
        else:
            each = 1 - mean[:, self.reach, own]
        loss = each.mean(1)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def scores(
        self, mouths: Tensor, audio: Tensor, *, start_s: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Cosines (B, J, S) of each video token at each shift, and (J, S) bool: sound was there.

        Token j rests on the frames j … j + 4; column s stands for :attr:`shifts_ms`. Arguments as
        for the loss.
        """
        video = self.video(self._grey(mouths))
        sound, first = self._sound(audio, start_s)
        if len(sound) != len(video):
            raise InvalidArrayError(f"{len(video)} clips of pictures, {len(sound)} of sound")
        ticks = torch.arange(video.shape[1], device=video.device) + self.stack_reach
        steps = torch.arange(-self.reach, self.reach + 1, device=video.device)
        index = ticks[:, None] * self.phases + steps[None, :] - first
        known = (index >= 0) & (index < sound.shape[1])
        cosines = video @ sound.transpose(1, 2)
        index = index.clamp(0, sound.shape[1] - 1).expand(len(video), -1, -1)
        return cosines.gather(2, index) * known, known

    @torch.no_grad()
    def curve(self, mouths: Tensor, audio: Tensor, *, start_s: float = 0.0) -> Tensor:
        """Mean score (B, S) at each of :attr:`shifts_ms`, as ``SyncResult.curve``; no gradient."""
        grid, known = self.scores(mouths, audio, start_s=start_s)
        return grid.sum(1) / known.sum(0).clamp_min(1)

    def _windows(self, grid: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, S, W) of all windows, and (S, W) bool: enough of their sound was there."""
        frames = min(self.window, grid.shape[1])
        paired = F.avg_pool1d(known.T.to(grid.dtype), frames, 1)
        mean = F.avg_pool1d(grid.transpose(1, 2), frames, 1) / paired.clamp_min(1e-6)
        return mean, paired >= MIN_PAIRED

    def _grey(self, mouths: Tensor) -> Tensor:
        """(B, T, crop_height, crop_width) grey, 0..255."""
        if mouths.dim() != 5 or mouths.shape[2] not in (1, 3):
            raise InvalidArrayError(
                f"mouths must be (B, T, 3, H, W) in 0..1, not {tuple(mouths.shape)}"
            )
        need = 2 * self.stack_reach + 1
        if mouths.shape[1] < need:
            raise InvalidArrayError(f"{mouths.shape[1]} frames: at least {need} are needed")
        size, wanted = tuple(mouths.shape[3:]), (self.crop_height, self.crop_width)
        if size not in (wanted, (CROP_HEIGHT, CROP_WIDTH)):
            raise InvalidArrayError(
                f"mouths are {size[0]} x {size[1]} pixels; {wanted[0]} x {wanted[1]} or "
                f"{CROP_HEIGHT} x {CROP_WIDTH} are needed: avsync.loss.crop_mouths makes them"
            )
        if float(mouths.detach().max()) > 2:
            raise InvalidArrayError("mouths go beyond 1; give them in 0..1, not in 0..255")
        top, left = (size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2
        x = mouths[..., top : top + wanted[0], left : left + wanted[1]]
        weights = x.new_tensor(GREY if x.shape[2] == 3 else (1.0,))
        return (x * weights.view(-1, 1, 1)).sum(2) * 255

    @torch.no_grad()
    def _sound(self, audio: Tensor, start_s: float) -> tuple[Tensor, int]:
        """Audio tokens (B, N, d) and the step (1 / phases tick) of the first."""
        audio = audio.detach()
        if audio.dim() == 2 and audio.is_floating_point():
            tick = math.floor(start_s * FPS + 1e-9)
            lead = round(start_s * numpy_mel.SAMPLE_RATE) - tick * SAMPLES_A_TICK
            mel = log_mel(F.pad(audio, (lead, 0)))
        elif audio.dim() == 3 and audio.shape[2] == numpy_mel.MEL_BANDS:
            tick = round(start_s * FPS)
            if abs(start_s * FPS - tick) > 1e-3:
                raise InvalidArrayError(f"start_s of mels must be whole ticks, not {start_s}")
            mel = audio
        else:
            raise InvalidArrayError(
                "audio must be a float waveform (B, N) at 16 kHz or mels (B, M, 80), not "
                f"{tuple(audio.shape)} {audio.dtype}"
            )
        count = mel.shape[1] // COLUMNS_A_TICK
        if count < 1:
            raise InvalidArrayError(f"{mel.shape[1]} mel columns are too little sound")
        own = next(v for v in self.audio.state_dict().values() if v.is_floating_point())
        mel = mel[:, : count * COLUMNS_A_TICK].to(own.device, own.dtype)
        step = COLUMNS_A_TICK // self.phases
        last = mel[:, -1:].expand(-1, COLUMNS_A_TICK, -1)
        mel = torch.cat([mel, last], 1)
        starts = range(0, step * self.phases // self.audio_steps, step)
        parts = [self.audio(mel[:, p : p + count * COLUMNS_A_TICK]) for p in starts]
        return torch.stack(parts, 2).flatten(1, 2), tick * self.phases


def log_mel(samples: Tensor) -> Tensor:
    """:func:`avsync.mel.log_mel` of a batch: (B, N) at 16 kHz → (B, 1 + N // 160, 80) float32.

    Column ``c`` is centred on sample ``160 c``. Computed in double precision up to the filters, as
    there, because the floor is far below the rounding of single precision.
    """
    half = numpy_mel.N_FFT // 2
    frames = F.pad(samples.float(), (half, half)).unfold(1, numpy_mel.N_FFT, numpy_mel.HOP)
    window = torch.from_numpy(numpy_mel.mel_window()).to(samples.device)
    filters = torch.from_numpy(numpy_mel.mel_filters()).to(samples.device)
    spectrum = torch.fft.rfft((frames * window).double()).abs().float()
    return (spectrum @ filters).clamp_min(numpy_mel.FLOOR).log()


def crop_mouths(frames: Tensor, places: Tensor, *, size: tuple[int, int] = (64, 96)) -> Tensor:
    """Cut the mouths out of pictures, differentiably: (B, T, C, H, W) → (B, T, C, *size).

    A similarity warp with bilinear sampling; where a crop pixel covers several picture pixels, the
    mean over as many samples. Beyond the picture's edge its last pixels go on.

    Args:
        frames: (B, T, C, H, W) float.
        places: (B, T, 2, 3) of :mod:`avsync.places`, finite.
        size: height and width around the middle of the stored crop; take that of the model.

    Raises:
        InvalidArrayError: shapes that do not fit, or places that are not finite.
    """
    if frames.dim() != 5 or tuple(places.shape) != (*frames.shape[:2], 2, 3):
        raise InvalidArrayError(
            "frames must be (B, T, C, H, W) and places (B, T, 2, 3), not "
            f"{tuple(frames.shape)} and {tuple(places.shape)}"
        )
    if not bool(places.isfinite().all()):
        raise InvalidArrayError("some places are not finite: leave out frames without a face")
    height, width = size
    batch, time, channels = frames.shape[:3]
    at = places.to(frames).flatten(0, 1)
    gain = float(torch.linalg.det(at[:, :, :2].double()).abs().max()) ** 0.5
    fine = min(MAX_SAMPLES_A_PIXEL, max(1, math.ceil(gain - 1e-3)))

    def middles(count: int, whole: int) -> Tensor:
        inside = (torch.arange(count * fine, device=frames.device) + 0.5) / fine - 0.5
        return inside.to(frames.dtype) + (whole - count) / 2

    y, x = torch.meshgrid(middles(height, CROP_HEIGHT), middles(width, CROP_WIDTH), indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1)
    found = torch.einsum("nij,hwj->nhwi", at, points)
    extent = found.new_tensor([frames.shape[4], frames.shape[3]])
    grid = (2 * found + 1) / extent - 1
    out = F.grid_sample(
        frames.flatten(0, 1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    if fine > 1:
        out = F.avg_pool2d(out, fine)
    return out.view(batch, time, channels, height, width)


def sample_windows(
    video: Tensor,
    audio: Tensor,
    *,
    frames: int = 25,
    count: int = 1,
    margin_s: float = 0.4,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Random windows of clips, with the sound around them: a cheap loss of long clips.

    Args:
        video: (B, T, …) at 25 fps.
        audio: (B, N) at 16 kHz, from the time of frame 0 on.
        frames: frames of a window. count: windows of each clip.
        margin_s: so much more sound on either side (silence beyond the ends), for the negatives.

    Returns:
        (B count, frames, …), (B count, n), and the ``start_s`` to give to the loss.

    Raises:
        InvalidOptionError: clips shorter than a window.
    """
    if not 1 <= frames <= video.shape[1]:
        raise InvalidOptionError(f"windows of {frames} frames from clips of {video.shape[1]}")
    margin = math.ceil(margin_s * FPS - 1e-9)
    starts = torch.randint(0, video.shape[1] - frames + 1, (len(video), count), generator=generator)
    tail = max(0, video.shape[1] * SAMPLES_A_TICK - audio.shape[1])
    sound = F.pad(audio, (margin * SAMPLES_A_TICK, tail + margin * SAMPLES_A_TICK))
    length = (frames + 2 * margin) * SAMPLES_A_TICK
    pictures, voices = [], []
    for clip, row in enumerate(starts.tolist()):
        pictures += [video[clip, s : s + frames] for s in row]
        voices += [sound[clip, s * SAMPLES_A_TICK :][:length] for s in row]
    return torch.stack(pictures), torch.stack(voices), -margin / FPS


@dataclass(frozen=True, slots=True)
class _Expert:
    """Both towers, batches in, tokens (B, T, d) out, and what the card says of them."""

    video: nn.Module
    audio: nn.Module
    size: tuple[int, int]
    stack_reach: int
    phases: int
    audio_steps: int
    scale: float


class _Clips(nn.Module):
    """A graph of one clip, for a batch of clips."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Tensor) -> Tensor:
        return self.graph(x[0])[None] if len(x) == 1 else torch.vmap(self.graph)(x)


class _Tower(nn.Module):
    """A tower of the training network, its token put together as the export does."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, x: Tensor) -> Tensor:
        from avsync.training.encoder import shipped

        local, wide = self.tower(x)
        return shipped(local, wide)


def _load(model: str | Path) -> _Expert:
    file = Path(model)
    if file.is_file():
        from avsync.training.augment import MODEL_SIZE
        from avsync.training.encoder import FRAME_STACK
        from avsync.training.export import load_weights

        network = load_weights(file)
        return _Expert(
            _Tower(network.video),
            _Tower(network.audio),
            MODEL_SIZE,
            FRAME_STACK // 2,
            CHECKPOINT_PHASES,
            1,
            CHECKPOINT_SCALE,
        )
    card, video, audio = read_graphs(model)
    return _Expert(
        _Clips(OnnxGraph(video, card.video.file)),
        _Clips(OnnxGraph(audio, card.audio.file)),
        (card.crop_height, card.crop_width),
        card.stack_reach,
        card.phases,
        card.audio_steps,
        card.calibration.scale,
    )
