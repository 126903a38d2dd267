"""Turns point clouds (arrays, tensors, lists, files) into the model's input `points` [B, N, 3]."""

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
from any2point_hf.modeling.errors import Any2PointError, CheckpointError, PointCloudError
from any2point_hf.modeling.files import write_whole
from any2point_hf.modeling.hub.names import pull_options, pulled_folder
from any2point_hf.modeling.publishing.push import files_of_processor, push_files
from any2point_hf.modeling.publishing.remote_code import AUTO_MAP, NotCopied
from any2point_hf.modeling.pulled_config import LARGEST_NUMBER
from any2point_hf.modeling.tokenizer.point_ops import SAMPLING_STARTS, farthest_point_sampling
from any2point_hf.point_clouds.batch_rows import (
    are_of_points,
    categories_of,
    check_rows,
    classes_of,
    labels_of,
    sampled_labels,
)
from any2point_hf.point_clouds.checks import check_cloud
from any2point_hf.point_clouds.features import feature_names, missing_features, scaled_features
from any2point_hf.point_clouds.forms import list_of_clouds, take_apart
from any2point_hf.point_clouds.invalid import DroppedPoints
from any2point_hf.point_clouds.prepared import PreparedCloud, SampledClouds
from any2point_hf.segmentation.whole_cloud import WholeCloud

PROCESSOR_FILE = "preprocessor_config.json"
PICKLES = "# pickles are not shared: they run code when they are opened\n*.bin\n*.pt\n*.pth\n*.pkl\n"

_SAMPLED_TOGETHER = 1 << 17  # points in one call of farthest point sampling: their planes stay in the cache


class Any2PointProcessor(NotCopied, SequenceFeatureExtractor):
    """Centres, scales and resamples point clouds; saved as `preprocessor_config.json`.

    A cloud's result does not depend on the clouds beside it, and is the same on every call. As a processor of
    sequences it is asked by the stock Trainer to make the batches (`pad`).

    Args:
        num_points: N, how many points each cloud is brought to, at least `SMALLEST_CLOUD` (64).
        scale_to_unit_sphere: whether to divide by the largest distance from the centre, so that the model's
            input has no unit. False keeps the clouds' own unit.
        seed: of the points sampled on the meshes that are read from files, ≥ 0.
        drop_invalid: whether to drop points that are not finite, and those of more than a quarter of a cloud's at one
            place, with one warning a call that counts them; else such a cloud is an error.
        point_feature_names: what the model takes of each point besides its place, in order: the config's
            `point_feature_names`, or groups such as `["rgb", "normal"]` (`point_clouds/features.py`).
        sampling_start: where farthest point sampling starts: at a cloud's `"first"` point, or at the point `"farthest"`
            from its centroid (ties by coordinates), so that the result does not depend on the order of its points.
        **kwargs: further entries of `preprocessor_config.json`, kept as attributes.

    Raises:
        Any2PointError: num_points, seed or sampling_start is out of range.
    """

    model_input_names = ["points"]  # noqa: RUF012 - transformers reads a plain list

    def __init__(
        self,
        num_points: int = 1024,
        scale_to_unit_sphere: bool = True,
        seed: int = 0,
        drop_invalid: bool = False,
        point_feature_names: Sequence[str] = (),
        sampling_start: str = "farthest",
        **kwargs: Any,
    ) -> None:
        """Checks and keeps the settings."""
        FeatureExtractionMixin.__init__(self, **kwargs)  # not those of sound, which is what other sequences are
        self.num_points = _integer(num_points, "num_points", SMALLEST_CLOUD)
        if self.num_points > LARGEST_NUMBER:
            raise Any2PointError(f"num_points must be at most {LARGEST_NUMBER:,}, got {self.num_points:,}.")
        self.scale_to_unit_sphere = bool(scale_to_unit_sphere)
        self.seed = _integer(seed, "seed", 0)
        self.drop_invalid = bool(drop_invalid)
        self.point_feature_names = feature_names(point_feature_names)
        if sampling_start not in SAMPLING_STARTS:
            raise Any2PointError(f"sampling_start must be one of {', '.join(SAMPLING_STARTS)}, got {sampling_start!r}.")
        self.sampling_start = sampling_start

    def __call__(
        self,
        point_clouds: Any,
        return_tensors: str | None = "pt",
        names: Sequence[str] | None = None,
        labels: Sequence[Any] | None = None,
    ) -> BatchFeature:
        """Prepares one cloud or a list of clouds.

        The mean of a cloud's points is moved to the origin. A cloud of more than `num_points` points is
        reduced by farthest point sampling; one of fewer has its points repeated in order, with a warning.
        With `sampling_start="farthest"` that order is the point farthest from the mean, then the others by x, y
        and z; the same points in any order give the same result, to the last bit.

        Args:
            point_clouds: a cloud, a list of clouds (of any sizes and kinds), or an array or nested list
                [B, N, 3]. A cloud is a numpy array, torch tensor or nested list [N, 3], or the path of a file
                that `read_point_cloud` reads. Where the model takes features, a cloud is a file that has them, a
                `PointCloud`, a mapping of `points` [N, 3] and arrays by the names of features or groups, such as `rgb`
                [N, 3], or an array [N, 3 + F]; all on the scales of `FEATURE_GROUPS`, colours in 8 or 16 bits too.
            return_tensors: "pt" for a torch tensor, "np" or None for a numpy array.
            names: by which errors call the clouds that are not files; by default `point_clouds[0]` and so on.
            labels: for each cloud a label for each of its points, integers [N], −100 for none; they stay with them.

        Returns:
            A batch with `points`, [B, num_points, 3] float32; where the model takes features, `point_features`,
            [B, num_points, F] float32; and, if they are given, `labels` [B, num_points] int64.

        Raises:
            PointCloudError: a cloud is unreadable, not [N, 3], not finite, has too few distinct points or more than a
                quarter of them at one place, or lacks a feature.
            DatasetError: a cloud has not as many labels as points, or others than integers.
        """
        sampled = self._sampled(point_clouds, names)
        batch = self._batch(sampled.points, sampled.features)
        if labels is not None:
            batch["labels"] = sampled_labels(labels, sampled.kept, sampled.totals, sampled.names)
        return batch.convert_to_tensors(return_tensors)

    def all_points(self, point_cloud: Any, return_tensors: str | None = "pt", name: str = "point_cloud") -> WholeCloud:
        """Centres and scales one cloud as a call does, but keeps all of its points, in their order.

        Args:
            point_cloud: one cloud, as in a call.
            return_tensors: as in a call.
            name: by which errors call a cloud that is not a file.

        Raises:
            PointCloudError: as in a call.
        """
        dropped = DroppedPoints() if self.drop_invalid else None
        cloud = self._normalize(0, point_cloud, str(point_cloud) if _is_file(point_cloud) else name, dropped)
        if dropped is not None:
            dropped.warn()
        order = np.argsort(cloud.kept)
        batch = self._batch(cloud.points[None, order], cloud.features[None, order])
        return WholeCloud(batch.convert_to_tensors(return_tensors), cloud.kept[order], cloud.given)

    def rows(self, point_clouds: Any, names: Sequence[str] | None = None) -> Tensor:
        """The same as one tensor [B, num_points, 3 + F], whose last columns are the features."""
        sampled = self._sampled(point_clouds, names)
        return torch.from_numpy(np.concatenate([sampled.points, sampled.features], axis=-1))

    def _batch(self, points: np.ndarray, features: np.ndarray) -> BatchFeature:
        return BatchFeature({"points": points} | ({"point_features": features} if self.point_feature_names else {}))

    def _sampled(self, point_clouds: Any, names: Sequence[str] | None) -> SampledClouds:
        clouds = list_of_clouds(point_clouds)
        if not clouds:
            raise PointCloudError("point_clouds is empty; expected at least one point cloud.")
        sampled = SampledClouds.empty(len(clouds), self.num_points, len(self.point_feature_names))
        dropped = DroppedPoints() if self.drop_invalid else None
        larger: dict[int, list[PreparedCloud]] = {}
        for index, cloud in enumerate(clouds):
            name = str(cloud) if _is_file(cloud) else names[index] if names else f"point_clouds[{index}]"
            prepared = self._normalize(index, cloud, name, dropped)
            sampled.names[index] = name
            size = len(prepared.points)
            if size > self.num_points:
                group = larger.setdefault(size, [])
                group.append(prepared)
                if len(group) * size >= _SAMPLED_TOGETHER:
                    self._sample(larger.pop(size), sampled)
                continue
            if size < self.num_points:
                warnings.warn(
                    f"{name} has {size} points, fewer than num_points={self.num_points}: "
                    f"{self.num_points - size} repeats are added.",
                    stacklevel=3,
                )
            sampled.put(prepared, np.arange(self.num_points) % size)
        for group in larger.values():
            self._sample(group, sampled)
        if dropped is not None:
            dropped.warn(len(clouds))
        return sampled

    def pad(  # type: ignore[override]
        self, rows: Sequence[Mapping[str, Any]], *, return_tensors: str | None = "pt", **_: Any
    ) -> BatchFeature:
        """Makes a batch of rows with clouds of any size, as `DataCollatorForPointClouds` says.

        Args:
            rows: each with `points`, and maybe `label` or `labels`: a class, floating-point numbers, a dict of named
                values or, as in `part`, a label for each point. Beside these, or without any, maybe a `category`.
            return_tensors: "pt" for torch tensors, "np" for numpy arrays.
            _: what is said of sequences, such as `padding`; clouds have nothing of it.

        Raises:
            PointCloudError: a row has no points, or they cannot be used.
            DatasetError: a label is no integer, or only some rows have one, or a row has not as many as points.
        """
        check_rows(rows, self.point_feature_names)
        clouds = [row if self.point_feature_names else row["points"] for row in rows]
        labels = labels_of(rows)
        of_points = labels if are_of_points(labels, rows) else None
        names = [f"row {number}" for number in range(len(rows))]
        batch = self(clouds, return_tensors=None, names=names, labels=of_points)
        classes = None if of_points else classes_of(labels)
        if classes is not None:
            batch["labels"] = classes
        elif (categories := categories_of(rows)) is not None:
            batch["category"] = categories
        return batch.convert_to_tensors(return_tensors)

    def _normalize(self, row: int, cloud: Any, name: str, dropped: DroppedPoints | None) -> PreparedCloud:
        """Checks and centres a cloud."""
        if dropped is not None:
            dropped.begin()
        points, found = take_apart(cloud, name, self.point_feature_names, self.seed, dropped)
        exact = check_cloud(points, name, dropped).astype(np.float64)
        found = found if dropped is None else dropped.along(found)
        features = self._features(found, len(exact), name)
        kept, given = (np.arange(len(exact)), points) if dropped is None else (dropped.left, dropped.points)
        by_themselves = self.sampling_start == "farthest"
        if by_themselves:  # before the mean, whose rounding depends on the order
            order = np.lexsort((*features.T[::-1], *exact.T[::-1]))
            exact, features, kept = exact[order], features[order], kept[order]
        exact -= exact.mean(axis=0)
        distance = np.linalg.norm(exact, axis=1)
        if by_themselves:
            start = int(distance.astype(np.float32).argmax())
            order = np.r_[start, :start, start + 1 : len(exact)]
            exact, features, kept = exact[order], features[order], kept[order]
        unit = (exact / distance.max()).astype(np.float32)
        centred = unit if self.scale_to_unit_sphere else exact.astype(np.float32)
        return PreparedCloud(row, centred, unit, features, kept, np.asarray(given))

    def _features(self, found: Mapping[str, np.ndarray], num_points: int, name: str) -> np.ndarray:
        """The features that the model takes, [n, F] float32, out of those that a cloud has."""
        wanted = self.point_feature_names
        if missing := [feature for feature in wanted if feature not in found]:
            raise missing_features(missing, found, name)
        scaled = scaled_features({feature: found[feature] for feature in wanted}, name)
        return np.array([scaled[feature] for feature in wanted], dtype=np.float32).reshape(-1, num_points).T

    def _sample(self, group: Sequence[PreparedCloud], sampled: SampledClouds) -> None:
        """Reduces clouds of one size into the batch's rows."""
        # sampled in the unit sphere, where no squared distance leaves the range of float32
        planes = torch.from_numpy(np.stack([cloud.unit.T for cloud in group]))  # contiguous x, y, z: faster
        chosen = farthest_point_sampling(planes.transpose(1, 2), self.num_points).numpy()
        for cloud, indices in zip(group, chosen, strict=True):
            sampled.put(cloud, indices)

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; a dict without `sampling_start` is of a version that knew the first point alone.

        What would fetch code is left out.
        """
        values = {name: value for name, value in feature_extractor_dict.items() if name != AUTO_MAP}
        return super().from_dict({"sampling_start": "first", **values}, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """Loads a processor as in transformers, from a folder, Hub id or bare name.

        Args:
            pretrained_model_name_or_path: see `pulled_folder` in `hub/names.py`.
            kwargs: of `FeatureExtractionMixin.from_pretrained`, such as `revision` or `token`.

        Raises:
            CheckpointError: the name exists nowhere, or the file is damaged.
            HubError: the Hub does not answer, refuses or breaks off, and the file is not in the cache.
        """
        if not os.path.isfile(pretrained_model_name_or_path):
            options = pull_options(kwargs)
            pretrained_model_name_or_path = pulled_folder(pretrained_model_name_or_path, [PROCESSOR_FILE], **options)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except Any2PointError:
            raise
        except Exception as error:  # damaged settings fail in many ways, and each means the same
            raise CheckpointError(
                f"{PROCESSOR_FILE} must hold the settings of an Any2PointProcessor, and that of "
                f"{str(pretrained_model_name_or_path)!r} does not. Save the processor anew. The loader said: "
                f"{str(error)[:200]}"
            ) from error

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
        """Pushes `preprocessor_config.json` to the Hub, and the module that it is loaded by (`publishing/remote_code`).

        Args:
            repo_id: `user/name`, or a bare name for the namespace `ANY2POINT_NAMESPACE` or the logged-in user's.
            commit_message: of the commit.
            kwargs: `commit_description`, `tags`, `private`, `token`, `revision` and `create_pr`, as of a model.

        Returns:
            The commit, a string that is its URL.

        Raises:
            HubError: the Hub does not answer, refuses or breaks off; the repository is as it was.
        """
        return push_files(files_of_processor(self.to_json_string()), repo_id, commit_message=commit_message, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Writes the settings to a JSON file, whole or not at all: another file is written and then takes its place.

        Args:
            json_file_path: the file, replaced if it exists.
        """
        write_whole(Path(json_file_path), self.to_json_string())


def _is_file(cloud: Any) -> bool:
    return isinstance(cloud, (str, os.PathLike))


def _integer(value: int, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise Any2PointError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return int(value)
