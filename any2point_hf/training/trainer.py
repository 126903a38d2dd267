"""Fine-tuning with the stock `transformers.Trainer`: data, arguments, optimiser and metrics of method.md 7.

    trainer = make_trainer(model, processor, dataset, output_dir, epochs=10)
    trainer.train()

Unusual here: nothing subclasses the Trainer; random points and augmentation come from a hook on the model
(`training/batches.py`).
"""

import importlib.util
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments, default_data_collator
from transformers.utils.logging import is_progress_bar_enabled

from ..data import load_point_cloud_dataset
from ..data.columns import feature_columns
from ..data.loading import task_of_dataset
from ..data.own_types import with_column
from ..data.parts.dataset import CATEGORY, PART, is_part_dataset
from ..data.sources import DataSource
from ..data.splits import check_trains
from ..data.targets import target_array, target_task_of
from ..modeling.checkpoint_integrity import HEADS
from ..modeling.errors import Any2PointError, ConfigurationError, DatasetError
from ..modeling.head_fields import REGRESSION
from ..modeling.tokenizer.fast.freed_memory import keep_freed_memory
from ..processing_any2point import Any2PointProcessor
from .batches import LABELS, BatchAugmentation, TrainingClouds
from .epoch_lines import report_in_lines
from .head_tasks import (
    TASK_METRICS,
    check_head,
    head_trainer_options,
    task_of_config,
    training_weights,
    warn_of_lost_sizes,
)
from .hub_card import keep_own_card
from .parts import PART_METRICS, check_parts, label_columns, part_trainer_options
from .recipe import Recipe, changed, read_recipe

NOT_DECAYED = ("bias", "norm", "cls_token", "cls_position", "prompts")
BEST_METRIC = "eval_validation_accuracy"
_POINTS_AT_ONCE = 1 << 22  # read and sampled together: 48 MiB, or one cloud if it is larger


def best_metric(dataset: Mapping[str, Dataset]) -> str:
    """By which measure of the validation split the best epoch is chosen; the higher the better."""
    task = task_of_dataset(dataset)
    if task == "segmentation":
        return f"eval_validation_{PART_METRICS[0]}"
    return f"eval_validation_{TASK_METRICS[task][0]}" if task in TASK_METRICS else BEST_METRIC


def points_to_keep(split: Dataset, num_points: int, surplus: float) -> int:
    """How many points of each cloud to keep for random subsets: `surplus` × `num_points`.

    It is fewer if the smallest cloud has fewer, but never below `num_points`.
    """
    smallest = min(len(cloud) for cloud in split.with_format("numpy")["points"])
    return max(num_points, min(math.ceil(num_points * surplus), smallest))


def process_split(split: Dataset, processor: Any2PointProcessor, num_points: int) -> Dataset:
    """Brings every cloud of a split to `num_points` once, before training.

    Args:
        split: columns `points`, `label` and those of the features that the processor gives, or of a data set of parts;
            others are left out.
        processor: its settings are used.
        num_points: how many points to keep.

    Returns:
        Columns `points` [num_points, 3], `labels` and, where there are any, `point_features` [num_points, F], as torch
        tensors. Of a data set of parts, `labels` are [num_points], and there may be `category`; of several classes a
        cloud, or of numbers, they are [names] float32.
    """
    names = processor.point_feature_names
    settings = (processor.scale_to_unit_sphere, processor.seed, processor.drop_invalid, names, processor.sampling_start)
    sampler = Any2PointProcessor(num_points, *settings)
    others = feature_columns(split, names)
    are_parts = is_part_dataset({"split": split})
    has_targets = target_task_of(split.features) is not None
    kept = [PART, CATEGORY] if are_parts else [] if has_targets else ["label"]
    kept = [name for name in kept if name in split.column_names]
    arrays = split.select_columns(["points", *others, *kept]).with_format("numpy")
    of_split = f" of the split {str(split.split)!r}" if split.split else " of the data set"
    sizes = [len(cloud) for cloud in arrays["points"]]
    smaller = sum(size < num_points for size in sizes)
    if smaller:
        warnings.warn(
            f"{smaller} of {len(split)} clouds have fewer than {num_points} points; theirs are repeated.", stacklevel=2
        )

    def sample(rows: Mapping[str, Any], indices: list[int]) -> Mapping[str, np.ndarray]:
        columns = {name: rows[name] for name in ("points", *others)}
        clouds = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        names = [f"row {index}{of_split}" for index in indices]
        return sampler(clouds, return_tensors="np", names=names, labels=rows[PART] if are_parts else None).data

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fewer than num_points")  # said once, above
        processed = arrays.map(
            sample,
            batched=True,
            with_indices=True,
            remove_columns=[*others, PART] if are_parts else others,
            batch_size=max(1, min(256, _POINTS_AT_ONCE // max(sizes))),  # the processor's result does not depend on it
            desc="Sampling points",
        )
    if has_targets:
        targets = Features(labels=List(Value("float32")))
        processed = with_column(processed, LABELS, Dataset.from_dict({LABELS: target_array(split)}, features=targets))
    elif not are_parts:
        processed = processed.rename_column("label", LABELS)
    return processed.with_format("torch")


def parameter_groups(model: nn.Module, weight_decay: float = Recipe.weight_decay) -> list[dict[str, object]]:
    """The trained parameters in two groups for an optimiser; norms, biases and tokens have no weight decay."""
    trained = [(name.lower(), parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [p for name, p in trained if not any(part in name for part in NOT_DECAYED)]
    spared = [p for name, p in trained if any(part in name for part in NOT_DECAYED)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def accuracies(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
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


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many clouds of each class (row) were taken for each class (column), [classes, classes] int.

    Args:
        predictions: [n] int.
        labels: [n] int.
        num_classes: classes of the model.
    """
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """`accuracy` and `mean_class_accuracy` for the Trainer.

    Args:
        evaluation: logits [n, classes], or a tuple that starts with them, and labels [n].
    """
    logits: Any = evaluation.predictions[0] if isinstance(evaluation.predictions, tuple) else evaluation.predictions
    labels: Any = evaluation.label_ids
    result = accuracies(logits.argmax(axis=-1), labels, logits.shape[-1])
    return {"accuracy": result["accuracy"], "mean_class_accuracy": result["mean_class_accuracy"]}


def make_trainer(
    model: PreTrainedModel,
    processor: Any2PointProcessor,
    dataset: DataSource,
    output_dir: str | os.PathLike,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    workers: int = 0,
    loggers: Sequence[str] = (),
    class_weight: Sequence[float] | str | None = None,
    **changes: Any,
) -> Trainer:
    """A stock Trainer with the published settings (method.md 7).

    It reports as any Trainer does. Where transformers' progress bars are switched off
    (`transformers.utils.logging.disable_progress_bar()`), it writes a line an epoch to standard error instead.

    Args:
        model: any model whose forward takes `points` and `labels` (and whose config says by `problem_type` what these
            are), or an `Any2PointForPointCloudSegmentation`. While
            it trains, a hook on it draws and augments the points of a batch.
        processor: how clouds are centred, scaled and sampled.
        dataset: what `load_point_cloud_dataset` takes: a data set of `datasets` whose columns of points and of classes
            are found by their types, or its name. With a split `validation` beside `test`, the weights of the epoch
            that is best on it are loaded at the end; without it the last epoch's stay.
        output_dir: where checkpoints go, one after each epoch, the last one (and the best one) kept.
        recipe: how to train; by default as published for ModelNet, whatever the data's size, and for a regression
            `read_recipe("regression")`. (`any2point train` chooses by the size:
            `read_recipe(choose_recipe(len(dataset["train"])))`.)
        seed: of shuffling, dropout, random points and augmentation.
        workers: processes that load batches beside the training; with 0 the training process loads them itself.
        loggers: names of loggers that the Trainer knows, such as "tensorboard", "trackio" or "wandb".
        class_weight: "balanced", by which every class or part weighs the same, or a weight for each; it goes into the
            model's config. By default the config's.
        changes: fields of the recipe to change, such as `epochs=10`.

    Raises:
        DatasetError: no column of points or of classes, no training split, a step of a single cloud, or a model of
            other classes, parts or categories.
        ConfigurationError: a recipe's value is out of its range, float16 without a GPU, several GPUs in one process, or
            a processor of other features than the model's.
        Any2PointError: a logger is not installed.
    """
    is_regression = getattr(model.config, "problem_type", None) == REGRESSION
    recipe = changed(recipe or (read_recipe("regression") if is_regression else Recipe()), **changes)
    task: Any = HEADS.get(getattr(model, "head", None) or "")
    if task == "classification":
        task = task_of_config(model.config)
    of_model, names = list(getattr(model.config, "point_feature_names", ())), processor.point_feature_names
    if of_model != names:
        raise ConfigurationError(
            f"the processor must give the features that the model takes ({', '.join(of_model) or 'none'}), got "
            f"{', '.join(names) or 'none'}. Pass point_feature_names=config.point_feature_names to Any2PointProcessor."
        )
    dataset = load_point_cloud_dataset(dataset, drop_invalid=processor.drop_invalid, features=names, task=task)
    are_parts = is_part_dataset(dataset)
    _check(model, dataset, recipe, loggers)
    weight = getattr(model.config, "class_weight", None) if class_weight is None else class_weight
    if weight is not None:
        model.config.class_weight = training_weights(dataset["train"], weight)
        model.config.validate_architecture()
    if is_regression:
        warn_of_lost_sizes(processor.scale_to_unit_sphere, recipe.augmentation)
    recipe = recipe.sized(len(dataset["train"]))
    keep_freed_memory()
    arguments = TrainingArguments(
        output_dir=os.fspath(output_dir),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.largest_gradient_norm,
        lr_scheduler_type="cosine_warmup_with_min_lr",
        lr_scheduler_kwargs={"min_lr": min(recipe.lowest_learning_rate, recipe.learning_rate)},
        warmup_steps=recipe.warm_up_share,  # below 1: a share of all steps
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        use_cpu=recipe.precision == "bfloat16" and not torch.cuda.is_available(),  # bfloat16 on a CPU needs this flag
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2 if "validation" in dataset else 1,  # the last one, and the best one
        load_best_model_at_end="validation" in dataset,
        metric_for_best_model=best_metric(dataset) if "validation" in dataset else None,
        logging_strategy="epoch",
        ddp_find_unused_parameters=False,  # every trained parameter takes part in every step
        dataloader_num_workers=workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=label_columns(model.config) if are_parts else None,
        report_to=list(loggers) or "none",
        seed=seed,
        data_seed=seed,
    )
    if arguments.n_gpu > 1:
        raise ConfigurationError(
            f"one process must have one GPU, and this one sees {arguments.n_gpu}. Start a process for each by "
            "`accelerate launch` (docs/many_devices.md), or show one: CUDA_VISIBLE_DEVICES=0."
        )
    num_points = processor.num_points
    with arguments.main_process_first():  # the others read what it writes to the cache
        kept = points_to_keep(dataset["train"], num_points, recipe.surplus_points)
        train = process_split(dataset["train"], processor, kept)
        tests = {
            name: process_split(dataset[name], processor, num_points)
            for name in ("validation", "test")
            if name in dataset
        }
    measuring: Any = {"compute_metrics": compute_metrics}
    if are_parts:
        measuring = part_trainer_options(model)
    elif task in TASK_METRICS:
        measuring = head_trainer_options(model.config)
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=default_data_collator,
        train_dataset=TrainingClouds(train),
        eval_dataset=tests if "validation" in tests else tests["test"],
        processing_class=processor,
        callbacks=[BatchAugmentation(recipe.augmentation, num_points, seed, processor.point_feature_names)],
        **measuring,
    )
    keep_own_card(trainer)
    if not is_progress_bar_enabled():
        report_in_lines(trainer)
    # Not as the argument `optimizers`, which the Trainer refuses under FSDP.
    trainer.optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    return trainer


def _check(model: PreTrainedModel, dataset: DatasetDict, recipe: Recipe, loggers: Sequence[str]) -> None:
    """Refuses what would otherwise fail only after the clouds are sampled, or in the first step."""
    check_trains(dataset)
    if len(dataset["train"]) < 2 or recipe.batch_size < 2:
        raise DatasetError(
            "training needs at least 2 clouds a step, because batch norms take statistics; got "
            f"{len(dataset['train'])} clouds and batch_size={recipe.batch_size}."
        )
    if is_part_dataset(dataset):
        check_parts(model, dataset)
    else:
        check_head(model.config, dataset)
    if recipe.precision == "float16" and not torch.cuda.is_available():
        raise ConfigurationError("float16 needs a GPU, and torch finds none here. Use bfloat16 or float32.")
    for logger in loggers:
        if importlib.util.find_spec(logger) is None:
            raise Any2PointError(f"logging to {logger} needs the package {logger}. Run: pip install {logger}")
