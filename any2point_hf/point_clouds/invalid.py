"""Points that were never measured: coordinates that are no numbers, and a place that very many points share.

A depth camera writes (0, 0, 0) or NaN where it saw nothing. A quarter of the points at one place moves a cloud's mean
and its scale, and so everything that the model sees of it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LARGEST_COORDINATE = 1e38  # the difference of two such coordinates still fits float32

SMALLEST_CROWDED = 8
"""Fewest points of which some may be too many at one place; a file of fewer is left as it is."""

_SHARE = 4  # of N points more than N / 4 at one place are too many


def not_finite(points: np.ndarray) -> np.ndarray:
    """Which points [N, 3] have a coordinate that is NaN, infinite or beyond `LARGEST_COORDINATE`: [N] bool."""
    with np.errstate(over="ignore"):  # half precision has no such number
        return ~(np.isfinite(points) & (np.abs(points) <= LARGEST_COORDINATE)).all(axis=1)


def crowded_places(points: np.ndarray) -> np.ndarray:
    """The places that more than a quarter of all points share, exactly, by equal coordinates.

    Args:
        points: [N, 3], finite.

    Returns:
        [P, 3], P ≤ 3; none for fewer than `SMALLEST_CROWDED` points.
    """
    if len(points) < SMALLEST_CROWDED:
        return points[:0]
    needed = len(points) // _SHARE + 1
    groups = [points]
    for axis in range(3):
        parts = [group[group[:, axis] == value] for group in groups for value in _frequent(group[:, axis], needed)]
        groups = [part for part in parts if len(part) >= needed]
    return np.array([group[0] for group in groups]).reshape(-1, 3)


def _frequent(values: np.ndarray, needed: int) -> np.ndarray:
    """Few of the values [N], among them all that occur at least `needed` times.

    In sorted order the occurrences of a value stand side by side, so every `needed`-th place has met all long runs.
    """
    places = np.arange(needed - 1, len(values), needed)
    return np.unique(np.partition(values, places)[places])


def invalid_points(points: np.ndarray) -> np.ndarray:
    """Which points are not finite, or at a place that more than a quarter of the other valid ones share.

    Without them, no such point is left.

    Args:
        points: [N, 3] floating point.

    Returns:
        [N] bool.
    """
    invalid = not_finite(points)
    rows = np.flatnonzero(~invalid)
    while len(places := crowded_places(points[rows])):  # of fewer points, another place may be a quarter
        crowd = (points[rows, None] == places).all(axis=2).any(axis=1)
        invalid[rows[crowd]] = True
        rows = rows[~crowd]
    return invalid


@dataclass(frozen=True)
class Dropped:
    """How many points of one cloud were dropped.

    Args:
        not_finite: with a coordinate that is NaN, infinite or too large.
        crowded: at a place that very many shared.
        total: points that the cloud had.
    """

    not_finite: int
    crowded: int
    total: int

    @property
    def count(self) -> int:
        """Of both kinds."""
        return self.not_finite + self.crowded


class DroppedPoints:
    """Drops invalid points of one cloud after another, and counts them; who checks a cloud without one refuses them.

    Attributes:
        clouds: what was dropped of each cloud that had invalid points, by the cloud's name.
        kept: which points of the last cloud were kept, [N] bool.
        left: which points are left since `begin`, among those that were given then, [M] int64.
        given: how many these were.
        points: [given, 3], these points.
    """

    def __init__(self) -> None:
        self.clouds: dict[str, Dropped] = {}
        self.kept = np.empty(0, dtype=bool)
        self.begin()

    def begin(self) -> None:
        """Tells that points of another cloud follow, which may be dropped in several steps."""
        self.left, self.given = np.empty(0, dtype=np.int64), 0
        self.points = np.empty((0, 3))

    def drop(self, points: np.ndarray, name: str) -> np.ndarray:
        """The points [N, 3] without invalid ones, [M, 3], 0 ≤ M ≤ N, in their order."""
        invalid = invalid_points(points)
        self.kept = ~invalid
        if len(self.left) != len(points):  # no step before this one
            self.left, self.given, self.points = np.arange(len(points)), len(points), points
        self.left = self.left[self.kept]
        if self.kept.all():
            return points
        num_not_finite = int(not_finite(points).sum())
        before = self.clouds.get(name, Dropped(0, 0, len(points)))
        crowded = int(invalid.sum()) - num_not_finite
        self.clouds[name] = Dropped(before.not_finite + num_not_finite, before.crowded + crowded, before.total)
        return points[self.kept]

    def along(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Features [N] of the last cloud, by name, without those of its invalid points."""
        return {name: values[self.kept] for name, values in features.items()}

    @property
    def count(self) -> int:
        """How many points were dropped, of all clouds."""
        return sum(dropped.count for dropped in self.clouds.values())

    def report(self, num_clouds: int = 1) -> str:
        """What was dropped of this many clouds, in a sentence; empty if nothing was."""
        if not self.clouds:
            return ""
        name, most = max(self.clouds.items(), key=lambda item: item[1].count)
        if num_clouds == 1:
            return (
                f"{name}: {most.count:,} of {most.total:,} points are dropped as invalid, {most.not_finite:,} that are "
                f"not finite and {most.crowded:,} of very many at one place."
            )
        return (
            f"{len(self.clouds):,} of {num_clouds:,} clouds had invalid points: {self.count:,} points are dropped, "
            f"the most in {name} ({most.count:,} of {most.total:,})."
        )

    def warn(self, num_clouds: int = 1) -> None:
        """Reports what was dropped of this many clouds as one warning; none if nothing was."""
        if self.clouds:
            warnings.warn(self.report(num_clouds), stacklevel=3)
