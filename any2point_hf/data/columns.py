"""Finds the points and the label of a data set by its columns' types, and reads the clouds in them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    Features,
    IterableDataset,
    LargeList,
    List,
    Mesh,
    Value,
)

from ..modeling.errors import DatasetError, PointCloudError
from ..point_clouds.checks import MINIMUM_DISTINCT_POINTS, check_points, in_needed_precision
from ..point_clouds.files import read_point_cloud

POINTS_NAMES = (
    *("points", "point_cloud", "pointcloud", "pos", "position", "positions", "xyz"),
    *("coords", "coord", "coordinates", "vertices"),
)
LABEL_NAMES = ("label", "labels", "class", "category", "class_name", "cls")
AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)

_NEVER_POINTS = ("normal", "normals", "rgb", "color", "colors", "colour", "colours")


def with_own_names(dataset: AnyDataset, source: str) -> AnyDataset:
    """Calls the column with the clouds `points` and that with the class, if there is one, `label`. Nothing is copied.

    The clouds are in the column `points`, else in one of numbers [N, 3] with a name that is usual for points, else in
    the only other column of numbers [N, 3] or of meshes. The class is in `label` or another name that is usual for
    classes, else in the only ClassLabel.

    Args:
        dataset: of any columns.
        source: its name, for the error message.

    Raises:
        DatasetError: no column has clouds, or several may.
    """
    names = {_points_column(dataset, source): "points"}
    label = _label_column(dataset.features)
    if label is not None:
        names[label] = "label"
    return dataset.rename_columns({old: new for old, new in names.items() if old != new})


def read_cloud(value: Any, name: str, seed: int = 0) -> np.ndarray:
    """The cloud in a row's column `points`.

    Args:
        value: numbers [N, K], K ≥ 3, or a file as `{"bytes": …, "path": …}`, as an undecoded Mesh is.
        name: of the row, for the error message.
        seed: of the points sampled on a mesh.

    Returns:
        [N, 3] float32, or float64 where the shape needs it.

    Raises:
        PointCloudError: it cannot be read, or is no usable cloud.
    """
    points = _read_file(value, name, seed) if isinstance(value, Mapping) else np.asarray(value)
    if points.ndim == 2 and points.shape[1] > 3:
        points = points[:, :3]
    return in_needed_precision(check_points(points, name, minimum_distinct=MINIMUM_DISTINCT_POINTS))


def undecoded(dataset: AnyDataset) -> AnyDataset:
    """The column `points` alone, in the form that `read_cloud` takes: numbers as numpy arrays, meshes as files."""
    points = dataset.select_columns("points")
    feature = points.features["points"]
    if isinstance(feature, Mesh):
        points = points.cast_column("points", Mesh(decode=False))
    if _is_file(feature):
        return points.with_format(None)
    if isinstance(points, IterableDataset):
        return points.with_format("numpy")
    return points.with_format("numpy", dtype=np.float64)


def columns_of_clouds(dataset: Any, source: str) -> Any:
    """The column `points` alone, as `undecoded` gives it, of a Dataset of any columns or of a stream.

    A stream of unknown types, or a dict of splits, is returned as it is.
    """
    if isinstance(dataset, (Dataset, IterableDataset)) and dataset.features is not None:
        return undecoded(with_own_names(dataset, source))
    return dataset


def _points_column(dataset: Dataset | IterableDataset, source: str) -> str:
    features = dataset.features
    if "points" in features:
        return "points"
    arrays = [name for name in features if _width(dataset, name) >= 3]
    usual = [name for name in POINTS_NAMES if name in arrays]
    if usual:
        return usual[0]
    others = [name for name in arrays if name not in _NEVER_POINTS]
    files = [name for name, feature in features.items() if _is_file(feature)]
    exact = [name for name in others if _width(dataset, name) == 3]
    found = [*(exact or others), *files]
    if len(found) == 1:
        return found[0]
    rule = f"{source} must have a column 'points', or another of numbers [N, 3] or of meshes"
    if found:
        raise DatasetError(f"{rule}; several may be it: {', '.join(found)}. Rename the one it is to 'points'.")
    columns = ", ".join(f"{name} ({type_name(feature)})" for name, feature in list(features.items())[:8])
    raise DatasetError(f"{rule}, its columns are {columns}. Rename the one it is.")


def _width(dataset: Dataset | IterableDataset, name: str) -> int:
    """How many numbers the rows of a column's arrays [N, width] have; 0 if it has no such arrays."""
    feature = dataset.features[name]
    if isinstance(feature, Array2D):
        return feature.shape[1] or 0 if _is_number(feature.dtype) else 0
    inner = feature.feature if isinstance(feature, (List, LargeList)) else None
    if not isinstance(inner, (List, LargeList)) or not _is_number(getattr(inner.feature, "dtype", "")):
        return 0
    if isinstance(inner, List) and inner.length > 0:
        return inner.length
    for row in dataset.select_columns(name).with_format(None):
        first = row[name]
        return len(first[0]) if first and first[0] else 0
    return 0


def _is_number(dtype: str) -> bool:
    return dtype.startswith(("float", "int", "uint"))


def _is_file(feature: Any) -> bool:
    """Whether a column holds files: decoded meshes, or dicts of bytes and path."""
    return isinstance(feature, Mesh) or (isinstance(feature, dict) and {*feature} == {"bytes", "path"})


def _label_column(features: Features) -> str | None:
    for name in LABEL_NAMES:
        if isinstance(features.get(name), Value | ClassLabel) or (name == "label" and name in features):
            return name
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    return classes[0] if len(classes) == 1 else None


def type_name(feature: Any) -> str:
    """What messages call a column's type."""
    return getattr(feature, "dtype", None) or type(feature).__name__


def _read_file(value: Mapping[str, Any], name: str, seed: int) -> np.ndarray:
    path, content = value.get("path") or "", value.get("bytes")
    if not path and content is None:
        raise PointCloudError(f"{name} holds no file: neither bytes nor a path. Remove the row.")
    if content is None:
        return read_point_cloud(path, seed=seed)
    if not Path(path).suffix:
        raise PointCloudError(f"{name} must have a path whose ending tells the format of its bytes, got {path!r}.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cloud").with_suffix(Path(path).suffix)
        file.write_bytes(content)
        try:
            return read_point_cloud(file, seed=seed)
        except PointCloudError as error:
            raise PointCloudError(str(error).replace(str(file), f"{name} ({path})")) from error
