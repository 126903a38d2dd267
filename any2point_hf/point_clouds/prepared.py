"""Clouds on their way into a batch, which remember which of the given points theirs are."""

from typing import NamedTuple

import numpy as np


class PreparedCloud(NamedTuple):
    """A cloud that is centred and scaled, and goes to a row of the batch.

    Attributes:
        row: of the batch.
        points: [n, 3] float32, as the model sees them.
        unit: [n, 3] float32, in the unit sphere.
        features: [n, F] float32.
        kept: [n] int64, which of the given points these are.
        given: [N, 3], the points as they were given.
    """

    row: int
    points: np.ndarray
    unit: np.ndarray
    features: np.ndarray
    kept: np.ndarray
    given: np.ndarray


class SampledClouds(NamedTuple):
    """A batch of B clouds, brought to one number of points.

    Attributes:
        points: [B, num_points, 3] float32.
        features: [B, num_points, F] float32.
        kept: [B, num_points] int64, which of each cloud's given points these are.
        totals: how many points each cloud was given with.
        names: of the clouds.
    """

    points: np.ndarray
    features: np.ndarray
    kept: np.ndarray
    totals: list[int]
    names: list[str]

    @classmethod
    def empty(cls, num_clouds: int, num_points: int, num_features: int) -> "SampledClouds":
        """A batch whose rows are still to be put."""
        shape = (num_clouds, num_points)
        points, features = np.empty((*shape, 3), np.float32), np.empty((*shape, num_features), np.float32)
        return cls(points, features, np.empty(shape, np.int64), [0] * num_clouds, [""] * num_clouds)

    def put(self, cloud: PreparedCloud, indices: np.ndarray) -> None:
        """Puts points of a cloud, [num_points] int64, into its row."""
        self.points[cloud.row], self.features[cloud.row] = cloud.points[indices], cloud.features[indices]
        self.kept[cloud.row], self.totals[cloud.row] = cloud.kept[indices], len(cloud.given)
