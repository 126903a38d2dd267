"""What a reader finds in a file, and triangles of all kinds of faces."""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

_NO_NUMBER = re.compile(
    r"(could not convert string( to float:)?|invalid literal for int\(\) with base 10:) (?P<word>'.*')"
)

Wanted = Collection[str] | None
"""Features that a reader is asked for (`features.py`); None for all that it knows."""


class BadFileError(ValueError):
    """What is wrong with a file, as our readers say it; any other error in them is a parser's."""


class Geometry(NamedTuple):
    """Points and faces of one file.

    Args:
        points: [N, 3] in the file's own precision; of a mesh its vertices.
        triangles: [F, 3] integers, rows of `points`; None for a cloud.
        features: those of the points that were asked for and found, [N] by name, as they are stored.
    """

    points: np.ndarray
    triangles: np.ndarray | None = None
    features: Mapping[str, np.ndarray] = MappingProxyType({})


def triangulate(points: np.ndarray, polygons: Sequence[Sequence[int]], first: int = 0) -> np.ndarray | None:
    """Cuts polygons of any number of corners, also concave ones, into triangles.

    Args:
        points: [N, 3].
        polygons: the corners of each face, rows of `points`; those of fewer than three corners have no area and go.
        first: how the file numbers its first vertex, for errors.

    Returns:
        [F, 3] integers, or None if no face is left.

    Raises:
        ValueError: a corner is no row of `points`.
    """
    by_size: dict[int, list[Sequence[int]]] = {}
    for polygon in polygons:
        by_size.setdefault(len(polygon), []).append(polygon)
    parts = []
    for size, group in sorted(by_size.items()):
        if size >= 3:
            corners = np.array(group, dtype=np.int64)
            check_corners(corners, len(points), first)
            parts.append(_triangles_of(points, corners))
    return np.concatenate(parts) if parts else None


def check_corners(corners: np.ndarray, num_points: int, first: int = 0) -> None:
    """Raises a ValueError unless all corners are rows of `num_points` points."""
    if corners.size and (corners.min() < 0 or corners.max() >= num_points):
        wrong = corners.min() if corners.min() < 0 else corners.max()
        raise BadFileError(f"a face names vertex {wrong + first}, but there are {num_points} vertices, from {first} on")


def strip_triangles(strip: Sequence[int]) -> list[tuple[int, int, int]]:
    """Lists the triangles of a strip, in which each corner closes one with the two before it; −1 begins another."""
    triangles, run = [], []
    for corner in [*strip, -1]:
        if corner >= 0:
            run.append(corner)
            continue
        triangles += list(zip(run, run[1:], run[2:], strict=False))
        run = []
    return triangles


def _triangles_of(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangles [T, 3] of polygons of one size [P, n]: fans, and ears of concave polygons."""
    size = corners.shape[1]
    fans = np.stack(
        [np.stack([corners[:, 0], corners[:, i], corners[:, i + 1]], axis=1) for i in range(1, size - 1)], 1
    )
    if size == 3:
        return fans[:, 0]
    concave = _is_concave(points, corners)
    ears = [_ears(points, polygon) for polygon in corners[concave]]
    return np.concatenate([fans[~concave].reshape(-1, 3), *ears])


def _is_concave(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether a polygon [P, n] turns the other way at some corner: [P] bool."""
    with np.errstate(invalid="ignore", over="ignore"):
        places = points[corners].astype(np.float64)
        places -= places[:, :1]  # map coordinates would cancel
        edges = np.roll(places, -1, axis=1) - places
        turns = np.cross(np.roll(edges, 1, axis=1), edges)
        along = (turns * _normals(places)[:, None]).sum(axis=-1)
        return along.min(axis=1) < -1e-9 * np.abs(along).max(axis=1)


def _normals(places: np.ndarray) -> np.ndarray:
    """Normals [P, 3] of polygons [P, n, 3], as long as twice their area (Newell's method)."""
    return np.cross(places, np.roll(places, -1, axis=1)).sum(axis=1)


def _ears(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Cuts ears off one polygon [n], seen along the axis in which its normal is longest: [T, 3]."""
    from mapbox_earcut import triangulate_float64  # here, because few files need it

    places = points[polygon].astype(np.float64)
    places -= places[0]
    kept = np.delete(np.arange(3), np.abs(_normals(places[None])[0]).argmax())
    ends = np.array([len(polygon)], dtype=np.uint32)
    return polygon[triangulate_float64(np.ascontiguousarray(places[:, kept]), ends).astype(np.int64).reshape(-1, 3)]


def in_plain_words(reason: str) -> str:
    """What Python and numpy say of a word in the place of a number, as people say it; others stay as they are."""
    return _NO_NUMBER.sub(lambda found: f"{found['word']} is no number", reason)
