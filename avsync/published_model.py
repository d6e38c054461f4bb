"""A published model in three ONNX graphs: windows are encoded once, pairs are fused per shift.

A model folder, written by :mod:`avsync.training.export_published`, holds ``model.json``
(:class:`PublishedCard`) and the graphs that it names. ONNX Runtime is loaded on first use.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from avsync.errors import (
    InvalidOptionError,
    ModelCorruptError,
    ModelNotFoundError,
)
from avsync.overlap import cores
from avsync.published import Convention, convention
from avsync.runtime import (
    DESCRIPTION,
    GraphFile,
    Provider,
    _checked_bytes,
    _providers,
    _runtime,
    _started,
)

__all__ = ["FORMAT", "GRAPH_NAMES", "PublishedCard", "PublishedModel"]

FloatArray = npt.NDArray[np.float32]
FORMAT: Literal["avsync-published-1"] = "avsync-published-1"

#: Input names and output name of each graph.
GRAPH_NAMES: dict[str, tuple[tuple[str, ...], str]] = {
    "video": (("video",), "video_tokens"),
    "audio": (("audio",), "audio_tokens"),
    "fusion": (("video_tokens", "audio_tokens"), "score"),
}


class InputDescription(BaseModel):
    """The fields of :class:`avsync.published.Convention`, as written into ``model.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    face: Literal["half", "full"]
    side: int
    colour: Literal["rgb", "bgr"]
    peak: Literal[1, 255]
    stacked: bool
    audio: Literal["vocalist_mel", "syncnet_mfcc"]
    bands: int
    columns: int
    columns_per_frame: tuple[int, int]
    score: Literal["logit", "distance"]
    #: Shapes of one window, batch axis left out.
    video_shape: tuple[int, ...]
    audio_shape: tuple[int, ...]


class PublishedCard(BaseModel):
    """``model.json`` of a published model.

    ``difference_to_torch``: the largest absolute difference found when each graph was exported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["avsync-published-1"] = FORMAT
    arch: str
    input: InputDescription
    video: GraphFile
    audio: GraphFile
    fusion: GraphFile
    opset: int
    difference_to_torch: dict[str, float]

    @classmethod
    def describe(cls, arch: str, **fields: Any) -> PublishedCard:
        """The card of an architecture, its input convention filled in.

        Raises:
            InvalidOptionError: no such architecture.
        """
        taken = convention(arch)
        described = InputDescription(
            **asdict(taken), video_shape=taken.video_shape, audio_shape=taken.audio_shape
        )
        return cls(arch=arch, input=described, **fields)

    @classmethod
    def read(cls, folder: str | Path) -> PublishedCard:
        """The card of a model folder.

        Raises:
            ModelNotFoundError: no ``model.json`` there.
            ModelCorruptError: not such a card, or one that disagrees with its architecture.
        """
        file = Path(folder) / DESCRIPTION
        if not file.is_file():
            raise ModelNotFoundError(
                f"{folder}: no {DESCRIPTION} there; give a folder written by avsync's export"
            )
        try:
            card = cls.model_validate_json(file.read_text("utf-8"))
            agrees = card.input == cls.describe(card.arch, **card._graphs()).input
        except (ValidationError, UnicodeDecodeError, InvalidOptionError) as error:
            first = str(error).partition("\n")[0]
            raise ModelCorruptError(f"{file}: not a published model's card ({first})") from error
        if not agrees:
            raise ModelCorruptError(f"{file}: its input is not that of {card.arch}")
        return card

    @property
    def name(self) -> str:
        """Architecture and the start of the video graph's SHA-256, which tells weights apart."""
        return f"{self.arch}-{self.video.sha256[:8]}"

    def _graphs(self) -> dict[str, Any]:
        return self.model_dump(exclude={"format", "arch", "input"})


class PublishedModel:
    """A loaded published model; thread-safe.

    ``card``: its :class:`PublishedCard`. ``convention``: what it takes in.

    Args:
        folder: a model folder written by the export.
        provider: ``auto`` (CUDA when usable, else CPU), ``cpu`` or ``cuda``.
        threads: CPU threads of each graph; None takes as many as there are cores.

    Raises:
        ModelNotFoundError, ModelCorruptError, DependencyMissingError, ProviderUnavailableError,
        InvalidOptionError.
    """

    def __init__(
        self, folder: str | Path, *, provider: Provider = "auto", threads: int | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise InvalidOptionError(f"threads must be 1 or more, not {threads}")
        self.folder = Path(folder)
        self.card = PublishedCard.read(self.folder)
        self.convention: Convention = convention(self.card.arch)
        ort = _runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._sessions: dict[str, Any] = {}
        providers = _providers(ort, provider)
        for kind in GRAPH_NAMES:
            graph: GraphFile = getattr(self.card, kind)
            data = _checked_bytes(self.folder, graph)
            try:
                session = ort.InferenceSession(data, options, providers=providers)
            except Exception as error:  # ONNX Runtime raises its own unexported classes
                raise ModelCorruptError(
                    f"{self.folder / graph.file}: ONNX Runtime cannot load it ({error})"
                ) from error
            self._sessions[kind] = session
        self.provider: str = _started(self._sessions["video"], provider, providers)

    def _run(self, kind: str, *values: FloatArray) -> FloatArray:
        inputs, output = GRAPH_NAMES[kind]
        result: FloatArray = self._sessions[kind].run(
            [output], dict(zip(inputs, values, strict=True))
        )[0]
        return result

    def encode_video(self, windows: FloatArray) -> FloatArray:
        """(B, *video_shape) float32, see :func:`avsync.published.video_windows` → tokens (B, …).

        VocaLiST family: (B, 5, d). SyncNet: (B, 1024).
        """
        return self._run("video", windows)

    def encode_audio(self, windows: FloatArray) -> FloatArray:
        """(B, *audio_shape) float32, see :func:`avsync.published.audio_windows` → tokens (B, …).

        VocaLiST family: (B, 16, d). SyncNet: (B, 1024).
        """
        return self._run("audio", windows)

    def fuse(self, video_tokens: FloatArray, audio_tokens: FloatArray) -> FloatArray:
        """Scores (B,) of pairs: logits (larger is better), or SyncNet's distances (smaller is)."""
        return self._run("fusion", video_tokens, audio_tokens)

    def score_grid(
        self,
        video_tokens: FloatArray,
        audio_tokens: FloatArray,
        *,
        reach: int = 15,
        audio_first: int = 0,
        ticks: npt.NDArray[np.int64] | None = None,
        batch: int = 124,
    ) -> FloatArray:
        """Every video window against the audio windows around it: (N, 2·reach + 1) float32.

        video_tokens: (N, …), audio_tokens: (M, …) of consecutive windows on one 25-Hz grid.
        audio_first: the grid tick of the first audio window, the first video window's being 0.
        ticks: (N,) the video windows' own ticks, where some are left out; default 0 … N − 1.
        batch: pairs fused at once.

        Row i, column k is the i-th video window with the audio window k − reach ticks later,
        NaN where there is none. The best column k means an offset of (reach − k) · 40 ms,
        positive = audio leads.
        """
        if reach < 0 or batch < 1:
            raise InvalidOptionError(f"reach {reach} and batch {batch} must be ≥ 0 and ≥ 1")
        shifts = np.arange(-reach, reach + 1)
        at = np.arange(len(video_tokens)) if ticks is None else ticks
        partner = at[:, None] + shifts - audio_first
        rows, columns = np.nonzero((partner >= 0) & (partner < len(audio_tokens)))
        scores = np.full(partner.shape, np.nan, np.float32)
        for i in range(0, len(rows), batch):
            r, c = rows[i : i + batch], columns[i : i + batch]
            scores[r, c] = self.fuse(video_tokens[r], audio_tokens[partner[r, c]])
        return scores
