"""The rows of a few-shot table: what each trains on a fold's support clouds, and its accuracy on the query clouds.

Four rows train the same adapters with the same start values, batches and augmentation: on the pretrained backbone, on
two controls of it, and on none. The other two train nothing by gradients.
"""

import tempfile
from typing import Any

from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from ..linear_probe import probe_accuracy, set_statistics
from ..modeling.configuration_any2point import Any2PointConfig
from ..modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from ..paper.control_backbones import permuted_weights, random_weights
from ..processing_any2point import Any2PointProcessor
from ..training.recipe import Recipe
from ..training.trainer import make_trainer, process_split
from .point_nn import point_nn_accuracy

PRETRAINED, PERMUTED, RANDOM, NO_BACKBONE = "pretrained", "permuted", "random", "no backbone"
LINEAR_PROBE, POINT_NN = "linear probe", "Point-NN"
ROWS = {
    PRETRAINED: "adapters on the frozen backbone",
    PERMUTED: "the same on the backbone with the entries of its blocks' matrices in random order",
    RANDOM: "the same on the backbone with random weights",
    NO_BACKBONE: "the same tokenizer and head with none of the backbone's blocks between them",
    LINEAR_PROBE: "ridge regression on the untrained model's pooled features",
    POINT_NN: "arXiv 2303.08134, without parameters or training",
}
NUM_STEPS = 100  # of every training, so that a fold of any size takes the same time


def row_accuracy(
    row: str,
    fold: DatasetDict,
    backbone: PreTrainedModel,
    name: str,
    recipe: Recipe,
    seed: int,
    drop_invalid: bool = False,
) -> float:
    """Accuracy of a row on the query clouds of a fold, after the last step.

    Args:
        row: a key of `ROWS`.
        fold: splits `train` (the support) and `test` (the queries).
        backbone: the pretrained one, which stays as it is.
        name: its Hub id or folder.
        recipe: of the rows that train; its `epochs` give way to `NUM_STEPS`.
        seed: of start values, order, dropout, points, augmentation and of the control backbones.
        drop_invalid: as of the processor, for clouds that were loaded as they are.
    """
    config = Any2PointConfig(**recipe.config)
    options: Any = {"drop_invalid": drop_invalid, "sampling_start": config.sampling_start}
    processor = Any2PointProcessor(config.num_points, recipe.scale_to_unit_sphere, seed, **options)
    clouds = _clouds(fold, processor)
    if row == POINT_NN:
        return point_nn_accuracy(*clouds, fold["train"].features["label"].num_classes)
    if row == LINEAR_PROBE:
        return probe_accuracy(_model(fold, backbone, name, recipe, seed), *clouds, recipe.batch_size)
    if row in (PERMUTED, RANDOM):
        backbone = (permuted_weights if row == PERMUTED else random_weights)(backbone, seed)
    fields: dict[str, Any] = {"backbone_blocks": 0} if row == NO_BACKBONE else {}
    model = _model(fold, backbone, name, recipe, seed, **fields)
    set_statistics(model, clouds[0], recipe.batch_size)  # a short training would keep a trace of their start values
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, processor, fold, folder, recipe, seed=seed)
        trainer.args.max_steps = NUM_STEPS
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"  # the queries are classified once, at the end
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]


def _model(
    fold: DatasetDict, backbone: PreTrainedModel, name: str, recipe: Recipe, seed: int, **fields: Any
) -> Any2PointForPointCloudClassification:
    """A model with the fold's classes and the start values of the seed."""
    names = fold["train"].features["label"].names
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    config = Any2PointConfig(backbone=name, **labels, **recipe.config, **fields)
    set_seed(seed)  # after a control backbone was drawn
    return Any2PointForPointCloudClassification(config, backbone=backbone)


def _clouds(fold: DatasetDict, processor: Any2PointProcessor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support points [n, N, 3] and labels [n], query points [m, N, 3] and labels [m]."""

    def columns(split: Dataset) -> tuple[Tensor, Tensor]:
        rows = process_split(split, processor, processor.num_points)[:]
        return rows["points"], rows["labels"]

    return *columns(fold["train"]), *columns(fold["test"])
