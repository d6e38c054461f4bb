"""Put a file right: measure, move the sound, look again, and only then give the file its name.

The function is :func:`avsync.fix`. It lives in this module and not in ``avsync/fix.py`` because a
module of that name would take the function's place in the package as soon as it is imported.

Sign: ``offset_ms`` is positive when the audio leads; it is the delay that the audio is given.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from avsync.checks import (
    MAX_RESIDUAL_MS,
    FixFailedError,
    FixRefusedError,
    accepted,
    check_copy,
    check_pieces,
    check_residual,
    has_jumps,
)
from avsync.containers import Method, muxer_for
from avsync.demux import pick_audio
from avsync.errors import InvalidOptionError
from avsync.fields import Milliseconds, Seconds
from avsync.reaudio import Stretch
from avsync.remote import is_url
from avsync.remux import MediaWriteError, write_moved
from avsync.result import (
    Status,
    SyncResult,
    offset_words,
    printable_path,
)
from avsync.splice import Piece, find_joins

if TYPE_CHECKING:
    from avsync.detector import SyncDetector

__all__ = [
    "MAX_RESIDUAL_MS",
    "MIN_PROBABILITY",
    "AudioMove",
    "FixFailedError",
    "FixRefusedError",
    "FixResult",
    "FixedPiece",
    "fix",
]

#: A file is touched only when the offset is right within 40 ms with this probability.
MIN_PROBABILITY = 0.8
_MAX_SHIFT_MS = 3_600_000.0

PathText = Annotated[str, BeforeValidator(printable_path)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AudioMove(_Frozen):
    """What became of one audio stream."""

    position: int
    """Counted among the audio streams, from 0."""
    codec: str
    method: Method
    """``edit_list`` and ``time_stamps`` leave every packet as it was."""
    shift_ms: Milliseconds
    """Positive = the audio is later now. Of several pieces: that of the first."""
    encoder: str | None = None
    """What encoded it anew; None when it was copied."""


class FixedPiece(_Frozen):
    """One of several parts that were moved by an offset each; the first begins with the file."""

    start_s: Seconds
    offset_ms: Milliseconds
    """The offset that was there; this part's sound was delayed by so much."""
    residual_ms: Milliseconds
    """The offset that is left, measured on the new file."""


class FixResult(_Frozen):
    """What was done to one file."""

    path: PathText
    out: PathText | None
    """None when nothing was written."""
    status: Literal["fixed", "already_in_sync"]
    offset_ms: Milliseconds
    """The offset that was there (positive = audio led); the audio was delayed by so much. Of a file
    with several ``pieces`` it is that of the longest."""
    drift_ms_per_min: Milliseconds | None = None
    """The drift that was undone; None when there was none to undo."""
    residual_ms: Milliseconds | None = None
    """The offset that is left, measured on the new file, of several pieces the largest; None when
    the offset was given."""
    pieces: tuple[FixedPiece, ...] = ()
    """The parts that were moved by an offset each; empty when there was one offset."""
    audio: tuple[AudioMove, ...] = ()
    backup: PathText | None = None
    """Where the original lies now, after a repair in place."""
    measured: SyncResult | None = None
    after: SyncResult | None = None
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """What was done, in one sentence without a full stop."""
        if self.status == "already_in_sync":
            return "already in sync; nothing was written"
        verb = "delayed" if self.offset_ms >= 0 else "advanced"
        words = f"the audio was {verb} by {abs(self.offset_ms):.0f} ms"
        if self.pieces:
            amounts = ", ".join(f"{p.offset_ms:+.0f}" for p in self.pieces)
            words = f"{len(self.pieces)} pieces of the audio were delayed by {amounts} ms"
        if self.drift_ms_per_min is not None:
            words += f" and a drift of {self.drift_ms_per_min:+.1f} ms per minute was undone"
        if any(a.encoder for a in self.audio):
            words += ", and encoded anew"
        if self.residual_ms is None:
            return words
        if self.pieces:
            return f"{words}; measured again: each within {math.ceil(abs(self.residual_ms))} ms"
        return f"{words}; measured again: {offset_words(self.residual_ms)}"


def fix(
    path: str | Path,
    out: str | Path | None = None,
    *,
    offset_ms: float | None = None,
    audio_stream: int | None = None,
    reencode_audio: bool = False,
    drift: bool = False,
    piecewise: bool = False,
    force: bool = False,
    in_place: bool = False,
    min_probability: float = MIN_PROBABILITY,
    detector: SyncDetector | None = None,
    progress: Callable[[float], None] | None = None,
) -> FixResult:
    """Write a copy of ``path`` whose sound is in step with the picture.

    Video, subtitles, chapters, metadata and every other stream are copied bit for bit. ``out``
    appears under its name only when it is whole and has passed the check: the offset measured on
    it is within 40 ms, or, where ``offset_ms`` was given, its time stamps have moved as asked. A
    file of that name is replaced. ``path`` is only ever read.

    A file that is in sync already is left alone and nothing is written, unless ``force``.

    Args:
        path: a file, or a URL as :mod:`avsync.remote` reads it.
        out: the new file; its ending chooses the container. None only with ``in_place``.
        offset_ms: the offset to repair, positive = audio leads (it is delayed); None measures.
        audio_stream: measure and move this audio stream (0 is the first); None measures the
            default one, or where nothing is said in it another, and moves all.
        reencode_audio: encode the sound anew even where time stamps would do.
        drift: undo a drift that was measured, by resampling the sound.
        piecewise: where parts have offsets of their own (at cuts), move each by its own; the sound
            is encoded anew, and joined where it is quiet or the picture cuts.
        force: repair in spite of a low probability, a file that is in sync, or what there is of
            one that breaks off. It does not take the place of a number: a file that could not be
            judged is refused all the same.
        in_place: replace ``path`` and keep the original as ``path`` + ".bak".
        min_probability: how sure the measurement must be, 0..1.
        detector: measures; None makes one.
        progress: called with the share done, 0..1.

    Raises:
        FixRefusedError: not judged, not sure enough, drifting, or several offsets.
        FixFailedError: the new file did not pass the check.
        MediaWriteError: it cannot be written.
        MediaNotFoundError, MediaReadError: no such file, not media, or it breaks off.
        InvalidOptionError: options that make no sense together.
    """
    source = path if isinstance(path, str) and is_url(path) else Path(path)
    target, backup = _target(source, out, in_place)
    muxer_for(target)
    if not 0 <= min_probability <= 1:
        raise InvalidOptionError(f"min_probability must be from 0 to 1, not {min_probability}")
    report = progress or (lambda share: None)
    measured: SyncResult | None = None
    stretch: Stretch | None = None
    pieces: list[Piece] = []
    if offset_ms is not None:
        if drift or piecewise:
            what = "a drift is undone" if drift else "pieces are moved"
            raise InvalidOptionError(f"{what} by what was measured: give no offset")
        if not (math.isfinite(offset_ms) and abs(offset_ms) <= _MAX_SHIFT_MS):
            raise InvalidOptionError(f"offset_ms must be a number up to an hour, not {offset_ms}")
        _check_stream(source, audio_stream)
        shift_ms = offset_ms
    else:
        if detector is None:
            from avsync.detector import SyncDetector

            detector = SyncDetector(exhaustive=True)
        measured = detector.score(
            source, audio_stream=audio_stream, progress=lambda share: report(0.45 * share)
        )
        shift_ms = accepted(
            measured, min_probability, drift=drift, piecewise=piecewise, force=force
        )
        if measured.status is Status.in_sync and not force:
            return FixResult(
                path=str(path),
                out=None,
                status="already_in_sync",
                offset_ms=shift_ms,
                measured=measured,
                warnings=measured.warnings,
            )
        stretch = _stretch(measured) if drift else None
        if has_jumps(measured):
            pieces = find_joins(source, measured.segments, audio_stream=measured.audio_stream)
    base = 0.0 if measured is None else 0.45
    share = 0.9 if measured is None else 0.1
    after: SyncResult | None = None
    left: list[float] = []
    with _beside(target, source) as temporary:
        copied = write_moved(
            source,
            temporary,
            shift_s=pieces[0].shift_s if pieces else shift_ms / 1000,
            audio_stream=audio_stream,
            reencode=reencode_audio,
            stretch=stretch,
            pieces=pieces,
            partial=force,
            progress=lambda part: report(base + share * part),
        )
        check_copy(copied, temporary, target)
        if measured is not None and detector is not None:
            after = detector.score(
                temporary,
                audio_stream=audio_stream,
                progress=lambda part: report(base + share + 0.45 * part),
                **({"cuts": [p.start_s for p in pieces[1:]]} if pieces else {}),
            ).model_copy(update={"path": printable_path(target)})
            check_residual(after, target)
            left = check_pieces(after, target, pieces) if pieces else []
        _settle(temporary, target, backup)
    report(1.0)
    return FixResult(
        path=str(path),
        out=str(target if out is None else out),
        status="fixed",
        offset_ms=shift_ms,
        drift_ms_per_min=measured.drift_ms_per_min if measured and stretch else None,
        residual_ms=max(left, key=abs) if left else None if after is None else after.offset_ms,
        pieces=tuple(
            FixedPiece(start_s=p.start_s, offset_ms=1000 * p.shift_s, residual_ms=ms)
            for p, ms in zip(pieces, left, strict=True)
        ),
        audio=tuple(
            AudioMove(
                position=m.position,
                codec=m.codec,
                method=m.method,
                shift_ms=1000 * m.shift_s,
                encoder=m.encoder,
            )
            for m in copied.moved
        ),
        backup=None if backup is None else str(backup),
        measured=measured,
        after=after,
        warnings=tuple(dict.fromkeys([*(measured.warnings if measured else ()), *copied.warnings])),
    )


def _target(source: str | Path, out: str | Path | None, in_place: bool) -> tuple[Path, Path | None]:
    """Where the new file goes and, in place, where the original is kept."""
    if is_url(out):
        raise InvalidOptionError(f"{out}: a URL cannot be written; name a file here and upload it")
    if is_url(source) and (in_place or out is None):
        raise InvalidOptionError(f"{source}: a URL is only read; name the new file (-o OUT)")
    source = Path(source)
    same = out is None or _is_same(source, Path(out))
    if not same and out is not None:
        if in_place:
            raise InvalidOptionError("in place and a new file: choose one of both")
        target = Path(out)
        if target.is_dir():
            raise InvalidOptionError(f"{out}: is a folder; name the new file")
        if not target.parent.is_dir():
            raise InvalidOptionError(f"{out}: there is no folder {target.parent}")
        return target, None
    if not in_place:
        raise InvalidOptionError(
            "no new file was named (-o OUT)"
            if out is None
            else f"{out} is the input itself; --in-place replaces it and keeps {source.name}.bak"
        )
    target = source.resolve()
    backup = target.with_name(target.name + ".bak")
    if os.path.lexists(backup):
        raise InvalidOptionError(f"{backup} is there already; move it away first")
    return target, backup


def _is_same(source: Path, out: Path) -> bool:
    try:
        return source.samefile(out)
    except OSError:
        return source.absolute() == out.absolute()


def _check_stream(source: str | Path, audio_stream: int | None) -> None:
    """Tell early that there is no such audio stream."""
    from avsync import demux

    with demux.opened(source) as film:
        pick_audio(film, source, audio_stream)


def _stretch(measured: SyncResult) -> Stretch | None:
    """The drift to undo; the offset is that of the middle of what was judged."""
    if measured.status is not Status.drift or measured.drift_ms_per_min is None:
        return None
    start = min(s.start_s for s in measured.segments)
    end = max(s.end_s for s in measured.segments)
    return Stretch(measured.drift_ms_per_min / 60_000, (start + end) / 2)


@contextlib.contextmanager
def _beside(target: Path, source: str | Path) -> Iterator[Path]:
    """A file next to ``target`` under another name, taken away unless it was moved into place."""
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:80]}.", suffix=f".part{target.suffix}", dir=target.parent
        )
        os.close(handle)
    except OSError as err:
        raise MediaWriteError(f"{target}: cannot be written ({err.strerror})") from err
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):
            shutil.copymode(source, temporary)
        yield temporary
    except MediaWriteError as err:
        raise MediaWriteError(str(err).replace(temporary.name, str(target))) from err.__cause__
    finally:
        temporary.unlink(missing_ok=True)


def _settle(temporary: Path, target: Path, backup: Path | None) -> None:
    """Give the finished file its name, at once and for good."""
    try:
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        if backup is not None:
            try:
                os.link(target, backup)
            except OSError:  # a file system without links
                shutil.copy2(target, backup)
        temporary.replace(target)
    except OSError as err:
        raise MediaWriteError(f"{target}: cannot be written ({err.strerror})") from err
