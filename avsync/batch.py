"""Many files: :func:`score_many` measures, and repairs on request, whole archives.

    >>> from avsync import score_many
    >>> for item in score_many(["archive/"], jobs=4):  # doctest: +SKIP
    ...     print(item.path, item.status)

The ``batch`` command writes what comes of it to a results file (:mod:`avsync.batch_file`); the
files are done on this machine (:mod:`avsync.batch_local`) or by Ray (:mod:`avsync.batch_ray`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avsync import batch_work
from avsync._paths import bundled_models_dir
from avsync.batch_inputs import Inputs, file_key, find_inputs, place_copies
from avsync.batch_work import BatchItem, DetectorOptions, FixNote, Task
from avsync.errors import InvalidOptionError, MediaReadError, ModelNotFoundError
from avsync.remote import Stamp, stamp_of, through_fsspec
from avsync.result import Tolerance

__all__ = [
    "BatchItem",
    "BatchOptions",
    "BatchPlan",
    "FixNote",
    "plan_batch",
    "run_batch",
    "score_many",
]

Engine = Literal["local", "ray"]

#: Default time limit: so long, and so much for each megabyte, but no more than that (s).
LIMIT_BASE_S = 300.0
LIMIT_PER_MB_S = 30.0
LIMIT_MOST_S = 6 * 3600.0
MOST_JOBS = 8
#: So many URLs at a time are asked for their size and time of change.
ASK_AT_ONCE = 16


@dataclass(frozen=True)
class BatchPlan:
    """What is to be done and how.

    run: what the results depend on besides the file: the model's SHA-256 and the options.
    """

    tasks: tuple[Task, ...]
    options: DetectorOptions
    run: Mapping[str, Any]
    jobs: int
    engine: Engine = "local"
    retries: int = 1
    staging: str | None = None
    ray_address: str | None = None
    actor_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How a batch is done: what :func:`score_many` takes by name.

    jobs: worker processes, or actors of Ray; None takes one per core, at most 8. Each holds a
        detector and needs about half a gigabyte.
    engine: ``local``, or ``ray`` (extra ``avsync[ray]``).
    timeout_s: time limit for a file; None: 5 minutes and 30 s for each megabyte, up to 6 h.
    retries: so often is a file tried again when its worker died under it.
    fix_dir: files out of sync are repaired into this folder (:func:`avsync.fix`), the folders
        between kept (of a URL: its host and path); ``item.fix`` says what became of it. With Ray
        it must be a folder that all nodes share, as the inputs are.
    drift, piecewise, force: as :func:`avsync.fix`; they go with ``fix_dir``. A file that is in
        sync is not repaired even so.
    model, provider, tolerance, max_offset_ms, audio_stream: as :class:`avsync.SyncDetector`.
    threads: CPU threads of each worker's model; None shares the cores out.
    ray_address: of a cluster, ``auto`` for the one running here (``ray.init``); None takes
        ``RAY_ADDRESS``, or starts Ray on this machine for the while.
    actor_options: for the actors, such as ``{"num_gpus": 0.25}``.

    Raises:
        InvalidOptionError: values that make no sense.
    """

    jobs: int | None = None
    engine: Engine = "local"
    timeout_s: float | None = None
    retries: int = 1
    fix_dir: str | os.PathLike[str] | None = None
    drift: bool = False
    piecewise: bool = False
    force: bool = False
    model: str | os.PathLike[str] | None = None
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    tolerance: str | tuple[float, float] | Tolerance = "ebu"
    max_offset_ms: float | None = None
    audio_stream: int | None = None
    ray_address: str | None = None
    actor_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InvalidOptionError(f"jobs must be 1 or more, not {self.jobs}")
        if self.engine not in ("local", "ray"):
            raise InvalidOptionError(f"engine {self.engine!r} is unknown: local or ray")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise InvalidOptionError(f"the time limit must be above 0 s, not {self.timeout_s}")
        if self.retries < 0:
            raise InvalidOptionError(f"retries must be 0 or more, not {self.retries}")
        if self.fix_flags and self.fix_dir is None:
            raise InvalidOptionError(
                f"{', '.join(self.fix_flags)}: goes with a folder for repaired copies (fix_dir)"
            )

    @property
    def fix_flags(self) -> tuple[str, ...]:
        """Those of ``drift``, ``piecewise`` and ``force`` that are set."""
        flags = {"drift": self.drift, "piecewise": self.piecewise, "force": self.force}
        return tuple(name for name, is_set in flags.items() if is_set)


def score_many(paths: Iterable[str | os.PathLike[str]], **options: Any) -> Iterator[BatchItem]:
    """Measure many files in several processes; items come in order of completion.

    A file that cannot be read, crashes its worker or outlasts its time costs that file only: its
    item has ``result`` None and ``error`` says why. Closing the iterator stops the workers.

    Worker processes import the calling script: its own work must stand under
    ``if __name__ == "__main__":``.

    Args:
        paths: files, folders, patterns, URLs and ``@lists``, see
            :func:`avsync.batch_inputs.find_inputs`.
        options: ``jobs``, ``engine``, ``fix_dir``, ``model``, ... as :class:`BatchOptions`.

    Raises:
        InvalidOptionError, ModelNotFoundError, DependencyMissingError: before anything is begun.
        AVSyncError: while running, when the set-up is wrong for all files alike.
    """
    chosen = BatchOptions(**options)
    leave_out = [] if chosen.fix_dir is None else [chosen.fix_dir]
    return run_batch(plan_batch(find_inputs(paths, leave_out=leave_out), chosen))


def plan_batch(inputs: Inputs, options: BatchOptions) -> BatchPlan:
    """Look at all files and options before anything is begun.

    Raises:
        InvalidOptionError, ModelNotFoundError, DependencyMissingError.
    """
    tolerated = Tolerance.parse(options.tolerance)
    cores = _cores()
    jobs = options.jobs or min(cores, MOST_JOBS)
    shared = max(1, cores // jobs) if options.engine == "local" else 1
    model = None if options.model is None else os.fspath(options.model)
    folder = bundled_models_dir() if model in (None, "default") else Path(str(model))
    detector = DetectorOptions(
        model=model,
        provider=options.provider,
        threads=options.threads or shared,
        tolerance=(
            tolerated.name
            if tolerated.name != "custom"
            else (tolerated.early_ms, tolerated.late_ms)
        ),
        max_offset_ms=options.max_offset_ms,
        audio_stream=options.audio_stream,
        detector=batch_work.DETECTOR,
    )
    run = {
        "model_sha256": _model_sha(folder),
        "tolerance_ms": [tolerated.early_ms, tolerated.late_ms],
        "max_offset_ms": None if options.max_offset_ms is None else float(options.max_offset_ms),
        "audio_stream": options.audio_stream,
    }
    targets: list[str] | list[None] = [None] * len(inputs.paths)
    staging: str | None = None
    if options.fix_dir is not None:
        from avsync.containers import MUXERS

        home = os.path.abspath(options.fix_dir)  # noqa: PTH100
        targets = place_copies(inputs, home, MUXERS)
        mark = hashlib.sha256(file_key(inputs.base or "").encode()).hexdigest()[:8]
        staging = str(Path(home) / f".avsync-unfinished-{mark}")
    tasks = []
    for path, stamp, target in zip(inputs.paths, _stamps(inputs.paths), targets, strict=True):
        limit_s = options.timeout_s or _limit_s(stamp.size, twice=target is not None)
        tasks.append(
            Task(
                path,
                file_key(path),
                stamp.size,
                stamp.mtime_ns,
                limit_s,
                target=target,
                staging=staging,
                etag=stamp.etag,
                flags=options.fix_flags,
            )
        )
    return BatchPlan(
        tasks=tuple(tasks),
        options=detector,
        run=run,
        jobs=jobs,
        engine=options.engine,
        retries=options.retries,
        staging=staging,
        ray_address=options.ray_address,
        actor_options=options.actor_options,
    )


def run_batch(
    plan: BatchPlan, tasks: Iterable[Task] | None = None
) -> Generator[BatchItem, None, None]:
    """Do the plan's tasks, or only ``tasks`` of it; items come in order of completion.

    Raises:
        AVSyncError: the set-up is wrong for all files alike.
    """
    todo = list(plan.tasks if tasks is None else tasks)
    if not todo:
        return
    _clear(plan.staging)
    jobs = min(plan.jobs, len(todo))
    try:
        if plan.engine == "ray":
            from avsync.batch_ray import run_ray

            yield from run_ray(
                todo,
                plan.options,
                jobs=jobs,
                retries=plan.retries,
                address=plan.ray_address,
                actor_options=plan.actor_options,
            )
        else:
            from avsync.batch_local import run_local

            yield from run_local(todo, plan.options, jobs=jobs, retries=plan.retries)
    finally:
        _clear(plan.staging)


def _clear(staging: str | None) -> None:
    """Take away what a run that was killed left half done."""
    if staging is not None:
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)


def _stamps(paths: Sequence[str]) -> list[Stamp]:
    """The state of each file as it is now; of one that cannot be asked nothing is known."""
    with ThreadPoolExecutor(ASK_AT_ONCE) as pool:
        urls = [path for path in paths if through_fsspec(path)]
        found = dict(zip(urls, pool.map(_stamp, urls), strict=True))
    return [found[path] if path in found else _stamp(path) for path in paths]


def _stamp(path: str) -> Stamp:
    try:
        if through_fsspec(path):
            return stamp_of(path)
        found = os.stat(path)  # noqa: PTH116
    except (OSError, MediaReadError):
        return Stamp()
    return Stamp(found.st_size, found.st_mtime_ns)


def _limit_s(size: int | None, *, twice: bool) -> float:
    """The default time limit of a file, by its size; with a repair it is measured twice."""
    once = min(LIMIT_MOST_S, LIMIT_BASE_S + LIMIT_PER_MB_S * (size or 0) / 1e6)
    return round(2 * once if twice else once)


def _cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _model_sha(folder: Path) -> str:
    """SHA-256 of a model's description, which holds those of its graphs."""
    from avsync.runtime import DESCRIPTION

    try:
        return hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelNotFoundError(
            f"{folder}: no {DESCRIPTION} there; give a folder written by avsync's export"
        ) from error
