"""A talking portrait: espeak-ng's voice, mouth shapes for its phonemes, a warped picture."""

from __future__ import annotations

from .face import Talker, find_landmarks, render
from .lips import LipTrack, lip_track
from .voice import Phoneme, speak

__all__ = ["LipTrack", "Phoneme", "Talker", "find_landmarks", "lip_track", "render", "speak"]
