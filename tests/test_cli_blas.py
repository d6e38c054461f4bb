"""The command keeps numpy's BLAS to one thread, unless its user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SEEN = (
    "import os, sys; import avsync.cli; assert 'numpy' not in sys.modules; sys.argv = ['avsync', "
    "'--version']\ntry: avsync.cli.main()\nfinally: print(os.environ['OPENBLAS_NUM_THREADS'])"
)


@pytest.mark.parametrize(("given", "want"), [(None, "1"), ("3", "3")])
def test_blas_threads_are_set_before_numpy_is_loaded(
    root: Path, given: str | None, want: str
) -> None:
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if given is not None:
        env["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", SEEN], env=env, cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == want
