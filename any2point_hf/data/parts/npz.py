"""Data sets of parts in one .npz file: points [M, N, 3], part [M, N], part_names [P], split [M] (0 train, 1 test).

Clouds may have categories: category [M], category_names [C].
"""

import zipfile
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from any2point_hf.data.npz import (
    SPLITS,
    check_integers,
    check_names,
    check_points_array,
    cloud_of_arrays,
    load_arrays,
)
from any2point_hf.data.parts.dataset import LabelledCloud, build_part_dataset_dict
from any2point_hf.modeling.errors import DatasetError
from any2point_hf.point_clouds.labels import checked_parts
from any2point_hf.point_clouds.reading import CloudReader

_KEYS = ("points", "part", "split", "part_names")
_CATEGORY_KEYS = ("category", "category_names")


def is_part_npz(path: Path) -> bool:
    """Whether an .npz has labels of points and none of clouds."""
    if path.suffix.lower() != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return "part.npy" in names and "labels.npy" not in names


def read_part_npz(path: Path, reader: CloudReader) -> DatasetDict:
    """Reads and checks the file; further arrays in it are passed over, and nothing is unpickled.

    Args:
        path: of the file. With `category` [M], places in `category_names`, its clouds have categories.
        reader: of the clouds.

    Raises:
        DatasetError: no such file, not a whole .npz, an array missing, of a wrong shape or kind, or holding impossible
            values, or a split without clouds.
        PointCloudError: a cloud cannot be used.
    """
    arrays = load_arrays(path, _KEYS, reader.feature_names, optional=_CATEGORY_KEYS)
    points, part, split, part_names = (arrays[key] for key in _KEYS)
    category, category_names = (arrays.get(key) for key in _CATEGORY_KEYS)
    check_points_array(path, points)
    if part.shape != points.shape[:2]:
        expected, got = list(points.shape[:2]), list(part.shape)
        raise DatasetError(f"{path}: part must have a label for each point, {expected}, got {got}.")
    check_names(path, "part_names", part_names)
    check_integers(path, "split", split, len(points), len(SPLITS), "0 (train) or 1 (test)")
    if (category is None) != (category_names is None):
        raise DatasetError(f"{path}: category and category_names must come together, and one is missing.")
    if category is not None and category_names is not None:
        check_names(path, "category_names", category_names)
        rule = f"0…{len(category_names) - 1} ({len(category_names)} categories)"
        check_integers(path, "category", category, len(points), len(category_names), rule)
    others = {key: array for key, array in arrays.items() if key not in (*_KEYS, *_CATEGORY_KEYS)}
    splits = {}
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(split == number)
        if not len(rows):
            raise DatasetError(f"{path}: no clouds in split {name!r}: set split to {number} for some.")
        clouds = []
        for row in rows:
            of_row = f"{path}: points[{row}]"
            cloud = cloud_of_arrays(points[row], others, int(row), of_row, reader)
            labels = part[row] if reader.dropped is None else part[row][reader.dropped.kept]
            labels = checked_parts(labels, len(cloud.points), part_names.tolist(), f"{path}: part[{row}]")
            clouds.append(LabelledCloud(cloud.points, labels, cloud.features))
        splits[name] = (clouds, None if category is None else category[rows].tolist())
    names = None if category_names is None else category_names.tolist()
    return build_part_dataset_dict(splits, part_names.tolist(), names)
