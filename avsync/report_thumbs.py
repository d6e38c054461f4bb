"""Small pictures of the faces in a file, for the report. Best effort: no file, no pictures."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from avsync.errors import AVSyncError
from avsync.result import Track

__all__ = ["Thumbnail", "face_thumbnails"]

#: Side of a thumbnail, px; its JPEG takes about 4 kB.
SIDE_PX = 120
#: The picture is this many times the face's box, for the box is a mean and heads move.
MARGIN = 1.4
#: So many pictures at most, and so many seconds of looking for them.
MOST = 24
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A face at ``time_s`` (container's clock), as a ``data:image/jpeg`` address."""

    time_s: float
    uri: str


def face_thumbnails(
    path: str | Path, tracks: Sequence[Track], *, most: int = MOST, seconds: float = SECONDS
) -> dict[int, list[Thumbnail]]:
    """Pictures of the faces by :attr:`Track.id`, in order of time.

    Every face is seen once, in the middle of its track, those that speak first; what is left of
    ``most`` shows them near the start and the end as well. Looking stops after ``seconds``, and
    at the first fault of the file: what was found until then is returned.
    """
    found: dict[int, list[Thumbnail]] = {}
    if not Path(path).is_file():
        return found
    ranked = sorted(tracks, key=lambda t: (-(t.speaking or 0), t.start_s - t.end_s))
    wanted = [(track, share) for share in (0.5, 0.17, 0.83) for track in ranked][:most]
    until = time.monotonic() + seconds
    try:
        for track, share in wanted:
            if time.monotonic() > until:
                break
            at = track.start_s + share * (track.end_s - track.start_s)
            image = _picture(path, at)
            cut = None if image is None else _cut(image, track.box)
            if cut is not None:
                found.setdefault(track.id, []).append(Thumbnail(at, _data_uri(cut)))
    except (AVSyncError, OSError):
        pass  # the report says nothing of it: the verdict rests on other things
    for pictures in found.values():
        pictures.sort(key=lambda p: p.time_s)
    return found


def _picture(path: str | Path, time_s: float) -> npt.NDArray[np.uint8] | None:
    """The picture shown at a time, as large as faces were looked for in (their boxes fit it)."""
    from avsync.media import iter_frames

    for frame in iter_frames(path, start_s=time_s):
        return frame.image
    return None


def _cut(
    image: npt.NDArray[np.uint8], box: tuple[float, float, float, float]
) -> npt.NDArray[np.uint8] | None:
    """A square around the box, moved inside the picture where it stands out, (SIDE, SIDE, 3)."""
    import cv2

    height, width = image.shape[:2]
    left, top, right, bottom = box
    side = int(min(MARGIN * max(right - left, bottom - top), width, height))
    if side < 8:
        return None
    x = min(max(0, round((left + right - side) / 2)), width - side)
    y = min(max(0, round((top + bottom - side) / 2)), height - side)
    part = image[y : y + side, x : x + side]
    how = cv2.INTER_AREA if side > SIDE_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (SIDE_PX, SIDE_PX), interpolation=how), np.uint8)


def _data_uri(image: npt.NDArray[np.uint8]) -> str:
    import cv2

    done, coded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    if not done:
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode("ascii")
