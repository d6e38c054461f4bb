"""A sentence spoken by espeak-ng, with its phonemes timed against the sound itself.

espeak-ng reports where each phoneme's code begins, which is not where the ear or the lips put
it: the mark of a voiceless stop sits at its burst (the closure comes before it), the mark of a
vowel after a nasal some 50 ms into the vowel. :func:`refine` moves the borders of stops and
nasals to the closures that are found in the sound.
"""

from __future__ import annotations

import ctypes
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from avsync.errors import AVSyncError, DependencyMissingError, InvalidOptionError

__all__ = ["Phoneme", "band_level", "refine", "speak"]

Floats = npt.NDArray[np.float32]

#: IPA of sounds that shut the mouth or the throat: what precedes their end is (nearly) silence.
STOPS = frozenset("pbtdkɡgʔcɟʈɖqɢ")
NASALS = frozenset("mnŋɲɱɳ")

# Constants of speak_lib.h (espeak-ng 1.50 and later).
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_PHONEME_IPA = 0x0002
_INITIALIZE_DONT_EXIT = 0x8000
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_LONGEST_DATA_PATH = 120  # espeak-ng keeps its data path in a buffer of 160 bytes


@dataclass(frozen=True)
class Phoneme:
    """One sound: IPA symbol without stress marks ("" for a pause), start and end in seconds.

    For a stop, ``end_s`` is its release (the burst) and the span is the closure.
    """

    symbol: str
    start_s: float
    end_s: float


class _EventId(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """The one espeak-ng of this process (the library keeps global state)."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise DependencyMissingError(
                "espeakng-loader is not installed; `pip install 'avsync[examples]'` brings it"
            ) from error
        self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        data = Path(espeakng_loader.get_data_path())
        self._link: tempfile.TemporaryDirectory[str] | None = None
        if len(str(data)) > _LONGEST_DATA_PATH:
            self._link = tempfile.TemporaryDirectory(prefix="espeak")
            link = Path(self._link.name) / "espeak-ng-data"
            link.symlink_to(data, target_is_directory=True)
            data = link
        library = self._library
        library.espeak_Initialize.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_int,
        ]
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.POINTER(ctypes.c_uint),
            ctypes.c_void_p,
        ]
        self.sample_rate = int(
            library.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS,
                0,
                str(data).encode(),
                _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT,
            )
        )
        if self.sample_rate <= 0:
            raise AVSyncError(f"espeak-ng could not start with its data in {data}")
        self._pieces: list[npt.NDArray[np.int16]] = []
        self._marks: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only its address
        library.espeak_SetSynthCallback(self._callback)
        for name in ("espeak_ng_SetRandSeed", "srand"):  # the same words sound the same again
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_long(1))

    def _receive(self, wave: object, count: int, events: object) -> int:
        if wave and count > 0:
            piece = np.ctypeslib.as_array(wave, shape=(count,))
            self._pieces.append(piece.copy())
        index = 0
        while True:
            event = events[index]  # type: ignore[index]
            if event.type == _EVENT_LIST_TERMINATED:
                return 0
            if event.type == _EVENT_PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event) + _Event.id.offset, 8)
                name = raw.split(b"\0")[0].decode("utf-8", "ignore")
                self._marks.append((int(event.sample), name))
            index += 1

    def synthesise(
        self, text: str, voice: str, rate: int, pitch: int, pitch_range: int
    ) -> tuple[npt.NDArray[np.int16], list[tuple[int, str]]]:
        self._pieces, self._marks = [], []
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InvalidOptionError(f"espeak-ng has no voice {voice!r}")
        settings = ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range), (_VOLUME, 90))
        for parameter, value in settings:
            library.espeak_SetParameter(parameter, value, 0)
        raw = text.encode()
        status = library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
        if status != 0 or not self._pieces:
            raise AVSyncError(f"espeak-ng made no sound of {text!r} (status {status})")
        return np.concatenate(self._pieces), self._marks


_lock = threading.Lock()
_espeak: _Espeak | None = None


def speak(
    text: str,
    voice: str = "en-us+f3",
    rate: int = 150,
    pitch: int = 50,
    pitch_range: int = 60,
) -> tuple[Floats, int, list[Phoneme]]:
    """Speak ``text`` with espeak-ng.

    The first call of a process always sounds the same; in later ones the voice flutters a little
    differently (by less than 1 ms in time), as espeak-ng goes on counting.

    Args:
        text: the sentence, in the language of the voice.
        voice: espeak-ng voice, a variant after ``+`` (``en+m3``, ``de+f2``; ``en`` is British).
        rate: words a minute (80–450).
        pitch: 0–100.
        pitch_range: liveliness of the melody, 0–100.

    Returns:
        samples (float32 mono, n, peak at most 1), sample rate in Hz, and the phonemes on the
        clock of the samples, end to end without holes; pauses have an empty symbol.

    Raises:
        DependencyMissingError: espeakng-loader is not installed.
        InvalidOptionError: no such voice.
        AVSyncError: espeak-ng failed.
    """
    global _espeak
    with _lock:
        if _espeak is None:
            _espeak = _Espeak()
        raw, marks = _espeak.synthesise(text, voice, rate, pitch, pitch_range)
        sample_rate = _espeak.sample_rate
    samples = raw.astype(np.float32) / 32768.0
    return samples, sample_rate, refine(marks, samples, sample_rate)


def band_level(samples: Floats, sample_rate: int, window_s: float = 0.006) -> Floats:
    """Level of the sound above 450 Hz in dB, a value a millisecond (float32).

    The voicing that hums through closed lips lies below that, so closures show as valleys.
    """
    spectrum = np.fft.rfft(samples.astype(np.float64))
    hertz = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    spectrum *= 1 / (1 + np.exp(-(hertz - 450) / 40))
    power = np.fft.irfft(spectrum, len(samples)) ** 2
    size = max(3, int(window_s * sample_rate) | 1)
    window = np.hanning(size + 2)[1:-1]
    power = np.convolve(power, window / window.sum(), mode="same")
    at = np.arange(0, len(samples) / sample_rate, 0.001) * sample_rate
    smooth = np.interp(at, np.arange(len(samples)), power)
    level: Floats = (10 * np.log10(smooth + 1e-12)).astype(np.float32)
    return level


def _longest_run(low: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """First index and end of the longest run of True; (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], low.astype(np.int8), [0]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return 0, 0
    best = int(np.argmax(runs[:, 1] - runs[:, 0]))
    return int(runs[best, 0]), int(runs[best, 1])


def _burst(closure: Floats) -> int:
    """Where the release is in a quiet stretch (dB a millisecond): its steepest rise.

    The breath after a voiceless stop is nearly as quiet as its closure, but begins with a step.
    """
    if len(closure) < 24:
        return len(closure)
    rise = closure[18:] - closure[10:-8]
    best = int(np.argmax(rise))
    return best + 14 if rise[best] > 9 else len(closure)


def refine(marks: list[tuple[int, str]], samples: Floats, sample_rate: int) -> list[Phoneme]:
    """Phonemes with borders of stops and nasals moved to the closures heard in the sound.

    ``marks`` are espeak-ng's: (sample, IPA), in order. A closure is the longest stretch more
    than 22 dB below the loudest sound within 250 ms, between the neighbours' marks.
    """
    level = band_level(samples, sample_rate)
    total = len(samples) / sample_rate
    names = [_bare(name) for _, name in marks]
    starts = [sample / sample_rate for sample, _ in marks] + [total]
    ends = [*starts[1:], total]
    floor = starts[:-1]  # where the mark of each phoneme was
    begin = list(floor)
    for index, name in enumerate(names):
        if not name:
            continue
        first = name[0]
        after = floor[index + 1] if index + 1 < len(floor) else total
        if first in STOPS:
            low_ms = int(1000 * max(floor[index] - 0.110, 0.0))
            if index and names[index - 1]:
                low_ms = max(low_ms, int(1000 * (floor[index - 1] + 0.020)))
            high_ms = int(1000 * (after + 0.012))
            piece = level[low_ms:high_ms]
            around = level[max(low_ms - 250, 0) : high_ms + 250]
            start, end = _longest_run(piece < around.max() - 22)
            end = start + _burst(piece[start:end])
            if end - start >= 12:
                begin[index] = (low_ms + start) / 1000
                ends[index] = (low_ms + end) / 1000
                if start == 0 and (index == 0 or not names[index - 1]):
                    begin[index] = max(begin[index], ends[index] - 0.090)
        elif first in NASALS and index + 1 < len(names) and names[index + 1]:
            low_ms, high_ms = int(1000 * (floor[index] + 0.025)), int(1000 * (after + 0.015))
            piece = level[low_ms:high_ms]
            if len(piece) > 12 and names[index + 1][0] not in STOPS | NASALS:
                rise = piece[8:] - piece[:-8]
                if rise.max() > 4:
                    ends[index] = (low_ms + 4 + int(np.argmax(rise))) / 1000
    return _chain(names, begin, ends, total)


def _bare(name: str) -> str:
    """IPA without stress, pause and tie marks; "" for a pause."""
    return "".join(c for c in name if c not in "ˈˌ_:'ˑ͡‍-|; ")


def _chain(names: list[str], begin: list[float], ends: list[float], total: float) -> list[Phoneme]:
    """Phonemes end to end: a closure's borders win over its neighbours'."""
    out: list[Phoneme] = []
    if begin and begin[0] > 0:
        out.append(Phoneme("", 0.0, begin[0]))
    for index, name in enumerate(names):
        start = out[-1].end_s if out else 0.0
        if index + 1 < len(names):
            following = begin[index + 1]
            end = ends[index]
            closed = bool(name) and name[0] in STOPS | NASALS
            next_stop = bool(names[index + 1]) and names[index + 1][0] in STOPS
            if closed and next_stop and following < end:  # one silence for two stops
                end = (max(following, start) + end) / 2
            elif not closed or next_stop:
                end = following
        else:
            end = total
        end = max(end, start + 0.005)
        if not name and out and not out[-1].symbol:
            out[-1] = Phoneme("", out[-1].start_s, end)
        else:
            out.append(Phoneme(name, start, end))
    return out
