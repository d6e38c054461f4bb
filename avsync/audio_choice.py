"""Which of a file's audio streams is judged: the default one, unless nothing is said in it.

A broadcast file has a stream for each channel, music and effects among them; a film has a dub or a
commentary beside the voice that belongs to the lips.
"""

from __future__ import annotations

from pathlib import Path

from avsync.errors import AVSyncError
from avsync.media import MediaInfo, iter_audio
from avsync.result import Status, SyncResult
from avsync.speech import SpeechGate

__all__ = ["default_stream", "noted", "voiced_stream"]

#: A stream with this much speech (s) is one in which something is said.
SPEECH_S = 1.0
#: Statuses that another audio stream may change.
_OPEN = (Status.ambiguous, Status.no_speech, Status.not_speaking, Status.no_audio)


def default_stream(info: MediaInfo) -> int:
    """Position of the audio stream that players take."""
    return next(a.position for a in info.audio if a.default)


def voiced_stream(path: str | Path, info: MediaInfo) -> int:
    """Position of the first audio stream, the default one before the others, with speech.

    The default one where there is only one, or none has. Each is read as far as it takes.
    """
    default = default_stream(info)
    if len(info.audio) < 2:
        return default
    others = (a.position for a in info.audio if a.position != default)
    return next((i for i in (default, *others) if _has_speech(path, i)), default)


def noted(result: SyncResult, info: MediaInfo, judged: int, *, asked: bool) -> SyncResult:
    """The result with the audio stream that was ``judged``, and a warning where that matters.

    ``asked``: the caller named the stream.
    """
    default, count = default_stream(info), len(info.audio)
    warnings = list(result.warnings)
    if not asked and judged != default:
        warnings.append(
            f"nothing is said in audio stream {default}, the default one; "
            f"stream {judged} was judged"
        )
    elif not asked and count > 1 and result.status in _OPEN:
        warnings.append(
            f"the file has {count} audio streams, {judged} was judged; --audio-stream "
            "(audio_stream) takes another"
        )
    return result.model_copy(update={"audio_stream": judged, "warnings": tuple(warnings)})


def _has_speech(path: str | Path, position: int) -> bool:
    gate: SpeechGate | None = None
    try:
        for piece in iter_audio(path, audio_stream=position):
            gate = gate or SpeechGate(piece.start_s)
            gate.push(piece.samples)
            if gate.speech_s >= SPEECH_S:
                return True
    except AVSyncError:  # of an unknown codec: another one may do
        return False
    return False
