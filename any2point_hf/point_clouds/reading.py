"""How the clouds of a data set or collection are read: one way for files, arrays and rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import check_cloud, in_needed_precision
from .files import PointCloud, read_cloud
from .invalid import DroppedPoints


@dataclass(frozen=True)
class CloudReader:
    """Reads clouds that a model can take.

    Args:
        seed: of the points sampled on meshes.
        feature_names: what is read of each point besides its place.
        dropped: drops invalid points and counts them; None refuses them.
        vertices_only: whether the vertices of a mesh are its points, in place of samples.
    """

    seed: int = 0
    feature_names: Sequence[str] = ()
    dropped: DroppedPoints | None = None
    vertices_only: bool = False

    def read(self, path: str | os.PathLike) -> PointCloud:
        """Reads a file.

        Raises:
            PointCloudError: it cannot be read, lacks a feature, or holds no cloud for a model.
        """
        cloud = read_cloud(path, self.feature_names, self.seed, self.dropped, self.vertices_only)
        return self.checked(cloud, str(path))

    def checked(self, cloud: PointCloud, name: str) -> PointCloud:
        """Checks a cloud by the rules of `check_cloud`, and drops its invalid points with their features.

        Args:
            cloud: of any real number type.
            name: of it, for the error message.
        """
        points = check_cloud(cloud.points, name, self.dropped)
        features = cloud.features if self.dropped is None else self.dropped.along(cloud.features)
        return PointCloud(in_needed_precision(points), features)


PLAIN_READER = CloudReader()
"""Reads coordinates alone, and drops nothing."""
