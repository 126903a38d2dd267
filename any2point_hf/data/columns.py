"""Finds the points, the label and features in a data set by its columns' types, and reads the clouds in them."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from datasets.formatting import NumpyFormatter

from ..modeling.errors import DatasetError, PointCloudError
from ..point_clouds.features import FEATURE_GROUPS, features_of, spread_groups
from ..point_clouds.files import PointCloud
from ..point_clouds.reading import CloudReader

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


def read_row(row: Mapping[str, Any], name: str, reader: CloudReader) -> PointCloud:
    """The cloud in a row of a data set.

    Args:
        row: `points`, as numbers [N, K], K ≥ 3, or as a file `{"bytes": …, "path": …}`, such as an undecoded Mesh; and
            maybe arrays of features by their names or their groups', such as `rgb` [N, 3].
        name: of the row, for the error message.
        reader: of the clouds.

    Raises:
        PointCloudError: it cannot be read, or is no usable cloud.
    """
    value = row["points"]
    if isinstance(value, Mapping):
        return reader.checked(_read_file(value, name, reader), name)
    points = np.asarray(value)
    if points.ndim == 2 and points.shape[1] > 3:
        points = points[:, :3]
    others = {key: values for key, values in row.items() if key != "points"}
    features = spread_groups(others, len(points), name) if points.ndim == 2 else {}
    return reader.checked(PointCloud(points, features), name)


def undecoded(dataset: AnyDataset, columns: Sequence[str] = ()) -> AnyDataset:
    """The columns that `read_row` takes: numbers as numpy arrays of their own types (a stream's as Arrow), or files.

    Args:
        dataset: with a column `points`.
        columns: further ones, of features.
    """
    feature: Any = dataset.features["points"]
    selected = dataset.select_columns(["points", *([] if is_file(feature) else columns)])
    if isinstance(feature, Mesh):
        selected = selected.cast_column("points", Mesh(decode=False))
    if is_file(feature):
        return selected.with_format(None)
    if isinstance(selected, IterableDataset):
        return selected.with_format("arrow")
    return selected.with_format("numpy", dtype=None)  # else all integers become int64, and all floats float32


def feature_columns(dataset: Dataset | IterableDataset, names: Collection[str] | None = None) -> list[str]:
    """The columns with features of points by their names; with `names`, those of these features."""
    known = {name for group in FEATURE_GROUPS.values() for name in group} if names is None else set(names)
    columns = dataset.column_names or []
    return [column for column in columns if column != "points" and known & set(features_of(column))]


def columns_of_clouds(dataset: Any, source: str, feature_names: Sequence[str] = ()) -> Any:
    """The columns `points` and of features, as `undecoded` gives them, of a Dataset of any columns or of a stream.

    A stream of unknown types, or a dict of splits, is returned as it is.
    """
    if isinstance(dataset, (Dataset, IterableDataset)) and dataset.features is not None:
        named = with_own_names(dataset, source)
        rows = undecoded(named, feature_columns(named, feature_names))
        if isinstance(rows, IterableDataset) and not is_file(named.features["points"]):
            return _typed_rows(rows)
        return rows
    return dataset


def _typed_rows(stream: IterableDataset) -> Iterator[Mapping[str, np.ndarray]]:
    """The rows of a stream of Arrow tables as numpy arrays of their own types."""
    formatter = NumpyFormatter(features=stream.features, dtype=None)
    return (formatter.format_row(table) for table in stream)


def _points_column(dataset: Dataset | IterableDataset, source: str) -> str:
    features = dataset.features
    if "points" in features:
        return "points"
    arrays = [name for name in features if _width(dataset, name) >= 3]
    usual = [name for name in POINTS_NAMES if name in arrays]
    if usual:
        return usual[0]
    others = [name for name in arrays if name not in _NEVER_POINTS]
    files = [name for name, feature in features.items() if is_file(feature)]
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


def is_file(feature: Any) -> bool:
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


def _read_file(value: Mapping[str, Any], name: str, reader: CloudReader) -> PointCloud:
    path, content = value.get("path") or "", value.get("bytes")
    if not path and content is None:
        raise PointCloudError(f"{name} holds no file: neither bytes nor a path. Remove the row.")
    if content is None:
        return reader.read(path)
    if not Path(path).suffix:
        raise PointCloudError(f"{name} must have a path whose ending tells the format of its bytes, got {path!r}.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cloud").with_suffix(Path(path).suffix)
        file.write_bytes(content)
        try:
            return reader.read(file)
        except PointCloudError as error:
            raise PointCloudError(str(error).replace(str(file), f"{name} ({path})")) from error
