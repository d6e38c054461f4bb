"""The net of triangles over a portrait: mediapipe's face mesh, rings around the head, a border."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["CHIN", "EYES", "INNER", "LIDS", "LOWER", "OVAL", "POINTS", "UPPER", "build_net"]

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

# mediapipe's indices: four rings of lip points from the outer to the inner border, from the
# corner at the left of the picture to the one at the right.
UPPER = np.array(
    [
        [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291],
        [76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306],
        [62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292],
        [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308],
    ]
)
LOWER = np.array(
    [
        [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291],
        [76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306],
        [62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292],
        [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308],
    ]
)
INNER = np.concatenate([UPPER[3], LOWER[3][-2:0:-1]])
OVAL = np.array(
    [
        *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
        *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    ]
)
CHIN = np.array([199, 200, 175, 171, 396, 208, 428, 201, 421])
EYES = (
    (33, [246, 161, 160, 159, 158, 157, 173], 133, [7, 163, 144, 145, 153, 154, 155]),
    (263, [466, 388, 387, 386, 385, 384, 398], 362, [249, 390, 373, 374, 380, 381, 382]),
)
LIDS = ([247, 30, 29, 27, 28, 56, 190], [467, 260, 259, 257, 258, 286, 414])
POINTS = 468


def _mesh_triangles() -> list[tuple[int, int, int]]:
    """mediapipe's net with holes for eyes and mouth, from its list of edges."""
    from mediapipe.python.solutions.face_mesh_connections import FACEMESH_TESSELATION

    neighbours: dict[int, set[int]] = {}
    for a, b in FACEMESH_TESSELATION:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    found = {
        (a, b, c)
        for a, near in neighbours.items()
        for b in near
        for c in near & neighbours[b]
        if a < b < c
    }
    # Two rings of three edges at the nose are no triangles of the net.
    return sorted(found - {(49, 64, 129), (279, 294, 358)})


def _eye_triangles() -> list[tuple[int, int, int]]:
    """Strips between the lids."""
    out: list[tuple[int, int, int]] = []
    for corner, upper, other, lower in EYES:
        out += [(corner, upper[0], lower[0]), (other, upper[-1], lower[-1])]
        for k in range(len(upper) - 1):
            out += [(upper[k], upper[k + 1], lower[k]), (upper[k + 1], lower[k], lower[k + 1])]
    return out


def build_net(
    rest: Doubles,
    to_pixels: Callable[[Doubles], Doubles],
    to_face: Callable[[Doubles], Doubles],
    width: int,
    height: int,
) -> tuple[Doubles, Ints, Doubles]:
    """Vertices (n, 3) in face axes, triangles (t, 3), and each vertex's share in the head's motion.

    ``rest``: the face mesh (468, 3) in face axes; ``width`` and ``height`` of the picture. The
    first 468 vertices are the mesh; the border lies outside the picture and stays where it is.
    """
    oval = rest[OVAL]
    centre = np.array([oval[:, 0].mean(), 0.30, 0.35])
    rings: list[Doubles] = []
    shares: list[Doubles] = []
    for factor, weight in ((1.30, 1.0), (1.62, 0.85), (2.1, 0.25)):
        ring = centre + (oval[::2] - centre) * np.array([factor, factor, 1.0])
        below = np.clip((ring[:, 1] - centre[1]) / 1.2, 0, 1)  # neck and shoulders stay
        rings.append(ring)
        shares.append(weight * (1 - 0.75 * below))
    pad_x, pad_y = 0.3 * width, 0.3 * height
    xs = np.linspace(-pad_x, width + pad_x, 7)
    ys = np.linspace(-pad_y, height + pad_y, 7)
    rim = np.array(
        [(x, y, 0.0) for x in xs for y in ys if x in (xs[0], xs[-1]) or y in (ys[0], ys[-1])]
    )
    around = np.concatenate(rings)
    pixels = to_pixels(around)
    keep = (
        (pixels[:, 0] > -0.8 * pad_x)
        & (pixels[:, 0] < width + 0.8 * pad_x)
        & (pixels[:, 1] > -0.8 * pad_y)
        & (pixels[:, 1] < height + 0.8 * pad_y)
    )
    vertices = np.concatenate([rest, around[keep], to_face(rim)])
    share = np.concatenate([np.ones(POINTS), np.concatenate(shares)[keep], np.zeros(len(rim))])
    outer = _outer_triangles(to_pixels(vertices)[:, :2], width, height)
    triangles = np.array(outer + _eye_triangles() + _mesh_triangles(), dtype=np.int32)
    return vertices, triangles, share


def _outer_triangles(flat: Doubles, width: int, height: int) -> list[tuple[int, int, int]]:
    """Delaunay triangles between the oval of the face and the border (pixels (n, 2))."""
    plane = cv2.Subdiv2D((-width, -height, 3 * width, 3 * height))
    where: dict[tuple[float, float], int] = {}
    for index in (*OVAL.tolist(), *range(POINTS, len(flat))):
        x, y = np.float32(flat[index, 0]).item(), np.float32(flat[index, 1]).item()
        plane.insert((x, y))
        where[x, y] = index
    oval = set(OVAL.tolist())
    out: list[tuple[int, int, int]] = []
    for row in np.asarray(plane.getTriangleList()).tolist():
        a, b, c = (where.get((row[k], row[k + 1])) for k in (0, 2, 4))
        if a is None or b is None or c is None or {a, b, c} <= oval:
            continue
        out.append((a, b, c))
    return out
