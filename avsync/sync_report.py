"""How well a generator's clips are in sync: one row a set of clips, for papers and for gates.

The score counts at *no* shift, not at the best one: a clip that is fine but for 400 ms must score
badly, which LSE-C (the best of all shifts) cannot see. What could not be judged is counted and
says why; it is never left out of the share in sync.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from avsync import __version__
from avsync.batch import BatchOptions, plan_batch, run_batch
from avsync.batch_inputs import find_inputs
from avsync.batch_work import BatchItem, Worker
from avsync.errors import AVSyncError, InvalidOptionError
from avsync.result import Curve, SyncResult, Tolerance, printable_path
from avsync.runtime import Provider

__all__ = ["ClipSync", "SyncReport", "sync_report", "sync_table"]

TableForm = Literal["markdown", "latex", "csv", "json"]
#: A shift that is this far (ms) from none is another shift.
FAR_MS = 80.0

Rounded = Annotated[float, AfterValidator(lambda value: round(value, 4))]
Text = Annotated[str, BeforeValidator(printable_path)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClipSync(_Frozen):
    """One clip. What could not be measured is None, and ``reason`` says why."""

    path: Text
    status: str
    """As in :class:`avsync.SyncResult`, or ``error`` for a file that could not be read."""
    offset_ms: Rounded | None = None
    """Positive = audio leads."""
    probability: Rounded | None = None
    score_at_zero: Rounded | None = None
    """Mean cosine of lips and sound as they are, -1..1; also where no offset could be claimed."""
    margin_at_zero: Rounded | None = None
    """``score_at_zero`` minus the best score 80 ms or more away: negative = out of sync."""
    lse_d: Rounded | None = None
    lse_c: Rounded | None = None
    reason: str | None = None

    @property
    def judged(self) -> bool:
        """Whether there is an offset."""
        return self.offset_ms is not None


class SyncReport(_Frozen):
    """A set of clips and what they come to; means are None over nothing."""

    name: Text
    model: str
    tolerance: Tolerance
    max_offset_ms: float
    lse_model: str | None = None
    clips: tuple[ClipSync, ...]
    avsync_version: str = __version__

    @property
    def coverage(self) -> float:
        """Share of the clips that could be judged."""
        return sum(c.judged for c in self.clips) / max(1, len(self.clips))

    @property
    def not_judged(self) -> dict[str, int]:
        """How many clips could not be judged, by status."""
        counts = Counter(c.status for c in self.clips if not c.judged)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def in_sync(self) -> float:
        """Share in sync of *all* clips: one that could not be judged does not count as in sync."""
        return sum(c.status == "in_sync" for c in self.clips) / max(1, len(self.clips))

    @property
    def mean_abs_offset_ms(self) -> float | None:
        """Mean of |offset| over the clips that could be judged, ms."""
        return _mean([None if c.offset_ms is None else abs(c.offset_ms) for c in self.clips])

    @property
    def score_at_zero(self) -> float | None:
        """Mean over all clips that have one."""
        return _mean([c.score_at_zero for c in self.clips])

    @property
    def margin_at_zero(self) -> float | None:
        """Mean over all clips that have one."""
        return _mean([c.margin_at_zero for c in self.clips])

    @property
    def lse_d(self) -> float | None:
        """Mean LSE-D (lower is better); None without SyncNet's weights."""
        return _mean([c.lse_d for c in self.clips])

    @property
    def lse_c(self) -> float | None:
        """Mean LSE-C (higher is better); None without SyncNet's weights."""
        return _mean([c.lse_c for c in self.clips])

    def summary(self) -> dict[str, str | int | float | None]:
        """One row of the table by column; shares 0..1."""
        return {
            "set": self.name,
            "clips": len(self.clips),
            "judged": round(self.coverage, 4),
            "mean_abs_offset_ms": self.mean_abs_offset_ms,
            "in_sync": round(self.in_sync, 4),
            "score_at_zero": self.score_at_zero,
            "margin_at_zero": self.margin_at_zero,
            "lse_d": self.lse_d,
            "lse_c": self.lse_c,
        }

    def clips_csv(self) -> str:
        """All clips as CSV with a header, for the supplement."""
        return _csv(
            list(ClipSync.model_fields), [list(c.model_dump().values()) for c in self.clips]
        )


def sync_report(
    videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    name: str | None = None,
    model: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    tolerance: str | tuple[float, float] | Tolerance = "ebu",
    max_offset_ms: float = 600.0,
    provider: Provider = "auto",
    threads: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> SyncReport:
    """Measure a generator's clips.

    Args:
        videos: a folder (with those below), a pattern, a file, or several of them.
        name: of the set in tables; default that of the folder.
        weights: a folder that ``avsync export --arch syncnet`` wrote, for LSE-D and LSE-C.
        jobs: worker processes (the caller's own work must then stand under
            ``if __name__ == "__main__":``); 1 works in this process.
        model, tolerance, max_offset_ms, provider, threads: as :class:`avsync.SyncDetector`.
        progress: called with the share done, 0..1.

    Raises:
        InvalidOptionError: no videos, or an option that makes no sense.
        ModelNotFoundError, ModelCorruptError, DependencyMissingError, ProviderUnavailableError.
    """
    one = isinstance(videos, (str, os.PathLike))
    places = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    plan = plan_batch(
        find_inputs(places),
        BatchOptions(
            jobs=jobs,
            model=model,
            provider=provider,
            threads=threads,
            tolerance=tolerance,
            max_offset_ms=max_offset_ms,
        ),
    )
    from avsync.metrics import LipSyncMeter

    meter = None
    if weights is not None:
        meter = LipSyncMeter(Path(weights), provider=provider, threads=threads)
    worker = Worker(plan.options)
    items = run_batch(plan) if jobs > 1 else (worker.run(task) for task in plan.tasks)
    rows: list[ClipSync] = []
    named = "none"
    for count, item in enumerate(items, 1):
        row = _clip(item)
        named = named if item.result is None else item.result.model
        if meter is not None and item.result is not None:
            try:
                found = meter.measure(item.path)
                row = row.model_copy(update={"lse_d": found.lse_d, "lse_c": found.lse_c})
            except AVSyncError as error:
                row = row.model_copy(update={"reason": printable_path(str(error))})
        rows.append(row)
        if progress is not None:
            progress(count / len(plan.tasks))
    folder = Path(places[0]) if one else None
    return SyncReport(
        name=name or (folder.name if folder is not None else "") or "clips",
        model=named,
        tolerance=Tolerance.parse(tolerance),
        max_offset_ms=max_offset_ms,
        lse_model=None if meter is None else meter.name,
        clips=tuple(sorted(rows, key=lambda row: row.path)),
    )


def _clip(item: BatchItem) -> ClipSync:
    result = item.result
    if result is None:
        return ClipSync(path=item.path, status="error", reason=item.error)
    score, margin = _at_zero(result)
    return ClipSync(
        path=item.path,
        status=str(result.status),
        offset_ms=result.offset_ms,
        probability=result.probability,
        score_at_zero=score,
        margin_at_zero=margin,
        reason=result.reason,
    )


def _at_zero(result: SyncResult) -> tuple[float | None, float | None]:
    """Score at no shift, and by how much it exceeds the best far shift."""
    curve: Curve | None = result.curve
    if curve is None:
        return None, None
    shifts, scores = np.array(curve.shift_ms), np.array(curve.score)
    own = float(scores[np.abs(shifts).argmin()])
    far = scores[np.abs(shifts) >= FAR_MS]
    return own, own - float(far.max()) if len(far) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(float(np.mean(known)), 4) if known else None


#: Column, heading, arrow (which way is better), factor and digits.
_COLUMNS: tuple[tuple[str, str, str, float, int], ...] = (
    ("clips", "clips", "", 1, 0),
    ("judged", "judged %", "", 100, 1),
    ("mean_abs_offset_ms", "mean abs. offset ms", "down", 1, 1),
    ("in_sync", "in sync %", "up", 100, 1),
    ("score_at_zero", "score at 0", "up", 1, 3),
    ("margin_at_zero", "margin at 0", "up", 1, 3),
    ("lse_d", "LSE-D", "down", 1, 3),
    ("lse_c", "LSE-C", "up", 1, 3),
)
_ARROWS = {
    "markdown": {"": "", "up": " ↑", "down": " ↓"},
    "latex": {"": "", "up": r" $\uparrow$", "down": r" $\downarrow$"},
}


def sync_table(reports: Sequence[SyncReport], form: TableForm = "markdown") -> str:
    """Reports as a table, a row a set, with a note of how it was measured.

    Args:
        form: ``markdown``, ``latex`` (needs booktabs), ``csv`` or ``json`` (with every clip).

    Raises:
        InvalidOptionError: no reports, or another form.
    """
    if not reports:
        raise InvalidOptionError("no reports to make a table of")
    rows = [r.summary() for r in reports]
    if form == "json":
        sets = ",\n".join(
            '{"summary": ' + _json(row) + ', "report": ' + r.model_dump_json() + "}"
            for row, r in zip(rows, reports, strict=True)
        )
        return f"[{sets}]\n"
    if form == "csv":
        return _csv(list(rows[0]), [list(row.values()) for row in rows])
    if form not in _ARROWS:
        raise InvalidOptionError(f"table form {form!r} is unknown: markdown, latex, csv or json")
    shown = [c for c in _COLUMNS if any(row[c[0]] is not None for row in rows)]
    escaped = _tex if form == "latex" else str
    heads = [escaped(heading) + _ARROWS[form][arrow] for _, heading, arrow, _, _ in shown]
    cells = [[_cell(row[c[0]], c[3], c[4]) for c in shown] for row in rows]
    names = [str(row["set"]) for row in rows]
    return (_latex if form == "latex" else _markdown)(heads, names, cells, _note(reports))


def _cell(value: str | int | float | None, factor: float, digits: int) -> str:
    return "–" if value is None else f"{float(value) * factor:.{digits}f}"


def _note(reports: Sequence[SyncReport]) -> str:
    first = reports[0]
    models = ", ".join(dict.fromkeys(r.model for r in reports))
    parts = [
        f"avsync {first.avsync_version}, model {models}, tolerance {first.tolerance}, shifts "
        f"within ±{first.max_offset_ms:g} ms; in sync: of all clips; offset: of those judged"
    ]
    for report in reports:
        if report.not_judged:
            why = ", ".join(f"{n} {status}" for status, n in report.not_judged.items())
            parts.append(f"{report.name}: not judged: {why}")
    return ". ".join(parts) + "."


def _markdown(heads: list[str], names: list[str], cells: list[list[str]], note: str) -> str:
    lines = ["| set | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, row in zip(names, cells, strict=True):
        lines.append(f"| {name.replace('|', chr(92) + '|')} | " + " | ".join(row) + " |")
    return "\n".join(lines) + f"\n\n{note}\n"


_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


def _latex(heads: list[str], names: list[str], cells: list[list[str]], note: str) -> str:
    def line(values: list[str]) -> str:
        return " & ".join(values) + r" \\"

    body = [line([_tex(n), *map(_tex, row)]) for n, row in zip(names, cells, strict=True)]
    return "\n".join(
        [
            f"% {note}",
            r"\begin{tabular}{l" + "r" * len(heads) + "}",
            r"\toprule",
            line(["set", *heads]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _csv(header: list[str], rows: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _json(row: dict[str, str | int | float | None]) -> str:
    return json.dumps(row, ensure_ascii=False)
