"""Errors. Every failure a caller can cause or meet is an :class:`AVSyncError`.

Each child also inherits from the builtin a Python programmer would expect, so that
``except FileNotFoundError`` works as well as ``except AVSyncError``.
"""

from __future__ import annotations

__all__ = [
    "SETUP_ERRORS",
    "AVSyncError",
    "DependencyMissingError",
    "InvalidArrayError",
    "InvalidOptionError",
    "MediaNotFoundError",
    "MediaReadError",
    "ModelCorruptError",
    "ModelNotFoundError",
    "ProviderUnavailableError",
]


class AVSyncError(Exception):
    """Base of all errors of this package. The message names the file, the fault and the remedy."""


class MediaNotFoundError(AVSyncError, FileNotFoundError):
    """The path does not exist, or is a folder where a file is needed."""


class MediaReadError(AVSyncError, ValueError):
    """The file is not media, or nothing in it can be decoded."""


class ModelNotFoundError(AVSyncError, FileNotFoundError):
    """A model folder or one of its files is missing."""


class ModelCorruptError(AVSyncError, ValueError):
    """A model file does not match its SHA-256, or its description cannot be understood."""


class ProviderUnavailableError(AVSyncError, RuntimeError):
    """An execution provider was asked for by name and cannot be used here."""


class DependencyMissingError(AVSyncError, ImportError):
    """An optional dependency (ONNX Runtime, torch) is missing; the message names the extra."""


class InvalidOptionError(AVSyncError, ValueError):
    """An option has a value that makes no sense."""


class InvalidArrayError(AVSyncError, ValueError):
    """Frames, samples or their times have a type, shape or value that makes no sense."""


SETUP_ERRORS = (
    DependencyMissingError,
    ModelCorruptError,
    ModelNotFoundError,
    ProviderUnavailableError,
)
"""Faults that every other file would meet as well."""
