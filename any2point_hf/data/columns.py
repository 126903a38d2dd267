"""Finds the points, the label and features in a data set by its columns' types."""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

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

from ..modeling.errors import DatasetError, listed
from ..point_clouds.features import FEATURE_GROUPS, features_of

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
    names = {points_column(dataset, source): "points"}
    label = _label_column(dataset.features)
    if label is not None:
        names[label] = "label"
    return dataset.rename_columns({old: new for old, new in names.items() if old != new})


def undecoded(dataset: AnyDataset, columns: Sequence[str] = ()) -> AnyDataset:
    """The columns that `rows_of` takes, as Arrow tables; meshes stay files.

    Args:
        dataset: with a column `points`.
        columns: further ones, of features.
    """
    feature: Any = dataset.features["points"]
    selected = dataset.select_columns(["points", *([] if is_file(feature) else columns)])
    if isinstance(feature, Mesh):
        selected = selected.cast_column("points", Mesh(decode=False))
    return selected.with_format("arrow")


def feature_columns(dataset: Dataset | IterableDataset, names: Collection[str] | None = None) -> list[str]:
    """The columns with features of points by their names; with `names`, those of these features."""
    known = {name for group in FEATURE_GROUPS.values() for name in group} if names is None else set(names)
    columns = dataset.column_names or []
    return [column for column in columns if column not in ("points", "label") and known & set(features_of(column))]


def columns_of_clouds(dataset: Any, source: str, feature_names: Sequence[str] = ()) -> Any:
    """The columns `points` and of features, as `undecoded` gives them, of a Dataset of any columns or of a stream.

    A stream of unknown types, or a dict of splits, is returned as it is.
    """
    if isinstance(dataset, (Dataset, IterableDataset)) and dataset.features is not None:
        named = with_own_names(dataset, source)
        return undecoded(named, feature_columns(named, feature_names))
    return dataset


def points_column(dataset: Dataset | IterableDataset, source: str) -> str:
    """The name of the column with the clouds, as `with_own_names` finds it."""
    features = dataset.features
    if "points" in features:
        if not (_is_array(features["points"]) or is_file(features["points"])):
            raise DatasetError(
                f"{source}: the column 'points' must have numbers [N, 3] or meshes, got "
                f"{type_name(features['points'])}. Convert it, or rename it if others are the points."
            )
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
        raise DatasetError(f"{rule}; several may be it: {listed(found)}. Rename the one it is to 'points'.")
    columns = listed(f"{name} ({type_name(feature)})" for name, feature in features.items())
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
    for row in dataset.select_columns(name).with_format(None):  # up to the first that is not empty
        for point in row[name] or ():
            if point:
                return len(point)
    return 0


def _is_array(feature: Any) -> bool:
    """Whether a column's cells are arrays, or nested lists, of numbers."""
    while isinstance(feature, (List, LargeList)):
        feature = feature.feature
        if isinstance(feature, Value):
            return _is_number(feature.dtype) or feature.dtype == "null"
    return hasattr(feature, "shape") and _is_number(feature.dtype)


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
