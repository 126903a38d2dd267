"""Brings the points and labels of data sets to this package's own types: float32 [N, 3], and a ClassLabel.

Unusual here: a column is converted apart and put beside the others again, so that nothing else is copied.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, Features, Value, concatenate_datasets

from ..modeling.errors import DatasetError
from ..point_clouds.checks import local_float32
from .columns import read_cloud, type_name, undecoded

OWN_POINTS = Array2D((None, 3), "float32")

_NAMES_OF_CLASSES = ("string", "large_string", "bool", "null")  # types of values; null: nothing but empty ones
_ROWS = 64  # converted together


def with_own_types(splits: Mapping[str, Dataset], source: str, *, seed: int = 0) -> dict[str, Dataset]:
    """Brings `points` to float32 [N, 3] and `label` to a ClassLabel of all splits' classes; other columns stay.

    Numbers 0 … n−1 without gaps become the classes "0", "1", …; strings become classes in sorted order. Meshes are
    sampled by area. Columns that are so already are not copied. A split without any label is left out.

    Args:
        splits: with the columns `points` and `label`, as `with_own_names` gives them.
        source: their name, for the error message.
        seed: of the points sampled on meshes.

    Raises:
        DatasetError: no label, or one that is no class.
        PointCloudError: a cloud is not [N, 3], not finite or has too few points; the message names its row.
    """
    splits = with_class_labels(splits, source)
    return {split: _with_own_points(dataset, source, split, seed) for split, dataset in splits.items()}


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
            f"{type_name(first)}. Convert it."
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


def _with_own_points(dataset: Dataset, source: str, split: str, seed: int) -> Dataset:
    feature = dataset.features["points"]
    if isinstance(feature, Array2D) and feature.shape[1] == 3 and feature.dtype == "float32":
        return dataset
    convert = partial(_converted, name=f"of the split {split!r} of {source}", seed=seed)
    points = undecoded(dataset).map(
        convert,
        batched=True,
        batch_size=_ROWS,
        with_indices=True,
        features=Features(points=OWN_POINTS),
        desc="Reading points",
    )
    return _with_column(dataset, "points", points)


def _converted(rows: Mapping[str, Any], indices: list[int], *, name: str, seed: int) -> dict[str, list[np.ndarray]]:
    clouds = zip(indices, rows["points"], strict=True)
    return {"points": [local_float32(read_cloud(value, f"row {index} {name}", seed)) for index, value in clouds]}


def _with_column(dataset: Dataset, name: str, column: Dataset) -> Dataset:
    """The data set with another column in place of the one of this name."""
    rest = dataset.remove_columns(name).with_format(None)
    if not rest.column_names:
        return column.with_format(None)
    joined = concatenate_datasets([column.with_format(None), rest], axis=1, split=dataset.split)
    return joined.select_columns(dataset.column_names)
