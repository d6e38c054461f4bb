"""Boxes of faces that lie in one another."""

from __future__ import annotations

import numpy as np

from avsync.faces import _distinct


def _widths(*boxes: tuple[float, float, float, float]) -> list[float]:
    return [float(b[2] - b[0]) for b in _distinct([np.array(b) for b in boxes])]


def test_a_wall_taken_for_a_face_hides_no_small_face() -> None:
    """As found in a 720p scene: a box of 757 px on the wall, the face of 101 px in its corner."""
    assert _widths((234, -129, 991, 628), (294, 124, 395, 226)) == [757, 101]


def test_one_face_seen_at_two_scales_is_one() -> None:
    assert _widths((100, 100, 300, 300), (140, 120, 250, 230)) == [200]
    assert _widths((100, 100, 300, 300), (340, 120, 450, 230)) == [200, 110]
