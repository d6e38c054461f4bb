"""A batch on a Ray cluster, or on this machine with Ray: actors that hold a detector each.

Every actor has one file at a time and the next is sent when it is done, so that nothing piles up
however long the list is (back-pressure). An actor that dies is replaced and its file tried again;
one that outlasts its time limit is killed. Actors that the cluster has no room for yet wait; the
others go on meanwhile. All nodes need avsync[ray], avsync's version and the files under the same
paths (a shared file system), or as URLs (avsync[remote]).
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from avsync.batch_work import BatchItem, DetectorOptions, Task, Worker, failed_item
from avsync.errors import AVSyncError, DependencyMissingError
from avsync.remote import is_url
from avsync.result import printable_path

__all__ = ["RayEngineError", "run_ray"]

#: So often may actors die before their first file, without a file done between.
MAX_BREAKS = 3
#: Time limits are looked after this often (s).
TICK_S = 0.5


class RayEngineError(AVSyncError, RuntimeError):
    """Ray cannot be reached, or its actors cannot be started."""


class _Actor(Worker):
    """What runs in an actor."""

    def ready(self) -> str:
        """A sign of life, and on which node."""
        return f"node {_ray().get_runtime_context().get_node_id()}"


@dataclass
class _Seat:
    """One actor, and what it was last asked: to be ready (task None), or to do a task."""

    actor: Any
    task: Task | None = None
    since: float = 0.0
    alive: bool = True


def run_ray(
    tasks: Iterable[Task],
    options: DetectorOptions,
    *,
    jobs: int,
    retries: int = 1,
    address: str | None = None,
    actor_options: Mapping[str, Any] | None = None,
) -> Iterator[BatchItem]:
    """Do the tasks with ``jobs`` actors; items come in order of completion.

    Args:
        address: as of ``ray.init``; None takes the one of the environment (``RAY_ADDRESS``) or
            starts Ray here. A Ray that is running in this process already is used as it is.
        actor_options: for the actors, such as ``{"num_gpus": 0.25}``; ``num_cpus`` is the
            model's threads unless given.

    Raises:
        DependencyMissingError: Ray is not installed.
        RayEngineError: no cluster there, or actors die as soon as they start.
        AVSyncError: the set-up is wrong on the nodes.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    try:
        yield from _Crew(ray, options, retries, actor_options or {}).work(tasks, jobs)
    finally:
        if ours:
            ray.shutdown()


def _ray() -> Any:
    # Ray reports its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Actors that ask for no GPU leave CUDA_VISIBLE_DEVICES as it is: provider "auto" decides.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise DependencyMissingError(
            "engine 'ray' needs Ray, which is not installed: pip install 'avsync[ray]'"
        ) from error


def _connect(ray: Any, address: str | None) -> None:
    wanted: dict[str, Any] = {"logging_level": "ERROR"}
    if address is not None:
        wanted["address"] = address
    elif not os.environ.get("RAY_ADDRESS"):
        wanted |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**wanted)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RayEngineError(f"Ray cannot be reached or started: {error}") from error


class _Crew:
    """The actors and what each is at."""

    def __init__(
        self, ray: Any, options: DetectorOptions, retries: int, actor_options: Mapping[str, Any]
    ) -> None:
        self._ray = ray
        self._options = options
        self._retries = retries
        self._class = ray.remote(_Actor).options(**{"num_cpus": options.threads, **actor_options})
        self._seats: dict[Any, _Seat] = {}  # by what they were last asked
        self._deaths: dict[str, int] = {}
        self._breaks = 0

    def work(self, tasks: Iterable[Task], jobs: int) -> Iterator[BatchItem]:
        """Do all tasks."""
        feed = iter(tasks)
        again: list[Task] = []
        try:
            for _ in range(jobs):
                self._hire()
            while self._seats:
                done, _ = self._ray.wait(list(self._seats), num_returns=1, timeout=TICK_S)
                for asked in done:
                    seat = self._seats.pop(asked)
                    item = self._answer(asked, seat, again)
                    if seat.alive:
                        task = again.pop() if again else next(feed, None)
                        if task is None:
                            self._ray.kill(seat.actor)
                        else:
                            self._ask(seat, task)
                    if item is not None:
                        yield item
                yield from self._late()
                if not again and not any(seat.task for seat in self._seats.values()):
                    # The actors that are left wait for room, or were hired in someone's place.
                    task = next(feed, None)
                    if task is None:
                        return
                    again.append(task)
        finally:
            for seat in self._seats.values():
                self._ray.kill(seat.actor)

    def _hire(self) -> None:
        actor = self._class.remote(self._options)
        self._seats[actor.ready.remote()] = _Seat(actor)

    def _ask(self, seat: _Seat, task: Task) -> None:
        """Give an actor its next file; actors elsewhere have another current folder."""
        path = task.path if is_url(task.path) else os.path.abspath(task.path)  # noqa: PTH100
        absolute = replace(task, path=path)
        seat.task, seat.since = task, time.monotonic()
        self._seats[seat.actor.run.remote(absolute)] = seat

    def _answer(self, asked: Any, seat: _Seat, again: list[Task]) -> BatchItem | None:
        """What became of what was asked; another actor is hired in the place of a dead one."""
        errors = self._ray.exceptions
        task, seat.task = seat.task, None
        try:
            answer = self._ray.get(asked)
        except errors.RayTaskError as error:
            if isinstance(error.cause, AVSyncError):
                raise error.cause from None
            raise RayEngineError(f"an actor failed: {error}") from error
        except errors.RayError as error:
            seat.alive = False
            if task is None:
                self._breaks += 1
                if self._breaks >= MAX_BREAKS:
                    raise RayEngineError(f"actors die as they start: {error}") from error
            self._hire()
            if task is None:
                return None
            self._deaths[task.key] = self._deaths.get(task.key, 0) + 1
            if self._deaths[task.key] <= self._retries:
                again.append(task)
                return None
            kind = type(error).__name__
            return failed_item(task, "WorkerCrashed", f"the worker actor died at it ({kind})")
        self._breaks = 0
        return None if task is None else _as_asked(answer, task)

    def _late(self) -> Iterator[BatchItem]:
        """The files whose time is over; their actors are killed and others hired."""
        now = time.monotonic()
        for asked, seat in list(self._seats.items()):
            task = seat.task
            if task is None or now - seat.since <= task.limit_s:
                continue
            del self._seats[asked]
            self._ray.kill(seat.actor)
            self._hire()
            message = f"not done within its time limit of {task.limit_s:g} s"
            yield failed_item(task, "TimeLimit", message, task.limit_s)


def _as_asked(item: BatchItem, task: Task) -> BatchItem:
    """The item with the path as the caller wrote it."""
    path = printable_path(task.path)
    absolute = item.path
    changes: dict[str, Any] = {"path": path}
    if item.result is not None:
        changes["result"] = item.result.model_copy(update={"path": path})
    if item.error is not None:
        changes["error"] = item.error.replace(absolute, path)
    if item.fix is not None and item.fix.error is not None:
        error = item.fix.error.replace(absolute, path)
        changes["fix"] = item.fix.model_copy(update={"error": error})
    return item.model_copy(update=changes)
