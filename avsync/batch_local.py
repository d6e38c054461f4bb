"""A batch on this machine: worker processes that are killed and replaced when a file needs it.

pebble's pool does the killing: unlike that of the standard library it ends a worker that outlasts
its time limit, and one that crashes costs only the file it was at.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from avsync._process import begin_process
from avsync.batch_work import BatchItem, DetectorOptions, Task, Worker, failed_item
from avsync.errors import AVSyncError

__all__ = ["WorkerError", "crash_words", "run_local"]

#: So often may all workers die without a file done between, before the batch gives up.
MAX_BREAKS = 3

_worker: Worker | None = None


class WorkerError(AVSyncError, RuntimeError):
    """Workers cannot be started."""


def run_local(
    tasks: Iterable[Task], options: DetectorOptions, *, jobs: int, retries: int = 1
) -> Iterator[BatchItem]:
    """Do the tasks in ``jobs`` worker processes; items come in order of completion.

    Args:
        tasks: taken as workers become free, two ahead of each.
        retries: so often is a file tried again when its worker died under it.

    Raises:
        AVSyncError: the set-up is wrong; WorkerError: workers die as soon as they start.
    """
    feed = iter(tasks)
    deaths: dict[str, int] = {}
    again: list[Task] = []
    breaks = 0
    while True:
        pool = _new_pool(jobs, options)
        running: dict[Future[BatchItem], Task] = {}
        try:
            while True:
                while len(running) < 2 * jobs:
                    task = again.pop() if again else next(feed, None)
                    if task is None:
                        break
                    with _deaf_to_ctrl_c():
                        future = pool.schedule(_do, args=(task,), timeout=task.limit_s)
                    running[future] = task
                if not running:
                    pool.close()
                    pool.join()
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    task = running[future]
                    try:
                        item = future.result()
                    except FutureTimeoutError:
                        message = f"not done within its time limit of {task.limit_s:g} s"
                        item = failed_item(task, "TimeLimit", message, task.limit_s)
                    except ProcessExpired as error:
                        deaths[task.key] = deaths.get(task.key, 0) + 1
                        if deaths[task.key] <= retries:
                            del running[future]
                            again.append(task)
                            continue
                        item = failed_item(task, "WorkerCrashed", crash_words(error.exitcode))
                    del running[future]
                    breaks = 0
                    yield item
        except BrokenProcessPool as error:
            breaks += 1
            if breaks >= MAX_BREAKS:
                raise WorkerError(
                    "the worker processes die as soon as they start; a script that calls "
                    'score_many needs `if __name__ == "__main__":` around it'
                ) from error
            again += running.values()
        finally:
            with contextlib.suppress(BrokenProcessPool):
                pool.stop()
                pool.join()


def crash_words(code: int | None) -> str:
    """How a process ended, in words, from its exit code (negative: a signal)."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"the worker process died at it ({signal.Signals(-code).name})"
    return f"the worker process died at it (exit code {code})"


def _new_pool(jobs: int, options: DetectorOptions) -> Any:  # pebble's methods are half typed
    context = multiprocessing.get_context("spawn")  # fork does not go with native threads
    return ProcessPool(jobs, initializer=_begin, initargs=(options,), context=context)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Threads and processes begun here are not told of Ctrl-C, not even while they begin.

    The batch ends its workers itself; a worker interrupted in its imports would print a traceback.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # at its start it lets the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(options: DetectorOptions) -> None:
    """First thing in a worker: nothing heavy, so that it cannot fail."""
    global _worker
    begin_process()
    _worker = Worker(options)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End the worker when the batch is gone, killed -9 too: nobody would take its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(task: Task) -> BatchItem:
    if _worker is None:
        raise WorkerError("the worker was not begun")
    return _worker.run(task)
