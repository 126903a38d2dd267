"""How well the points of shapes are divided into parts: ShapeNetPart's metrics (Yi et al., 2016).

A shape's points are compared part by part. With P the points that are predicted to be a part and T those that are it,

    IoU(part)       = |P ∩ T| / |P ∪ T|, and 1 where the part is absent from both
    IoU(shape)      = mean of IoU(part) over the parts of the shape's category
    instance mIoU   = mean of IoU(shape) over all shapes
    class mIoU      = mean over categories of the mean of IoU(shape) over the category's shapes

Scenes are measured otherwise: `scene_metrics.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.errors import DatasetError
from ..point_clouds.labels import IGNORED

ONLY_CATEGORY = "all"
"""The name of the only category where shapes have none: all parts belong to it."""


def part_ious(predicted: np.ndarray, truth: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """The IoU of each part of one shape.

    Args:
        predicted: [N] int, ids of parts.
        truth: [N] int; points of `IGNORED` are left out.
        parts: ids of the parts of the shape's category.

    Returns:
        [len(parts)] float64 in [0, 1]; 1 for a part that is absent from both.
    """
    is_labelled = truth != IGNORED
    predicted, truth = predicted[is_labelled], truth[is_labelled]
    size = 1 + max([*parts, int(predicted.max(initial=0)), int(truth.max(initial=0))])
    both = np.bincount(truth[predicted == truth], minlength=size)[list(parts)]
    either = (np.bincount(predicted, minlength=size) + np.bincount(truth, minlength=size))[list(parts)] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def part_metrics(
    predicted: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    part_names: Sequence[str],
    categories: Sequence[int] | None = None,
    category_parts: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The metrics of a test set of shapes.

    Args:
        predicted: for each shape [N] int, ids of parts, such as the model's `predict_parts` chooses.
        truth: as many arrays of the same sizes; points of `IGNORED` are left out, and so are shapes without others.
        part_names: the names of the part ids.
        categories: each shape's category, a place in `category_parts`; None where there are none.
        category_parts: names of categories, in the order of their ids, and the ids of their parts; None for one
            category of all parts. A part that a category's shapes are labelled with is one of its parts too, even if a
            model never gives it.

    Returns:
        - `instance_miou`, `class_miou` (over the categories that occur) and `accuracy`, the share of right points;
        - `per_category`, for each name the mean IoU of its shapes;
        - `per_part`, for each name the mean IoU of this part over the shapes whose category has it. The mean of a
          category's parts is the category's.

        Categories and parts without shapes are None.

    Raises:
        DatasetError: numbers of shapes or points differ, an id is no part's, or no point has a label.
    """
    guesses, truths = [np.asarray(ids) for ids in predicted], [np.asarray(ids) for ids in truth]
    if categories is None or category_parts is None:
        categories, category_parts = [0] * len(truths), {ONLY_CATEGORY: range(len(part_names))}
    _check_sizes(guesses, truths, categories)
    _check_ids(guesses, truths, len(part_names))
    parts_of = [list(parts) for parts in category_parts.values()]
    for labels, category in zip(truths, categories, strict=True):
        parts_of[category] += np.setdiff1d(labels, [IGNORED, *parts_of[category]]).tolist()
    by_category: list[list[np.ndarray]] = [[] for _ in parts_of]
    right = labelled = 0
    for guess, labels, category in zip(guesses, truths, categories, strict=True):
        if (is_labelled := labels != IGNORED).any():
            by_category[category].append(part_ious(guess, labels, parts_of[category]))
            right += int((guess == labels)[is_labelled].sum())
            labelled += int(is_labelled.sum())
    if not labelled:
        raise DatasetError(f"no point of the {len(truths)} shapes has a label, so there is nothing to compare with.")
    shape_ious = [[float(ious.mean()) for ious in shapes] for shapes in by_category]
    by_part: list[list[float]] = [[] for _ in part_names]
    for parts, shapes in zip(parts_of, by_category, strict=True):
        for ious in shapes:
            for part, iou in zip(parts, ious, strict=True):
                by_part[part].append(float(iou))
    per_category = dict(zip(category_parts, map(_mean, shape_ious), strict=True))
    return {
        "instance_miou": _mean([iou for ious in shape_ious for iou in ious]),
        "class_miou": _mean([mean for mean in per_category.values() if mean is not None]),
        "accuracy": right / labelled,
        "per_category": per_category,
        "per_part": dict(zip(part_names, map(_mean, by_part), strict=True)),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _check_sizes(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], categories: Sequence[int]) -> None:
    if not len(predicted) == len(truth) == len(categories):
        raise DatasetError(
            f"each shape must have predictions, labels and a category, got {len(predicted)}, {len(truth)} and "
            f"{len(categories)} of them."
        )
    for index, (guess, labels) in enumerate(zip(predicted, truth, strict=True)):
        if guess.shape != labels.shape:
            raise DatasetError(
                f"shape {index} must have as many predictions as labels, got {list(guess.shape)} and "
                f"{list(labels.shape)}."
            )


def _check_ids(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], num_parts: int) -> None:
    for index, (guess, labels) in enumerate(zip(predicted, truth, strict=True)):
        for name, ids in (("predictions", guess), ("labels", labels)):
            wrong = ids[(labels != IGNORED) & ((ids < 0) | (ids >= num_parts))]
            if len(wrong):
                raise DatasetError(
                    f"shape {index} must have {name} in 0…{num_parts - 1}, one for each part, got {wrong[0]}. Points "
                    f"without a label are {IGNORED}."
                )
