"""Files at URLs (``https://``, ``s3://``, ``gs://``, ``memory://``, ...), read through fsspec.

fsspec comes with the extra ``avsync[remote]``, with what ``http(s)://`` needs; each other kind of
store has a package of its own (s3fs, gcsfs, adlfs, ...), which the error names when it is missing.
Streams that only ffmpeg knows (``rtsp://`` and the like) are left to ffmpeg.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from avsync.errors import (
    AVSyncError,
    DependencyMissingError,
    InvalidOptionError,
    MediaNotFoundError,
    MediaReadError,
)
from avsync.result import printable_path

__all__ = ["Stamp", "find_urls", "is_url", "opened_url", "stamp_of", "through_fsspec", "url_place"]

#: Two letters at least: C:// is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from the next; what its store does not say is None."""

    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None


def is_url(path: object) -> bool:
    """Whether a path is a URL."""
    return isinstance(path, str) and _URL.match(path) is not None


def through_fsspec(path: object) -> bool:
    """Whether a path is a URL that fsspec reads: all but those that it has never heard of."""
    if not isinstance(path, str) or not is_url(path):
        return False
    kind = re.split(r"::|://", path)[0].lower()
    return kind in _fsspec(path).available_protocols()


def _fsspec(url: str) -> Any:
    try:
        return importlib.import_module("fsspec")
    except ImportError as error:
        raise DependencyMissingError(
            f"{url}: URLs are read through fsspec, which is not installed: "
            "pip install 'avsync[remote]'"
        ) from error


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the file's name in it."""
    fsspec = _fsspec(url)
    try:
        store, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DependencyMissingError(
            f"{url}: this kind of URL needs a package more ({error})"
        ) from error
    except (ValueError, TypeError) as error:
        raise InvalidOptionError(f"{url}: not a URL that can be read ({error})") from error
    return store, name


@contextlib.contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn what stores raise, each in its own way, into our errors."""
    try:
        yield
    except AVSyncError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # of http(s), where everything is a file that is not there
        if not isinstance(cause, OSError) and getattr(cause, "status", 404) == 404:
            raise MediaNotFoundError(f"{url}: no such file") from error
        raise MediaReadError(f"{url}: cannot be read ({cause})") from error
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise MediaReadError(f"{url}: cannot be read ({words[:300]})") from error


class _Reader:
    """A file object for PyAV, which hands on what its methods raise."""

    def __init__(self, file: Any, url: str) -> None:
        self._file, self._url = file, url
        self.name = url

    def read(self, size: int) -> bytes:
        with _faults(self._url):
            data: bytes = self._file.read(size)
            return data

    def seek(self, offset: int, whence: int = 0) -> int:
        with _faults(self._url):
            place: int = self._file.seek(offset, whence)
            return place

    def tell(self) -> int:
        with _faults(self._url):
            place: int = self._file.tell()
            return place


@contextlib.contextmanager
def opened_url(url: str) -> Iterator[Any]:
    """Open a URL as a file object that can be read and sought.

    Raises:
        MediaNotFoundError, MediaReadError: it is not there, or its store does not give it out.
        DependencyMissingError: fsspec, or the package for this kind of URL, is not installed.
    """
    store, name = _store(url)
    with _faults(url):
        file = store.open(name, "rb")
        size = getattr(file, "size", None)
    try:
        if size == 0:
            raise MediaReadError(f"{url}: the file is empty")
        yield _Reader(file, url)
    finally:
        with contextlib.suppress(Exception):
            file.close()


def stamp_of(url: str) -> Stamp:
    """Size, time of change and ETag of a URL, as far as its store tells them.

    Raises:
        MediaNotFoundError, MediaReadError, DependencyMissingError.
    """
    store, name = _store(url)
    with _faults(url):
        info = store.info(name)
    etag = next((str(info[k]) for k in ("ETag", "etag", "md5Hash") if info.get(k)), None)
    return Stamp(info.get("size"), _mtime_ns(info), etag)


def _mtime_ns(info: dict[str, Any]) -> int | None:
    for key in ("mtime", "LastModified", "last_modified", "updated", "Last-Modified", "created"):
        value = info.get(key)
        if isinstance(value, int | float) and value:
            return round(value * 1e9)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                parse = parsedate_to_datetime if key == "Last-Modified" else datetime.fromisoformat
                value = parse(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            return round(aware.timestamp() * 1e6) * 1000
    return None


def find_urls(url: str, suffixes: Collection[str]) -> list[str]:
    """The files that a URL names: itself, what its ``*`` match, or all video below a folder.

    A folder's URL ends with a slash; of stores that know folders (not ``http(s)://``) it may lack
    it. In a query (``?sig=...``) nothing is a pattern.

    Args:
        suffixes: endings of video files, in lower case.

    Raises:
        MediaReadError, DependencyMissingError.
    """
    where = url.partition("?")[0]
    if not through_fsspec(url):
        return [url]
    web = where.lower().startswith(("http://", "https://"))
    if "*" not in where and not where.endswith("/") and (web or "::" in where):
        return [url]
    store, name = _store(url)
    with _faults(url):
        if "*" in where:
            found = store.glob(name)
            any_kind = "." in PurePosixPath(where).name
        elif store.isdir(name):
            found, any_kind = store.find(name), False
        else:
            return [url]
    names = sorted(n for n in found if any_kind or _is_media(n, suffixes))
    return [store.unstrip_protocol(n) for n in names if not fnmatch.fnmatch(n, "*/.*")]


def _is_media(name: str, suffixes: Collection[str]) -> bool:
    return PurePosixPath(urlsplit(name).path).suffix.lower() in suffixes


def url_place(url: str) -> str:
    """Where a copy of a URL's file goes below a folder: ``host/path/name.mp4``."""
    parts = urlsplit(url.rpartition("::")[2])
    inside = unquote(f"{parts.netloc.rpartition('@')[2]}/{parts.path}")
    steps = [s for s in inside.replace(":", "_").split("/") if s not in ("", ".", "..")]
    return printable_path("/".join(steps) or "file")
