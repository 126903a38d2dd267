"""Loads a trained adapter with its processor, and says by its files what it is for."""

import json
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from .data.loading import Task
from .modeling.checkpoint_integrity import heads_of
from .modeling.errors import Any2PointError, CheckpointError, HubError
from .modeling.hub.names import pinned_name, pulled_folder
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from .modeling.pulled_config import weight_files
from .processing_any2point import Any2PointProcessor
from .training.head_tasks import PROBLEM_TYPES

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
    """What an adapter is for, by its head and the `problem_type` of its config.

    Args:
        model: folder or Hub id. One that cannot be read counts as a classifier, as loading it will tell.
    """
    try:
        folder = pulled_folder(model, ADAPTER_FILES)
        if "segmenter" in heads_of(weight_files(folder)):
            return "segmentation"
        problem = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8")).get("problem_type")
    except (Any2PointError, OSError, SafetensorError, ValueError, AttributeError):
        return "classification"
    return next((task for task, name in PROBLEM_TYPES.items() if name == problem), "classification")


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
