"""How well scenes are divided into classes: the metrics of S3DIS and SemanticKITTI, of all test points together.

Unlike `part_metrics.py`, the points of all clouds are counted in one confusion matrix first, and a class has one IoU:

    IoU(class) = right / (right + wrongly taken for the class + of the class and taken for another)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..modeling.errors import DatasetError
from ..point_clouds.labels import IGNORED


def point_confusion(predicted: np.ndarray, truth: np.ndarray, num_parts: int) -> np.ndarray:
    """How many points of each class (row) were taken for each class (column); those of several clouds are added up.

    Args:
        predicted: [N] int in 0…num_parts−1.
        truth: [N] int, the same or `IGNORED`, which is left out.
        num_parts: number of classes.

    Returns:
        [num_parts, num_parts] int64.
    """
    is_labelled = truth != IGNORED
    pairs = truth[is_labelled].astype(np.int64) * num_parts + predicted[is_labelled]
    return np.bincount(pairs, minlength=num_parts**2).reshape(num_parts, num_parts)


def scene_metrics(confusion: np.ndarray, part_names: Sequence[str]) -> dict[str, Any]:
    """The metrics of a test set of scenes.

    Args:
        confusion: [P, P], the sum of `point_confusion` over all clouds.
        part_names: the P classes.

    Returns:
        `scene_miou`, the mean of `per_part`; `mean_part_accuracy`, the mean share of a class's points that are right;
        `accuracy`, the share of all points that are right; and `per_part`, the IoU of each class by name, None for one
        that is absent from labels and predictions. Absent classes count in no mean.

    Raises:
        DatasetError: no point has a label.
    """
    right, of_class, taken_for = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    if not of_class.sum():
        raise DatasetError("no point of the scenes has a label, so there is nothing to compare with.")
    either = of_class + taken_for - right
    ious = [float(a / b) if b else None for a, b in zip(right, either, strict=True)]
    accuracies = [a / b for a, b in zip(right, of_class, strict=True) if b]
    return {
        "scene_miou": float(np.mean([iou for iou in ious if iou is not None])),
        "mean_part_accuracy": float(np.mean(accuracies)),
        "accuracy": float(right.sum() / of_class.sum()),
        "per_part": dict(zip(part_names, ious, strict=True)),
    }
