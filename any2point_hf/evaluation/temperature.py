"""Fits an adapter's temperature to clouds that it was not trained on, and writes it into the adapter's folder."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..data.sources import DataSource
from ..modeling.errors import Any2PointError
from ..modeling.files import write_whole
from ..modeling.head_fields import require_single_label
from ..modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from ..trained_adapter import logits_of, open_split
from .calibration import expected_calibration_error, fit_temperature

_CONFIG = "config.json"


def check_folder(model: str | os.PathLike) -> None:
    """Raises an Any2PointError where an adapter is no folder, in which a temperature can be written."""
    if not Path(model, _CONFIG).is_file():
        raise Any2PointError(
            f"calibrate writes the temperature into the adapter's folder, and {os.fspath(model)!r} is no folder with a "
            f"{_CONFIG}. Pull it first, by from_pretrained and save_pretrained of model and processor."
        )


def calibrate(
    model: str | os.PathLike,
    data: DataSource,
    backbone: str | None = None,
    split: str = "validation",
    batch_size: int = 32,
    drop_invalid: bool = False,
) -> dict[str, Any]:
    """Fits the temperature of an adapter and writes it into its `config.json`; its answers stay the same.

    Args:
        model: folder of the adapter.
        data: what `load_point_cloud_dataset` takes; its classes must be among the model's, in any order.
        backbone: Hub id or folder instead of the recorded one.
        split: of clouds that the adapter was not trained on, and that it will not be tested on.
        batch_size: clouds at a time.
        drop_invalid: as in `load_point_cloud_dataset`; so also if the adapter's processor says so.

    Returns:
        `temperature`, `num_clouds`, and the split's expected calibration error before and after, `before` and `after`.

    Raises:
        Any2PointError: something in the input does not fit, or the adapter is a segmenter.
    """
    check_folder(model)
    if split == "train":
        raise Any2PointError(
            "a temperature is fitted to clouds that were not trained on, got --split train. Hold some out "
            "(any2point train --validation-share), and name their split."
        )
    opened = open_split(os.fspath(model), data, backbone, split, drop_invalid)
    if isinstance(opened.model, Any2PointForPointCloudSegmentation):
        raise Any2PointError(f"calibrate is for classifiers, and {os.fspath(model)} is a segmenter.")
    require_single_label(opened.model.config, "calibrate")
    logits = torch.cat([logits_of(opened.model, batch) for batch in opened.batches(batch_size)])
    labels = opened.labels
    errors = [expected_calibration_error(opened.model.probabilities(logits).numpy(), labels)]
    opened.model.config.temperature = fit_temperature(logits, torch.from_numpy(labels))
    errors.append(expected_calibration_error(opened.model.probabilities(logits).numpy(), labels))
    file = Path(model, _CONFIG)
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["temperature"] = temperature = opened.model.config.temperature
    write_whole(file, json.dumps(settings, indent=2, sort_keys=True) + "\n")
    return {"temperature": temperature, "num_clouds": len(labels), "before": errors[0], "after": errors[1]}
