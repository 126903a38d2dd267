"""The seven corruptions of PointCloud-C at five levels (arXiv 2202.03377).

The published sets are files of ModelNet40; here the same definitions are applied to any data set. A cloud's draws
follow from (seed, corruption, level, cloud) alone. They are computed in float64 and rounded to a grid far below any of
the corruptions, so that the last bits of a machine's own sines and sums cannot show.
"""

from collections.abc import Callable

import numpy as np

from any2point_hf.modeling.errors import DatasetError, listed

NUM_LEVELS = 5
NUM_POINTS = 1024
"""The size of the published clouds. How many points are added or lost is for it, and grows with the cloud."""

_LARGEST_FACTOR = (1.6, 1.7, 1.8, 1.9, 2.0)
_LOST_SHARE = (0.25, 0.375, 0.5, 0.625, 0.75)
_LARGEST_ANGLE = np.pi / 6  # at the last level
_JITTER, _ADDED_GLOBALLY, _LOCALLY = 0.01, 10, 100  # times the level
_MOST_CLUSTERS = 7
_CLUSTER_DEVIATION = (0.075, 0.125)
_GRID = 2.0**-16


def corrupt(points: np.ndarray, corruption: str, level: int, index: int, seed: int = 0) -> np.ndarray:
    """Corrupts a cloud.

    Args:
        points: [N, 3], centred and in the unit sphere, in any order.
        corruption: one of `CORRUPTIONS`.
        level: 1 to 5, the strongest.
        index: the cloud's place in its data set; another place gives other draws.
        seed: not negative.

    Returns:
        float32 [M, 3], where M depends on N, corruption and level alone; not always in the unit sphere, as published.

    Raises:
        DatasetError: an unknown corruption or level.
    """
    if corruption not in CORRUPTIONS:
        raise DatasetError(f"a corruption must be one of {listed(CORRUPTIONS)}, got {corruption!r}.")
    if not 1 <= level <= NUM_LEVELS:
        raise DatasetError(f"the level of a corruption must lie in 1…{NUM_LEVELS}, got {level}.")
    generator = np.random.default_rng([seed, list(CORRUPTIONS).index(corruption), level, index])
    corrupted = CORRUPTIONS[corruption](np.asarray(points, dtype=np.float64), level, generator)
    return (np.round(corrupted / _GRID) * _GRID + 0.0).astype(np.float32)  # + 0.0: no -0.0


def scale(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Scales each axis by a factor of its own, 1/s to s, and the result to the unit sphere: [N, 3] -> [N, 3]."""
    largest = _LARGEST_FACTOR[level - 1]
    scaled = points * generator.uniform(1 / largest, largest, size=3)
    scaled -= scaled.mean(axis=0)
    return scaled / max(np.linalg.norm(scaled, axis=1).max(), _GRID)


def jitter(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise of deviation 0.01 to 0.05 to every coordinate: [N, 3] -> [N, 3]."""
    return points + _JITTER * level * generator.standard_normal(points.shape)


def rotate(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Turns the cloud about x, y and z by angles of at most 6° to 30° each: [N, 3] -> [N, 3]."""
    largest = _LARGEST_ANGLE * level / NUM_LEVELS
    angles = generator.uniform(-largest, largest, size=3)
    matrix = np.eye(3)
    for axis, (sine, cosine) in enumerate(zip(np.sin(angles), np.cos(angles), strict=True)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        about_axis = np.eye(3)
        about_axis[first, first] = about_axis[second, second] = cosine
        about_axis[second, first], about_axis[first, second] = sine, -sine
        matrix = about_axis @ matrix
    return points @ matrix  # as published: the transposed turn, which is as random


def drop_global(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Loses a quarter to three quarters of the points at random: [N, 3] -> [M, 3]."""
    return generator.permutation(points)[: max(1, int(len(points) * (1 - _LOST_SHARE[level - 1])))]


def drop_local(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Loses 100 to 500 of 1024 points in one to seven clusters, each around a random point: [N, 3] -> [M, 3]."""
    total = min(_scaled(_LOCALLY * level, points), len(points) - 1)
    for size in _cluster_sizes(total, generator):
        center = points[generator.integers(len(points))]
        nearest_first = np.argsort(((points - center) ** 2).sum(axis=1), kind="stable")
        points = points[np.sort(nearest_first[size:])]
    return points


def add_global(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Adds 10 to 50 points (to 1024) drawn uniformly from the unit ball: [N, 3] -> [M, 3]."""
    count = _scaled(_ADDED_GLOBALLY * level, points)
    directions = generator.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.concatenate([points, directions * np.cbrt(generator.random((count, 1)))])


def add_local(points: np.ndarray, level: int, generator: np.random.Generator) -> np.ndarray:
    """Adds 100 to 500 points (to 1024) in one to seven Gaussian clusters around random points: [N, 3] -> [M, 3]."""
    clusters = []
    for size in _cluster_sizes(_scaled(_LOCALLY * level, points), generator):
        center = points[generator.integers(len(points))]
        clusters.append(center + generator.uniform(*_CLUSTER_DEVIATION) * generator.standard_normal((size, 3)))
    added = np.concatenate(clusters)
    squares = (added**2).sum(axis=1, keepdims=True)
    return np.concatenate([points, added / np.maximum(squares, 1)])  # what lies outside is mirrored, as published


def _scaled(count: int, points: np.ndarray) -> int:
    """A number of points of 1024, for a cloud of another size."""
    return max(1, round(count * len(points) / NUM_POINTS))


def _cluster_sizes(total: int, generator: np.random.Generator) -> np.ndarray:
    """How many points each of one to seven clusters has; each point falls into a random one."""
    num_clusters = generator.integers(1, _MOST_CLUSTERS + 1)
    return np.bincount(generator.integers(num_clusters, size=total), minlength=num_clusters)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "scale": scale,
    "jitter": jitter,
    "rotate": rotate,
    "drop-global": drop_global,
    "drop-local": drop_local,
    "add-global": add_global,
    "add-local": add_local,
}
"""By the names that the command line prints, in the published order; the draws depend on this order."""
