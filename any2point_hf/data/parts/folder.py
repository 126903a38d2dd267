"""Data sets of parts in folders of point-cloud files, one column of which is the label of each point.

`<split>/<file>` or `<file>` alone, without categories; or, with categories for classes, any layout of `data/folder.py`.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from any2point_hf.data.folder import read_folder
from any2point_hf.data.folder_metadata import find_tables
from any2point_hf.data.parts.dataset import LabelledCloud, build_part_dataset_dict
from any2point_hf.data.splits import usual_split
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.features import feature_of_column
from any2point_hf.point_clouds.files import PointCloud
from any2point_hf.point_clouds.folders import is_cloud_file, warn_of_left_out
from any2point_hf.point_clouds.labels import IGNORED, whole_labels
from any2point_hf.point_clouds.reading import CloudReader

_LARGEST_LABEL = 1 << 24  # up to here float32 holds every integer


def read_part_folder(root: Path, reader: CloudReader, label_column: str | None) -> DatasetDict:
    """Reads the clouds of a folder and the labels of their points.

    The different numbers in the column, in their order, are the parts' names: "2", "5", "6" of a .las with these
    classes. −100 is a point without a label.

    Args:
        root: an existing folder.
        reader: of the clouds.
        label_column: its name in the files, or its number from 0 in text and arrays whose columns have no names.

    Raises:
        DatasetError: no column is named, the folder has none of the layouts, or a label is no integer or negative.
        PointCloudError: a file cannot be read, has no such column (the message names those that it has), or holds no
            cloud for a model.
    """
    if label_column is None:
        raise DatasetError(
            f"{root} has files of clouds, and no column of theirs is named as the points' labels. Name it by "
            "--label-column (in Python label_column=…): by its number from 0, if columns have no names."
        )
    label = feature_of_column(label_column)
    # A mesh has the labels of its vertices, which samples between two parts would have in fractions.
    with_labels = _LabelReader(reader.seed, [*reader.feature_names, label], reader.dropped, vertices_only=True)
    files = _flat_files(root)
    splits: dict[str, tuple[Iterable[PointCloud], list[int] | None]] = {}
    category_names = None
    if files:
        splits |= {split: (map(with_labels.read, paths), None) for split, paths in files.items()}
    else:
        of_classes, category_names = read_folder(root, with_labels)
        splits |= of_classes
    read = {split: (list(clouds), categories) for split, (clouds, categories) in splits.items()}
    found = [np.unique(cloud.features[label]) for clouds, _ in read.values() for cloud in clouds]
    values = np.setdiff1d(np.concatenate(found), [IGNORED])
    labelled = {
        split: ([_labelled(cloud, label, values) for cloud in clouds], categories)
        for split, (clouds, categories) in read.items()
    }
    return build_part_dataset_dict(labelled, [str(value) for value in values], category_names)


class _LabelReader(CloudReader):
    """Reads clouds whose last feature is the label of each point, as int64."""

    def read(self, path: str | os.PathLike) -> PointCloud:
        """Reads a file, and checks its labels."""
        cloud = super().read(path)
        label = self.feature_names[-1]
        labels = whole_labels(cloud.features[label], len(cloud.points), f"{path}, column {label!r}")
        if len(labels) and labels.max() >= _LARGEST_LABEL:
            raise DatasetError(
                f"{path}, column {label!r}: labels of points must be below {_LARGEST_LABEL:,}, because columns are "
                f"read as float32, got {labels.max():,}. Number the parts."
            )
        wrong = labels[(labels < 0) & (labels != IGNORED)]
        if len(wrong):
            raise DatasetError(
                f"{path}, column {label!r}: labels of points must not be negative, except {IGNORED} for a point "
                f"without one, got {wrong[0]} ({len(wrong)} such points). Correct the file."
            )
        return PointCloud(cloud.points, {**cloud.features, label: labels})


def _labelled(cloud: PointCloud, label: str, values: np.ndarray) -> LabelledCloud:
    """The cloud with the places of its labels in the sorted values; `IGNORED` stays."""
    features = dict(cloud.features)
    labels = features.pop(label)
    places = np.where(labels == IGNORED, IGNORED, np.searchsorted(values, labels))
    return LabelledCloud(cloud.points, places, features)


def _flat_files(root: Path) -> dict[str, list[Path]]:
    """The clouds that lie in splits' folders or the root itself, by split; none if classes have folders."""
    if find_tables(root):
        return {}
    left_out: Counter[str] = Counter()
    folders = {path: usual_split(path.name) for path in sorted(root.iterdir()) if path.is_dir()}
    files = {split: _clouds_in(path, left_out) for path, split in folders.items() if split}
    if not any(files.values()):
        files = {"train": _clouds_in(root, left_out)}
    files = {split: paths for split, paths in files.items() if paths}
    if files:
        warn_of_left_out(root, left_out)
    return files


def _clouds_in(folder: Path, left_out: Counter[str]) -> list[Path]:
    clouds = [path for path in folder.iterdir() if path.is_file() and is_cloud_file(path, left_out)]
    return sorted(clouds, key=lambda path: path.name)
