"""What a training has in place of one class a cloud: several classes, or numbers; and the weights of classes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from ..data.augmentation import Augmentation
from ..data.loading import Task
from ..data.parts.dataset import is_part_dataset, part_counts
from ..data.targets import target_array, target_names, target_task_of
from ..evaluation.head_metrics import MULTI_LABEL_METRICS, REGRESSION_METRICS, head_metrics
from ..modeling.errors import DatasetError, listed, require
from ..modeling.head_fields import BALANCED, MULTI_LABEL, REGRESSION, SINGLE_LABEL, problem_of

PROBLEM_TYPES: dict[Task, str] = {"classification": SINGLE_LABEL, "multi-label": MULTI_LABEL, "regression": REGRESSION}
"""What transformers calls the tasks whose labels are of clouds."""

TASK_METRICS: dict[str, Sequence[str]] = {"multi-label": MULTI_LABEL_METRICS, "regression": REGRESSION_METRICS}
"""What a training reports; the first one chooses the best epoch."""


def task_of_config(config: Any) -> Task:
    """The task of a config's head, which says something of a cloud."""
    return next(task for task, problem in PROBLEM_TYPES.items() if problem == problem_of(config))


def head_config_fields(dataset: Mapping[str, Dataset], class_weight: Any = None) -> dict[str, Any]:
    """The fields of a config that say what the labels of a data set are.

    Args:
        dataset: with a split `train` and labels of clouds.
        class_weight: "balanced", weights, or None.

    Returns:
        `id2label`, `label2id`; for several classes or numbers `problem_type`, and of a regression `target_mean` and
        `target_std` of the training clouds; `class_weight` where there is one.

    Raises:
        DatasetError: a target is the same for all training clouds.
    """
    train = dataset["train"]
    task = target_task_of(train.features)
    names = train.features["label"].names if task is None else target_names(train)
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if task is not None:
        fields["problem_type"] = PROBLEM_TYPES[task]
    if task == "regression":
        values = target_array(train).astype(np.float64)
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        if constant := [name for name, spread in zip(names, deviation, strict=True) if spread == 0]:
            raise DatasetError(
                f"a target must differ between training clouds, and {listed(constant)} is the same for all. Leave it "
                "out by label_column."
            )
        fields |= {"target_mean": mean.tolist(), "target_std": deviation.tolist()}
    if class_weight is not None:
        fields["class_weight"] = training_weights(train, class_weight)
    return fields


def training_weights(train: Dataset, class_weight: Any) -> Any:
    """The `class_weight` of a config with numbers in place of "balanced", where the data have one class or part each.

    Args:
        train: the split that is trained on.
        class_weight: "balanced", weights (a list, tuple, array or tensor), or None.

    Raises:
        ConfigurationError: it is another word.
    """
    if class_weight is None:
        return None
    if not isinstance(class_weight, str):
        return [float(weight) for weight in class_weight]
    require(class_weight == BALANCED, f'class_weight must be "{BALANCED}" or numbers', class_weight)
    return class_weight if target_task_of(train.features) is not None else balanced_weights(train)


def balanced_weights(train: Dataset) -> list[float]:
    """All clouds / (classes × clouds of the class), by which every class weighs the same; 1 for a class without clouds.

    Args:
        train: a split whose `label` is a ClassLabel; or one of parts, of which points are counted instead of clouds.
    """
    if is_part_dataset({"train": train}):
        counts = part_counts(train)
    else:
        labels = np.asarray(train.with_format(None)["label"][:])
        counts = np.bincount(labels, minlength=train.features["label"].num_classes)
    present = int(np.count_nonzero(counts))
    return [int(counts.sum()) / (present * int(count)) if count else 1.0 for count in counts]


def check_head(config: Any, dataset: Mapping[str, Dataset]) -> None:
    """Checks that a model says of clouds what a data set does, in the same order.

    Raises:
        DatasetError: its task, or its classes or targets, are others.
    """
    train = dataset["train"]
    task = target_task_of(train.features) or "classification"
    names = train.features["label"].names if task == "classification" else target_names(train)
    advice = "Make the config by Any2PointConfig(**head_config_fields(dataset))."
    if task != task_of_config(config):
        raise DatasetError(
            f"the model's problem_type must be {PROBLEM_TYPES[task]!r} for data of {task}, got "
            f"{config.problem_type!r}. {advice}"
        )
    if config.num_labels != len(names):
        raise DatasetError(
            f"the model must have the dataset's {len(names)} classes, and its config has {config.num_labels}. "
            "Set id2label in Any2PointConfig to the dataset's class names."
        )
    of_model = [config.id2label[index] for index in range(len(names))]
    if of_model != names and (sorted(of_model) == sorted(names) or task != "classification"):
        raise DatasetError(
            f"the model must have the dataset's classes in their order ({listed(names)}), and its config has "
            f"{listed(of_model)}. Set id2label=dict(enumerate(names)) in Any2PointConfig."
        )
    for name, split in dataset.items():
        if name != "train" and task != "classification":
            _check_measurable(target_array(split), name, task)
    if task == "regression" and config.target_mean is None:
        raise DatasetError(
            f"a regression learns targets of mean 0 and deviation 1, and the config has no target_mean and target_std. "
            f"{advice}"
        )


def _check_measurable(targets: np.ndarray, split: str, task: Task) -> None:
    """Raises a `DatasetError` if nothing can be measured on a split: R² needs targets that differ, mAP a label."""
    if task == "regression" and not np.ptp(targets, axis=0).any():
        raise DatasetError(
            f"a target must differ between the clouds of the split {split!r}, on which R² is measured, and all of its "
            f"{len(targets)} clouds have the same. Give it more clouds."
        )
    if task == "multi-label" and not targets.any():
        raise DatasetError(
            f"a cloud of the split {split!r}, on which mAP is measured, must have a class, and none of its "
            f"{len(targets)} clouds has one. Give it more clouds."
        )


def head_trainer_options(config: Any) -> dict[str, Callable[..., Any]]:
    """Arguments of the stock Trainer by which it measures several classes, or numbers."""
    task = task_of_config(config)
    names = [config.id2label[index] for index in range(config.num_labels)]

    def measure(evaluation: EvalPrediction) -> dict[str, float]:
        found: Any = evaluation.predictions
        targets: Any = evaluation.label_ids
        measured = head_metrics(found[0] if isinstance(found, tuple) else found, targets, names, task)
        return {name: measured[name] for name in TASK_METRICS[task] if measured[name] is not None}

    return {"compute_metrics": measure}


def warn_of_lost_sizes(scale_to_unit_sphere: bool, augmentation: Augmentation) -> None:
    """Warns where a regression's clouds lose the size that targets such as a volume depend on.

    Args:
        scale_to_unit_sphere: the processor's setting.
        augmentation: of the training.
    """
    reasons = {
        "the processor scales clouds to the unit sphere (Any2PointProcessor(scale_to_unit_sphere=False), or "
        "--keep-scale, does not)": scale_to_unit_sphere,
        f"the augmentation scales them by {augmentation.scale[0]:g} to {augmentation.scale[1]:g} (--scale 1 1 does "
        "not)": tuple(augmentation.scale) != (1.0, 1.0),
    }
    if found := [reason for reason, is_so in reasons.items() if is_so]:
        warnings.warn(
            "targets that depend on a cloud's size, such as a volume, cannot be learned, because "
            f"{' and '.join(found)}.",
            stacklevel=3,
        )
