"""Which files a batch is about: folders, patterns, URLs, text lists and names in one list."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avsync.errors import InvalidOptionError
from avsync.remote import find_urls, is_url, url_place
from avsync.result import printable_path

__all__ = ["MEDIA_SUFFIXES", "Inputs", "file_key", "find_inputs", "place_copies"]

#: File name endings that are taken for video in folders. Files named one by one may have any.
MEDIA_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".qt",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".m2ts",
        ".mts",
        ".mpg",
        ".mpeg",
        ".m2v",
        ".vob",
        ".mxf",
        ".wmv",
        ".asf",
        ".flv",
        ".f4v",
        ".3gp",
        ".3g2",
        ".ogv",
        ".ogm",
        ".divx",
        ".rm",
        ".rmvb",
        ".gxf",
    ]
)


@dataclass(frozen=True)
class Inputs:
    """The files in the order they were named, each once.

    base: the folder below which all of them but URLs lie, by the arguments and not by what was
    found, so that it stays the same when a folder grows.
    """

    paths: tuple[str, ...]
    base: str | None


def file_key(path: str | os.PathLike[str]) -> str:
    """What tells files apart: URL or absolute path, links not followed, as printable text."""
    if is_url(path):
        return printable_path(path)
    return printable_path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def find_inputs(
    arguments: Iterable[str | os.PathLike[str]],
    *,
    lists: Sequence[str | os.PathLike[str]] = (),
    leave_out: Sequence[str | os.PathLike[str]] = (),
) -> Inputs:
    """All files that the arguments name.

    Args:
        arguments: files; folders (recursive, by :data:`MEDIA_SUFFIXES`, names that begin with a
            dot left out); patterns with ``* ? [ ] **``; URLs, of which ``*`` and a slash at the end
            name several files (:func:`avsync.remote.find_urls`); ``@FILE``, a text list. What
            exists under its plain name is never taken for a pattern or list.
        lists: text lists, UTF-8: a file, folder or pattern per line, relative to the current
            folder; empty lines and lines that begin with ``#`` are passed over. ``-`` is
            standard input.
        leave_out: folders not to look into, such as the one that repaired copies go to.

    Raises:
        InvalidOptionError: a list that cannot be read, or no file at all.
    """
    barred = [os.path.realpath(p) for p in leave_out]
    found: dict[str, str] = {}
    bases: list[str] = []
    names = [os.fspath(a) for a in arguments]
    for listing in lists:
        names += _lines(os.fspath(listing))
    for name in _without_lists(names):
        for path, base in _expand(name, barred):
            found.setdefault(file_key(path), path)
            if base is not None and base not in bases:
                bases.append(base)
    if not found:
        shown = ", ".join(printable_path(n) for n in names[:3]) + (" ..." * (len(names) > 3))
        raise InvalidOptionError(f"no video files found in {shown or 'nothing'}")
    return Inputs(tuple(found.values()), _common(bases))


def _without_lists(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.startswith("@") and not os.path.lexists(name):
            yield from _lines(name[1:])
        else:
            yield name


def _lines(listing: str) -> list[str]:
    try:
        if listing == "-":
            data = sys.stdin.buffer.read()
        else:
            data = Path(listing).read_bytes()
    except OSError as error:
        raise InvalidOptionError(
            f"{listing}: the list cannot be read ({error.strerror})"
        ) from error
    lines = (
        os.fsdecode(line).strip("\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    )
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _expand(name: str, barred: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The files of one argument, each with the folder it counts as lying in (URLs: none)."""
    if is_url(name):
        yield from ((url, None) for url in find_urls(name, MEDIA_SUFFIXES))
        return
    if os.path.isdir(name):  # noqa: PTH112
        base = os.path.abspath(name)  # noqa: PTH100
        yield from ((path, base) for path in _walk(name, barred))
        return
    if glob.has_magic(name) and not os.path.lexists(name):
        base = os.path.abspath(_fixed_part(name))  # noqa: PTH100
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
        if "." not in os.path.basename(name):  # noqa: PTH119 - it says nothing of the kind of file
            matches = [m for m in matches if os.path.isdir(m) or _is_media(m)]  # noqa: PTH112
        folders = [m for m in matches if os.path.isdir(m)]  # noqa: PTH112
        for match in matches:
            if match not in folders:
                if not _is_in(match, barred):
                    yield match, base
            elif "**" not in name:  # ** has been inside already
                yield from ((path, base) for path in _walk(match, barred))
        if matches:
            return
    yield name, os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120


def _fixed_part(pattern: str) -> str:
    """The folder before the first part that is a pattern."""
    parts = Path(pattern).parts
    fixed = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return os.path.join(*fixed) if fixed else "."  # noqa: PTH118


def _walk(folder: str, barred: Sequence[str]) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and not _is_in(os.path.join(root, f), barred)  # noqa: PTH118
        )
        for file in sorted(files):
            if not file.startswith(".") and _is_media(file):
                yield os.path.join(root, file)  # noqa: PTH118


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES  # noqa: PTH122


def _is_in(path: str, barred: Sequence[str]) -> bool:
    if not barred:
        return False
    real = os.path.realpath(path)
    return any(real == b or real.startswith(b.rstrip(os.sep) + os.sep) for b in barred)


def _common(bases: Sequence[str]) -> str | None:
    try:
        return os.path.commonpath(bases)
    except ValueError:  # different drives
        return None


def place_copies(
    inputs: Inputs, folder: str | os.PathLike[str], suffixes: Iterable[str]
) -> list[str]:
    """Where the repaired copy of each file goes: below ``folder`` as the file lies below the base.

    Args:
        suffixes: endings that can be written; a file of another ending becomes ``NAME.EXT.mkv``.
            The copy of a URL goes to its host and path.

    Raises:
        InvalidOptionError: the files have no folder in common, or a copy would replace an input.
    """
    local = [path for path in inputs.paths if not is_url(path)]
    if inputs.base is None and local:
        raise InvalidOptionError("the files lie on several drives: repair each drive by itself")
    known = frozenset(suffixes)
    originals = {os.path.realpath(path) for path in local}
    targets: list[str] = []
    for path in inputs.paths:
        below = Path(url_place(path) if is_url(path) else os.path.relpath(path, inputs.base))
        if below.suffix.lower() not in known:
            below = below.with_name(below.name + ".mkv")
        target = Path(folder) / below
        if os.path.realpath(target) in originals:
            raise InvalidOptionError(
                f"the repaired copy of {printable_path(path)} would replace the input "
                f"{printable_path(target)}; give another folder"
            )
        targets.append(str(target))
    ((twice, times),) = Counter(targets).most_common(1)
    if times > 1:
        raise InvalidOptionError(f"two files would be repaired into {printable_path(twice)}")
    return targets
