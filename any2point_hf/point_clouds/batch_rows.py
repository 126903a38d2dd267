"""What rows of a data set must have to make a batch, and their labels as arrays."""

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from any2point_hf.modeling.errors import DatasetError, PointCloudError, listed
from any2point_hf.point_clouds.labels import whole_labels

from .features import features_of

LABEL_COLUMNS = ("labels", "label", "label_ids")
"""What a row of a batch may call its class or its points' labels, as in transformers."""

PART, CATEGORY = "part", "category"
"""What a row of a data set of parts calls its points' labels, and its kind of shape."""


def check_rows(rows: Sequence[Mapping[str, Any]], wanted_features: Sequence[str]) -> None:
    """Checks that all rows have points, and the features that a model takes.

    Raises:
        PointCloudError: one has not.
    """
    for row in rows:
        if "points" not in row:
            raise PointCloudError(
                "a row must have the points [N, 3] under the name 'points', got the names "
                f"{listed(row)}. Call dataset.rename_column(…, 'points')."
            )
        known = {name for key in row for name in features_of(key)}
        if "point_features" not in row and (missing := [name for name in wanted_features if name not in known]):
            raise PointCloudError(
                f"a row must have columns for the features {listed(missing)}, got {listed(row)}. "
                "The Trainer leaves out columns that no argument of the model is named by: pass "
                "remove_unused_columns=False to TrainingArguments."
            )


def labels_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Each row's class, labels of points, or None; a class goes before labels in `part`."""
    names = (*LABEL_COLUMNS, PART)
    return [next((row[name] for name in names if row.get(name) is not None), None) for row in rows]


def are_of_points(labels: Sequence[Any], rows: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether labels are of points: arrays, tensors or lists of several.

    Floating-point numbers are of points only where there are as many as the cloud of their row has points; else they
    are several classes, or numbers, of the cloud.
    """
    for label, row in zip(labels, rows or [{}] * len(labels), strict=True):
        if isinstance(label, (str, bytes, Mapping)) or np.ndim(label) == 0 or len(label) < 2:
            continue
        points: Any = row.get("points")
        is_array = points is not None and not isinstance(points, (str, os.PathLike))
        return not _is_floating(label) or (is_array and len(label) == len(points))
    return False


def _targets_of(labels: Sequence[Any]) -> np.ndarray:
    """Several classes, or numbers, of clouds as float32 [B, names] or [B].

    Args:
        labels: dicts of named values as `data/targets.py` has them, or floating-point numbers, one or several.

    Raises:
        DatasetError: only some clouds have them, or not as many.
    """
    values = [list(label.values()) if isinstance(label, Mapping) else label for label in labels]
    if any(label is None for label in labels) or len({np.shape(value) for value in values}) > 1:
        raise DatasetError("every row of a batch must have as many classes or numbers as the others. Correct the data.")
    return np.array([np.asarray(value) for value in values], dtype=np.float32)


def _is_floating(label: Any) -> bool:
    if isinstance(label, Tensor):
        return label.is_floating_point()
    return label is not None and not isinstance(label, (str, bytes, Mapping)) and np.asarray(label).dtype.kind == "f"


def classes_of(labels: Sequence[Any]) -> np.ndarray | None:
    """The classes of clouds as int64 [B]; None if no cloud has one. Of several classes or numbers as `_targets_of`.

    Raises:
        DatasetError: one is no integer, or only some clouds have one.
    """
    if all(label is None for label in labels):
        return None
    if any(isinstance(label, Mapping) or _is_floating(label) for label in labels):
        return _targets_of(labels)
    return np.array([_integer(label, "label") for label in labels], dtype=np.int64)


def categories_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """The entries `category` as int64 [B]; None if no row has one.

    Raises:
        DatasetError: one is no integer, or only some rows have one.
    """
    found = [row.get(CATEGORY) for row in rows]
    if all(category is None for category in found):
        return None
    return np.array([_integer(category, CATEGORY) for category in found], dtype=np.int64)


def sampled_labels(labels: Sequence[Any], kept: np.ndarray, totals: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """The labels of the points that were kept of each cloud, [B, num_points] int64.

    Args:
        labels: for each cloud [total], −100 for a point without one.
        kept: [B, num_points] int64, places of the kept points among all of their cloud.
        totals: how many points each cloud had.
        names: of the clouds, for the error message.

    Raises:
        DatasetError: a cloud has no labels, not as many as points, or others than integers.
    """
    if len(labels) != len(totals):
        raise DatasetError(f"every cloud must have labels of its points, got {len(labels)} for {len(totals)} clouds.")
    found = np.empty(kept.shape, dtype=np.int64)
    for index, (values, total, name) in enumerate(zip(labels, totals, names, strict=True)):
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        found[index] = whole_labels(array, total, name)[kept[index]]
    return found


def _integer(value: Any, name: str) -> int:
    try:
        plain: Any = value.item() if isinstance(value, (Tensor, np.ndarray)) else value
        return operator.index(plain)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"every row of a batch must have an integer as its {name}, got {value!r}. Classes by name: "
            f"dataset.class_encode_column({name!r})."
        ) from error
