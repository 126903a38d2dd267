"""The few-shot protocol: rows × ways × shots × folds, each measured once.

    few_shot("modelnet40/", "google-bert/bert-base-uncased", "few-shot", ways=(5, 10), shots=(10, 20), folds=10)

All rows see the same clouds of a fold, and the rows that train use the fold's number as their seed, so that rows can be
compared fold by fold. Every finished measurement has a record, `OUTPUT/folds/5way_10shot/0/ROW.json`, and is never
repeated; an interrupted one starts anew. `OUTPUT/few_shot.md` is written after each measurement.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from ..data.augmentation import Augmentation
from ..data.fingerprint import data_fingerprint
from ..data.hub_dataset import pinned
from ..data.sources import DataSource, name_of
from ..modeling.backbones.fingerprint import BACKBONE_FILES, backbone_fingerprint
from ..modeling.backbones.loading import load_backbone
from ..modeling.configuration_any2point import Any2PointConfig, recorded_path
from ..modeling.errors import Any2PointError
from ..modeling.files import check_output_folder, read_record, write_whole
from ..modeling.tokenizer.fast.freed_memory import keep_freed_memory
from ..training.output_lock import output_lock
from ..training.recipe import Recipe
from .folds import NUM_QUERIES, open_folds
from .rows import NUM_STEPS, ROWS, row_accuracy
from .table import Accuracies, write_few_shot_table

TABLE_FILE = "few_shot.md"
_REMEASURE = "Delete it, and it is measured again."
AUGMENTATION = Augmentation(scale=(0.9, 1.1), shift=0.1)
CONFIG = {"num_points": 256, "num_neighbors": 16, "neighborhood_norm": "deviation", "label_smoothing": 0.1}
Key = tuple[str, int, int, int]  # row, ways, shots, fold


def make_recipe(data: DataSource) -> Recipe:
    """The recipe of the rows that train, fit for two CPU cores; built-in shapes, whose heading is random, turn about z.

    Args:
        data: what the folds are drawn from.
    """
    turned = Augmentation(AUGMENTATION.scale, AUGMENTATION.shift, "z") if data == "shapes" else AUGMENTATION
    return Recipe(batch_size=10, learning_rate=1e-3, augmentation=turned, config=CONFIG)


def few_shot(
    data: DataSource,
    backbone: str,
    output: str | os.PathLike,
    *,
    ways: Sequence[int] = (5, 10),
    shots: Sequence[int] = (10, 20),
    folds: int = 10,
    recipe: Recipe | None = None,
    drop_invalid: bool = False,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Measures what is still missing of the protocol, and writes the table.

    Args:
        data: what `load_point_cloud_dataset` takes (folds are drawn from its training split), or the folder of the
            field's published folds.
        backbone: Hub id or folder.
        output: folder of the table and of what was measured.
        ways: numbers of classes, at least 2 each.
        shots: numbers of support clouds of each class, at least 1 each.
        folds: how many of each; they are numbered from 0.
        recipe: of the rows that train; by default `make_recipe`.
        drop_invalid: whether to drop invalid points, with a warning.
        command: what was typed; the table shows it.
        say: called with a line of text after each measurement.

    Returns:
        The file of the table.

    Raises:
        Any2PointError: something does not fit, or another run is at work in the folder; raised before anything is
            trained.
    """
    output, backbone, recipe = Path(output), recorded_path(backbone), recipe or make_recipe(data)
    if min(ways, default=0) < 2 or min(shots, default=0) < 1 or folds < 1:
        raise Any2PointError(
            f"a protocol needs at least 2 ways, 1 shot and 1 fold, got {list(ways)}, {list(shots)} and {folds}."
        )
    check_output_folder(output)
    data = pinned(data)
    draw = open_folds(data, drop_invalid)
    files = backbone_fingerprint(backbone)
    settings = [(way, shot) for way in ways for shot in shots]
    wanted: dict[Key, dict[str, Any]] = {}
    for fold in range(folds):  # draws all folds, so that one that cannot be drawn fails before any work
        for way, shot in settings:
            shared = {"ways": way, "shots": shot, "fold": fold, "data": data_fingerprint(draw(way, shot, fold))}
            shared |= {
                "backbone": backbone,
                BACKBONE_FILES: files,
                "steps": NUM_STEPS,
                "config": dict(recipe.config),
            } | recipe.settings()
            shared["sampling_start"] = Any2PointConfig(**recipe.config).sampling_start  # of earlier ones "first"
            wanted |= {(row, way, shot, fold): json.loads(json.dumps({"row": row} | shared)) for row in ROWS}
    with output_lock(output):
        for key, asked in wanted.items():
            _check_record(_record_file(output, key), asked)
        pretrained = load_backbone(backbone)
        facts = _facts(name_of(data), backbone, recipe)
        file = output / TABLE_FILE
        write_few_shot_table(file, _accuracies(output, wanted), settings, facts, command)
        keep_freed_memory()
        for key, asked in wanted.items():
            row, way, shot, fold = key
            if _record_file(output, key).is_file():
                continue
            start = time.monotonic()
            accuracy = row_accuracy(row, draw(way, shot, fold), pretrained, backbone, recipe, fold, drop_invalid)
            result: dict[str, Any] = {"accuracy": accuracy, "seconds": time.monotonic() - start}
            result |= {"torch": torch.__version__, "transformers": transformers.__version__}
            write_whole(_record_file(output, key), json.dumps({"settings": asked, "result": result}, indent=2) + "\n")
            write_few_shot_table(file, _accuracies(output, wanted), settings, facts, command)
            say(f"{way}-way {shot}-shot, fold {fold}, {row}: accuracy {accuracy:.4f} in {result['seconds']:.0f} s")
    return file


def _record_file(output: Path, key: Key) -> Path:
    row, ways, shots, fold = key
    return output / "folds" / f"{ways}way_{shots}shot" / str(fold) / f"{row.replace(' ', '_')}.json"


def _check_record(file: Path, asked: dict[str, Any]) -> None:
    """Checks that a recorded measurement is of the same clouds, backbone and training."""
    before = read_record(file, "settings", "result", fix=_REMEASURE)["settings"] if file.is_file() else asked
    before = {BACKBONE_FILES: asked[BACKBONE_FILES]} | before
    different = [f"{name} was {before.get(name)!r}" for name in asked if before.get(name) != asked[name]]
    if different:
        raise Any2PointError(
            f"{file} was measured with other settings, these differ: {', '.join(different)}. Give the same ones, or "
            "choose another folder."
        )


def _accuracies(output: Path, keys: dict[Key, Any]) -> Accuracies:
    """The accuracies that have been measured by now."""
    done: dict[tuple[str, int, int], dict[int, float]] = {}
    for key in keys:
        if (file := _record_file(output, key)).is_file():
            row, ways, shots, fold = key
            result = read_record(file, "result", fix=_REMEASURE)["result"]
            done.setdefault((row, ways, shots), {})[fold] = result["accuracy"]
    return done


def _facts(data: str, backbone: str, recipe: Recipe) -> list[str]:
    """Lines for below the tables: data, backbone, training."""
    augmentation, config = recipe.augmentation, ", ".join(f"{key}={value}" for key, value in recipe.config.items())
    turned = f", turned about {augmentation.rotation_axis}" if augmentation.rotation_axis else ""
    low, high = augmentation.scale
    return [
        f"Folds of {data}: drawn from its training split with {NUM_QUERIES} query clouds a class, all different from "
        "the support clouds, unless they are the field's published ones. Chance is 1 / ways.",
        f"Backbone: {backbone}; {config}.",
        f"Training: {NUM_STEPS} steps of {recipe.batch_size} clouds, learning rate {recipe.learning_rate:g}, scale "
        f"{low:.3g} to {high:.3g}, shift {augmentation.shift:g}{turned}; the fold's number is the seed. Accuracies "
        "are of the last step; nothing is chosen by the queries.",
        "Folds share classes and clouds, so that intervals over folds are narrower than over new data.",
    ]
