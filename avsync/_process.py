"""What a process of avsync's own, the command's or a batch's worker, sets before it computes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["begin_process"]

#: Blocks from this size (bytes) on are mapped alone and go back to the system when they are freed.
#: glibc raises its own limit to 32 MB as blocks are freed, and keeps what is smaller. A lower one
#: gives back more and takes 2 to 5 % of the processor's time in place of 1 to 2.
LARGE_BLOCK = 2 << 20
_M_MMAP_THRESHOLD = -3  # malloc.h


def begin_process() -> None:
    """One BLAS thread where numpy is not loaded yet, and large blocks that are given back.

    What the environment says (``OPENBLAS_NUM_THREADS``, ``MALLOC_MMAP_THRESHOLD_``) stays. Not for
    a host's process: the SDK leaves the allocator of its host alone. Never fails.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
