"""What the command line does with a trained adapter, as plain functions: evaluate, predict, info."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from .adapter_loading import load as load
from .adapter_loading import load_either as load_either
from .adapter_loading import load_segmenter as load_segmenter
from .adapter_loading import processor_of as processor_of
from .adapter_loading import task_of as task_of
from .data import load_point_cloud_dataset
from .data.loading import Task, task_of_dataset
from .data.parts.dataset import is_part_dataset
from .data.sources import DataSource, name_of
from .data.targets import target_array, target_names
from .evaluation.answers import answers_of, check_answer_options
from .evaluation.calibration import expected_calibration_error
from .evaluation.head_metrics import head_metrics
from .evaluation.segmentation import evaluate_parts
from .modeling.backbones.loading import build_backbone
from .modeling.configuration_any2point import Any2PointConfig
from .modeling.errors import Any2PointError, BackboneLoadError, DatasetError, listed
from .modeling.head_fields import problem_of
from .modeling.hub.names import pinned_name
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from .modeling.tokenizer.point_ops import split_features
from .parameter_counts import parameter_counts
from .processing_any2point import Any2PointProcessor
from .training.batches import joined
from .training.head_tasks import TASK_METRICS
from .training.trainer import accuracies, confusion_matrix, process_split

DEFAULT_TOP = 3
FOUND: dict[Task, str] = {
    "classification": "a class for each cloud",
    "multi-label": "several classes for each cloud",
    "regression": "numbers for each cloud",
    "segmentation": "a part for each point",
}
"""What data of each task have."""


@dataclass(frozen=True)
class SplitOfAdapter:
    """A split of a data set beside the adapter that answers for it.

    Args:
        model: in eval mode.
        processor: the adapter's.
        dataset: all splits, with columns `points`, `label` (or, for a segmenter, `part` and maybe `category`) and those
            of the features that the model takes.
        split: the name of this one.
    """

    model: Any2PointForPointCloudClassification | Any2PointForPointCloudSegmentation
    processor: Any2PointProcessor
    dataset: DatasetDict
    split: str

    @property
    def clouds(self) -> Dataset:
        """The rows of the split."""
        return self.dataset[self.split]

    @property
    def class_names(self) -> list[str]:
        """Of the model, in the order of its numbering."""
        id2label: Any = self.model.config.id2label
        return [id2label[index] for index in range(len(id2label))]

    @property
    def labels(self) -> np.ndarray:
        """Of the clouds in the model's numbering, [n] int.

        Raises:
            DatasetError: the data have something else instead.
        """
        if (task := task_of_dataset(self.dataset)) != "classification":
            raise DatasetError(f"this needs a class for each cloud, got {FOUND[task]}. Take a classifier.")
        of_dataset, of_model = self.clouds.features["label"].names, self.class_names
        return np.array([of_model.index(of_dataset[int(label)]) for label in self.clouds["label"]])

    @property
    def targets(self) -> np.ndarray:
        """The clouds' classes (0 and 1) or numbers in the model's order, [n, names] float32; 0 for an unknown class."""
        of_dataset, values = target_names(self.clouds), target_array(self.clouds)
        absent = np.zeros(len(values), dtype=np.float32)
        columns = [values[:, of_dataset.index(name)] if name in of_dataset else absent for name in self.class_names]
        return np.stack(columns, axis=1)

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """The clouds as the model takes them, with their features: [B, N, 3 + F] float32, on the model's device.

        Args:
            batch_size: B, but for the last one.
        """
        processed = process_split(self.clouds, self.processor, self.processor.num_points)
        for rows in processed.iter(batch_size):
            yield joined(rows).to(self.model.device)


def open_split(
    model: str,
    data: DataSource,
    backbone: str | None = None,
    split: str = "test",
    drop_invalid: bool = False,
    label_column: str | Sequence[str] | None = None,
) -> SplitOfAdapter:
    """Loads an adapter and a split whose classes it knows.

    Args:
        model: folder or Hub id of the adapter.
        data: what `load_point_cloud_dataset` takes; its classes must be among the model's, in any order.
        backbone: Hub id or folder instead of the recorded one.
        split: of the dataset.
        drop_invalid: as in `load_point_cloud_dataset`; so also if the adapter's processor says so.
        label_column: as in `load_point_cloud_dataset`.

    Raises:
        Any2PointError: something in the input does not fit, such as classes that the model does not know.
    """
    model = pinned_name(model)
    known_processor = processor_of(model) or Any2PointProcessor()
    drop_invalid = drop_invalid or known_processor.drop_invalid
    options: Any = {"drop_invalid": drop_invalid, "features": known_processor.point_feature_names}
    dataset = _data_for(model, data, options | {"label_column": label_column})
    if split not in dataset:
        raise DatasetError(f"--split must be one of {listed(dataset)}, got {split!r}.")
    loaded, processor = load_either(model, backbone)
    processor.drop_invalid = drop_invalid  # of official data sets, it alone drops
    opened = SplitOfAdapter(loaded, processor, dataset, split)
    if is_part_dataset(dataset):
        return opened  # whose names are compared where they are used
    known, task = opened.class_names, task_of_dataset(dataset)
    found = target_names(opened.clouds) if task in TASK_METRICS else opened.clouds.features["label"].names
    if task == "regression" and (missing := [name for name in known if name not in found]):
        raise DatasetError(
            f"the dataset must have the model's targets ({listed(known)}), got {listed(found)} without {missing[0]}. "
            "Name the columns by --label-column (in Python label_column=[…])."
        )
    unknown = [name for name in found if name not in known]
    if unknown and task != "regression":
        raise DatasetError(
            f"the dataset's classes must be among the model's ({listed(known)}), got also {listed(unknown)}. "
            "Evaluate on the dataset it was trained for, or train a new adapter."
        )
    return opened


def _data_for(model: str, data: DataSource, options: dict[str, Any]) -> DatasetDict:
    """The data as an adapter needs them: with what it says of clouds or points."""
    task = task_of(model)
    try:
        return load_point_cloud_dataset(data, task=task, **options)
    except DatasetError as error:
        try:
            found = task_of_dataset(load_point_cloud_dataset(data, **options))
        except Any2PointError:
            raise error from None
        if found == task:
            raise
        with contextlib.suppress(BackboneLoadError):
            load_either(model)  # one that cannot be read counted as a classifier, and says here what it is
        raise DatasetError(
            f"{model} is an adapter for {task}, which needs {FOUND[task]}, and {name_of(data)} has {FOUND[found]}. "
            "Evaluate it on data of its own kind, or train an adapter for these."
        ) from error


def evaluate(
    model: str,
    data: DataSource,
    backbone: str | None = None,
    split: str = "test",
    batch_size: int = 32,
    drop_invalid: bool = False,
    label_column: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """`accuracy`, `mean_class_accuracy`, `per_class` (class name to accuracy) and `num_clouds` of a split.

    Of a segmenter, it is what `evaluate_parts` gives; of several classes a cloud or of numbers, what `head_metrics`
    gives, and `num_clouds`.

    There are also `expected_calibration_error`, and `confusion`, a matrix of counts: a row for each class in the order
    of `per_class`, a column for each answer.

    Args:
        model: folder or Hub id of the adapter.
        data: what `load_point_cloud_dataset` takes; its classes must be among the model's, in any order.
        backbone: Hub id or folder instead of the recorded one.
        split: of the dataset.
        batch_size: clouds at a time; the result does not depend on it.
        drop_invalid: as in `load_point_cloud_dataset`; so also if the adapter's processor says so.
        label_column: as in `load_point_cloud_dataset`.

    Raises:
        Any2PointError: something in the input does not fit, such as classes that the model does not know.
    """
    opened = open_split(model, data, backbone, split, drop_invalid, label_column)
    if isinstance(opened.model, Any2PointForPointCloudSegmentation):
        return evaluate_parts(opened.model, opened.processor, opened.clouds, batch_size)
    names, task = opened.class_names, task_of_dataset(opened.dataset)
    logits = torch.cat([logits_of(opened.model, batch) for batch in opened.batches(batch_size)])
    if task in TASK_METRICS:
        measured = head_metrics(logits.numpy(), opened.targets, names, task)
        return {**measured, "num_clouds": len(logits)}
    labels = opened.labels
    predictions = logits.argmax(dim=-1).numpy()
    result = accuracies(predictions, labels, len(names))
    return result | {
        "per_class": dict(zip(names, result["per_class"], strict=True)),
        "confusion": confusion_matrix(predictions, labels, len(names)).tolist(),
        "num_clouds": len(labels),
        "expected_calibration_error": expected_calibration_error(opened.model.probabilities(logits).numpy(), labels),
    }


def predict(
    model: str,
    files: Sequence[str],
    backbone: str | None = None,
    top: int | None = None,
    batch_size: int = 32,
    drop_invalid: bool = False,
    min_confidence: float | None = None,
) -> list[dict[str, Any]]:
    """For each file: `file` and what `answers_of` gives: `classes` with probabilities, or `values`.

    Args:
        model: folder or Hub id of the adapter.
        files: paths of point clouds or meshes.
        backbone: Hub id or folder instead of the recorded one.
        top: how many classes to list for each file; by default 3.
        batch_size: clouds at a time; the result does not depend on it.
        drop_invalid: whether to drop invalid points, with a warning; so also if the adapter's processor says so.
        min_confidence: the least probability of an answer, 0 to 1.

    Raises:
        Any2PointError: something in the input does not fit.
    """
    loaded, processor = load(model, backbone)
    check_answer_options(problem_of(loaded.config), top, min_confidence)
    processor.drop_invalid |= drop_invalid
    rows = processor.rows(list(files))
    logits = torch.cat([logits_of(loaded, batch) for batch in rows.split(batch_size)])
    answers = answers_of(loaded, logits, DEFAULT_TOP if top is None else top, min_confidence)
    return [{"file": str(file), **answer} for file, answer in zip(files, answers, strict=True)]


@torch.no_grad()
def logits_of(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Logits [B, classes] of points with their features, [B, N, 3 + F]."""
    return model(*split_features(rows.to(model.device))).logits.float().cpu()


def info(model: str | None, backbone: str | None, config_fields: dict[str, Any]) -> dict[str, Any]:
    """`trainable`, `trainable_without_head`, `total`, and `parts` (name to trained parameters; the backbone's total).

    Args:
        model: an adapter, or None for a new one.
        backbone: Hub id or folder: the backbone of a new adapter, or one to use instead of the recorded one.
        config_fields: the config of a new adapter, which is counted without loading weights: only the backbone's config
            is loaded, and nothing where `backbone_config` is among the fields.

    Raises:
        Any2PointError: something in the input does not fit.
    """
    if model is not None:
        return parameter_counts(load_either(model, backbone)[0])
    if backbone is None and config_fields.get("backbone_config") is None:
        raise Any2PointError("info needs --model, --preset or --backbone, got none.")
    config = Any2PointConfig(backbone=backbone, **config_fields)
    with torch.device("meta"):
        new: Any = Any2PointForPointCloudClassification(config)
        new.attach_backbone(build_backbone(new.config.backbone_config))
        new.any2point.start_trained_backbone()
    return parameter_counts(new)
