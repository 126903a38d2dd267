"""What a data set of parts is: columns `points`, `part` (a list of ClassLabel) and, where there are any, `category`.

A category is a kind of shape with parts of its own, such as chair; scenes have none. Points without a label are
`IGNORED`, −100.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value
from numpy.typing import ArrayLike

from any2point_hf.data.splits import check_trains
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.checks import local_float32
from any2point_hf.point_clouds.features import FEATURE_GROUPS, grouped_features
from any2point_hf.point_clouds.labels import IGNORED, checked_parts

PART, CATEGORY = "part", "category"
"""Names of the columns."""

_ROWS = 64  # whose labels are looked at together


class LabelledCloud(NamedTuple):
    """A cloud with a part for each point.

    Attributes:
        points: [N, 3].
        part: [N] integers, places in a list of names, or `IGNORED`.
        features: [N] by name.
    """

    points: np.ndarray
    part: ArrayLike
    features: Mapping[str, np.ndarray] = MappingProxyType({})


def build_part_dataset_dict(
    splits: Mapping[str, tuple[Iterable[LabelledCloud], Sequence[int] | None]],
    part_names: Sequence[str],
    category_names: Sequence[str] | None = None,
) -> DatasetDict:
    """Builds a data set of parts from arrays.

    Args:
        splits: for every split its clouds (N may vary) and as many places in `category_names`, or None without
            categories.
        part_names: the names that labels of points stand for.
        category_names: the names of categories; None where there are none.

    Returns:
        The same splits in memory, with columns `points`, `part`, `category` and those of features, such as `rgb`.

    Raises:
        DatasetError: a cloud's labels are not as many as its points, no integers, or out of range.
    """
    array, number = Array2D((None, 3), "float32"), List(Value("float32"))
    dataset = {}
    for split, (clouds, categories) in splits.items():
        rows: dict[str, list[Any]] = {"points": [], PART: []}
        for index, (points, part, features) in enumerate(clouds):
            name = f"cloud {index} of the split {split!r}"
            rows["points"].append(local_float32(points))
            rows[PART].append(checked_parts(part, len(points), part_names, name))
            for group, values in grouped_features(features).items():
                rows.setdefault(group, []).append(values)
        types = part_features(part_names, category_names)
        others = {name: values[0].ndim == 2 for name, values in rows.items() if name not in types}
        types |= {name: array if name in FEATURE_GROUPS and is_group else number for name, is_group in others.items()}
        if category_names is not None:
            rows[CATEGORY] = list(categories or ())
        dataset[split] = Dataset.from_dict(rows, features=Features(types))
    return DatasetDict(dataset)


def part_features(part_names: Sequence[str], category_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The types of the columns `points`, `part` and, with names of categories, `category`."""
    types: dict[str, Any] = {
        "points": Array2D((None, 3), "float32"),
        PART: List(ClassLabel(names=list(part_names))),
    }
    return types | ({} if category_names is None else {CATEGORY: ClassLabel(names=list(category_names))})


def is_part_dataset(dataset: Mapping[str, Dataset]) -> bool:
    """Whether the splits have a part for each point, as a data set for segmentation has."""
    return all(_is_list_of_classes(split.features.get(PART)) for split in dataset.values())


def _is_list_of_classes(feature: Any) -> bool:
    return isinstance(feature, List) and isinstance(feature.feature, ClassLabel)


def part_names_of(dataset: Mapping[str, Dataset]) -> list[str]:
    """The names of the parts, in the order of their ids."""
    return list(next(iter(dataset.values())).features[PART].feature.names)


def category_names_of(dataset: Mapping[str, Dataset]) -> list[str] | None:
    """The names of the categories, in the order of their ids; None where there are none."""
    category = next(iter(dataset.values())).features.get(CATEGORY)
    return None if category is None else list(category.names)


def category_parts_of(dataset: Mapping[str, Dataset], source: str = "the data set") -> dict[str, list[int]] | None:
    """The ids of the parts that clouds of each category have in the training split, by the category's name.

    Args:
        dataset: a data set of parts with a split `train`.
        source: its name, for the error message.

    Returns:
        In the order of the categories' ids, as `category_parts` of the model's config; None without categories.

    Raises:
        DatasetError: there is no training split, or a category has no labelled point in it.
    """
    check_trains(dataset)
    names = category_names_of(dataset)
    if names is None:
        return None
    occurs = occurring_parts(dataset["train"])
    if empty := [name for name, parts in zip(names, occurs, strict=True) if not parts.any()]:
        raise DatasetError(
            f"{source}: every category must have parts: no point of a cloud of {listed(empty)} has a label in "
            "the split 'train'. Add such clouds, or leave the name out of the column 'category'."
        )
    return {name: np.flatnonzero(parts).tolist() for name, parts in zip(names, occurs, strict=True)}


def part_counts(split: Dataset) -> np.ndarray:
    """How many points of a split have each part, [parts] int64."""
    counts = np.zeros(len(split.features[PART].feature.names), dtype=np.int64)
    for table in split.select_columns([PART]).with_format("arrow").iter(_ROWS):
        labels = np.asarray(table[PART].combine_chunks().flatten())
        counts += np.bincount(labels[labels != IGNORED], minlength=len(counts))
    return counts


def occurring_parts(split: Dataset) -> np.ndarray:
    """Which parts occur in clouds of which category: [categories, parts] bool; without categories [1, parts]."""
    num_parts = len(split.features[PART].feature.names)
    category = split.features.get(CATEGORY)
    occurs = np.zeros((1 if category is None else len(category.names), num_parts), dtype=bool)
    columns = [name for name in (PART, CATEGORY) if name in split.column_names]
    for table in split.select_columns(columns).with_format("arrow").iter(_ROWS):
        parts = [scalar.values.to_numpy(zero_copy_only=False) for scalar in table[PART]]
        categories = table[CATEGORY].to_pylist() if category is not None else [0] * len(parts)
        for part, number in zip(parts, categories, strict=True):
            occurs[number, part[part != IGNORED]] = True
    return occurs
