"""The command keeps BLAS to one thread and gives large blocks back, unless told otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SEEN = (
    "import os, sys; import avsync.cli; assert 'numpy' not in sys.modules; sys.argv = ['avsync', "
    "'--version']\ntry: avsync.cli.main()\nfinally: print(os.environ['OPENBLAS_NUM_THREADS'])"
)
#: Prints how many blocks of 4 MB are mapped alone after one of 16 MB, as glibc counts them.
MAPPED = """
import ctypes
from avsync._process import begin_process
begin_process()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo.restype = Info
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo().hblks
block = libc.malloc(4 << 20)
print(libc.mallinfo().hblks - before)
"""


def printed(code: str, root: Path, name: str, given: str | None) -> str:
    env = {k: v for k, v in os.environ.items() if k != name}
    if given is not None:
        env[name] = given
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[-1]


@pytest.mark.parametrize(("given", "want"), [(None, "1"), ("3", "3")])
def test_blas_threads_are_set_before_numpy_is_loaded(
    root: Path, given: str | None, want: str
) -> None:
    assert printed(SEEN, root, "OPENBLAS_NUM_THREADS", given) == want


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
@pytest.mark.parametrize(("given", "want"), [(None, "1"), (str(8 << 20), "0")])
def test_large_blocks_are_mapped_alone_whatever_was_freed(
    root: Path, given: str | None, want: str
) -> None:
    assert printed(MAPPED, root, "MALLOC_MMAP_THRESHOLD_", given) == want
