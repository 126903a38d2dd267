"""Checks of whole data sets of parts, and what is said of them."""

import warnings
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from any2point_hf.data.parts.dataset import (
    CATEGORY,
    PART,
    category_names_of,
    category_parts_of,
    occurring_parts,
    part_names_of,
)
from any2point_hf.modeling.errors import DatasetError, listed
from any2point_hf.point_clouds.labels import checked_parts

_ROWS = 64


def checked_part_dataset(dataset: DatasetDict, source: str) -> DatasetDict:
    """The data set, after checks of each cloud's labels and of what the training split has.

    Args:
        dataset: of parts.
        source: its name, for messages.

    Raises:
        DatasetError: a cloud has not as many labels as points, or a label out of range, or a category has no part in
            the training split.
    """
    names = part_names_of(dataset)
    for split, rows in dataset.items():
        _check_rows(rows, names, f"the split {split!r} of {source}")
    if "train" not in dataset:
        return dataset
    category_parts_of(dataset, source)  # raises for a category without parts
    known = occurring_parts(dataset["train"])
    if known.any(axis=0).sum() <= 1:
        only = listed(np.array(names)[known.any(axis=0)])
        warnings.warn(
            f"{source}: all points of the split 'train' that have a label are of one part ({only}), so there is "
            "nothing to tell apart.",
            stacklevel=3,
        )
    for split in dataset.keys() - {"train"}:
        _warn_of_unknown(occurring_parts(dataset[split]) & ~known, dataset, f"the split {split!r} of {source}")
    return dataset


def _check_rows(split: Dataset, names: list[str], source: str) -> None:
    row = 0
    for table in split.select_columns(["points", PART]).with_format("arrow").iter(_ROWS):
        sizes = pc.list_value_length(_storage(table["points"])).to_pylist()
        for size, scalar in zip(sizes, table[PART], strict=True):
            checked_parts(scalar.values.to_numpy(zero_copy_only=False), size, names, f"row {row} of {source}")
            row += 1
    if CATEGORY in split.column_names:
        categories = np.array(split.select_columns(CATEGORY).with_format(None)[CATEGORY][:])
        if (categories < 0).any():
            raise DatasetError(f"row {(categories < 0).argmax()} of {source} has no category. Remove it, or add one.")


def _storage(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _warn_of_unknown(unknown: np.ndarray, dataset: Mapping[str, Dataset], source: str) -> None:
    """Warns of parts [categories, parts] bool that no training cloud of their category has."""
    if not unknown.any():
        return
    names, categories = part_names_of(dataset), category_names_of(dataset)
    found = [
        names[part] if categories is None else f"{names[part]} ({categories[category]})"
        for category, part in np.argwhere(unknown)
    ]
    warnings.warn(
        f"{source} has parts that no training cloud of their category has, so that they cannot be predicted: "
        f"{listed(found)}.",
        stacklevel=4,
    )
