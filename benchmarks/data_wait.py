"""How much of a training step is waiting for data, and what augmentation on the model's device costs.

python benchmarks/data_wait.py --data DATA --backbone BACKBONE [--workers 2] [--steps 20]

Prints the share of the time between two steps that the training loop spends in the loader (bound: 5 %, with two workers
on a CPU), and the augmentation's share of a step; exits with 1 if the waiting is above the bound.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch
from transformers import set_seed

from any2point_hf import (
    Any2PointConfig,
    Any2PointForPointCloudClassification,
    Any2PointProcessor,
    load_point_cloud_dataset,
    make_trainer,
)
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory

LARGEST_WAIT = 0.05


def main() -> int:
    """Prints one line a number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num-points", type=int, default=256)
    parser.add_argument("--num-neighbors", type=int, default=24)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    keep_freed_memory()
    set_seed(0)
    dataset = load_point_cloud_dataset(options.data)
    names = dataset["train"].features["label"].names
    config = Any2PointConfig(
        backbone=options.backbone,
        num_labels=len(names),
        num_points=options.num_points,
        num_neighbors=options.num_neighbors,
    )
    model = Any2PointForPointCloudClassification(config)
    augmentation = Augmentation(rotation_axis="z", jitter=0.01, drop=0.5)
    with TemporaryDirectory() as folder:
        trainer = make_trainer(
            model,
            Any2PointProcessor(options.num_points),
            dataset,
            Path(folder),
            epochs=1,
            workers=options.workers,
            augmentation=augmentation,
        )
        device = trainer.args.device
        waiting = computing = augmenting = 0.0
        (hook,) = [part for part in trainer.callback_handler.callbacks if hasattr(part, "augmentation")]
        hook.on_train_begin(None, None, None, model=model)
        batches = iter(trainer.get_train_dataloader())
        for step in range(options.steps + 1):
            start = time.perf_counter()
            batch = next(batches)
            loaded = time.perf_counter()
            model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss.backward()
            model.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            end = time.perf_counter()
            if step:  # the first waits for the workers to start
                waiting, computing = waiting + loaded - start, computing + end - loaded
        for _ in range(options.steps):
            start = time.perf_counter()
            hook(model, (), {name: tensor.to(device) for name, tensor in batch.items()})
            augmenting += time.perf_counter() - start
    share = waiting / (waiting + computing)
    print(
        f"{options.workers} workers: waiting {share:.2%} of {(waiting + computing) / options.steps:.3f} s a step, "
        f"augmentation {augmenting / (waiting + computing):.2%}"
    )
    return int(share > LARGEST_WAIT)


if __name__ == "__main__":
    sys.exit(main())
