"""The accuracy of a linear probe before a training: it shows how much of the result the training itself will add."""

import sys
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from ..linear_probe import probe_accuracy
from .batches import joined

MOST_CLOUDS = 500  # of each split, so that the probe takes less than an epoch


def probe_before_training(trainer: Trainer, num_points: int) -> float | None:
    """Returns the accuracy of a linear probe on the untrained model, and prints it in a line on standard error.

    Nothing of the model is changed. Every process computes the accuracy, because batch norms take their statistics over
    all processes, and the first one prints it. A model whose weights are held in parts (FSDP, DeepSpeed) is not probed,
    and the line says so.

    Args:
        trainer: what `make_trainer` returns, before it has trained.
        num_points: how many points of each cloud the model takes.

    Returns:
        The share of test clouds that are classified right, or None where there was no probe.
    """
    test = trainer.eval_dataset["test"] if isinstance(trainer.eval_dataset, dict) else trainer.eval_dataset
    line, accuracy = "linear probe before training: skipped, as this model's weights are held in parts", None
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        model: Any = trainer.model
        train_split: Any = trainer.train_dataset
        train_points, train_labels = _even_choice(train_split.clouds, num_points)
        test_points, test_labels = _even_choice(test, num_points)
        batch_size = trainer.args.per_device_train_batch_size
        accuracy = probe_accuracy(model, train_points, train_labels, test_points, test_labels, batch_size)
        line = (
            f"linear probe before training: accuracy {accuracy:.4f} on {len(test_labels)} test clouds, fitted to "
            f"{len(train_labels)} training clouds"
        )
    if trainer.is_world_process_zero():
        print(line, file=sys.stderr, flush=True)
    return accuracy


def _even_choice(split: Dataset, num_points: int) -> tuple[Tensor, Tensor]:
    """Points [n, num_points, 3 + F] and labels [n] of at most `MOST_CLOUDS` rows, evenly spaced over the split."""
    chosen = torch.arange(len(split))
    if len(split) > MOST_CLOUDS:
        chosen = torch.linspace(0, len(split) - 1, MOST_CLOUDS, dtype=torch.float64).round().long()
    rows = split[chosen.tolist()]
    return joined(rows)[:, :num_points].contiguous(), rows["labels"]
