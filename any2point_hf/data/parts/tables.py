"""Brings tables with a label for each point, such as .parquet files on the Hub, to the form of a data set of parts."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value

from ...modeling.errors import DatasetError, listed
from ...point_clouds.labels import IGNORED, checked_parts, whole_labels
from ...point_clouds.reading import CloudReader
from ..columns import LABEL_NAMES, is_file, points_column, type_name
from ..own_types import with_class_labels, with_column, with_own_points
from ..splits import named_splits
from .dataset import CATEGORY, PART, part_features

Tables: TypeAlias = Dataset | Mapping[str, Dataset]
"""A data set of `datasets`, or several by the names of splits."""

NAMES_OF_PARTS = ("part", "parts", "part_label", "part_labels", "seg", "segment", "segmentation", "labels", "label")
"""Usual names of columns with a label for each point."""

_ROWS = 64  # whose labels are looked at together


def has_parts(dataset: Tables) -> bool:
    """Whether a data set is for segmentation: it has classes of parts, or labels of points and none of clouds.

    Beside lists in `part`, a `category` is none of these: it is the form of this package's own.
    """
    splits = dataset.values() if isinstance(dataset, Mapping) else [dataset]
    for split in splits:
        features = getattr(split, "features", None) or {}
        own: Any = features.get(PART)
        if isinstance(own, List) and isinstance(own.feature, ClassLabel):
            return True
        labels = {*LABEL_NAMES} - ({CATEGORY} if _is_list(own) else set())
        has_label = any(isinstance(features.get(name), (Value, ClassLabel)) for name in labels)
        return not has_label and any(_is_list(features.get(name)) for name in NAMES_OF_PARTS)
    return False


def parts_of_tables(dataset: Tables, source: str, reader: CloudReader, label_column: str | None = None) -> DatasetDict:
    """The data set with columns `points`, `part` and, if clouds have a class, `category`; other columns stay.

    Labels are lists of ClassLabel, of text (parts in sorted order), or of integers 0 … n−1 without gaps, with −100 for
    points without one. What is so already is not copied.

    Args:
        dataset: a data set of `datasets`, or several by the names of splits.
        source: its name, for errors.
        reader: of the clouds; labels of points that it drops are dropped.
        label_column: the column with the labels; None for the first of a usual name.

    Raises:
        DatasetError: no such column, or other labels than these.
        PointCloudError: a cloud cannot be used; the message names its row.
    """
    splits = {
        name: _with_own_names(split, source, label_column) for name, split in named_splits(dataset, source).items()
    }
    if any(CATEGORY in split.features for split in splits.values()):
        splits = with_class_labels(splits, source, CATEGORY)
    for name, split in splits.items():
        _check_no_empty(split, f"the split {name!r} of {source}")
    splits = _with_part_names(splits, source)
    return DatasetDict({name: with_own_points(split, source, name, reader, [PART]) for name, split in splits.items()})


def _with_own_names(split: Dataset, source: str, label_column: str | None) -> Dataset:
    part = _part_column(split.features, source, label_column)
    points = points_column(split, source)
    if is_file(split.features[points]):
        raise DatasetError(
            f"{source}: labels of points need points [N, 3] in the column {points!r}, got meshes, on which others are "
            "drawn. Sample the meshes, and store a label with each point."
        )
    names = {part: PART, points: "points"}
    scalar = [name for name in (CATEGORY, *LABEL_NAMES) if isinstance(split.features.get(name), (Value, ClassLabel))]
    if scalar:
        names[scalar[0]] = CATEGORY
    kept = [name for name in split.column_names if name in names or name not in names.values()]
    return split.select_columns(kept).rename_columns({old: new for old, new in names.items() if old != new})


def _part_column(features: Features, source: str, label_column: str | None) -> str:
    if label_column is not None and label_column not in features:
        raise DatasetError(f"{source} has no column {label_column!r}; its columns are {listed(features, 20)}.")
    usual = [name for name in NAMES_OF_PARTS if _is_list(features.get(name))]
    if label_column is None and not usual:
        columns = listed(f"{name} ({type_name(feature)})" for name, feature in features.items())
        raise DatasetError(
            f"{source} must have a column 'part' with a label for each point; its columns are {columns}. Name the one "
            "it is by --label-column (in Python label_column=…)."
        )
    name = label_column or usual[0]
    if not _is_list(features[name]):
        raise DatasetError(
            f"{source}: the column {name!r} must have a list of labels in each row, one for each point, got "
            f"{type_name(features[name])}. Choose another column."
        )
    return name


def _is_list(feature: Any) -> bool:
    return isinstance(feature, (List, LargeList)) and isinstance(feature.feature, (Value, ClassLabel))


def _check_no_empty(split: Dataset, name: str) -> None:
    row = 0
    for table in split.select_columns(PART).with_format("arrow").iter(_ROWS):
        for labels in table[PART]:
            if labels.values is None or labels.values.null_count:
                raise DatasetError(
                    f"row {row} of {name}: each point must have a label, got empty ones. Fill them, with {IGNORED} if "
                    "labels are numbers, or remove the row by Dataset.filter."
                )
            row += 1


def _with_part_names(splits: Mapping[str, Dataset], source: str) -> dict[str, Dataset]:
    """Brings `part` to lists of one ClassLabel of all splits."""
    types = {name: split.features[PART] for name, split in splits.items()}
    first: Any = next(iter(types.values()))
    if any(kind != first for kind in types.values()):
        raise DatasetError(
            f"{source}: the labels of points must have the same type and names in all splits, got "
            f"{'; '.join(f'{name}: {kind.feature}' for name, kind in types.items())[:300]}. Cast them alike."
        )
    if isinstance(first, List) and isinstance(first.feature, ClassLabel):
        return dict(splits)
    if isinstance(first.feature, ClassLabel):
        names, are_texts = first.feature.names, False
    else:
        names, are_texts = _names(splits, source, first.feature)
    return {
        name: _with_classes(split, names, are_texts, f"the split {name!r} of {source}")
        for name, split in splits.items()
    }


def _names(splits: Mapping[str, Dataset], source: str, kind: Value) -> tuple[list[str], bool]:
    """The names of the parts that labels of a type stand for, and whether they are texts."""
    are_texts = kind.dtype in ("string", "large_string")
    found: set[Any] = set()
    for name, split in splits.items():
        for row, labels in enumerate(split.select_columns(PART).with_format(None)[PART]):
            if are_texts:
                found.update(labels)
            else:
                found.update(whole_labels(labels, len(labels), f"row {row} of the split {name!r} of {source}").tolist())
    if are_texts:
        return sorted(found), True
    found.discard(-100)
    if found != set(range(len(found))):
        raise DatasetError(
            f"{source}: labels of points must be 0, 1, 2, … without gaps, and -100 for points without one, got "
            f"{listed(sorted(found))}. Number the parts from 0, or make the column lists of ClassLabel."
        )
    return [str(part) for part in sorted(found)], False


def _with_classes(split: Dataset, names: list[str], are_texts: bool, name: str) -> Dataset:
    places = {part: index for index, part in enumerate(names)}

    def convert(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[np.ndarray]]:
        labels = [[places[label] for label in row] if are_texts else row for row in rows[PART]]
        numbered = zip(indices, labels, strict=True)
        return {PART: [checked_parts(row, len(row), names, f"row {index} of {name}") for index, row in numbered]}

    column = split.select_columns(PART).with_format(None)
    types = Features({PART: part_features(names)[PART]})
    return with_column(
        split, PART, column.map(convert, batched=True, with_indices=True, features=types, desc="Reading labels")
    )
