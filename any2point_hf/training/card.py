"""The model card of a training, with its pictures: written into the adapter's folder at the end."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import DatasetDict
from transformers import Trainer

from ..data.hub_dataset import HubDataset
from ..modeling.errors import MissingPackageError
from ..modeling.files import write_whole
from ..modeling.publishing.model_card import GENERATED, model_card
from ..modeling.publishing.model_card_text import Evaluation, TrainingFacts
from ..modeling.publishing.model_description import ModelDescription
from .probe_before_training import MOST_CLOUDS
from .recipe import Recipe
from .repeating import shown_command, shown_path, training_code
from .results import ResultOnTest

CARD = "README.md"
CURVES = "images/training_curves.png"
CONFUSION = "images/confusion_matrix.png"
_CURVES = "Loss and {} by epoch"
_MEASURES = {"mean_average_precision": "mAP", "r2": "R²"}
_CONFUSION = "Which {} of the test split were taken for which"


def write_training_card(
    folder: Path,
    description: ModelDescription,
    facts: TrainingFacts,
    history: Sequence[Mapping[str, Any]],
    confusion: np.ndarray | None,
) -> None:
    """Writes README.md and images/. A README.md that was not generated stays, with a warning.

    Without the extra `pictures` there is a line on standard error instead of images.

    Args:
        folder: of the adapter.
        description: of the model.
        facts: of the training.
        history: `trainer.state.log_history`.
        confusion: matrix of the test split, [classes, classes]; None where there is none.
    """
    try:
        from .pictures import draw_confusion_matrix, draw_training_curves
    except MissingPackageError as error:
        print(f"the training is saved without pictures of it: {error}", file=sys.stderr, flush=True)
        facts = replace(facts, pictures={})
        for picture in (CURVES, CONFUSION):  # of an earlier training
            (folder / picture).unlink(missing_ok=True)
    else:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        draw_training_curves(history, folder / CURVES)
        if confusion is not None:
            draw_confusion_matrix(confusion, description.class_names, folder / CONFUSION)
        else:
            (folder / CONFUSION).unlink(missing_ok=True)
    card = folder / CARD
    if card.is_file() and GENERATED not in card.read_text(encoding="utf-8", errors="replace"):
        warnings.warn(f"{card} was not written by a training and stays as it is. Move it to get one.", stacklevel=2)
        return
    write_whole(card, str(model_card(description, folder.resolve().name, facts)))


def training_facts(
    trainer: Trainer,
    dataset: DatasetDict,
    recipe: Recipe,
    run: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
    result: ResultOnTest,
    command: Sequence[str] | None,
    of_hub: HubDataset | None = None,
) -> TrainingFacts:
    """What the card says of a training.

    Args:
        trainer: after it has trained.
        dataset: the one that it trained and tested on.
        recipe: how it was trained.
        run: `data`, `data_fingerprint`, `seed`, `validation_share`, `drop_invalid`, `linear_probe_accuracy` (None
            without a probe), and `task` and `label_column` as they were given.
        evaluations: rows of the table of results.
        result: of the saved weights.
        command: arguments of the command line, or None for a training from Python.
        of_hub: the name of the data on the Hub, with its commit, if they are there.
    """
    seed, share, processes = run["seed"], run["validation_share"], trainer.args.world_size
    model: Any = trainer.model
    config = model.config
    remarks = [f"Seed {seed}."]
    if share is not None:
        remarks.append(f"Of every class, {share:.0%} of the training clouds were held out to choose the epoch by.")
    if run["linear_probe_accuracy"] is not None:
        part = f"{MOST_CLOUDS} clouds of " if len(dataset["test"]) > MOST_CLOUDS else ""
        remarks.append(
            f"Before training, a linear probe on the model's features had an accuracy of "
            f"{run['linear_probe_accuracy']:.4f} on {part}the test split."
        )
    if result.per_part:
        remarks.append(f"Measured on the {config.num_points:,} points that the processor keeps of each cloud.")
    if "validation" not in dataset:
        remarks.append("The weights are those of the last epoch.")
    if processes > 1:
        remarks.append(f"{processes} processes trained together, each with batches of this size.")
    arguments: Any = (run["data"], config, trainer.args.output_dir, recipe, seed, share, run["drop_invalid"])
    of_loading = {name: run[name] for name in ("task", "label_column") if run[name] is not None}
    of_task: Any = {"is_for_parts": bool(result.per_part), "of_loading": of_loading}
    pictures = {_CURVES.format(_MEASURES.get(next(iter(result.metrics)), "accuracy")): CURVES}
    if result.confusion is not None:
        pictures[_CONFUSION.format("parts" if result.per_part else "classes")] = CONFUSION
    return TrainingFacts(
        dataset=str(of_hub._replace(revision=None)) if of_hub else shown_path(run["data"]),
        dataset_id=of_hub.repo_id if of_hub else None,
        dataset_commit=of_hub.revision if of_hub else None,
        fingerprint=run["data_fingerprint"],
        splits={name: len(dataset[name]) for name in ("train", "validation", "test") if name in dataset},
        evaluations=evaluations,
        per_class=result.per_class,
        per_part=result.per_part,
        per_name=result.per_name,
        recipe=yaml.safe_dump(recipe.settings(), sort_keys=False),
        command=training_code(*arguments, **of_task) if command is None else shown_command(command),
        language="python" if command is None else "bash",
        remarks=remarks,
        backbone_commit=getattr(config.backbone_config, "_commit_hash", None),
        pictures=pictures,
    )
