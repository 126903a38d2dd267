"""Turns point clouds (arrays, tensors, lists, files) into the model's input `points` [B, N, 3]."""

import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from torch import Tensor
from transformers import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from any2point_hf.modeling.configuration_any2point import SMALLEST_CLOUD
from any2point_hf.modeling.errors import Any2PointError, DatasetError, PointCloudError
from any2point_hf.modeling.files import write_whole
from any2point_hf.modeling.hub.names import pull_options, pulled_folder
from any2point_hf.modeling.publishing.push import push_files
from any2point_hf.modeling.tokenizer.point_ops import farthest_point_sampling
from any2point_hf.point_clouds.checks import MINIMUM_DISTINCT_POINTS, check_no_point_is_far, check_points
from any2point_hf.point_clouds.files import read_point_cloud

LABEL_COLUMNS = ("labels", "label", "label_ids")
"""What a row of a batch may call its class, as in transformers."""

PROCESSOR_FILE = "preprocessor_config.json"
PICKLES = "# pickles are not shared: they run code when they are opened\n*.bin\n*.pt\n*.pth\n*.pkl\n"

_SAMPLED_TOGETHER = 1 << 17  # points in one call of farthest point sampling: their planes stay in the cache


class Any2PointProcessor(SequenceFeatureExtractor):
    """Centres, scales and resamples point clouds; saved as `preprocessor_config.json`.

    A cloud's result does not depend on the clouds beside it, and is the same on every call. As a processor of
    sequences it is asked by the stock Trainer to make the batches (`pad`).

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
        FeatureExtractionMixin.__init__(self, **kwargs)  # not those of sound, which is what other sequences are
        self.num_points = _integer(num_points, "num_points", SMALLEST_CLOUD)
        self.scale_to_unit_sphere = bool(scale_to_unit_sphere)
        self.seed = _integer(seed, "seed", 0)

    def __call__(
        self, point_clouds: Any, return_tensors: str | None = "pt", names: Sequence[str] | None = None
    ) -> BatchFeature:
        """Prepares one cloud or a list of clouds.

        The mean of a cloud's points is moved to the origin. A cloud of more than `num_points` points is
        reduced by farthest point sampling from its first point; one of fewer has its points repeated in
        order, with a warning.

        Args:
            point_clouds: a cloud, a list of clouds (of any sizes and kinds), or an array or nested list
                [B, N, 3]. A cloud is a numpy array, torch tensor or nested list [N, 3], or the path of a file
                that `read_point_cloud` reads.
            return_tensors: "pt" for a torch tensor, "np" or None for a numpy array.
            names: by which errors call the clouds that are not files; by default `point_clouds[0]` and so on.

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
            is_file = isinstance(cloud, (str, os.PathLike))
            name = str(cloud) if is_file else names[index] if names else f"point_clouds[{index}]"
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

    def pad(  # type: ignore[override]
        self, rows: Sequence[Mapping[str, Any]], *, return_tensors: str | None = "pt", **_: Any
    ) -> BatchFeature:
        """Makes a batch of rows with clouds of any size, as `DataCollatorForPointClouds` says.

        Args:
            rows: each with `points`, and maybe `label` or `labels`.
            return_tensors: "pt" for torch tensors, "np" for numpy arrays.
            _: what is said of sequences, such as `padding`; clouds have nothing of it.

        Raises:
            PointCloudError: a row has no points, or they cannot be used.
            DatasetError: a label is no integer, or only some rows have one.
        """
        for row in rows:
            if "points" not in row:
                raise PointCloudError(
                    "a row must have the points [N, 3] under the name 'points', got the names "
                    f"{', '.join(map(str, row))}. Call dataset.rename_column(…, 'points')."
                )
        batch = self([row["points"] for row in rows], return_tensors=None, names=[f"row {n}" for n in range(len(rows))])
        labels = [next((row[name] for name in LABEL_COLUMNS if row.get(name) is not None), None) for row in rows]
        if any(label is not None for label in labels):
            batch["labels"] = np.array([_label(label) for label in labels], dtype=np.int64)
        return batch.convert_to_tensors(return_tensors)

    def _normalize(self, cloud: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Checks and centres a cloud -> as the model sees it, and scaled to the unit sphere, both [n, 3] float32."""
        is_file = isinstance(cloud, (str, os.PathLike))
        points = read_point_cloud(cloud, seed=self.seed) if is_file else _array(cloud)
        exact = check_points(points, name, minimum_distinct=MINIMUM_DISTINCT_POINTS).astype(np.float64)
        check_no_point_is_far(exact, name)
        exact -= exact.mean(axis=0)
        unit = (exact / np.linalg.norm(exact, axis=1).max()).astype(np.float32)
        return (unit if self.scale_to_unit_sphere else exact.astype(np.float32)), unit

    def _sample(self, group: list[tuple[int, np.ndarray, np.ndarray]], points: np.ndarray) -> None:
        """Reduces clouds of one size, each a (row, cloud, cloud in the unit sphere), into the rows of `points`."""
        # sampled in the unit sphere, where no squared distance leaves the range of float32
        planes = torch.from_numpy(np.stack([unit.T for _, _, unit in group]))  # contiguous x, y, z: faster
        chosen = farthest_point_sampling(planes.transpose(1, 2), self.num_points).numpy()
        for (row, cloud, _), indices in zip(group, chosen, strict=True):
            points[row] = cloud[indices]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """Loads a processor as in transformers, from a folder, Hub id or bare name.

        Args:
            pretrained_model_name_or_path: see `pulled_folder` in `hub/names.py`.
            kwargs: of `FeatureExtractionMixin.from_pretrained`, such as `revision` or `token`.

        Raises:
            CheckpointError: the name exists nowhere.
            HubError: the Hub does not answer, refuses or breaks off, and the file is not in the cache.
        """
        if not os.path.isfile(pretrained_model_name_or_path):
            options = pull_options(kwargs)
            pretrained_model_name_or_path = pulled_folder(pretrained_model_name_or_path, [PROCESSOR_FILE], **options)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Writes `preprocessor_config.json`, and a `.gitignore` for pickles if there is none.

        The Trainer pickles its arguments into the folder that it pushes; the Hub leaves out what `.gitignore` names.

        Args:
            save_directory: made if it is missing.
            push_to_hub: whether to push it as well, to the folder's name or `repo_id`.
            kwargs: of `push_to_hub`.

        Returns:
            The path of the settings' file, in a list.
        """
        paths = super().save_pretrained(save_directory)
        gitignore = Path(save_directory, ".gitignore")
        if not gitignore.exists():
            write_whole(gitignore, PICKLES)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return paths

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, commit_message: str = "Upload processor", **kwargs: Any
    ) -> CommitInfo:
        """Pushes `preprocessor_config.json` to the Hub.

        Args:
            repo_id: `user/name`, or a bare name for the namespace `ANY2POINT_NAMESPACE` or the logged-in user's.
            commit_message: of the commit.
            kwargs: `private`, `token`, `revision` and `create_pr`, as of a model.

        Returns:
            The commit, a string that is its URL.

        Raises:
            HubError: the Hub does not answer, refuses or breaks off; the repository is as it was.
        """
        files = {PROCESSOR_FILE: self.to_json_string().encode()}
        return push_files(files, repo_id, commit_message=commit_message, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Writes the settings to a JSON file, whole or not at all: another file is written and then takes its place.

        Args:
            json_file_path: the file, replaced if it exists.
        """
        write_whole(Path(json_file_path), self.to_json_string())


def _label(value: Any) -> int:
    try:
        plain: Any = value.item() if isinstance(value, (Tensor, np.ndarray)) else value
        return operator.index(plain)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"every row of a batch must have an integer as its label, got {value!r}. Classes by name: "
            "dataset.class_encode_column('label')."
        ) from error


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
    is_batch = not len(point_clouds) or any(depth(item) >= 2 for item in point_clouds)
    return list(point_clouds) if is_batch else [point_clouds]


def depth(item: Any) -> int:
    """How many indices lead to a number: 2 for a cloud [N, 3], and for a path, which stands for a cloud."""
    if isinstance(item, (str, os.PathLike)):
        return 2
    if isinstance(item, (np.ndarray, Tensor)):
        return item.ndim
    if isinstance(item, Sequence) and len(item):
        return 1 + depth(item[0])
    return 0


def _array(cloud: Any) -> Any:
    """Turns tensors into numpy arrays, also those in lists; leaves anything else unchanged."""
    if isinstance(cloud, Tensor):
        cloud = cloud.detach().cpu()
        return (cloud.float() if cloud.dtype == torch.bfloat16 else cloud).numpy()  # numpy knows no bfloat16
    if isinstance(cloud, Sequence) and not isinstance(cloud, (str, bytes)):
        return [_array(row) for row in cloud]
    return cloud
