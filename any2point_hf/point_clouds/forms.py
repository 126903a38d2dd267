"""The forms in which a user gives clouds: paths, arrays, tensors, nested lists, rows with features."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from any2point_hf.modeling.errors import PointCloudError

from .features import features_of, spread_groups
from .files import PointCloud, read_cloud
from .invalid import DroppedPoints


def list_of_clouds(point_clouds: Any) -> list[Any]:
    """One cloud or several, such as an array [B, N, 3] or a list of paths, as a list of clouds."""
    if isinstance(point_clouds, (Mapping, PointCloud)):
        return [point_clouds]
    if isinstance(point_clouds, (np.ndarray, Tensor)):
        return list(point_clouds) if point_clouds.ndim == 3 else [point_clouds]
    if isinstance(point_clouds, (str, bytes)) or not isinstance(point_clouds, Sequence):
        return [point_clouds]
    is_batch = not len(point_clouds) or any(depth(item) >= 2 for item in point_clouds)
    return list(point_clouds) if is_batch else [point_clouds]


def depth(item: Any) -> int:
    """How many indices lead to a number: 2 for a cloud [N, 3], and for what else stands for a cloud, such as a path."""
    if isinstance(item, (str, os.PathLike, Mapping, PointCloud)):
        return 2
    if isinstance(item, (np.ndarray, Tensor)):
        return item.ndim
    if isinstance(item, Sequence) and len(item):
        return 1 + depth(item[0])
    return 0


def take_apart(
    cloud: Any, name: str, feature_names: Sequence[str], seed: int, dropped: DroppedPoints | None
) -> tuple[Any, Mapping[str, np.ndarray]]:
    """Takes a cloud of any form apart into its points, which are not checked, and features [N] by name.

    Args:
        cloud: a path, a `PointCloud`, a mapping of `points` and arrays of features, an array [N, 3 + F], or [N, 3].
        name: of the cloud, for errors.
        feature_names: the F features that are wanted; others are left out.
        seed: of the points sampled on a mesh.
        dropped: drops invalid points of files and counts them; None refuses them.

    Raises:
        PointCloudError: a file cannot be read, a mapping has no points, or a feature has not a row for every point.
    """
    if isinstance(cloud, (str, os.PathLike)):
        cloud = read_cloud(cloud, feature_names, seed, dropped)
    if isinstance(cloud, PointCloud):
        return cloud
    if isinstance(cloud, Mapping):
        return _of_mapping(cloud, feature_names, name)
    return _of_columns(_array(cloud), feature_names)


def _of_mapping(cloud: Mapping[str, Any], wanted: Sequence[str], name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Points and features by name of a mapping, such as a row of a data set."""
    if "points" not in cloud:
        raise PointCloudError(
            f"{name} must have the points [N, 3] under the name 'points', got the names "
            f"{', '.join(map(str, list(cloud)[:12]))}. Rename the one it is."
        )
    points = _array(cloud["points"])
    arrays = {key: _array(values) for key, values in cloud.items() if set(features_of(key)) & set(wanted)}
    if "point_features" in cloud and wanted:  # as the processor itself gives them, all in one array
        given = np.asarray(_array(cloud["point_features"]))
        if given.shape != (len(points), len(wanted)):
            raise PointCloudError(
                f"{name}: point_features must be numbers {[len(points), len(wanted)]} ({', '.join(wanted)}), got "
                f"{list(given.shape)}."
            )
        return points, dict(zip(wanted, given.T, strict=True))
    return points, spread_groups(arrays, len(points), name) if arrays and hasattr(points, "__len__") else {}


def _of_columns(array: Any, wanted: Sequence[str]) -> tuple[Any, dict[str, np.ndarray]]:
    """Points and features by name of an array [N, 3 + F]; of any other, itself and none."""
    shape: tuple[int, ...] = np.shape(array) if wanted else ()
    if len(shape) != 2 or shape[1] != 3 + len(wanted):
        return array, {}
    array = np.asarray(array)
    return array[:, :3], dict(zip(wanted, array[:, 3:].T, strict=True))


def _array(cloud: Any) -> Any:
    """Turns tensors into numpy arrays, also those in lists; leaves anything else unchanged."""
    if isinstance(cloud, Tensor):
        cloud = cloud.detach().cpu()
        return (cloud.float() if cloud.dtype == torch.bfloat16 else cloud).numpy()  # numpy knows no bfloat16
    if isinstance(cloud, Sequence) and not isinstance(cloud, (str, bytes)):
        return [_array(row) for row in cloud]
    return cloud
