"""A web server for tests that gives out parts of files, as others do and Python's own does not."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["serving"]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers requests for a part of a file, as web servers do and Python's own does not."""

    def do_GET(self) -> None:
        if "secret" in self.path:
            return self.send_error(403)
        file = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (asked and file.is_file()):
            return super().do_GET()
        data = file.read_bytes()
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])
        self.server.parts.append(last + 1 - first)  # type: ignore[attr-defined]
        return None

    def do_HEAD(self) -> None:
        if "secret" in self.path:
            return self.send_error(403)
        return super().do_HEAD()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve a folder: (its URL, the sizes of the parts that were given out)."""

    class Here(Handler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here) as server:
        server.parts = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.parts  # type: ignore[attr-defined]
        server.shutdown()
