"""Reports that open from disk: one HTML page a file, an index over several, and plots.

Pages hold everything they show (styles, SVG charts, pictures as data addresses); they load nothing
and work without a network. Every file is written beside its place and moved there when complete.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from avsync import __version__
from avsync.errors import InvalidOptionError
from avsync.report_charts import PLOT_PX, clock, signed_ms
from avsync.report_data import Row, make_page, make_row, page_name
from avsync.report_lines import Unread, read_lines
from avsync.result import SyncResult, offset_words, percent_sure

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "PLOT_SUFFIXES",
    "Unread",
    "check_plot",
    "plot",
    "read_lines",
    "write_batch",
    "write_file",
    "write_report",
]

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
"""What :func:`plot` can write."""
PAGE_SUFFIXES = (".html", ".htm")

_COLUMNS = (
    ("name", "File"),
    ("status", "Status"),
    ("offset", "Offset"),
    ("sure", "Sure"),
    ("drift", "Drift"),
    ("duration", "Length"),
)


@dataclass(frozen=True, slots=True)
class _Count:
    status: str
    label: str
    tone: str
    number: int


def write_report(
    results: Iterable[SyncResult | Unread], target: str | Path, *, thumbnails: bool = True
) -> Path:
    """Write results as HTML.

    Args:
        results: taken one at a time; memory does not grow with their curves.
        target: a name that ends in ``.html`` or ``.htm`` takes one result's page, or the index of
            several, whose pages go to the folder ``NAME_files`` beside it. Anything else is a
            folder: it gets ``index.html`` and the pages in ``files``.
        thumbnails: cut pictures of the faces out of the files, where these are there.

    Returns:
        The page to open: the single page or the index.

    Raises:
        InvalidOptionError: the target cannot be written.
    """
    target = Path(target)
    items = iter(results)
    single = target.suffix.lower() in PAGE_SUFFIXES and not target.is_dir()
    if single:
        first = list(islice(items, 2))
        if len(first) == 1 and isinstance(first[0], SyncResult):
            _write_page(first[0], target, None, thumbnails)
            return target
        index, folder = target, target.with_name(f"{target.stem}_files")
        items = chain(first, items)
    else:
        index, folder = target / "index.html", target / "files"
    rows: list[Row] = []
    models: dict[str, None] = {}
    taken: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Unread):
            rows.append(make_row(item, None))
            continue
        name = page_name(item.path)
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name.removesuffix('.html')}-{taken[name]}.html"
        _write_page(item, folder / name, f"../{quote(index.name)}", thumbnails)
        rows.append(make_row(item, f"{quote(folder.name)}/{name}"))
        models[item.model] = None
    _write_index(rows, list(models), index)
    return index


def write_batch(results_file: str | Path, target: str | Path, *, thumbnails: bool = True) -> Path:
    """:func:`write_report` for the JSON lines of a batch; see :func:`read_lines`.

    Raises:
        InvalidOptionError: a line is no result, or the target cannot be written.
        OSError: the results cannot be read.
    """
    with Path(results_file).open(encoding="utf-8") as stream:
        results = read_lines(stream, str(results_file))
    return write_report(results, target, thumbnails=thumbnails)


def _write_page(result: SyncResult, file: Path, back: str | None, thumbnails: bool) -> None:
    page = make_page(result, thumbnails=thumbnails)
    write_file(file, _render("page.html.j2", page=page, back=back, plot_px=PLOT_PX))


def _write_index(rows: list[Row], models: list[str], file: Path) -> None:
    numbers = Counter(row.status for row in rows)
    faces = {row.status: row for row in rows}
    script = _environment().get_template("index.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    from markupsafe import Markup

    content = _render(
        "index.html.j2",
        rows=rows,
        columns=_COLUMNS,
        counts=[
            _Count(status, faces[status].label, faces[status].tone, number)
            for status, number in numbers.most_common()
        ],
        judged=sum(row.offset_ms is not None for row in rows),
        amiss=sum(row.tone == "bad" for row in rows),
        models=models,
        version=__version__,
        made=datetime.now(timezone.utc).replace(microsecond=0),
        script=Markup(script),
        script_hash=digest,
    )
    write_file(file, content)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("avsync", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": signed_ms,
        "words": offset_words,
        "percent": percent_sure,
        "clock": clock,
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    return environment


def _render(template: str, **values: Any) -> bytes:
    from markupsafe import Markup

    environment = _environment()
    style = Markup(environment.get_template("style.css.j2").render())
    text = environment.get_template(template).render(style=style, **values)
    return text.encode("utf-8", "backslashreplace")


def write_file(file: Path, content: bytes) -> None:
    """Write beside the place and move there; folders on the way are made.

    Raises:
        InvalidOptionError: it cannot be written.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidOptionError(f"{file}: cannot be written ({error.strerror})") from error


def check_plot(file: str | Path) -> None:
    """Raise InvalidOptionError unless the name ends in one of :data:`PLOT_SUFFIXES`."""
    if Path(file).suffix.lower() not in PLOT_SUFFIXES:
        raise InvalidOptionError(
            f"{file}: a plot's name must end in {', '.join(PLOT_SUFFIXES[:-1])} or "
            f"{PLOT_SUFFIXES[-1]}"
        )


def plot(result: SyncResult, file: str | Path) -> Path:
    """Draw a result's offset curve and timeline with matplotlib; returns the file's path.

    The name's ending (.png, .svg, .pdf) chooses the form. No window is opened and matplotlib's
    settings are left as they are.

    Raises:
        InvalidOptionError: another ending, or the file cannot be written.
    """
    check_plot(file)
    file = Path(file)
    from avsync.report_plot import draw

    held = io.BytesIO()
    draw(result, held, file.suffix.lower().lstrip("."))
    write_file(file, held.getvalue())
    return file
