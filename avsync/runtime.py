"""ONNX models on disk, checked and run: mouth crops and mels in, tokens out.

A model folder holds ``model.json`` (:class:`ModelCard`) and the ONNX graphs that it names, each
with its SHA-256. Nothing is loaded until a model is asked for; torch is never needed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from avsync._paths import bundled_models_dir
from avsync.errors import (
    DependencyMissingError,
    InvalidOptionError,
    ModelCorruptError,
    ModelNotFoundError,
    ProviderUnavailableError,
)
from avsync.overlap import cores

if TYPE_CHECKING:
    from avsync.published_model import PublishedModel

__all__ = [
    "Calibration",
    "ModelCard",
    "SyncModel",
    "load_model",
    "read_graphs",
]

FloatArray = npt.NDArray[np.float32]
Provider = Literal["auto", "cpu", "cuda"]
DESCRIPTION = "model.json"
#: Pictures that are encoded at once where their context is not: these fit the processor's cache.
SEE = 16


class GraphFile(BaseModel):
    """One ONNX file of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class Calibration(BaseModel):
    """What turns scores into probabilities; fitted by ``avsync.training.calibrate``.

    ``scale``: logit per unit of a window's mean score in the posterior over shifts.
    ``weights``: logistic regression over the features named in ``features``, intercept first.
    ``gate``: below this probability no offset is claimed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float
    features: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    gate: float = 0.8

    @model_validator(mode="after")
    def _one_weight_each(self) -> Calibration:
        if len(self.weights) != 1 + len(self.features):
            raise ValueError(f"{len(self.weights)} weights for {len(self.features)} features")
        return self


class ModelCard(BaseModel):
    """``model.json``: what a model expects and how its scores are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    format: Literal["avsync-tokens-1"]
    video: GraphFile
    audio: GraphFile
    #: The same in 8 bit, for the CPU (:mod:`avsync.training.quantise`).
    video_int8: GraphFile | None = None
    audio_int8: GraphFile | None = None
    #: What makes tokens of what ``video_int8`` gives; None: that gives tokens.
    video_context_int8: GraphFile | None = None
    crop_height: int
    crop_width: int
    #: Frames a token's stack reaches to either side, and tokens its context does.
    stack_reach: int
    context_reach: int
    #: Ticks on either side that an audio token depends on; None: 3 more than its context.
    audio_reach: int | None = None
    #: Audio tokens a tick, 40 / phases ms apart; the graph gives ``audio_steps`` of them at once.
    phases: int
    audio_steps: int = 1
    dim: int
    #: The first ``local_dim`` numbers of a token rest on one stack alone (0.2 s).
    local_dim: int
    opset: int
    calibration: Calibration

    @property
    def video_halo(self) -> int:
        """Ticks on either side that a video token depends on."""
        return self.stack_reach + self.context_reach

    @property
    def audio_halo(self) -> int:
        """Ticks on either side that an audio token depends on."""
        return self.context_reach + 3 if self.audio_reach is None else self.audio_reach


def _read_card(folder: Path) -> ModelCard:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise ModelNotFoundError(
            f"{folder}: no {DESCRIPTION} there; give a folder written by avsync's export"
        )
    try:
        return ModelCard.model_validate_json(file.read_text("utf-8"))
    except (ValidationError, UnicodeDecodeError) as err:
        first = str(err).splitlines()[0]
        raise ModelCorruptError(
            f"{file}: not a model description of this version ({first})"
        ) from err


def _checked_bytes(folder: Path, graph: GraphFile) -> bytes:
    file = folder / graph.file
    if not file.is_file():
        raise ModelNotFoundError(f"{file}: missing; the model folder is incomplete")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != graph.sha256:
        raise ModelCorruptError(
            f"{file}: does not match its SHA-256 in {DESCRIPTION}; fetch or export the model again"
        )
    return data


def _folder(model: str | Path | None) -> Path:
    bundled = model is None or str(model) == "default"
    return bundled_models_dir() if bundled else Path(str(model))


def read_graphs(folder: str | Path | None = None) -> tuple[ModelCard, bytes, bytes]:
    """The card of one of avsync's own models, and its video and audio graph, checked.

    Raises:
        ModelNotFoundError, ModelCorruptError: no such model, or damaged.
        InvalidOptionError: a published model, which has other graphs.
    """
    place = _folder(folder)
    if _format(place).startswith("avsync-published"):
        raise InvalidOptionError(f"{place}: a published model; one of avsync's own is needed")
    card = _read_card(place)
    return card, _checked_bytes(place, card.video), _checked_bytes(place, card.audio)


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as err:
        raise DependencyMissingError(
            "ONNX Runtime is not installed: pip install 'avsync[cpu]', or 'avsync[gpu]' for CUDA "
            "(one of them, never both)"
        ) from err
    return onnxruntime


def _providers(ort: Any, provider: Provider) -> list[str]:
    available = ort.get_available_providers()
    if provider == "cpu":
        return ["CPUExecutionProvider"]
    if provider not in ("auto", "cuda"):
        raise InvalidOptionError(f"provider {provider!r} is unknown: auto, cpu or cuda")
    if "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if provider == "cuda":
        raise ProviderUnavailableError(
            "provider 'cuda' cannot be used: this ONNX Runtime has no CUDA execution provider; "
            "install 'avsync[gpu]' in place of 'avsync[cpu]', or take provider 'auto'"
        )
    return ["CPUExecutionProvider"]


def _started(session: Any, provider: Provider, wanted: list[str]) -> str:
    """The provider that a session runs on; says so when that is not the one that was wanted."""
    got = str(session.get_providers()[0])
    if got == wanted[0]:
        return got
    what = "ONNX Runtime could not start CUDA (driver or CUDA libraries missing)"
    if provider == "cuda":
        raise ProviderUnavailableError(
            f"provider 'cuda' cannot be used: {what}; take provider 'auto' or 'cpu'"
        )
    warnings.warn(f"{what}; the CPU is used", RuntimeWarning, stacklevel=4)
    return got


class SyncModel:
    """A loaded model.

    Args:
        folder: a model folder; None or "default" takes the bundled one.
        provider: ``auto`` (CUDA when usable, else CPU), ``cpu`` or ``cuda``.
        threads: CPU threads of each graph; None takes as many as there are cores.
        eight_bit: on the CPU, run the 8-bit graphs where the model has them.

    Raises:
        ModelNotFoundError, ModelCorruptError, DependencyMissingError, ProviderUnavailableError.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        eight_bit: bool = True,
    ) -> None:
        if threads is not None and threads < 1:
            raise InvalidOptionError(f"threads must be 1 or more, not {threads}")
        self.folder = _folder(folder)
        self.card = _read_card(self.folder)
        ort = _runtime()
        providers = _providers(ort, provider)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads that spin while they wait take the cores from decoding and faces.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.inter_op_num_threads = 1
        # A plan of all buffers of a run, made when a shape comes again, is held beside them.
        options.enable_mem_pattern = False
        options.log_severity_level = 3

        def session(graph: GraphFile) -> Any:
            data = _checked_bytes(self.folder, graph)
            try:
                return ort.InferenceSession(data, options, providers=providers)
            except Exception as err:  # ONNX Runtime raises its own unexported classes
                raise ModelCorruptError(
                    f"{self.folder / graph.file}: ONNX Runtime cannot load it ({err})"
                ) from err

        card, small = self.card, eight_bit and providers[0] == "CPUExecutionProvider"
        self._video = session((card.video_int8 if small else None) or card.video)
        self._audio = session((card.audio_int8 if small else None) or card.audio)
        parted = card.video_context_int8 if small and card.video_int8 else None
        self._context: Any = session(parted) if parted else None
        self.provider: str = _started(self._video, provider, providers)

    @property
    def parted(self) -> bool:
        """Whether :meth:`see` gives what :meth:`surround` makes tokens of, and not tokens."""
        return self._context is not None

    def encode_video(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        """(T + 2 stack_reach, crop_height, crop_width) uint8 grey → (T, dim) tokens."""
        if self._context is None:
            return self._seen(crops)
        return self.surround(self.see(crops))

    def see(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        """As :meth:`encode_video`, but (T, n) features, each of its own stack of crops alone."""
        stack = 2 * self.card.stack_reach
        starts = range(0, max(1, len(crops) - stack), SEE)
        return np.concatenate([self._seen(crops[i : i + SEE + stack]) for i in starts])

    def surround(self, features: FloatArray) -> FloatArray:
        """(T, n) features → (T, dim) tokens, which depend on ``context_reach`` to either side."""
        out: FloatArray = self._context.run(None, {"features": features})[0]
        return out

    def _seen(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        out: FloatArray = self._video.run(None, {"crops": crops.astype(np.float32)})[0]
        return out

    def encode_audio(self, mel: FloatArray) -> FloatArray:
        """(4 N, 80) log-mel → (audio_steps N, dim) tokens, the first centred on column 0."""
        out: FloatArray = self._audio.run(None, {"mel": mel.astype(np.float32, copy=False)})[0]
        return out


def load_model(
    folder: str | Path | None = None,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
) -> SyncModel | PublishedModel:
    """Load a model of any kind, told by ``format`` in its ``model.json``.

    Args and Raises: as :class:`SyncModel`.
    """
    if folder is not None and _format(Path(folder)).startswith("avsync-published"):
        from avsync.published_model import PublishedModel

        return PublishedModel(folder, provider=provider, threads=threads)
    return SyncModel(folder, provider=provider, threads=threads)


def _format(folder: Path) -> str:
    """``format`` of a model folder; "" where there is none to be read."""
    try:
        card = json.loads((folder / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(card.get("format", "")) if isinstance(card, dict) else ""
