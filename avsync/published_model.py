"""A published model in three ONNX graphs: windows are encoded once, pairs are fused per shift.

On CUDA tokens stay in the device's memory between the graphs (:mod:`avsync.token_blocks`).

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
from avsync.token_blocks import TokenBlocks

__all__ = ["FORMAT", "GRAPH_NAMES", "PublishedCard", "PublishedModel"]

FloatArray = npt.NDArray[np.float32]
FORMAT: Literal["avsync-published-2"] = "avsync-published-2"
#: As before the fusion picked its pairs by index.
OLD_FORMAT = "avsync-published-1"
#: Pairs fused at once.
BATCH = 124

#: Input names and output name of each graph. The fusion scores the pairs of tokens at the two
#: indices (B,) int64.
GRAPH_NAMES: dict[str, tuple[tuple[str, ...], str]] = {
    "video": (("video",), "video_tokens"),
    "audio": (("audio",), "audio_tokens"),
    "fusion": (("video_tokens", "audio_tokens", "video_index", "audio_index"), "score"),
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

    format: Literal["avsync-published-2"] = FORMAT
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
            text = file.read_text("utf-8")
            if f'"{OLD_FORMAT}"' in text:
                raise ModelCorruptError(
                    f"{file}: written by an older version; run avsync export on the weights again"
                )
            card = cls.model_validate_json(text)
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
        self._device = "cuda" if self.provider.startswith("CUDA") else "cpu"
        #: Tokens are kept as ONNX Runtime's values; on the CPU arrays are as good.
        self._keeps = self._device != "cpu"

    def _run(self, kind: str, *values: Any, keep: bool = False) -> Any:
        """The output of a graph: an array, or with ``keep`` as it lies on the device.

        values: arrays, or what was kept.
        """
        inputs, output = GRAPH_NAMES[kind]
        session = self._sessions[kind]
        binding = session.io_binding()
        for name, value in zip(inputs, values, strict=True):
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        binding.bind_output(output, self._device if keep else "cpu")
        session.run_with_iobinding(binding)
        return binding.get_outputs()[0] if keep else binding.copy_outputs_to_cpu()[0]

    def held(self, kind: Literal["video", "audio"], windows: FloatArray) -> TokenBlocks:
        """Tokens as :meth:`encode_video` or :meth:`encode_audio` gives them, kept on the device."""
        return TokenBlocks.of(self._run(kind, windows, keep=self._keeps), len(windows))

    def encode_video(self, windows: FloatArray) -> FloatArray:
        """(B, *video_shape) float32, see :func:`avsync.published.video_windows` → tokens (B, …).

        VocaLiST family: (B, 5, d). SyncNet: (B, 1024).
        """
        return self.held("video", windows).numpy()

    def encode_audio(self, windows: FloatArray) -> FloatArray:
        """(B, *audio_shape) float32, see :func:`avsync.published.audio_windows` → tokens (B, …).

        VocaLiST family: (B, 16, d). SyncNet: (B, 1024).
        """
        return self.held("audio", windows).numpy()

    def fuse(self, video_tokens: FloatArray, audio_tokens: FloatArray) -> FloatArray:
        """Scores (B,) of pairs: logits (larger is better), or SyncNet's distances (smaller is)."""
        each = np.arange(len(video_tokens))
        return self.fuse_pairs(video_tokens, audio_tokens, each, each, batch=max(1, len(each)))

    def fuse_pairs(
        self,
        video_tokens: FloatArray | TokenBlocks,
        audio_tokens: FloatArray | TokenBlocks,
        seen: npt.NDArray[np.int64],
        heard: npt.NDArray[np.int64],
        *,
        batch: int = BATCH,
    ) -> FloatArray:
        """Scores (P,) of the pairs of tokens ``seen`` (P,) and ``heard`` (P,), by index.

        Tokens that :meth:`held` gave stay where they are; arrays are brought to the device once.
        """
        video, audio = (
            tokens if isinstance(tokens, TokenBlocks) else TokenBlocks.of(tokens)
            for tokens in (video_tokens, audio_tokens)
        )
        scores = np.empty(len(seen), np.float32)
        there: dict[int, Any] = {}
        for v, a, rows, columns, which in TokenBlocks.pairs(video, audio, seen, heard, batch):
            for value in (v, a):
                if id(value) not in there:
                    there[id(value)] = self._there(value)
            scores[which] = self._run("fusion", there[id(v)], there[id(a)], rows, columns)
        return scores

    def _there(self, value: Any) -> Any:
        """A block on the device; an array is brought there."""
        if not isinstance(value, np.ndarray) or not self._keeps:
            return value
        return _runtime().OrtValue.ortvalue_from_numpy(value, self._device, 0)

    def score_grid(
        self,
        video_tokens: FloatArray | TokenBlocks,
        audio_tokens: FloatArray | TokenBlocks,
        *,
        reach: int = 15,
        audio_first: int = 0,
        ticks: npt.NDArray[np.int64] | None = None,
        batch: int = BATCH,
    ) -> FloatArray:
        """Every video window against the audio windows around it: (N, 2·reach + 1) float32.

        video_tokens: (N, …), audio_tokens: (M, …) of consecutive windows on one 25-Hz grid,
        arrays or what :meth:`held` gave.
        audio_first: the grid tick of the first audio window, the first video window's being 0.
        ticks: (N,) the video windows' own ticks, where some are left out; default 0 … N − 1.
        batch: pairs fused at once, at most.

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
        scores[rows, columns] = self.fuse_pairs(
            video_tokens, audio_tokens, rows, partner[rows, columns], batch=batch
        )
        return scores
