"""Turns a row of a table into a training: its config and recipe on a backbone, and what is measured of it."""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import DatasetDict
from transformers import PreTrainedModel, set_seed

from ..data.fingerprint import data_fingerprint
from ..modeling.backbones.detector import backbone_spec
from ..modeling.backbones.loading import load_backbone, record_backbone
from ..modeling.backbones.spec import num_blocks
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.files import read_record
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..modeling.presets import MODELNET, PRESETS, SCAN
from ..modeling.projection_choice import make_projection
from ..processing_any2point import Any2PointProcessor
from ..training.recipe import Recipe, changed, read_recipe
from ..training.trainer import make_trainer
from .control_backbones import permuted_weights, random_weights
from .rows import Row, fit_row
from .tuning_baselines import apply_method, check_method

_REMEASURE = "Delete it, and it is measured again."
PUBLISHED = {"1d": "clip-text", "2d": "dinov2", "audio": "imagebind-audio"}  # by modality: whose presets are the start
WEIGHTS = {"permuted": permuted_weights, "random": random_weights}
OF_PUBLISHED_CANVAS = ("plane", "cell_size")  # left to defaults: equal on published backbones, fit for others


@dataclass(frozen=True)
class Budget:
    """How long, and on what data, the rows are trained; None stands for what is published for the kind of data.

    Args:
        epochs: passes over the training split.
        num_points: points a cloud.
        num_neighbors: K of the tokenizer.
        train_clouds: at most so many training clouds, the same for all rows; None for all.
        batch_size: clouds a step.
        learning_rate: the highest one.
        scale: augmentation by a factor of each axis.
        shift: augmentation by a shift of each axis.
        adapter_start: start values of the adapters.
    """

    epochs: float | None = None
    num_points: int = 1024
    num_neighbors: int | None = None
    train_clouds: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    scale: tuple[float, float] | None = None
    shift: float | None = None
    adapter_start: str | None = None


QUICK = Budget(
    epochs=4,
    num_points=128,
    num_neighbors=16,
    train_clouds=1000,
    learning_rate=1e-3,
    scale=(0.9, 1.1),
    shift=0.1,
    adapter_start="zero",  # ahead of the published start in short trainings (docs/results.md)
)


def make_budget(quick: bool = False, **overrides: Any) -> Budget:
    """The published budget, or the quick one for a CPU; overrides that are not None replace its values."""
    return changed(QUICK if quick else Budget(), **overrides)


@dataclass(frozen=True)
class Run:
    """One training: a row, on a modality, with a seed.

    Args:
        settings: all that decides its result, as JSON values; the same in whichever table the row stands.
        config: of the model.
        file: where its record is kept.
        scaled: maps the paper's values that were fitted to the backbone's size to ours.
    """

    settings: dict[str, Any]
    config: Any2PointConfig
    file: Path
    scaled: dict[str, str]

    def record(self) -> dict[str, Any] | None:
        """What was measured, or None if nothing has been yet."""
        return read_record(self.file, "result", fix=_REMEASURE)["result"] if self.file.is_file() else None


class Runs:
    """Makes and trains the runs of rows that share data, backbones and budget.

    Args:
        data: what the data set was loaded from.
        dataset: splits `train`, cut to the budget, and `test`.
        backbones: Hub id or folder by modality.
        extra_fields: fields of Any2PointConfig by modality; a row's own fields take precedence.
        budget: of every row.
        folder: where the records are kept.
        drop_invalid: whether the processor drops invalid points, which an official data set may still have.
    """

    def __init__(
        self,
        data: str,
        dataset: DatasetDict,
        backbones: Mapping[str, str],
        extra_fields: Mapping[str, dict[str, Any]],
        budget: Budget,
        folder: Path,
        drop_invalid: bool = False,
    ) -> None:
        self.data, self.dataset, self.backbones, self.budget, self.folder = data, dataset, backbones, budget, folder
        self.drop_invalid, self.fingerprint = drop_invalid, data_fingerprint(dataset)
        names = dataset["train"].features["label"].names
        self.labels: dict[str, Any] = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }
        self.on_scans = set(names) == set(SCAN.class_names)
        self.recipe = self._recipe()
        self.fields = {name: base_fields(name, self.on_scans, budget) | extra_fields[name] for name in backbones}

    def _recipe(self) -> Recipe:
        """The published recipe for the kind of data, changed to this budget; the built-in shapes are turned about z."""
        budget, recipe = self.budget, read_recipe((SCAN if self.on_scans else MODELNET).recipe)
        axis = "z" if self.data == "shapes" else None
        augmentation = changed(recipe.augmentation, scale=budget.scale, shift=budget.shift, rotation_axis=axis)
        amount = {name: getattr(budget, name) for name in ("epochs", "batch_size", "learning_rate")}
        return changed(recipe, augmentation=augmentation, **amount)

    def plan(self, row: Row, modality: str, seed: int) -> Run:
        """The run of a row.

        Raises:
            Any2PointError: the row does not fit the backbone.
        """
        config = self._config(modality, {})
        backbone_config: Any = config.backbone_config
        spec, depth = backbone_spec(backbone_config), num_blocks(backbone_config)
        check_method(row.method, spec)
        cell_size = make_projection(config, spec).cell_size
        fitted = fit_row(row.fields, modality, depth, cell_size)
        config = self._config(modality, {"cell_size": cell_size} | fitted)
        config.adapted_blocks(config.used_blocks(depth))
        make_projection(config, spec)
        settings = {
            "method": row.method,
            "config": config.unlike_defaults() | {"backbone": config.backbone, "num_labels": config.num_labels},
            "data": self.fingerprint,
            "train_clouds": len(self.dataset["train"]),
            "recipe": self.recipe.settings(),
            "seed": seed,
            "start": "by name",  # earlier runs drew start values otherwise and do not pair with these
            "sampling_start": config.sampling_start,  # of earlier ones "first", without a word
        }
        if row.weights != "pretrained":
            settings["weights"] = row.weights
        text = json.dumps(settings, sort_keys=True)
        file = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        ours = {name: depth if value is None else value for name, value in fitted.items()}
        scaled = {str(row.fields[name]): str(value) for name, value in ours.items() if value != row.fields[name]}
        return Run(json.loads(text), config, file, scaled)

    def _config(self, modality: str, fields: dict[str, Any]) -> Any2PointConfig:
        """Shared fields with these on top, and the backbone's own config filled in."""
        fields = self.fields[modality] | fields
        return record_backbone(Any2PointConfig(backbone=self.backbones[modality], **self.labels, **fields), None)

    def train(self, run: Run) -> dict[str, Any]:
        """Trains a run, measures its last epoch on the whole test split, and returns what its record holds."""
        start, seed = time.monotonic(), run.settings["seed"]
        backbone = _backbone(run)  # before the seed is set, so that its draws change no start value
        set_seed(seed)
        model = Any2PointForPointCloudClassification(run.config, backbone=backbone)
        apply_method(model, run.settings["method"])
        trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        of_model: Any = run.config
        options: Any = {"drop_invalid": self.drop_invalid, "sampling_start": of_model.sampling_start}
        processor = Any2PointProcessor(of_model.num_points, self.recipe.scale_to_unit_sphere, seed, **options)
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(model, processor, self.dataset, folder, self.recipe, seed=seed)
            trainer.args.save_strategy = trainer.args.eval_strategy = "no"  # only the last epoch's figures are kept
            trainer.train()
            metrics = trainer.evaluate()
        return {
            "accuracy": metrics["eval_accuracy"],
            "mean_class_accuracy": metrics["eval_mean_class_accuracy"],
            "trained_parameters": sum(trained.values()),
            "trained_without_head": sum(n for name, n in trained.items() if not name.startswith("classifier.")),
            "minutes": (time.monotonic() - start) / 60,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def _backbone(run: Run) -> PreTrainedModel | None:
    """A run's control backbone, or None for the pretrained one, which the model loads itself."""
    weights = run.settings.get("weights")
    if weights is None:
        return None
    name: Any = run.config.backbone
    pretrained = load_backbone(name, run.config.backbone_revision, run.config.modality)
    return WEIGHTS[weights](pretrained, run.settings["seed"])


def base_fields(modality: str, on_scans: bool, budget: Budget) -> dict[str, Any]:
    """Fields of Any2PointConfig that all rows share: the published setting's of the modality and kind of data.

    Plane and cells are left to the config's defaults, which are the published ones on the published backbones.
    """
    published = PRESETS[f"{PUBLISHED[modality]}-{'scan' if on_scans else 'modelnet'}"].config
    fields = {name: value for name, value in published.items() if name not in OF_PUBLISHED_CANVAS}
    given = {"num_neighbors": budget.num_neighbors, "adapter_start": budget.adapter_start}
    given = {name: value for name, value in given.items() if value is not None}
    return fields | {"num_points": budget.num_points} | given
