"""Clouds whose true parts are known, in a model's numbering: built-in shapes, and rows of data sets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict

from ..data import load_point_cloud_dataset
from ..data.columns import feature_columns, undecoded
from ..data.parts.dataset import CATEGORY, PART, category_names_of, is_part_dataset, part_names_of
from ..data.rows import rows_of
from ..data.shapes import SHAPE_NAMES, make_cloud_with_parts
from ..data.sources import DataSource
from ..modeling.errors import DatasetError, listed
from ..processing_any2point import Any2PointProcessor
from . import labelling
from .part_metrics import IGNORED


class KnownCloud(NamedTuple):
    """A cloud with what is known of it.

    Attributes:
        cloud: as the processor takes it.
        truth: [N] ids of the model's parts, or −100; None where they are not known.
        category: its name; None where there is none.
    """

    cloud: Any
    truth: np.ndarray | None
    category: str | None


def shape_with_parts(model: Any, shape: str, num_points: int) -> KnownCloud:
    """A built-in shape, with its parts if the model has parts of their names, such as chair/seat.

    Args:
        model: a segmenter.
        shape: one of `SHAPE_NAMES`.
        num_points: of the cloud.
    """
    points, names = make_cloud_with_parts("test", SHAPE_NAMES.index(shape), num_points, seed=0)
    known = {name: part for part, name in enumerate(labelling.part_names_of(model))}
    found = [known.get(f"{shape}/{name}", IGNORED) for name in names.tolist()]
    category = shape if shape in labelling.category_names_of(model) else None
    return KnownCloud(points, np.array(found) if set(found) != {IGNORED} else None, category)


def row_with_parts(model: Any, processor: Any2PointProcessor, data: DataSource, row: int) -> KnownCloud:
    """A cloud of a data set's split "test", with its parts and category.

    Args:
        model: a segmenter, whose parts have the data set's names, in any order.
        processor: the model's.
        data: what `load_point_cloud_dataset` takes.
        row: 0 for the first.

    Raises:
        DatasetError: the data set has no parts, no such row, or parts that the model does not know.
    """
    dataset = load_parts(data, processor)
    if row >= len(dataset["test"]):
        raise DatasetError(f"--row must lie in 0…{len(dataset['test']) - 1} (the clouds of {data}), got {row}.")
    return known_cloud(model, processor, dataset, row, data)


def load_parts(data: DataSource, processor: Any2PointProcessor) -> DatasetDict:
    """A data set of parts with a split "test", and with the features that a processor wants.

    Raises:
        DatasetError: the source is no such data set.
    """
    dataset = load_point_cloud_dataset(data, task="segmentation", features=processor.point_feature_names)
    if not is_part_dataset(dataset) or "test" not in dataset:
        raise DatasetError(f"{data} must have a column {PART!r} and a split test, got the splits {listed(dataset)}.")
    return dataset


def known_cloud(
    model: Any, processor: Any2PointProcessor, dataset: DatasetDict, row: int, data: DataSource
) -> KnownCloud:
    """The same of a data set that is loaded, of the name `data`."""
    chosen, names = dataset["test"].select([row]), processor.point_feature_names
    numbers = _numbering(part_names_of(dataset), labelling.part_names_of(model), data)
    truth = np.append(numbers, IGNORED)[_places(chosen.with_format("numpy")[0][PART], len(numbers))]
    categories = category_names_of(dataset)
    category = None
    if categories is not None and model.config.category_parts is not None:
        category = categories[chosen[0][CATEGORY]]
    cloud = next(rows_of(undecoded(chosen, feature_columns(chosen, names))[:]))
    return KnownCloud(cloud if names else cloud["points"], truth, category)


def _places(parts: np.ndarray, num_parts: int) -> np.ndarray:
    """The parts as places in a table of them with a last entry for those that are ignored."""
    return np.where(np.asarray(parts) == IGNORED, num_parts, parts).astype(np.int64)


def _numbering(of_data: Sequence[str], of_model: Sequence[str], data: DataSource) -> np.ndarray:
    """The model's id of each part of the data."""
    if unknown := [name for name in of_data if name not in of_model]:
        raise DatasetError(
            f"the parts of {data} must be among the model's ({listed(of_model)}), got also {listed(unknown)}."
        )
    return np.array([of_model.index(name) for name in of_data])
