"""How long each stage of scoring takes: timers put around the product's own functions.

Time is the processor's, of all threads (``time.process_time``), less that of the stages inside:
right as long as one stage runs at a time, that is with ``threads=1``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

#: Stage → the functions it is made of, ``module:path``.
STAGES = {
    "decode": ("avsync.demux:decode",),
    "scale": (
        "avsync.picture:Picture.from_frame",
        "avsync.picture:Picture.region",
        "avsync.picture:Picture.grey",
        "avsync.picture:Picture.small",
        "avsync.picture:Picture.sketch",
        "avsync.picture:Picture.rgb",
    ),
    "detect": ("avsync.faces:_Detector.whole", "avsync.faces:_Detector.tiles"),
    "mesh": ("mediapipe.python.solutions.face_mesh:FaceMesh.process", "avsync.faces:mesh_again"),
    "follow": ("avsync.crops:anchors_between",),
    "crop": ("avsync.faces:FaceTracker.push",),
    "sound": ("avsync.sound:SoundLine.push", "avsync.sound:SoundLine.close"),
    "mel": ("avsync.mel:MelStream.push", "avsync.mel:MelStream.close"),
    "speech detection": ("avsync.speech:SpeechGate.push",),
    "encode": (
        "avsync.runtime:SyncModel.encode_video",
        "avsync.runtime:SyncModel.see",
        "avsync.runtime:SyncModel.surround",
        "avsync.runtime:SyncModel.encode_audio",
    ),
    "score": (
        "avsync.verdict:gather",
        "avsync.verdict:judge_evidence",
        "avsync.verdict:find_voices",
    ),
}


class Stages:
    """Puts the timers in place as long as it is entered; ``seconds`` by stage, and ``calls``."""

    def __init__(self, stages: dict[str, tuple[str, ...]] | None = None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._stages = STAGES if stages is None else stages
        self._undo: list[Callable[[], None]] = []
        self._inner = [0.0]

    def __enter__(self) -> Stages:
        for stage, places in self._stages.items():
            for place in places:
                module, path = place.split(":")
                owner: Any = importlib.import_module(module)
                *outer, name = path.split(".")
                for part in outer:
                    owner = getattr(owner, part)
                original = inspect.getattr_static(owner, name)
                self._undo.append(functools.partial(setattr, owner, name, original))
                setattr(owner, name, self._timed(stage, getattr(owner, name)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _add(self, stage: str, spent: float, inside: float) -> None:
        self.seconds[stage] += spent - inside
        self.calls[stage] += 1
        self._inner[-1] += spent

    def _timed(self, stage: str, function: Any) -> Any:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                steps = function(*args, **kwargs)
                while True:
                    self._inner.append(0.0)
                    started = time.process_time()
                    try:
                        value = next(steps)
                    except StopIteration:
                        return
                    finally:
                        spent = time.process_time() - started
                        self._add(stage, spent, self._inner.pop())
                    yield value

            return generator

        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - started
                self._add(stage, spent, self._inner.pop())

        return plain
