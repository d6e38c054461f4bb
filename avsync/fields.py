"""Types of the fields of results, rounded when a result is made, and the base of all results."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Frozen",
    "Milliseconds",
    "PathText",
    "Pixels",
    "Probability",
    "Score",
    "Seconds",
    "printable_path",
]


def printable_path(path: object) -> str:
    """A path as text that any encoder takes: bytes that are no UTF-8 become ``\\udcXX``."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _rounded(digits: int) -> AfterValidator:
    # + 0.0 turns -0.0 into 0.0
    return AfterValidator(lambda value: round(value, digits) + 0.0)


Milliseconds = Annotated[float, _rounded(2)]
Seconds = Annotated[float, _rounded(4)]
Probability = Annotated[float, Field(ge=0.0, le=1.0), _rounded(4)]
Score = Annotated[float, _rounded(5)]
Pixels = Annotated[float, _rounded(1)]
PathText = Annotated[str, BeforeValidator(printable_path)]


class Frozen(BaseModel):
    """Base of all results: cannot be changed, knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
