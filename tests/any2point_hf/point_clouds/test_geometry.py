"""Polygons and strips as triangles."""

import numpy as np
import pytest

from any2point_hf.point_clouds.geometry import strip_triangles, triangulate

ELL = np.array([[0, 0, 0], [4, 0, 0], [4, 1, 0], [1, 1, 0], [1, 4, 0], [0, 4, 0]], float)  # an L of area 7


def areas(points, triangles):
    a, b, c = points[triangles].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("backwards", [False, True])
def test_concave_polygons_keep_their_area_wherever_they_lie_and_begin(start, backwards):
    turn = np.linalg.qr(np.random.default_rng(start).normal(size=(3, 3)))[0]
    polygon = np.roll(np.arange(6)[:: -1 if backwards else 1], start)
    points = ELL @ turn + 5e6
    triangles = triangulate(points, [polygon.tolist()])
    assert areas(points, triangles).sum() == pytest.approx(7, abs=1e-6)
    inside = (points[triangles].mean(axis=1) - 5e6) @ turn.T
    assert not ((inside[:, 0] > 1) & (inside[:, 1] > 1)).any()


def test_a_small_concave_polygon_in_map_coordinates():
    points = np.array([[0, 0, 0], [0.04, 0, 0], [0.04, 0.04, 0], [0.03, 0.01, 0]]) + np.array([5e5, 5.3e6, 0])
    assert areas(points, triangulate(points, [[0, 1, 2, 3]])).sum() == pytest.approx(4e-4, rel=1e-5)


def test_polygons_of_all_sizes_at_once():
    angles = np.arange(7) / 7 * 2 * np.pi
    points = np.concatenate([ELL, np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)])
    triangles = triangulate(points, [[0, 1], [0, 1, 2], [*range(6)], [*range(6, 13)], [0, 1, 2, 3]])
    assert len(triangles) == 1 + 4 + 5 + 2
    assert areas(points, triangles).sum() == pytest.approx(2 + 7 + 3.5 * np.sin(2 * np.pi / 7) + 3.5)


def test_no_faces_are_none_and_wrong_corners_are_named():
    assert triangulate(ELL, []) is None
    assert triangulate(ELL, [[0, 1]]) is None
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=f"a face names vertex {wrong}, but there are 6 vertices"):
            triangulate(ELL, [[0, 1, wrong]])


def test_strips():
    assert strip_triangles([0, 1, 2, 3]) == [(0, 1, 2), (1, 2, 3)]
    assert strip_triangles([0, 1, -1, 4, 5, 6, -1]) == [(4, 5, 6)]
