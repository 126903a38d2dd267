"""What a training for segmentation has in place of classes: parts and categories, their checks and their metrics."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from ..data.parts.dataset import CATEGORY, category_parts_of, occurring_parts, part_names_of
from ..modeling.errors import DatasetError, listed
from ..point_clouds.labels import IGNORED
from ..segmentation.labelling import part_names_of as names_of_model
from ..segmentation.part_metrics import part_metrics
from ..segmentation.scene_metrics import point_confusion
from .batches import LABELS

CategoryParts: TypeAlias = Mapping[str, list[int]] | None

PART_METRICS = ("instance_miou", "class_miou", "accuracy")
"""What a training reports; the first one chooses the best epoch."""


def part_config_fields(dataset: Mapping[str, Dataset]) -> dict[str, Any]:
    """The fields of a config that say what the parts and categories of a data set are.

    Args:
        dataset: of parts, with a split `train`.

    Returns:
        `id2label`, `label2id` and `category_parts`.

    Raises:
        DatasetError: a category has no part in the training split.
    """
    names = part_names_of(dataset)
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "category_parts": category_parts_of(dataset),
    }


def check_parts(model: PreTrainedModel, dataset: Mapping[str, Dataset]) -> None:
    """Checks that a model has a data set's parts and categories, and that each split has labels to measure with.

    Raises:
        DatasetError: it has others, or in another order, or no point of a split has a label.
    """
    if not hasattr(model, "predict_parts"):
        raise DatasetError(
            f"a data set with a part for each point trains an Any2PointForPointCloudSegmentation, got "
            f"{type(model).__name__}. Load the data with task='classification', or take that model."
        )
    for split in ("train", "validation", "test"):
        if split in dataset and not occurring_parts(dataset[split]).any():
            raise DatasetError(
                f"some points of the split {split!r} must have a label, and all are without one ({IGNORED}). Label "
                "some of them."
            )
    advice = "Set id2label and category_parts in Any2PointConfig as part_config_fields(dataset) gives them."
    names, known = part_names_of(dataset), list(names_of_model(model))
    if names != known:
        raise DatasetError(
            f"the model must have the dataset's {len(names)} parts in their order ({listed(names)}), and its config "
            f"has {len(known)}: {listed(known)}. {advice}"
        )
    config: Any = model.config
    of_dataset, of_model = category_parts_of(dataset), config.category_parts
    if not _are_known(of_dataset, of_model):
        raise DatasetError(
            f"the model's categories must be the dataset's, in their order and with their parts "
            f"({_shown(of_dataset)}), got {_shown(of_model)}. {advice}"
        )


def _are_known(of_dataset: CategoryParts, of_model: CategoryParts) -> bool:
    """Whether a model has a data set's categories; it may have parts that no training cloud has."""
    if of_dataset is None or of_model is None:
        return of_dataset is of_model
    names = [*of_dataset]
    return names == [*of_model] and all({*of_dataset[name]} <= {*of_model[name]} for name in names)


def _shown(categories: CategoryParts) -> str:
    return "none" if categories is None else listed(f"{name} {parts}" for name, parts in categories.items())


def part_trainer_options(model: Any) -> dict[str, Callable[..., Any]]:
    """Arguments of the stock Trainer by which it keeps the answers instead of the logits, and measures them.

    Args:
        model: an `Any2PointForPointCloudSegmentation`.
    """

    def choose(logits: Any, labels: Any) -> Tensor:
        category = labels[1] if isinstance(labels, tuple | list) else None
        return model.predict_parts(logits[0] if isinstance(logits, tuple) else logits, category)

    def measure(evaluation: EvalPrediction) -> dict[str, float]:
        measured = measured_parts(evaluation.predictions, evaluation.label_ids, model)
        return {name: measured[name] for name in PART_METRICS}

    return {"preprocess_logits_for_metrics": choose, "compute_metrics": measure}


def label_columns(config: Any) -> list[str]:
    """The columns of a batch that say what is right: the Trainer hands all of them to the functions above."""
    return [LABELS, *([CATEGORY] if config.category_parts else [])]


def measured_parts(predicted: Any, label_ids: Any, model: Any) -> dict[str, Any]:
    """`part_metrics` of what the Trainer gathered.

    Args:
        predicted: [n, N] int, the parts.
        label_ids: [n, N] int, −100 for a point without a label; with categories a pair of these and [n] int.
        model: that predicted them.
    """
    labels, categories = label_ids if isinstance(label_ids, tuple | list) else (label_ids, None)
    names, category_parts = names_of_model(model), model.config.category_parts
    return part_metrics(list(predicted), list(labels), names, categories, category_parts)


def confusion_of_parts(predicted: Any, label_ids: Any, num_parts: int) -> np.ndarray:
    """How many points of each part (row) were taken for each part (column), [parts, parts]; arguments as above."""
    labels = label_ids[0] if isinstance(label_ids, tuple | list) else label_ids
    return point_confusion(np.ravel(predicted), np.ravel(labels), num_parts)
