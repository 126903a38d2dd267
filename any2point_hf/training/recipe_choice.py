"""Chooses the recipe of a training that is given none, and makes the line that reports the choice."""

from collections.abc import Mapping

import torch
from datasets import Dataset, LargeList, List

from ..data.loading import Task
from ..data.parts.dataset import CATEGORY, PART, is_part_dataset
from ..data.parts.tables import NAMES_OF_PARTS
from ..data.targets import target_task_of
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.errors import listed
from .recipe import Recipe

MOST_SMALL_CLOUDS = 5000  # training clouds of data that count as small


def choose_recipe(num_train_clouds: int, task: Task = "classification") -> str:
    """The name of the recipe for a task, and data of this size.

    `segmentation` and `regression` whatever their size. For classes of clouds `small-data` up to 5,000 clouds; for
    more, `modelnet` (as published) where there is a GPU, and `modelnet-cpu` where there is none.

    Args:
        num_train_clouds: clouds in the split `train`, before any are held out.
        task: what is trained for.
    """
    if task in ("segmentation", "regression"):
        return task
    if num_train_clouds <= MOST_SMALL_CLOUDS:
        return "small-data"
    return "modelnet" if torch.cuda.is_available() else "modelnet-cpu"


def task_line(dataset: Mapping[str, Dataset]) -> str | None:
    """Which task was taken of data that serve for several, and how to choose another, in one line; None for other data.

    Args:
        dataset: as `load_point_cloud_dataset` gives it without a task.
    """
    features = next(iter(dataset.values())).features
    if (targets := target_task_of(features)) is not None:
        what = {"regression": "numbers", "multi-label": "several classes"}[targets]
        return f"task {targets}: {what} for each cloud ({listed(features['label'])})."
    if is_part_dataset(dataset):
        if CATEGORY not in features:
            return None
        return (
            f"task segmentation: a part for each point (column {PART!r}), of clouds whose {CATEGORY!r} the model is "
            "told. --task classification learns a class for each cloud."
        )
    lists = [name for name in NAMES_OF_PARTS if isinstance(features.get(name), List | LargeList)]
    if not lists:
        return None
    return (
        "task classification: a class for each cloud (column 'label'). --task segmentation learns a part for each "
        f"point (column {lists[0]!r})."
    )


def choice_line(
    name: str, recipe: Recipe, config: Any2PointConfig, num_clouds: int, task: Task = "classification"
) -> str:
    """What a training will do, in one line.

    Args:
        name: of the recipe.
        recipe: after all changes, with its length in epochs (`Recipe.sized`).
        config: of the model.
        num_clouds: how many clouds are trained on.
        task: what is trained for.
    """
    unit = {"segmentation": "parts", "regression": "targets"}.get(task, "classes")
    augmentation = recipe.augmentation
    low, high = augmentation.scale
    changes = {
        f"rotation about {augmentation.rotation_axis}": augmentation.rotation_axis,
        f"mirrored along {augmentation.mirror_axis}": augmentation.mirror_axis,
        f"jitter {augmentation.jitter:g}": augmentation.jitter,
        f"up to {augmentation.drop:.0%} of the points lost": augmentation.drop,
    }
    of_backbone = {
        f"{config.backbone_blocks} of the backbone's blocks": config.backbone_blocks is not None,
        "no aggregation": config.aggregation == "none",
    }
    parts = (
        f"{recipe.epochs:g} epochs of {recipe.steps_per_epoch(num_clouds)} steps",
        f"rate {recipe.learning_rate:g} after {100 * recipe.warm_up_share:.3g} % warm-up",
        f"{config.num_points} points",
        f"K {config.num_neighbors}",
        f"scale {low:.3g} to {high:.3g}",
        f"shift {augmentation.shift:g}",
        *(text for text, is_given in changes.items() if is_given),
        f"start {config.adapter_start}",
        *(text for text, is_given in of_backbone.items() if is_given),
    )
    return f"recipe {name} ({num_clouds} clouds, {config.num_labels} {unit}): {', '.join(parts)}"
