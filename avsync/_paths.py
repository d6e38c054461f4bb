"""Where the bundled files are: the models, and the sample of the demo."""

from __future__ import annotations

from pathlib import Path

from avsync.errors import AVSyncError, MediaNotFoundError, ModelNotFoundError

__all__ = ["bundled_models_dir", "sample_video"]


def bundled_models_dir() -> Path:
    """The folder of the bundled models (``*.onnx``, ``*.json``, ``*.md``).

    An installed package has it inside as ``avsync/_models``; in a source tree (an editable
    install, or ``python -m`` from the repository's root) it is ``models`` beside ``avsync``.

    Raises:
        ModelNotFoundError: neither is there; the installation is damaged.
    """
    return _first("_models", "models", "__init__.py", ModelNotFoundError).parent


def sample_video() -> Path:
    """The sample that ships with the package: a drawn talker whose sound is early by 120 ms.

    Installed ``avsync/_examples/talk.mp4``, in a source tree ``examples/talk.mp4``.

    Raises:
        MediaNotFoundError: neither is there; the installation is damaged.
    """
    return _first("_examples", "examples", "talk.mp4", MediaNotFoundError)


def _first(inside: str, beside: str, file: str, error: type[AVSyncError]) -> Path:
    package = Path(__file__).resolve().parent
    folders = (package / inside, package.parent / beside)
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise error(
        f"the bundled {beside} are missing: looked in {folders[0]} and {folders[1]}; "
        "install avsync again"
    )
