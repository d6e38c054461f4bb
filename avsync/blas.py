"""One BLAS thread while avsync computes: its matrices are small, and waiting BLAS threads spin.

Without, OpenBLAS takes a seventh of the processor's time of a score on two cores, and two fifths in
a process kept to one core after numpy was loaded (benchmarks/README.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

P = ParamSpec("P")
R = TypeVar("R")


@functools.lru_cache(maxsize=1)
def _controller() -> Any:
    return ThreadpoolController()


def one_blas_thread(door: Callable[P, R]) -> Callable[P, R]:
    """Let the process's BLAS run on one thread during calls of ``door``.

    Where several threads call, the first one sets and restores (threadpoolctl's rule).
    """

    @functools.wraps(door)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller().limit(limits=1, user_api="blas"):
            return door(*args, **kwargs)

    return limited
