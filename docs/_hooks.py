"""mkdocs hooks: the command line's page from the commands themselves, and readable docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

#: Sphinx roles as they come out of Markdown: ``:class:<code>avsync.SyncResult</code>``.
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>~?([^<]+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add cli.md, made by Typer: never out of date, never in the repository."""
    command = [sys.executable, "-m", "typer", "avsync.cli", "utils", "docs", "--name", "avsync"]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files.append(File.generated(config, "cli.md", content=page))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Roles of the docstrings as plain code."""
    return _ROLE.sub(r"<code>\1</code>", html)
