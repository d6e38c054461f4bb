"""Results of earlier runs, from the JSON lines that ``avsync score`` and ``avsync batch`` write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from avsync.errors import InvalidOptionError
from avsync.result import SyncResult

__all__ = ["Unread", "read_lines"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A file of a batch that could not be read: it has a line in the index and no page."""

    path: str
    error: str


def read_lines(lines: Iterable[str], source: str = "input") -> list[SyncResult | Unread]:
    """Results from JSON lines, as ``avsync score --json`` and ``avsync batch`` write them.

    Keys that are not a result's (a batch adds its own) are passed over. Of several lines about
    one path the last counts, in the place of the first. A last line without an end that cannot
    be read is what a killed batch leaves: it is passed over.

    Raises:
        InvalidOptionError: another line is no JSON object or no result; names the line.
    """
    found: dict[str, SyncResult | Unread] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = _read_line(line)
        except (ValueError, TypeError) as error:
            if not line.endswith("\n"):
                continue
            raise InvalidOptionError(f"{source}, line {number}: {_fault(error)}") from error
        found[item.path] = item
    return list(found.values())


def _read_line(line: str) -> SyncResult | Unread:
    values: Any = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("path"), str):
        raise ValueError("not a result: no path")
    if values.get("status") == "error":
        return Unread(values["path"], str(values.get("error") or "no reason given"))
    known = {k: v for k, v in values.items() if k in SyncResult.model_fields}
    return SyncResult.model_validate(known)


def _fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"not a result: {'.'.join(map(str, first['loc']))}: {first['msg']}".replace(
            ": :", ":"
        )
    return f"not a JSON line ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
