"""A part for every point of one cloud of any size, in the order of its own points.

Unusual here: the category of a cloud is never guessed. A model with categories is told one and answers with parts of it
alone, so that every guess would seem to be confirmed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..modeling.configuration_any2point import SMALLEST_CLOUD
from ..modeling.errors import DatasetError, did_you_mean, listed, require
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..modeling.segmentation.large_clouds import answer_large_cloud
from ..modeling.segmentation.scenes import answer_scene
from ..modeling.segmentation.subsets import SUBSETS_AT_ONCE, PointAnswers
from ..point_clouds.labels import IGNORED
from ..processing_any2point import Any2PointProcessor
from .whole_cloud import WholeCloud


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """What a model says of one cloud, in the order of the cloud's own points.

    Args:
        points: [N, 3], as they were given.
        parts: [N] int64, places in `part_names`; −100 for invalid points that were dropped.
        probabilities: [N] float32, of each point's part among those of the category; NaN for dropped points.
        part_names: of all of the model's parts.
        category: the name of the cloud's; None where the model has none.
    """

    points: np.ndarray
    parts: np.ndarray
    probabilities: np.ndarray
    part_names: tuple[str, ...]
    category: str | None = None

    def summary(self) -> dict[str, Any]:
        """How many `points` and how many of them `dropped`; `confidence`, the mean probability; and `parts`.

        `parts` lists each part that occurs, by its id: `id`, `name`, `points`, their `share` of those that were not
        dropped, and their own `confidence`.
        """
        is_labelled = self.parts != IGNORED
        parts, probabilities = self.parts[is_labelled], self.probabilities[is_labelled].astype(np.float64)
        counts = np.bincount(parts, minlength=len(self.part_names))
        sums = np.bincount(parts, weights=probabilities, minlength=len(self.part_names))
        return {
            "points": len(self.parts),
            "dropped": len(self.parts) - len(parts),
            "category": self.category,
            "confidence": round(float(probabilities.mean()), 6),
            "parts": [
                {
                    "id": int(part),
                    "name": self.part_names[part],
                    "points": int(counts[part]),
                    "share": round(float(counts[part] / len(parts)), 6),
                    "confidence": round(float(sums[part] / counts[part]), 6),
                }
                for part in np.flatnonzero(counts)
            ],
        }


def label_points(
    model: Any2PointForPointCloudSegmentation,
    processor: Any2PointProcessor,
    cloud: Any,
    category: str | int | None = None,
    *,
    block: float | None = None,
    context: float | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    name: str = "cloud",
) -> LabelledPoints:
    """Labels all points of one cloud, from 8 different ones to millions.

    A cloud of more points than the processor's `num_points` is dealt into random subsets of so many, each spread over
    the whole cloud (`label_large_cloud`); a point's part does not depend on the order of the points. Of a cloud of
    fewer than 64 points, the fewest that a model takes, every point is repeated.

    Args:
        model: it runs in eval mode, and is left in the mode it was in.
        processor: the model's.
        cloud: one cloud as the processor takes it: an array [N, 3], a file, points with features.
        category: name or id of the cloud's category, where the model has categories. It is needed there.
        block: of a scene, such as a room or a street, the width of the squares of its ground plane that are labelled
            one by one, in the scene's own unit (`label_scene`); None for a cloud that the model sees whole.
        context: width of the margin around a square; by default a quarter of `block`.
        batch_size: subsets that go through the model at once; the result does not depend on it.
        name: by which errors call a cloud that is not a file.

    Raises:
        PointCloudError: the cloud cannot be used.
        DatasetError: the category is missing, unknown, or given to a model that has none.
        ConfigurationError: block or context is out of range, or there is a context without a block.
    """
    number = category_number(category_parts_of(model), category)
    require(block is not None or context is None, "context needs a block, whose margin it is", context)
    if block is not None:
        whole = processor.all_points(cloud, name=name)
        return _label_scene(model, processor, whole, number, block, context, batch_size)
    return label_whole_cloud(model, processor.all_points(cloud, name=name), number, processor.num_points, batch_size)


def label_whole_cloud(
    model: Any2PointForPointCloudSegmentation,
    whole: WholeCloud,
    category: int | None,
    num_points: int,
    batch_size: int = SUBSETS_AT_ONCE,
) -> LabelledPoints:
    """As `label_points`, for a cloud that the processor has prepared and the id of a category."""
    batch = {key: values[0].to(model.device) for key, values in whole.batch.items()}
    total = len(batch["points"])
    repeats = -(-SMALLEST_CLOUD // total)
    repeated = {key: values.repeat(repeats, 1) for key, values in batch.items()} if repeats > 1 else batch
    answers = answer_large_cloud(
        model,
        repeated["points"],
        repeated.get("point_features"),
        category,
        num_points=max(num_points, repeats * total if repeats > 1 else 0),
        batch_size=batch_size,
    )
    return _labelled(model, whole, answers, category)


def _label_scene(
    model: Any2PointForPointCloudSegmentation,
    processor: Any2PointProcessor,
    whole: WholeCloud,
    category: int | None,
    block: float,
    context: float | None,
    batch_size: int,
) -> LabelledPoints:
    scene, features = whole.given[whole.kept], whole.batch.get("point_features")  # in the scene's own unit
    own_type = scene.dtype if scene.dtype in (np.float32, np.float64) else np.float64
    repeats = -(-SMALLEST_CLOUD // len(scene))
    answers = answer_scene(
        model,
        torch.from_numpy(np.ascontiguousarray(scene, dtype=own_type)).repeat(repeats, 1),
        block,
        context,
        None if features is None else features[0].repeat(repeats, 1),
        category,
        processor.scale_to_unit_sphere,
        max(processor.num_points, repeats * len(scene) if repeats > 1 else 0),
        batch_size,
    )
    return _labelled(model, whole, answers, category)


def _labelled(model: Any, whole: WholeCloud, answers: PointAnswers, category: int | None) -> LabelledPoints:
    total = len(whole.kept)  # small clouds are repeated
    return LabelledPoints(
        whole.given,
        whole.in_given_order(answers.parts[:total].cpu().numpy()),
        whole.numbers_in_given_order(answers.probabilities[:total].cpu().numpy()),
        part_names_of(model),
        None if category is None else category_names_of(model)[category],
    )


def part_names_of(model: Any) -> tuple[str, ...]:
    """The names of a segmentation model's parts, by their ids."""
    return tuple(model.config.id2label[index] for index in range(model.config.num_labels))


def category_parts_of(model: Any) -> dict[str, list[int]] | None:
    """The ids of the parts of each of its categories, by their names; None where it has none."""
    return model.config.category_parts


def category_names_of(model: Any) -> tuple[str, ...]:
    """The names of its categories, by their ids; none where it has none."""
    return tuple(category_parts_of(model) or ())


def category_number(
    category_parts: Mapping[str, Sequence[int]] | None, category: str | int | None, option: str = "category"
) -> int | None:
    """The id of a category that a user named.

    Args:
        category_parts: of the model's config.
        category: a name or an id.
        option: how an error calls it.

    Raises:
        DatasetError: it is missing, unknown, or given where there are none.
    """
    if category_parts is None:
        if category is not None:
            raise DatasetError(f"this model has no categories, got {option} {_shown(category)}. Leave it out.")
        return None
    names = list(category_parts)
    known = listed(names, most=20)
    if category is None:
        raise DatasetError(
            f"this model must be told the category of a cloud, because it answers with parts of it alone; {option} is "
            f"one of {known}, got none."
        )
    if isinstance(category, str):
        if category not in names:
            hint = did_you_mean(category, names)
            raise DatasetError(f"{option} must be one of {known}, got {_shown(category)}.{hint}")
        return names.index(category)
    if isinstance(category, (bool, np.bool_)) or not isinstance(category, (int, np.integer)):
        raise DatasetError(f"{option} must be a name or an id of {known}, got {_shown(category)}.")
    if not 0 <= category < len(names):
        raise DatasetError(f"{option} must be an id in 0…{len(names) - 1} ({known}), got {category}.")
    return int(category)


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
