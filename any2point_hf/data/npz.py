"""Data sets in one .npz file: points [M, N, 3], labels [M], split [M] (0 train, 1 test), class_names [C].

Labels may also be [M, C] of 0 and 1, several classes of a cloud, or floating-point numbers [M, C], targets of these
names.
"""

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from any2point_hf.data.targets import TargetTask, checked_value
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.checks import DROP_THEM
from any2point_hf.point_clouds.features import features_of, scaled_features, spread_groups
from any2point_hf.point_clouds.files import PointCloud
from any2point_hf.point_clouds.invalid import not_finite
from any2point_hf.point_clouds.reading import CloudReader

_KEYS = ("points", "labels", "split", "class_names")
SPLITS = ("train", "test")
"""What 0 and 1 in `split` mean."""


def read_npz(
    path: Path, reader: CloudReader, task: TargetTask | None = None
) -> tuple[dict[str, tuple[Iterable[PointCloud], list[Any]]], list[str]]:
    """Reads and checks the file; further arrays in it are passed over, and nothing is unpickled.

    Args:
        path: of the file.
        reader: of the clouds. Features are in arrays of their names or their groups', such as `rgb` [M, N, 3].
        task: what the labels are, where they are not one class.

    Returns:
        For "train" and "test" the clouds ([N, 3] each, in the file's order) and class indices, or named values; and
        the class names.

    Raises:
        DatasetError: no such file, not a whole .npz, an array missing, of a wrong shape or kind, or holding
            impossible values, or a split without clouds.
        PointCloudError: a cloud has fewer than 8 distinct points, or too many at one place.
    """
    arrays = load_arrays(path, _KEYS, reader.feature_names)
    points, labels, split, names = (arrays[key] for key in _KEYS)
    check_points_array(path, points)
    check_names(path, "class_names", names)
    if task is None:
        check_integers(path, "labels", labels, len(points), len(names), f"0…{len(names) - 1} ({len(names)} classes)")
        of_clouds: list[Any] = labels.tolist()
    else:
        of_clouds = _named_values(path, labels, names.tolist(), len(points), task)
    check_integers(path, "split", split, len(points), len(SPLITS), "0 (train) or 1 (test)")
    broken = np.array([not_finite(cloud).any() for cloud in points], dtype=bool)
    if reader.dropped is None and broken.any():
        raise DatasetError(
            f"{path}: points must be finite, got NaN or infinity in {np.count_nonzero(broken)} of "
            f"{len(points)} clouds, the first at index {np.argmax(broken)}. {DROP_THEM}"
        )
    others = {key: array for key, array in arrays.items() if key not in _KEYS}
    clouds = [
        cloud_of_arrays(cloud, others, index, f"{path}: points[{index}]", reader) for index, cloud in enumerate(points)
    ]
    splits: dict[str, tuple[Iterable[PointCloud], list[Any]]] = {}
    for number, name in enumerate(SPLITS):
        member = split == number
        if not member.any():
            raise DatasetError(f"{path}: no clouds in split {name!r}: set split to {number} for some.")
        chosen = np.flatnonzero(member)
        splits[name] = ([clouds[index] for index in chosen], [of_clouds[index] for index in chosen])
    return splits, names.tolist()


def target_task_of_npz(path: Path) -> TargetTask | None:
    """What a file's labels are by their shape and kind; None for one class a cloud, and for what is no such file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels, names = archive["labels"], archive["class_names"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None  # as reading it will tell
    if labels.dtype.kind == "f" and (labels.ndim == 2 or names.size == 1):
        return "regression"
    return "multi-label" if labels.ndim == 2 and labels.dtype.kind in "iub" else None


def _named_values(
    path: Path, labels: np.ndarray, names: list[str], count: int, task: TargetTask
) -> list[dict[str, bool | float]]:
    """The labels of each cloud by name, as `targets.py` has them."""
    shapes = [(count, len(names)), *([(count,)] if len(names) == 1 else [])]
    if labels.shape not in shapes or labels.dtype.kind not in "fiub":
        raise DatasetError(
            f"{path}: labels for {task} must be numbers [{count}, {len(names)}], one for each of class_names, got "
            f"{labels.dtype} {list(labels.shape)}."
        )
    rows = labels.reshape(count, len(names)).tolist()
    return [
        {
            name: checked_value(value, task, f"{path}: labels[{row}], {name}")
            for name, value in zip(names, values, strict=True)
        }
        for row, values in enumerate(rows)
    ]


def check_points_array(path: Path, points: np.ndarray) -> None:
    """Raises a DatasetError unless points are numbers [M, N, 3]."""
    if points.ndim != 3 or points.shape[2] != 3 or points.shape[1] == 0 or points.dtype.kind not in "fiu":
        raise DatasetError(
            f"{path}: points must be numbers [M, N, 3], got {points.dtype} {list(points.shape)}. Keep x, y, "
            "z alone: points[:, :, :3]."
        )


def check_names(path: Path, key: str, names: np.ndarray) -> None:
    """Raises a DatasetError unless an array holds different strings."""
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise DatasetError(
            f"{path}: {key} must be different strings [C], got {names.dtype} {list(names.shape)}: "
            f"{names.ravel()[:10].tolist()}. Save np.array([...], dtype=str)."
        )


def check_integers(path: Path, key: str, values: np.ndarray, count: int, limit: int, rule: str) -> None:
    """Raises a DatasetError unless an array holds an integer for each of `count` clouds, from 0 and below `limit`."""
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise DatasetError(
            f"{path}: {key} must be integers [{count}], one for each cloud, got {values.dtype} {list(values.shape)}."
        )
    wrong = (values < 0) | (values >= limit)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: {key} must be {rule}, got {values[index]} at index {index} "
            f"({np.count_nonzero(wrong)} such values). Correct the file."
        )


def cloud_of_arrays(
    points: np.ndarray, arrays: Mapping[str, np.ndarray], index: int, name: str, reader: CloudReader
) -> PointCloud:
    """A checked cloud [N, 3] with its features out of the arrays of all clouds.

    Args:
        points: of the cloud.
        arrays: of features of all clouds, by their names or their groups', [M, N] or [M, N, 3].
        index: of the cloud.
        name: of the cloud, for the error message.
        reader: of the clouds.
    """
    features = spread_groups({key: array[index] for key, array in arrays.items()}, len(points), name)
    cloud = reader.checked(PointCloud(points, {key: features[key] for key in reader.feature_names}), name)
    return PointCloud(cloud.points, scaled_features(cloud.features, name))


def load_arrays(
    path: Path, keys: Sequence[str], feature_names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of a file by their names.

    Args:
        path: of the file.
        keys: of arrays that must be there, `points` among them.
        feature_names: for which arrays of their names or their groups' must be there.
        optional: keys of arrays that may be there.

    Raises:
        DatasetError: not a whole .npz, or an array is missing or not of the points' size.
    """
    if not zipfile.is_zipfile(path):
        raise DatasetError(
            f"{path} is truncated or not a .npz file (a zip archive). Copy or save it again with np.savez."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise DatasetError(
                    f"{path}: missing {', '.join(missing)}; needed are {', '.join(keys)}, the file has "
                    f"{listed(archive.files)}. Save them with np.savez under these names."
                )
            taken = (*keys, *(key for key in optional if key in archive.files))
            wanted = {key: set(features_of(key)) & set(feature_names) for key in archive.files if key not in taken}
            absent = set(feature_names).difference(*wanted.values())
            if absent:
                raise DatasetError(
                    f"{path}: missing arrays for the features {', '.join(sorted(absent))}; the file has "
                    f"{listed(archive.files)}. Save them under the names of docs/data.md, such as rgb [M, N, 3]."
                )
            arrays = {key: archive[key] for key in (*taken, *(key for key, names in wanted.items() if names))}
            for key in arrays.keys() - set(taken):
                if arrays[key].shape[:2] != arrays["points"].shape[:2]:
                    raise DatasetError(
                        f"{path}: {key} must have a row for each point, [M, N] or [M, N, 3] as points are "
                        f"{list(arrays['points'].shape)}, got {list(arrays[key].shape)}."
                    )
            return arrays
    except DatasetError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}. Copy or save it again with np.savez; arrays of Python "
            "objects are refused."
        ) from error
