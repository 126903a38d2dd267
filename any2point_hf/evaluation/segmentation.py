"""How well a segmentation adapter labels a split: every point of every cloud, however many they are."""

from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from ..data.columns import feature_columns
from ..data.parts.dataset import CATEGORY, PART
from ..modeling.errors import DatasetError, listed
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..point_clouds.labels import IGNORED
from ..processing_any2point import Any2PointProcessor
from ..segmentation.labelling import category_names_of, label_points, part_names_of
from ..segmentation.part_metrics import part_metrics
from ..segmentation.scene_metrics import point_confusion, scene_metrics


def evaluate_parts(
    model: Any2PointForPointCloudSegmentation, processor: Any2PointProcessor, clouds: Dataset, batch_size: int = 32
) -> dict[str, Any]:
    """The metrics of parts on all points of a split, without voting.

    Args:
        model: in eval mode.
        processor: the model's.
        clouds: columns `points`, `part`, maybe `category`, and those of the features that the model takes. Its parts
            and categories must be among the model's, in any order.
        batch_size: how many subsets of a large cloud go through the model at once; the result does not depend on it.

    Returns:
        What `part_metrics` gives; `confusion`, a matrix of points: a row for each part in the order of `per_part`, a
        column for each answer; `num_clouds` and `num_points`, of those with a label. Where the model has no categories
        there is also `scene`, what `scene_metrics` gives: as S3DIS and SemanticKITTI are measured.

    Raises:
        DatasetError: a part or category that the model does not know, or no categories although the model has some.
        PointCloudError: a cloud cannot be used.
    """
    of_model = list(part_names_of(model))
    places = _places(clouds.features[PART].feature.names, of_model, "parts")
    categories = _categories(model, clouds)
    columns = ["points", *feature_columns(clouds, processor.point_feature_names)]
    rows = clouds.select_columns([*columns, PART]).with_format("numpy")
    predicted, truth = [], []
    confusion = np.zeros((len(of_model), len(of_model)), dtype=np.int64)
    for index, row in enumerate(rows):
        cloud = row["points"] if len(columns) == 1 else {name: row[name] for name in columns}
        category = None if categories is None else categories[index]
        labelled = label_points(model, processor, cloud, category, batch_size=batch_size, name=f"row {index}")
        labels = np.where(row[PART] == IGNORED, IGNORED, places[np.maximum(row[PART], 0)])
        labels = np.where(labelled.parts == IGNORED, IGNORED, labels)  # dropped points count nowhere
        confusion += point_confusion(labelled.parts, labels, len(of_model))
        predicted.append(labelled.parts)
        truth.append(labels)
    category_parts: Any = model.config.category_parts
    result = part_metrics(predicted, truth, of_model, categories, category_parts)
    result |= {"confusion": confusion.tolist(), "num_clouds": len(truth), "num_points": int(confusion.sum())}
    return result if categories is not None else result | {"scene": scene_metrics(confusion, of_model)}


def _places(of_dataset: list[str], of_model: list[str], what: str) -> np.ndarray:
    """The model's numbers of a data set's parts or categories, by their names."""
    if unknown := [name for name in of_dataset if name not in of_model]:
        raise DatasetError(
            f"the dataset's {what} must be among the model's ({listed(of_model)}), got also {listed(unknown)}. "
            "Evaluate on the dataset it was trained for, or train a new adapter."
        )
    return np.array([of_model.index(name) for name in of_dataset])


def _categories(model: Any2PointForPointCloudSegmentation, clouds: Dataset) -> list[int] | None:
    """Each cloud's category in the model's numbering; None where the model has none."""
    of_model = list(category_names_of(model))
    if not of_model:
        return None
    column = clouds.features.get(CATEGORY)
    if not isinstance(column, ClassLabel):
        raise DatasetError(
            f"this model must be told each cloud's category ({listed(of_model)}), and the dataset has no column "
            f"{CATEGORY!r}. Add it, or train an adapter on data without categories."
        )
    return _places(column.names, of_model, "categories")[clouds.with_format(None)[CATEGORY][:]].tolist()
