"""Where the bundled model files are."""

from __future__ import annotations

from pathlib import Path

from avsync.errors import ModelNotFoundError

__all__ = ["bundled_models_dir"]


def bundled_models_dir() -> Path:
    """The folder of the bundled models (``*.onnx``, ``*.json``, ``*.md``).

    An installed package has it inside as ``avsync/_models``; in a source tree (an editable
    install, or ``python -m`` from the repository's root) it is ``models`` beside ``avsync``.

    Raises:
        ModelNotFoundError: neither is there; the installation is damaged.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "_models", package.parent / "models")
    for folder in candidates:
        if (folder / "__init__.py").is_file():
            return folder
    raise ModelNotFoundError(
        f"the bundled models are missing: looked in {candidates[0]} and {candidates[1]}; "
        "install avsync again"
    )
