"""Fixtures for all tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Time limits for single examples say more about the machine than about the code.
settings.register_profile("avsync", deadline=None)
settings.load_profile("avsync")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of the talking-face corpus; the test is skipped where it is absent."""
    folder = Path(os.environ.get("AVSYNC_CORPUS") or ROOT.parent / "shared" / "corpus")
    if not (folder / "index.jsonl").is_file():
        pytest.skip("needs ../shared/corpus (or AVSYNC_CORPUS=folder), which is not here")
    return folder


@pytest.fixture(scope="session")
def corpus_index(corpus: Path) -> list[dict[str, Any]]:
    """The corpus's clips, one dict each; ``file`` is relative to the corpus folder."""
    lines = (corpus / "index.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]
