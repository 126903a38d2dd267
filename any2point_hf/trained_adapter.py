"""What the command line does with a trained adapter, as plain functions: load, evaluate, predict, info."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import PreTrainedModel

from .data import load_point_cloud_dataset
from .data.loading import Task
from .data.parts.dataset import is_part_dataset
from .data.sources import DataSource, name_of
from .evaluation.calibration import expected_calibration_error
from .evaluation.segmentation import evaluate_parts
from .modeling.backbones.loading import build_backbone
from .modeling.checkpoint_integrity import heads_of
from .modeling.configuration_any2point import Any2PointConfig
from .modeling.errors import Any2PointError, CheckpointError, DatasetError, HubError, listed
from .modeling.hub.names import pinned_name, pulled_folder
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from .modeling.pulled_config import weight_files
from .modeling.tokenizer.point_ops import split_features
from .parameter_counts import parameter_counts
from .processing_any2point import Any2PointProcessor
from .training.batches import joined
from .training.trainer import accuracies, confusion_matrix, process_split

ADAPTER_FILES = ("config.json", "model.safetensors")


def load(
    model: str, backbone: PreTrainedModel | str | None = None
) -> tuple[Any2PointForPointCloudClassification, Any2PointProcessor]:
    """An adapter on its backbone, on the GPU if there is one, and its processor, both of one commit.

    Args:
        model: folder or Hub id of the adapter.
        backbone: Hub id or folder instead of the recorded one, or a module, which is shared.

    Raises:
        CheckpointError: there is no such adapter, it does not fit the backbone, or its processor is missing.
        BackboneLoadError: the backbone cannot be loaded.
    """
    return _load(Any2PointForPointCloudClassification, pinned_name(model), backbone)


def load_segmenter(
    model: str, backbone: PreTrainedModel | str | None = None
) -> tuple[Any2PointForPointCloudSegmentation, Any2PointProcessor]:
    """As `load`, for an adapter that gives every point a part.

    Args:
        model: folder or Hub id of the adapter.
        backbone: Hub id or folder instead of the recorded one, or a module, which is shared.

    Raises:
        CheckpointError: there is no such adapter, or it is of another task.
        BackboneLoadError: the backbone cannot be loaded.
    """
    return _load(Any2PointForPointCloudSegmentation, pinned_name(model), backbone)


def load_either(
    model: str, backbone: PreTrainedModel | str | None = None
) -> tuple[Any2PointForPointCloudClassification | Any2PointForPointCloudSegmentation, Any2PointProcessor]:
    """As `load`, for an adapter of either task.

    Args:
        model: folder or Hub id of the adapter.
        backbone: Hub id or folder instead of the recorded one, or a module, which is shared.

    Raises:
        CheckpointError: there is no such adapter.
        BackboneLoadError: the backbone cannot be loaded.
    """
    model = pinned_name(model)
    return (load_segmenter if task_of(model) == "segmentation" else load)(model, backbone)


def task_of(model: str) -> Task:
    """What an adapter is for, "classification" or "segmentation", by its head.

    Args:
        model: folder or Hub id. One that cannot be read counts as a classifier, as loading it will tell.
    """
    try:
        heads = heads_of(weight_files(pulled_folder(model, ADAPTER_FILES)))
    except (Any2PointError, OSError, SafetensorError):
        return "classification"
    return "segmentation" if "segmenter" in heads else "classification"


def _load(model_class: Any, model: str, backbone: PreTrainedModel | str | None) -> tuple[Any, Any2PointProcessor]:
    loaded = model_class.from_pretrained(model, backbone=backbone)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu"), _load_processor(model)


def _load_processor(model: str) -> Any2PointProcessor:
    try:
        return Any2PointProcessor.from_pretrained(model)
    except HubError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{model!r} must also hold a valid preprocessor_config.json. Save the processor there: "
            f"Any2PointProcessor(num_points=…).save_pretrained(folder). The loader said: {error}"
        ) from error


def processor_of(model: str) -> Any2PointProcessor | None:
    """An adapter's processor, before its model is loaded; None also if there is no adapter, as `load` will tell."""
    try:
        return _load_processor(model)
    except Any2PointError:
        return None


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
            DatasetError: the data have a part for each point instead.
        """
        if is_part_dataset(self.dataset):
            raise DatasetError("this needs a class for each cloud, got a part for each point. Take a classifier.")
        of_dataset, of_model = self.clouds.features["label"].names, self.class_names
        return np.array([of_model.index(of_dataset[int(label)]) for label in self.clouds["label"]])

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
    label_column: str | None = None,
) -> SplitOfAdapter:
    """Loads an adapter and a split whose classes it knows.

    Args:
        model: folder or Hub id of the adapter.
        data: what `load_point_cloud_dataset` takes; its classes must be among the model's, in any order.
        backbone: Hub id or folder instead of the recorded one.
        split: of the dataset.
        drop_invalid: as in `load_point_cloud_dataset`; so also if the adapter's processor says so.
        label_column: as in `load_point_cloud_dataset`, for a segmenter.

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
    known = opened.class_names
    unknown = [name for name in opened.clouds.features["label"].names if name not in known]
    if unknown:
        raise DatasetError(
            f"the dataset's classes must be among the model's ({listed(known)}), got also {listed(unknown)}. "
            "Evaluate on the dataset it was trained for, or train a new adapter."
        )
    return opened


def _data_for(model: str, data: DataSource, options: dict[str, Any]) -> DatasetDict:
    """The data as an adapter needs them: with a class for each cloud, or a part for each point."""
    task = task_of(model)
    try:
        return load_point_cloud_dataset(data, task=task, **options)
    except DatasetError as error:
        try:
            others = load_point_cloud_dataset(data, **options)
        except Any2PointError:
            raise error from None
        needed, found = ["a class for each cloud", "a part for each point"][:: -1 if task == "segmentation" else 1]
        if is_part_dataset(others) == (task == "segmentation"):
            raise
        raise DatasetError(
            f"{model} is an adapter for {task}, which needs {needed}, and {name_of(data)} has {found}. Evaluate it on "
            "data of its own kind, or train an adapter for these."
        ) from error


def evaluate(
    model: str,
    data: DataSource,
    backbone: str | None = None,
    split: str = "test",
    batch_size: int = 32,
    drop_invalid: bool = False,
    label_column: str | None = None,
) -> dict[str, Any]:
    """`accuracy`, `mean_class_accuracy`, `per_class` (class name to accuracy) and `num_clouds` of a split.

    Of a segmenter, it is what `evaluate_parts` gives.

    There are also `expected_calibration_error`, and `confusion`, a matrix of counts: a row for each class in the order
    of `per_class`, a column for each answer.

    Args:
        model: folder or Hub id of the adapter.
        data: what `load_point_cloud_dataset` takes; its classes must be among the model's, in any order.
        backbone: Hub id or folder instead of the recorded one.
        split: of the dataset.
        batch_size: clouds at a time; the result does not depend on it.
        drop_invalid: as in `load_point_cloud_dataset`; so also if the adapter's processor says so.
        label_column: as in `load_point_cloud_dataset`, for a segmenter.

    Raises:
        Any2PointError: something in the input does not fit, such as classes that the model does not know.
    """
    opened = open_split(model, data, backbone, split, drop_invalid, label_column)
    if isinstance(opened.model, Any2PointForPointCloudSegmentation):
        return evaluate_parts(opened.model, opened.processor, opened.clouds, batch_size)
    labels, names = opened.labels, opened.class_names
    logits = torch.cat([logits_of(opened.model, batch) for batch in opened.batches(batch_size)])
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
    top: int = 3,
    batch_size: int = 32,
    drop_invalid: bool = False,
    min_confidence: float | None = None,
) -> list[dict[str, Any]]:
    """For each file: `file` and `classes`, a list of `label` and `probability`, the most probable first.

    With `min_confidence` also `answer`, the most probable class, or None where it is less probable than this.

    Args:
        model: folder or Hub id of the adapter.
        files: paths of point clouds or meshes.
        backbone: Hub id or folder instead of the recorded one.
        top: how many classes to list for each file.
        batch_size: clouds at a time; the result does not depend on it.
        drop_invalid: whether to drop invalid points, with a warning; so also if the adapter's processor says so.
        min_confidence: the least probability of an answer, 0 to 1.

    Raises:
        Any2PointError: something in the input does not fit.
    """
    loaded, processor = load(model, backbone)
    processor.drop_invalid |= drop_invalid
    rows = processor.rows(list(files))
    id2label: Any = loaded.config.id2label
    results = []
    logits = torch.cat([logits_of(loaded, batch) for batch in rows.split(batch_size)])
    for file, probabilities in zip(files, loaded.probabilities(logits), strict=True):
        best = probabilities.topk(min(top, len(probabilities)))
        classes = [
            {"label": id2label[int(index)], "probability": round(float(value), 6)}
            for value, index in zip(best.values, best.indices, strict=True)
        ]
        is_sure = min_confidence is not None and float(best.values[0]) >= min_confidence
        answer = {} if min_confidence is None else {"answer": classes[0]["label"] if is_sure else None}
        results.append({"file": str(file), "classes": classes, **answer})
    return results


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
