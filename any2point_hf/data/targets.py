"""Labels of a cloud that are not one class: several classes, or numbers. Both are a column `label` of named values.

In this package's own form a row's `label` is a dict: `{"chair": True, "red": False}` for several classes, the targets
`{"volume": 0.2, "surface_area": 1.9}` for regression. The names stand in the column's type, so they cannot get lost.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, Literal, TypeAlias

import numpy as np
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from ..modeling.errors import DatasetError, listed
from ..point_clouds.features import FEATURE_GROUPS, features_of
from .columns import LABEL_NAMES, points_column, type_name
from .own_types import with_column

TargetTask: TypeAlias = Literal["multi-label", "regression"]
"""What is said of a cloud: several classes, or numbers."""

LABEL = "label"
TYPES: dict[TargetTask, Value] = {"multi-label": Value("bool"), "regression": Value("float64")}
_WHAT = {"multi-label": "classes, each yes or no", "regression": "finite numbers"}
_FEATURES = {name for group in FEATURE_GROUPS.values() for name in group}


def target_task_of(features: Mapping[str, Any]) -> TargetTask | None:
    """What the column `label` of a data set is for, if it is in this package's own form; None for anything else."""
    return next((task for task, kind in TYPES.items() if _is_struct(features.get(LABEL), kind.dtype)), None)


def target_names(dataset: Dataset) -> list[str]:
    """The names of a data set's classes or targets, in the order of a model's outputs."""
    return list(dataset.features[LABEL])


def target_array(dataset: Dataset) -> np.ndarray:
    """The labels of a data set in this package's own form, [n, names] float32; classes are 0 and 1."""
    columns: Any = dataset.select_columns(LABEL).with_format("arrow")[:][LABEL].combine_chunks()
    values = [columns.field(name).to_numpy(zero_copy_only=False) for name in target_names(dataset)]
    return np.stack(values, axis=1).astype(np.float32)


def target_task_of_tables(dataset: Dataset | Mapping[str, Dataset]) -> TargetTask | None:
    """What tables are for without being told: named values in `label`, or a single number that is no class."""
    splits = dataset.values() if isinstance(dataset, Mapping) else [dataset]
    for split in splits:
        features: Any = getattr(split, "features", None) or {}
        named = next((name for name in LABEL_NAMES if name in features), None)
        if named is None:
            return None
        kind = features[named]
        is_number = isinstance(kind, Value) and kind.dtype.startswith("float")
        return "regression" if is_number else target_task_of({LABEL: kind})
    return None


def with_targets(
    splits: Mapping[str, Dataset], source: str, task: TargetTask, label_column: str | Sequence[str] | None = None
) -> dict[str, Dataset]:
    """Brings the labels of all splits to this package's own form, in a column `label`; other columns stay.

    Classes are lists of names, of ClassLabel, or of 0 and 1 for each class (which are then called "0", "1", …), or
    columns of 0 and 1 with a class's name each. Targets are columns of numbers, or lists of as many in each row.

    Args:
        splits: with any columns; that of the clouds becomes `points`.
        source: their name, for errors.
        task: what the labels are.
        label_column: the column, or the columns (a list of names, or one text with commas); None for one of a usual
            name for labels or, of regression without such, for all columns of single floating-point numbers.

    Raises:
        DatasetError: no such column, one of another type, or a label that is missing or not finite.
    """
    first = next(iter(splits.values()))
    points = points_column(first, source)
    columns = _columns(first.features, source, task, label_column, points)
    for name, split in splits.items():
        if missing := [column for column in columns if column not in split.features]:
            raise DatasetError(f"{source}: the split {name!r} must have the column {missing[0]!r} too.")
    read = {name: _read(split, columns) for name, split in splits.items()}
    names = _names({name: split.features for name, split in splits.items()}, read, columns, source, task)
    converted = {}
    for name, split in splits.items():
        where = f"the split {name!r} of {source}"
        kind = split.features[columns[0]] if len(columns) == 1 else None
        rows = [_row(values, names, kind, task, f"row {index} of {where}") for index, values in enumerate(read[name])]
        kept = split.rename_column(points, "points") if points != "points" else split
        converted[name] = with_column(kept, LABEL, label_rows(rows, names, task))
    return converted


def label_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str], task: TargetTask) -> Dataset:
    """A data set with the one column `label`, in this package's own form."""
    return Dataset.from_dict({LABEL: list(rows)}, features=Features({LABEL: label_type(names, task)}))


def label_type(names: Sequence[str], task: TargetTask) -> dict[str, Value]:
    """The type of the column `label` for these classes or targets."""
    return dict.fromkeys(names, TYPES[task])


def column_names(label_column: str | Sequence[str] | None, known: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The columns that are named, by a list or by one text with commas; a column whose own name has some goes first."""
    if label_column is None:
        return []
    if isinstance(label_column, str):
        return [label_column] if label_column in known else [part.strip() for part in label_column.split(",")]
    return list(label_column)


def checked_value(value: Any, task: TargetTask, where: str) -> bool | float:
    """A label as this package's own form has it.

    Raises:
        DatasetError: it is missing, no finite number, or (of a class) neither yes nor no.
    """
    if isinstance(value, (bool, np.bool_)) and task == "multi-label":
        return bool(value)
    is_number = isinstance(value, Number) and not isinstance(value, (bool, np.bool_, complex))
    fits = is_number and (math.isfinite(value) if task == "regression" else value in (0, 1))
    if not fits:
        raise DatasetError(f"{where}: labels for {task} must be {_WHAT[task]}, got {value!r}. Correct or leave it out.")
    return bool(value) if task == "multi-label" else float(value)


def _is_struct(kind: Any, dtype: str) -> bool:
    return isinstance(kind, dict) and bool(kind) and all(getattr(part, "dtype", "") == dtype for part in kind.values())


def _columns(
    features: Features, source: str, task: TargetTask, label_column: str | Sequence[str] | None, points: str
) -> list[str]:
    named = column_names(label_column, features)
    if unknown := [name for name in named if name not in features]:
        raise DatasetError(f"{source} has no column {unknown[0]!r}; its columns are {listed(features, 20)}.")
    if named:
        return named
    usual = [name for name in LABEL_NAMES if name in features and _may_be(features[name], task)]
    if usual:
        return usual[:1]
    others = [name for name in features if name != points and not _FEATURES & {name, *features_of(name)}]
    numbers = [name for name in others if isinstance(features[name], Value) and "float" in features[name].dtype]
    if task == "regression" and numbers:
        return numbers
    columns = listed([f"{name} ({type_name(feature)})" for name, feature in features.items()], 20)
    raise DatasetError(
        f"{source} must have a column 'label' of {_WHAT[task]}, its columns are {columns}. Name those with the labels "
        "by --label-column NAME,NAME (in Python label_column=[…])."
    )


def _may_be(kind: Any, task: TargetTask) -> bool:
    if isinstance(kind, dict):
        return True
    if isinstance(kind, (List, LargeList)):
        return isinstance(kind.feature, (Value, ClassLabel))
    return task == "regression" and isinstance(kind, Value) and kind.dtype.startswith(("float", "int", "uint"))


def _read(split: Dataset, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The labels of each row as in Python, by column."""
    return list(split.select_columns(list(columns)).with_format(None))


def _names(
    features: Mapping[str, Features],
    read: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Sequence[str],
    source: str,
    task: TargetTask,
) -> list[str]:
    """The names of the classes or targets, the same in all splits."""
    if len(columns) > 1:
        return list(columns)
    (column,) = columns
    kinds = [split[column] for split in features.values()]
    kind: Any = kinds[0]
    if any(other != kind for other in kinds):
        raise DatasetError(f"{source}: the column {column!r} must have the same type in all splits. Cast them alike.")
    if isinstance(kind, dict):
        return list(kind)
    if not isinstance(kind, (List, LargeList)):
        return [column]
    if task == "multi-label" and isinstance(kind.feature, ClassLabel):
        return list(kind.feature.names)
    rows = [row[column] for split in read.values() for row in split]
    if task == "multi-label" and "string" in kind.feature.dtype:
        return sorted({name for row in rows for name in row or ()})
    widths = sorted({len(row or ()) for row in rows})
    if len(widths) != 1 or widths[0] == 0:
        raise DatasetError(
            f"{source}: lists of numbers in the column {column!r} must be of one length, a number for each class or "
            f"target, got the lengths {listed(widths)}. For numbers of classes store their names as text."
        )
    return [str(index) if task == "multi-label" else f"{column}_{index}" for index in range(widths[0])]


def _row(values: Mapping[str, Any], names: Sequence[str], kind: Any, task: TargetTask, where: str) -> dict[str, Any]:
    """A row's label in this package's own form; `kind` is the type of its column, if it is one alone."""
    if kind is not None:
        (value,) = values.values()
        if value is None:
            raise DatasetError(f"{where}: a row must have a label, its cell is empty. Leave such rows out.")
        of_classes = task == "multi-label" and isinstance(kind, (List, LargeList))
        if of_classes and isinstance(kind.feature, ClassLabel):
            return {name: index in value for index, name in enumerate(names)}
        if of_classes and "string" in kind.feature.dtype:
            return {name: name in value for name in names}
        is_list = isinstance(value, list)
        values = value if isinstance(value, dict) else dict(zip(names, value if is_list else [value], strict=True))
    return {name: checked_value(values.get(name), task, f"{where}, {name}") for name in names}
