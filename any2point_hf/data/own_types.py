"""Brings the points and labels of data sets to this package's own types: float32 [N, 3], and a ClassLabel.

Unusual here: a column is converted apart and put beside the others again, so that nothing else is copied.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array2D, ClassLabel, Dataset, Features, List, Value, concatenate_datasets

from ..modeling.errors import DatasetError, listed
from ..point_clouds.checks import local_float32
from ..point_clouds.features import features_of, grouped_features, scaled_features
from ..point_clouds.reading import PLAIN_READER, CloudReader
from .columns import feature_columns, is_file, type_name, undecoded
from .rows import read_row, rows_of

OWN_POINTS = Array2D((None, 3), "float32")

_NUMBERS = List(Value("float32"))  # of a feature, one for each point

_NAMES_OF_CLASSES = ("string", "large_string", "bool", "null")  # types of values; null: nothing but empty ones
_ROWS = 16  # converted together


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
    return {split: with_own_points(dataset, source, split, reader) for split, dataset in splits.items()}


def with_class_labels(splits: Mapping[str, Dataset], source: str, column: str = "label") -> dict[str, Dataset]:
    """Brings a column to a ClassLabel of all splits' classes, as `with_own_types` says; leaves `points` alone."""
    for split, dataset in splits.items():
        if column not in dataset.features:
            columns = listed(dataset.column_names)
            raise DatasetError(
                f"{source} must have a column {column!r} in its split {split!r}, its columns are {columns}. Rename the "
                "one with the classes."
            )
    features = {split: dataset.features[column] for split, dataset in splits.items()}
    first = next(iter(features.values()))
    if any(feature != first for feature in features.values()):
        shown = "; ".join(f"{split}: {_shown_type(feature)}" for split, feature in list(features.items())[:4])
        raise DatasetError(
            f"{source}: the column {column!r} must have the same type and class names in all splits, got {shown}. "
            "Make them alike by Dataset.cast_column."
        )
    is_class = isinstance(first, (ClassLabel, Value)) and ("int" in first.dtype or first.dtype in _NAMES_OF_CLASSES)
    if not is_class:
        raise DatasetError(
            f"{source}: the column {column!r} must be a ClassLabel, text or integers, a class for each cloud, got "
            f"{type_name(first)}. Convert it, or load it for what it is: task='regression' for numbers, 'multi-label' "
            "for several classes."
        )
    values = {split: dataset.select_columns(column).unique(column) for split, dataset in splits.items()}
    splits = _without_unlabelled(splits, values, source, column)
    if isinstance(first, ClassLabel):
        return splits
    found = set().union(*(values[split] for split in splits))
    if "int" in first.dtype and found != set(range(len(found))):
        shown = listed(sorted(found))
        raise DatasetError(
            f"{source}: integers in the column {column!r} must be 0, 1, 2, … without gaps, got {shown}. Number the "
            "classes from 0, or store their names as text."
        )
    names = [str(value) for value in sorted(found)]
    return {
        split: with_column(dataset, column, _as_classes(dataset, names, column)) for split, dataset in splits.items()
    }


def _shown_type(feature: Any) -> str:
    kind = type_name(feature)
    return f"{kind} classes {listed(feature.names, 3)}" if isinstance(feature, ClassLabel) else kind


def _as_classes(dataset: Dataset, names: list[str], column: str) -> Dataset:
    label = dataset.select_columns(column).with_format(None)
    if label.features[column].dtype == "bool":
        label = label.cast_column(column, Value("int64"))
    return label.cast_column(column, ClassLabel(names=names))


def _without_unlabelled(
    splits: Mapping[str, Dataset], values: Mapping[str, list[Any]], source: str, column: str
) -> dict[str, Dataset]:
    """Leaves out splits in which no cloud has a label, as hidden test splits are; refuses single ones without."""
    kept = {}
    for split, dataset in splits.items():
        feature = dataset.features[column]
        absent = {value for value in values[split] if _is_absent(value, feature)}
        if absent and len(absent) < len(values[split]):
            rows = dataset.select_columns(column).with_format(None)[column][:]
            row = next(index for index, value in enumerate(rows) if value in absent)
            raise DatasetError(
                f"{source}: every cloud must have a {column}, got {rows[row]!r} in row {row} of the split {split!r}. "
                "Remove such rows, for example by Dataset.filter."
            )
        if not absent:
            kept[split] = dataset
    if not kept:
        raise DatasetError(f"{source} has no labels: every value of its column {column!r} is empty or below 0.")
    return kept


def _is_absent(value: Any, feature: Any) -> bool:
    return value is None or value == "" or (isinstance(feature, ClassLabel) and value < 0)


def with_own_points(
    dataset: Dataset, source: str, split: str, reader: CloudReader, labels: Sequence[str] = ()
) -> Dataset:
    """Brings `points` to float32 [N, 3] as `with_own_types` says, and features to their scales.

    Args:
        dataset: with a column `points`.
        source: its name, for the error message.
        split: the split's name, for the error message.
        reader: of the clouds.
        labels: columns of a label for each point, from which the labels of points that are dropped are dropped.
    """
    feature = dataset.features["points"]
    if is_file(feature):
        columns = list(grouped_features({name: np.empty(0) for name in reader.feature_names}))
    else:
        columns = feature_columns(dataset, reader.feature_names)
        if reader.dropped is not None:  # of those that are known as features, rows are dropped too
            known = [name for name in feature_columns(dataset) if not isinstance(dataset.features[name], Value)]
            columns = [name for name in dataset.column_names if name in {*columns, *known}]
    types = Features(points=OWN_POINTS, **{column: _own_type(column) for column in columns})
    is_own = all(dataset.features.get(name) == kind for name, kind in types.items() if name != "points")
    is_own &= isinstance(feature, Array2D) and feature.shape[1] == 3 and feature.dtype == "float32"
    if is_own and reader.dropped is None:
        return dataset
    types |= {column: dataset.features[column] for column in labels}
    clouds = undecoded(dataset, [*columns, *labels])
    converted = clouds.map(
        partial(
            _converted,
            name=f"of the split {split!r} of {source}",
            reader=reader,
            columns=columns,
            labels=labels,
            linked=_linked_files(clouds) if is_file(feature) else "",
        ),
        batched=True,
        batch_size=_ROWS,
        with_indices=True,
        features=Features(types),
        remove_columns=clouds.column_names,
        load_from_cache_file=None if reader.dropped is None else False,  # what is dropped is to be told each time
        desc="Reading points",
    )
    for column in converted.column_names:
        dataset = with_column(dataset, column, converted.select_columns(column))
    return dataset


def _own_type(column: str) -> Array2D | List:
    return Array2D((None, len(features_of(column))), "float32") if len(features_of(column)) > 1 else _NUMBERS


def _converted(
    table: pa.Table,
    indices: list[int],
    *,
    name: str,
    reader: CloudReader,
    columns: Sequence[str],
    labels: Sequence[str],
    linked: str,
) -> dict[str, list[np.ndarray]]:
    """The rows' points, their features on their scales, and labels as they are, without what the reader drops.

    `linked` only tells the cache that files have changed.
    """
    made: dict[str, list[np.ndarray]] = {column: [] for column in ("points", *columns, *labels)}
    for index, row in zip(indices, rows_of(table), strict=True):
        of_row = f"row {index} {name}"
        cloud = read_row(row, of_row, reader)
        features = scaled_features({key: v for key, v in cloud.features.items() if key not in labels}, of_row)
        made["points"].append(local_float32(cloud.points))
        for column in columns:
            values = [features[feature] for feature in features_of(column)]
            made[column].append(np.stack(values, axis=1) if len(values) > 1 else values[0])
        for column in labels:
            made[column].append(cloud.features[column])
    return made


def _linked_files(clouds: Dataset) -> str:
    """A hash of the sizes and times of the files that rows name without holding their bytes."""
    digest = hashlib.sha256()
    for table in clouds.iter(_ROWS):
        for chunk in table["points"].chunks:
            for path in chunk.field("path").filter(chunk.field("bytes").is_null()).to_pylist():
                state = os.stat(path) if path and os.path.exists(path) else None
                digest.update(f"{path} {state and (state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def with_column(dataset: Dataset, name: str, column: Dataset) -> Dataset:
    """The data set with another column in place of the one of this name, or behind the others."""
    names = [*dataset.column_names, *([] if name in dataset.column_names else [name])]
    rest = dataset.with_format(None)
    rest = rest.remove_columns(name) if name in rest.column_names else rest
    if not rest.column_names:
        return column.with_format(None)
    joined = concatenate_datasets([column.with_format(None), rest], axis=1, split=dataset.split)
    return joined.select_columns(names)
