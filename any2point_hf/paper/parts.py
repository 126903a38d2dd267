"""ShapeNetPart with one's own segmenters, beside published numbers. The paper has no such table, nor the authors' code.

reproduce_parts("ShapeNetPart", ["my-segmenter"], "reproduced")
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.parts.dataset import category_names_of, part_names_of
from ..data.sources import DataSource
from ..modeling.errors import DatasetError
from ..modeling.files import write_whole
from ..segmentation.labelling import category_names_of as categories_of_model
from ..segmentation.labelling import category_parts_of, label_points
from ..segmentation.labelling import part_names_of as parts_of_model
from ..segmentation.part_metrics import part_metrics
from ..segmentation.true_parts import known_cloud, load_parts
from ..trained_adapter import load_segmenter
from .markdown import MISSING

CATEGORIES, PARTS = 16, 50
"""Of ShapeNetPart."""


@dataclass(frozen=True)
class Published:
    """One method's figures in percent, None where they are not given.

    Args:
        method: its name, and whose figures they are.
        instance: mIoU over shapes.
        by_class: mIoU over categories.
    """

    method: str
    instance: float | None
    by_class: float | None


PUBLISHED = (
    Published("Point-NN, without training", 71.5, None),
    Published("Point-MAE, as published", 86.1, None),
    Published("Point-MAE, re-measured", 86.05, 84.12),
)


def reproduce_parts(data: DataSource, models: Sequence[str], output: str | os.PathLike, *, command: str = "") -> Path:
    """Measures segmenters on the test shapes of ShapeNetPart, and writes `parts.md` with published numbers.

    Every point of a shape is labelled once, among the parts of its category: no voting.

    Args:
        data: ShapeNetPart, as `load_point_cloud_dataset` takes it.
        models: folders or Hub ids of segmenters that were trained on it.
        output: folder of the table.
        command: what was typed; the table shows it.

    Returns:
        The file of the table.

    Raises:
        DatasetError: there is no such data set, it is another, or a model has other parts.
    """
    rows = [f"| {row.method} | {_percent(row.instance)} | {_percent(row.by_class)} | {MISSING} |" for row in PUBLISHED]
    for name in models:
        metrics, trained = _measured(name, data)
        figures = f"{100 * metrics['instance_miou']:.2f} | {100 * metrics['class_miou']:.2f}"
        rows.append(f"| ours: {name} | {figures} | {trained / 1e6:.2f} |")
    heading = ["# ShapeNetPart: parts of shapes", "", *([f"`{command}`", ""] if command else [])]
    table = ["| method | instance mIoU (%) | class mIoU (%) | trained parameters (M) |", "|---|---|---|---|", *rows]
    notes = [
        "",
        "- Ours: one pass over all points of every test shape, argmax over its category's parts, no voting.",
        "",
    ]
    file = Path(output) / "parts.md"
    write_whole(file, "\n".join([*heading, *table, *notes]))
    return file


def _measured(name: str, data: DataSource) -> tuple[dict[str, Any], int]:
    """The metrics of one segmenter, and its number of trained parameters."""
    model, processor = load_segmenter(name)
    dataset = load_parts(data, processor)
    found = len(category_names_of(dataset) or ()), len(part_names_of(dataset))
    if found != (CATEGORIES, PARTS):
        raise DatasetError(
            f"the published numbers are of ShapeNetPart, {CATEGORIES} categories with {PARTS} parts, and {data} has "
            f"{found[0]} with {found[1]}. Give its folder; for other data there is `any2point evaluate`."
        )
    predicted, truth, categories = [], [], []  # type: list[Any], list[Any], list[int]
    known_categories = categories_of_model(model)
    for row in range(len(dataset["test"])):
        cloud, parts, category = known_cloud(model, processor, dataset, row, data)
        predicted.append(label_points(model, processor, cloud, category).parts)
        truth.append(parts)
        categories.append(known_categories.index(category) if category else 0)
    told = categories if known_categories else None
    metrics = part_metrics(predicted, truth, parts_of_model(model), told, category_parts_of(model))
    return metrics, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:g}"
