"""Fine-tuning with the stock `transformers.Trainer`: data, arguments, optimiser and metrics of method.md 7.

    trainer = make_trainer(model, processor, dataset, output_dir, epochs=10)
    trainer.train()

Unusual here: nothing subclasses the Trainer; the training split itself draws the random points and augments them.
"""

import math
import os
import warnings

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments, default_data_collator

from .data.augmentation import Augmentation, random_subset
from .modeling.errors import DatasetError
from .processing_any2point import Any2PointProcessor

TRAINING_SURPLUS = 1200 / 1024  # sampled points kept for each that goes into a training step
WARM_UP_SHARE = 10 / 300
LOWEST_LEARNING_RATE = 1e-6
LARGEST_GRADIENT_NORM = 10.0
WEIGHT_DECAY = 0.05
NOT_DECAYED = ("bias", "norm", "cls_token", "cls_position")


class TrainingClouds(torch.utils.data.Dataset):
    """The training split with a random subset of each cloud's points and augmentation, drawn anew at each visit.

    Args:
        clouds: of `process_split`, with surplus points.
        num_points: points that go into the model.
        augmentation: of a batch of clouds.
    """

    def __init__(self, clouds: Dataset, num_points: int, augmentation: Augmentation) -> None:
        self.clouds, self.num_points, self.augmentation = clouds, num_points, augmentation

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`points` [num_points, 3] float32 and `labels` []."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """A batch at once, as torch's loader asks for it."""
        if len(indices) == 1:  # one cloud has no batch statistics, so another joins it
            indices = [indices[0], (indices[0] + 1) % len(self)]
        rows = self.clouds[indices]
        points = self.augmentation(random_subset(rows["points"], self.num_points))
        return [{"points": cloud, "labels": label} for cloud, label in zip(points, rows["labels"], strict=True)]


def surplus_points(split: Dataset, num_points: int) -> int:
    """How many points of each cloud to keep for random subsets: 1200 / 1024 of `num_points`, if there are as many."""
    smallest = min(len(cloud) for cloud in split.with_format("numpy")["points"])
    return max(num_points, min(math.ceil(num_points * TRAINING_SURPLUS), smallest))


def process_split(split: Dataset, processor: Any2PointProcessor, num_points: int) -> Dataset:
    """Brings every cloud of a split to `num_points` once, before training.

    Args:
        split: columns `points` and `label`; others are left out.
        processor: its centring and scaling are used.
        num_points: how many points to keep.

    Returns:
        Columns `points` [num_points, 3] and `labels`, as torch tensors.
    """
    sampler = Any2PointProcessor(num_points, processor.scale_to_unit_sphere, processor.seed)
    arrays = split.select_columns(["points", "label"]).with_format("numpy")
    smaller = sum(len(cloud) < num_points for cloud in arrays["points"])
    if smaller:
        warnings.warn(
            f"{smaller} of {len(split)} clouds have fewer than {num_points} points; theirs are repeated.", stacklevel=2
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fewer than num_points")  # said once, above
        processed = arrays.map(
            lambda rows: {"points": sampler(list(rows["points"]), return_tensors="np")["points"]},
            batched=True,
            batch_size=256,
            desc="Sampling points",
        )
    return processed.rename_column("label", "labels").with_format("torch")


def parameter_groups(model: nn.Module, weight_decay: float = WEIGHT_DECAY) -> list[dict[str, object]]:
    """The trained parameters; norms, biases and tokens are not decayed."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [p for name, p in trained if not any(part in name for part in NOT_DECAYED)]
    spared = [p for name, p in trained if any(part in name for part in NOT_DECAYED)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def accuracies(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, object]:
    """`accuracy`, `mean_class_accuracy` and `per_class` (None for a class without clouds).

    Args:
        predictions: [n] int.
        labels: [n] int.
        num_classes: classes of the model.
    """
    correct = predictions == labels
    per_class = [
        float(correct[labels == index].mean()) if (labels == index).any() else None for index in range(num_classes)
    ]
    present = [value for value in per_class if value is not None]
    return {"accuracy": float(correct.mean()), "mean_class_accuracy": float(np.mean(present)), "per_class": per_class}


def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """`accuracy` and `mean_class_accuracy` for the Trainer."""
    logits = evaluation.predictions[0] if isinstance(evaluation.predictions, tuple) else evaluation.predictions
    result = accuracies(logits.argmax(axis=-1), evaluation.label_ids, logits.shape[-1])
    return {"accuracy": result["accuracy"], "mean_class_accuracy": result["mean_class_accuracy"]}


def make_trainer(
    model: PreTrainedModel,
    processor: Any2PointProcessor,
    dataset: DatasetDict,
    output_dir: str | os.PathLike,
    *,
    epochs: float = 300,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    seed: int = 0,
    augmentation: Augmentation | None = None,
) -> Trainer:
    """A stock Trainer with the published settings (method.md 7).

    Args:
        model: any model whose forward takes `points` and `labels`.
        processor: how clouds are centred, scaled and sampled.
        dataset: splits `train` and `test` with columns `points` and `label`.
        output_dir: where checkpoints go, one after each epoch, the last one kept.
        epochs: passes over the training split.
        batch_size: clouds a step.
        learning_rate: the highest one; warms up for 1/30 of the steps, then falls as a cosine to 1e-6.
        seed: of shuffling, dropout and augmentation.
        augmentation: of training batches; by default scale and shift as for ModelNet.

    Raises:
        DatasetError: a split is missing, or a step would have a single cloud, or the model has
            another number of classes.
    """
    for name in ("train", "test"):
        if name not in dataset:
            raise DatasetError(f"the dataset must have splits train and test, got {', '.join(dataset)}.")
    if len(dataset["train"]) < 2 or batch_size < 2:
        raise DatasetError(
            "training needs at least 2 clouds a step, because batch norms take statistics; got "
            f"{len(dataset['train'])} clouds and batch_size={batch_size}."
        )
    num_classes = dataset["train"].features["label"].num_classes
    if model.config.num_labels != num_classes:
        raise DatasetError(
            f"the model must have the dataset's {num_classes} classes, and its config has {model.config.num_labels}. "
            "Set id2label in Any2PointConfig to the dataset's class names."
        )
    num_points = processor.num_points
    train = process_split(dataset["train"], processor, surplus_points(dataset["train"], num_points))
    test = process_split(dataset["test"], processor, num_points)
    steps = math.ceil(len(train) / batch_size) * epochs
    arguments = TrainingArguments(
        output_dir=os.fspath(output_dir),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=LARGEST_GRADIENT_NORM,
        lr_scheduler_type="cosine_warmup_with_min_lr",
        lr_scheduler_kwargs={"min_lr": min(LOWEST_LEARNING_RATE, learning_rate)},
        warmup_steps=math.ceil(steps * WARM_UP_SHARE),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        seed=seed,
        data_seed=seed,
    )
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=learning_rate)
    return Trainer(
        model=model,
        args=arguments,
        data_collator=default_data_collator,
        train_dataset=TrainingClouds(train, num_points, augmentation or Augmentation()),
        eval_dataset=test,
        processing_class=processor,
        compute_metrics=compute_metrics,
        optimizers=(optimizer, None),
    )
