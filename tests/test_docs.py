"""The docs say something about every error, and the README's commands exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import avsync
from avsync.cli import app
from avsync.errors import AVSyncError


def _errors() -> set[str]:
    for module in pkgutil.iter_modules(avsync.__path__, "avsync."):
        if not module.ispkg and module.name not in ("avsync.__main__", "avsync.loss"):
            importlib.import_module(module.name)
    found: list[type[AVSyncError]] = [AVSyncError]
    for kind in found:
        found += kind.__subclasses__()
    return {kind.__name__ for kind in found[1:] if kind.__module__.startswith("avsync.")}


def test_every_error_has_its_part_in_troubleshooting(root: Path) -> None:
    text = (root / "docs" / "troubleshooting.md").read_text("utf-8")
    assert _errors() <= set(re.findall(r"^## (\w+Error)$", text, re.M))


def test_every_page_is_in_the_navigation(root: Path) -> None:
    pages = {page.name for page in (root / "docs").glob("*.md")} | {"cli.md"}
    listed = set(re.findall(r": ([\w-]+\.md)$", (root / "mkdocs.yml").read_text("utf-8"), re.M))
    assert listed == pages


def test_commands_in_texts_exist(root: Path) -> None:
    commands = {
        c.name or str(c.callback.__name__).replace("_", "-")
        for c in app.registered_commands
        if c.callback is not None
    } | {group.name for group in app.registered_groups}
    texts = [root / "README.md", root / "examples" / "README.md", *(root / "docs").glob("*.md")]
    for text in texts:
        named = re.findall(r"^(?:\$ )?avsync ([a-z][a-z-]*)", text.read_text("utf-8"), re.M)
        assert set(named) <= commands, text
