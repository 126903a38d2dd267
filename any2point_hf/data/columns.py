"""Finds the points and the label of a data set by its columns' types, and brings both to this package's own types.

Unusual here: a column is converted apart and put beside the others again, so that nothing else is copied.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
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
    concatenate_datasets,
)

from ..modeling.errors import DatasetError, PointCloudError
from ..point_clouds.checks import local_float32
from ..point_clouds.features import FEATURE_GROUPS, features_of, grouped_features, spread_groups
from ..point_clouds.files import PointCloud
from ..point_clouds.reading import PLAIN_READER, CloudReader

POINTS_NAMES = (
    *("points", "point_cloud", "pointcloud", "pos", "position", "positions", "xyz"),
    *("coords", "coord", "coordinates", "vertices"),
)
LABEL_NAMES = ("label", "labels", "class", "category", "class_name", "cls")
AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)
OWN_POINTS = Array2D((None, 3), "float32")

_NEVER_POINTS = ("normal", "normals", "rgb", "color", "colors", "colour", "colours")
_NAMES_OF_CLASSES = ("string", "large_string", "bool", "null")  # types of values; null: nothing but empty ones
_ROWS = 64  # converted together


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


def with_own_types(
    splits: Mapping[str, Dataset], source: str, reader: CloudReader = PLAIN_READER
) -> dict[str, Dataset]:
    """Brings `points` to float32 [N, 3] and `label` to a ClassLabel of all splits' classes; other columns stay.

    Numbers 0 … n−1 without gaps become the classes "0", "1", …; strings become classes in sorted order. Meshes are
    sampled by area. Columns that are so already are not copied. A split without any label is left out.

    Args:
        splits: with the columns `points` and `label`, as `with_own_names` gives them.
        source: their name, for the error message.
        reader: of the clouds. Where it drops points, their features go with them.

    Raises:
        DatasetError: no label, or one that is no class.
        PointCloudError: a cloud is not [N, 3], not finite or has too few points; the message names its row.
    """
    splits = with_class_labels(splits, source)
    return {split: _with_own_points(dataset, source, split, reader) for split, dataset in splits.items()}


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
    features = spread_groups(others, len(points)) if points.ndim == 2 else {}
    return reader.checked(PointCloud(points, features), name)


def undecoded(dataset: AnyDataset, columns: Sequence[str] = ()) -> AnyDataset:
    """The columns that `read_row` takes: numbers as numpy arrays, meshes as files.

    Args:
        dataset: with a column `points`.
        columns: further ones, of features.
    """
    feature: Any = dataset.features["points"]
    selected = dataset.select_columns(["points", *([] if _is_file(feature) else columns)])
    if isinstance(feature, Mesh):
        selected = selected.cast_column("points", Mesh(decode=False))
    if _is_file(feature):
        return selected.with_format(None)
    if isinstance(selected, IterableDataset):
        return selected.with_format("numpy")
    return selected.with_format("numpy", dtype=np.float64)


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
        return undecoded(named, feature_columns(named, feature_names))
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
    columns = ", ".join(f"{name} ({_short(feature)})" for name, feature in list(features.items())[:8])
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


def _short(feature: Any) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__


def with_class_labels(splits: Mapping[str, Dataset], source: str) -> dict[str, Dataset]:
    """Brings `label` to a ClassLabel of all splits' classes, as `with_own_types` says; leaves `points` alone."""
    for split, dataset in splits.items():
        if "label" not in dataset.features:
            columns = ", ".join(dataset.column_names)
            raise DatasetError(
                f"{source} must have a column 'label' in its split {split!r}, its columns are {columns}. Rename the "
                "one with the classes."
            )
    features = {split: dataset.features["label"] for split, dataset in splits.items()}
    first = next(iter(features.values()))
    if any(feature != first for feature in features.values()):
        raise DatasetError(f"{source}: the column 'label' must have the same type and class names in all splits.")
    is_class = isinstance(first, (ClassLabel, Value)) and ("int" in first.dtype or first.dtype in _NAMES_OF_CLASSES)
    if not is_class:
        raise DatasetError(
            f"{source}: the column 'label' must be a ClassLabel, text or integers, a class for each cloud, got "
            f"{_short(first)}. Convert it."
        )
    values = {split: dataset.select_columns("label").unique("label") for split, dataset in splits.items()}
    splits = _without_unlabelled(splits, values, source)
    if isinstance(first, ClassLabel):
        return splits
    found = set().union(*(values[split] for split in splits))
    if "int" in first.dtype and found != set(range(len(found))):
        shown = ", ".join(map(str, sorted(found)[:10]))
        raise DatasetError(
            f"{source}: integers in the column 'label' must be 0, 1, 2, … without gaps, got {shown}. Number the "
            "classes from 0, or store their names as text."
        )
    names = [str(value) for value in sorted(found)]
    return {split: _with_column(dataset, "label", _as_classes(dataset, names)) for split, dataset in splits.items()}


def _as_classes(dataset: Dataset, names: list[str]) -> Dataset:
    label = dataset.select_columns("label").with_format(None)
    if label.features["label"].dtype == "bool":
        label = label.cast_column("label", Value("int64"))
    return label.cast_column("label", ClassLabel(names=names))


def _without_unlabelled(
    splits: Mapping[str, Dataset], values: Mapping[str, list[Any]], source: str
) -> dict[str, Dataset]:
    """Leaves out splits in which no cloud has a label, as hidden test splits are; refuses single ones without."""
    kept = {}
    for split, dataset in splits.items():
        feature = dataset.features["label"]
        absent = {value for value in values[split] if _is_absent(value, feature)}
        if absent and len(absent) < len(values[split]):
            rows = dataset.select_columns("label").with_format(None)["label"][:]
            row = next(index for index, value in enumerate(rows) if value in absent)
            raise DatasetError(
                f"{source}: every cloud must have a label, got {rows[row]!r} in row {row} of the split {split!r}. "
                "Remove such rows, for example by Dataset.filter."
            )
        if not absent:
            kept[split] = dataset
    if not kept:
        raise DatasetError(f"{source} has no labels: every value of its column 'label' is empty or below 0.")
    return kept


def _is_absent(value: Any, feature: Any) -> bool:
    return value is None or value == "" or (isinstance(feature, ClassLabel) and value < 0)


def _with_own_points(dataset: Dataset, source: str, split: str, reader: CloudReader) -> Dataset:
    feature = dataset.features["points"]
    is_own = isinstance(feature, Array2D) and feature.shape[1] == 3 and feature.dtype == "float32"
    if is_own and reader.dropped is None:
        return dataset
    kept = feature_columns(dataset) if reader.dropped is not None else []  # rows of theirs are dropped too
    types = Features(points=OWN_POINTS, **{column: dataset.features[column] for column in kept})
    if _is_file(feature):
        made = grouped_features({name: np.empty(0) for name in reader.feature_names})
        types = Features(
            points=OWN_POINTS, **{n: OWN_POINTS if a.ndim == 2 else List(Value("float32")) for n, a in made.items()}
        )
    converted = undecoded(dataset, kept).map(
        partial(_converted, name=f"of the split {split!r} of {source}", reader=reader),
        batched=True,
        batch_size=_ROWS,
        with_indices=True,
        features=types,
        load_from_cache_file=None if reader.dropped is None else False,  # what is dropped is to be told each time
        desc="Reading points",
    )
    for column in converted.column_names:
        dataset = _with_column(dataset, column, converted.select_columns(column))
    return dataset


def _converted(
    rows: Mapping[str, Any], indices: list[int], *, name: str, reader: CloudReader
) -> dict[str, list[np.ndarray]]:
    """The rows' points, and their features: those of files, or those of other columns that have lost points."""
    made: dict[str, list[np.ndarray]] = {column: [] for column in rows}
    for place, index in enumerate(indices):
        row = {column: values[place] for column, values in rows.items()}
        cloud = read_row(row, f"row {index} {name}", reader)
        made["points"].append(local_float32(cloud.points))
        if isinstance(row["points"], Mapping):
            for column, values in grouped_features(cloud.features).items():
                made.setdefault(column, []).append(values)
            continue
        for column in row.keys() - {"points"}:
            values = np.asarray(row[column])
            made[column].append(values if reader.dropped is None else values[reader.dropped.kept])
    return made


def _with_column(dataset: Dataset, name: str, column: Dataset) -> Dataset:
    """The data set with another column in place of the one of this name, or behind the others."""
    names = [*dataset.column_names, *([] if name in dataset.column_names else [name])]
    rest = dataset.with_format(None)
    rest = rest.remove_columns(name) if name in rest.column_names else rest
    if not rest.column_names:
        return column.with_format(None)
    joined = concatenate_datasets([column.with_format(None), rest], axis=1, split=dataset.split)
    return joined.select_columns(names)


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
