"""Turns point clouds (arrays, tensors, lists, files) into the model's input `points` [B, N, 3]."""

import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from any2point_hf.modeling.configuration_any2point import SMALLEST_CLOUD
from any2point_hf.modeling.errors import Any2PointError, PointCloudError
from any2point_hf.modeling.point_ops import farthest_point_sampling
from any2point_hf.point_checks import MINIMUM_DISTINCT_POINTS, check_points
from any2point_hf.point_cloud_files import read_point_cloud

_SAMPLED_TOGETHER = 1 << 17  # points in one call of farthest point sampling: their planes stay in the cache


class Any2PointProcessor(FeatureExtractionMixin):
    """Centres, scales and resamples point clouds; saved as `preprocessor_config.json`.

    A cloud's result does not depend on the clouds beside it, and is the same on every call.

    Args:
        num_points: N, how many points each cloud is brought to, at least `SMALLEST_CLOUD` (64).
        scale_to_unit_sphere: whether to divide by the largest distance from the centre, so that the model's
            input has no unit. False keeps the clouds' own unit.
        seed: of the points sampled on the meshes that are read from files, ≥ 0.
        **kwargs: further entries of `preprocessor_config.json`, kept as attributes.

    Raises:
        Any2PointError: num_points or seed is out of range.
    """

    model_input_names = ["points"]  # noqa: RUF012 - transformers reads a plain list

    def __init__(self, num_points: int = 1024, scale_to_unit_sphere: bool = True, seed: int = 0, **kwargs: Any) -> None:
        """Checks and keeps the settings."""
        super().__init__(**kwargs)
        self.num_points = _integer(num_points, "num_points", SMALLEST_CLOUD)
        self.scale_to_unit_sphere = bool(scale_to_unit_sphere)
        self.seed = _integer(seed, "seed", 0)

    def __call__(self, point_clouds: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """Prepares one cloud or a list of clouds.

        The mean of a cloud's points is moved to the origin. A cloud of more than `num_points` points is
        reduced by farthest point sampling from its first point; one of fewer has its points repeated in
        order, with a warning.

        Args:
            point_clouds: a cloud, a list of clouds (of any sizes and kinds), or an array or nested list
                [B, N, 3]. A cloud is a numpy array, torch tensor or nested list [N, 3], or the path of a file
                that `read_point_cloud` reads.
            return_tensors: "pt" for a torch tensor, "np" or None for a numpy array.

        Returns:
            A batch with `points`, [B, num_points, 3] float32.

        Raises:
            PointCloudError: a cloud is unreadable, not [N, 3], not finite or has too few distinct points.
        """
        clouds = _as_list(point_clouds)
        if not clouds:
            raise PointCloudError("point_clouds is empty; expected at least one point cloud.")
        points = np.empty((len(clouds), self.num_points, 3), dtype=np.float32)
        larger: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for index, cloud in enumerate(clouds):
            name = str(cloud) if isinstance(cloud, (str, os.PathLike)) else f"point_clouds[{index}]"
            centred, unit = self._normalize(cloud, name)
            size = len(centred)
            if size > self.num_points:
                group = larger.setdefault(size, [])
                group.append((index, centred, unit))
                if len(group) * size >= _SAMPLED_TOGETHER:
                    self._sample(larger.pop(size), points)
                continue
            if size < self.num_points:
                warnings.warn(
                    f"{name} has {size} points, fewer than num_points={self.num_points}: "
                    f"{self.num_points - size} repeats are added.",
                    stacklevel=2,
                )
            points[index] = centred[np.arange(self.num_points) % size]
        for group in larger.values():
            self._sample(group, points)
        return BatchFeature({"points": points}, tensor_type=return_tensors)

    def _normalize(self, cloud: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Checks a cloud -> what the model sees and the cloud in the unit sphere, both [n, 3] float32."""
        is_file = isinstance(cloud, (str, os.PathLike))
        points = read_point_cloud(cloud, seed=self.seed) if is_file else _array(cloud)
        exact = check_points(points, name, minimum_distinct=MINIMUM_DISTINCT_POINTS).astype(np.float64)
        exact -= exact.mean(axis=0)
        unit = (exact / np.linalg.norm(exact, axis=1).max()).astype(np.float32)
        return (unit if self.scale_to_unit_sphere else exact.astype(np.float32)), unit

    def _sample(self, group: list[tuple[int, np.ndarray, np.ndarray]], points: np.ndarray) -> None:
        """Reduces clouds of one size, each a (row of points, cloud, cloud in the unit sphere)."""
        # sampled in the unit sphere, where no squared distance leaves the range of float32
        planes = torch.from_numpy(np.stack([unit.T for _, _, unit in group]))  # contiguous x, y, z: faster
        chosen = farthest_point_sampling(planes.transpose(1, 2), self.num_points).numpy()
        for (row, cloud, _), indices in zip(group, chosen, strict=True):
            points[row] = cloud[indices]

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Writes the settings to a JSON file: beside it, then in its place, so that no half file can be left.

        Args:
            json_file_path: the file, replaced if it exists.
        """
        path = Path(json_file_path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.to_json_string(), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _integer(value: int, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise Any2PointError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return int(value)


def _as_list(point_clouds: Any) -> list[Any]:
    """One cloud or several -> a list of clouds."""
    if isinstance(point_clouds, (np.ndarray, Tensor)):
        return list(point_clouds) if point_clouds.ndim == 3 else [point_clouds]
    if isinstance(point_clouds, (str, bytes)) or not isinstance(point_clouds, Sequence):
        return [point_clouds]
    is_batch = not len(point_clouds) or any(_depth(item) >= 2 for item in point_clouds)
    return list(point_clouds) if is_batch else [point_clouds]


def _depth(item: Any) -> int:
    """How many indices lead to a number; a path stands for a cloud, 2."""
    if isinstance(item, (str, os.PathLike)):
        return 2
    if isinstance(item, (np.ndarray, Tensor)):
        return item.ndim
    if isinstance(item, Sequence) and len(item):
        return 1 + _depth(item[0])
    return 0


def _array(cloud: Any) -> Any:
    """Tensors, also as the rows of a list, as numpy arrays; anything else unchanged."""
    if isinstance(cloud, Tensor):
        cloud = cloud.detach().cpu()
        return (cloud.float() if cloud.dtype == torch.bfloat16 else cloud).numpy()  # numpy knows no bfloat16
    if isinstance(cloud, Sequence) and not isinstance(cloud, (str, bytes)):
        return [_array(row) for row in cloud]
    return cloud
