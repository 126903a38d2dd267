"""The columns of a job that gives every point a part, and the category that each cloud is taken for."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..modeling.errors import DatasetError
from ..segmentation.labelling import LabelledPoints, category_number, category_parts_of, part_names_of
from .clouds import CloudCollection

PART_NAMES = "part_names"
"""The entry of the file's metadata with the names of the parts, a JSON list in the order of their ids."""

_MOST_OF_INT16 = 2**15


def part_columns(model: Any, results: Sequence[LabelledPoints]) -> dict[str, pa.Array]:
    """`parts`, a list of ids for the points of each cloud, `confidence` and, where there are any, `category`."""
    is_small = model.config.num_labels <= _MOST_OF_INT16
    ids, dtype = (pa.int16(), np.int16) if is_small else (pa.int32(), np.int32)
    offsets = np.cumsum([0, *(len(result.parts) for result in results)])
    values = np.concatenate([np.empty(0, dtype), *(result.parts.astype(dtype) for result in results)])
    confidence = [np.nanmean(result.probabilities, dtype=np.float64) for result in results]
    columns = {
        "parts": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, ids)),
        "confidence": pa.array(confidence, pa.float32()),
    }
    if category_parts_of(model) is None:
        return columns
    return columns | {"category": pa.array([result.category for result in results], pa.string())}


def part_metadata(model: Any) -> dict[str, str]:
    """What the file says of itself."""
    return {PART_NAMES: json.dumps(part_names_of(model))}


def categories_of(model: Any, category: str | None, clouds: CloudCollection) -> list[int | None]:
    """The id of each cloud's category: the one given, or that of the cloud's label in its source; None without any.

    Raises:
        DatasetError: it is missing, none of the model's, or given to a model that has none.
    """
    known = category_parts_of(model)
    labels = None if known is None or category is not None else clouds.labels()
    if labels is None:
        return [category_number(known, category, "--category")] * len(clouds)
    numbers = []
    for name, label in zip(clouds.ids(), labels, strict=True):
        try:
            numbers.append(category_number(known, label, "its label"))
        except DatasetError as error:
            raise DatasetError(
                f"cloud {name} of {clouds.source}: {error} Or name the category of all by --category."
            ) from error
    return numbers
