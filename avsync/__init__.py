"""Audio-video synchronisation from talking faces.

The public names below load their modules on first use, so that ``import avsync`` is quick and
brings in neither torch nor mediapipe nor ONNX Runtime.

    >>> from avsync import SyncDetector
    >>> result = SyncDetector().score("talk.mp4")  # doctest: +SKIP
    >>> result.offset_ms                           # doctest: +SKIP
    120.0

``offset_ms`` is positive when the audio leads (the sound is early): it is the delay to give to
the audio to repair the file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from avsync.batch import BatchItem, score_many
    from avsync.detector import SyncDetector, score
    from avsync.embed import Embedding, ScoreGrid
    from avsync.errors import (
        AVSyncError,
        DependencyMissingError,
        InvalidArrayError,
        InvalidOptionError,
        MediaNotFoundError,
        MediaReadError,
        ModelCorruptError,
        ModelNotFoundError,
        ProviderUnavailableError,
    )
    from avsync.remux import MediaWriteError
    from avsync.repair import FixFailedError, FixRefusedError, FixResult, fix
    from avsync.result import Curve, Segment, Status, SyncResult, Tolerance, Track, Turn
    from avsync.stream import SyncStream
    from avsync.stream_estimate import StreamEstimate

__all__ = [
    "AVSyncError",
    "BatchItem",
    "Curve",
    "DependencyMissingError",
    "Embedding",
    "FixFailedError",
    "FixRefusedError",
    "FixResult",
    "InvalidArrayError",
    "InvalidOptionError",
    "MediaNotFoundError",
    "MediaReadError",
    "MediaWriteError",
    "ModelCorruptError",
    "ModelNotFoundError",
    "ProviderUnavailableError",
    "ScoreGrid",
    "Segment",
    "Status",
    "StreamEstimate",
    "SyncDetector",
    "SyncResult",
    "SyncStream",
    "Tolerance",
    "Track",
    "Turn",
    "__version__",
    "fix",
    "score",
    "score_many",
]

_HOMES = {
    "avsync.batch": ("BatchItem", "score_many"),
    "avsync.detector": ("SyncDetector", "score"),
    "avsync.embed": ("Embedding", "ScoreGrid"),
    "avsync.errors": (
        "AVSyncError",
        "DependencyMissingError",
        "InvalidArrayError",
        "InvalidOptionError",
        "MediaNotFoundError",
        "MediaReadError",
        "ModelCorruptError",
        "ModelNotFoundError",
        "ProviderUnavailableError",
    ),
    "avsync.remux": ("MediaWriteError",),
    "avsync.repair": ("FixFailedError", "FixRefusedError", "FixResult", "fix"),
    "avsync.result": ("Curve", "Segment", "Status", "SyncResult", "Tolerance", "Track", "Turn"),
    "avsync.stream": ("SyncStream",),
    "avsync.stream_estimate": ("StreamEstimate",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Load a public name's module when the name is first asked for (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
