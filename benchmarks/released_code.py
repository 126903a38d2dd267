"""What attention across the batch does to a measured accuracy: one test split in three orders.

python benchmarks/released_code.py --data DATA --model ADAPTER [--model ADAPTER ...] [--batch-size 64]

Each adapter is tested with the split in the order of its file, which is grouped by class in most datasets, then
shuffled with three seeds, then one cloud at a time. A model of the default mode gives the same number three times.
"""

import argparse
import warnings

import numpy as np

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.modeling import Any2PointForPointCloudClassification
from any2point_hf.trained_adapter import load
from any2point_hf.training.trainer import process_split

SEEDS = (0, 1, 2)


@torch.no_grad()
def accuracy(
    model: Any2PointForPointCloudClassification, points: torch.Tensor, labels: np.ndarray, order: np.ndarray, size: int
) -> float:
    """Share of clouds told right when they are tested in this order, in batches of this size."""
    predicted = [model(points[batch]).logits.argmax(dim=-1) for batch in torch.from_numpy(order).split(size)]
    return float((torch.cat(predicted).numpy() == labels[order]).mean())


def main() -> None:
    """Prints a line for each adapter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # a converted model says what is measured here
    split = load_point_cloud_dataset(options.data)["test"]
    for name in options.model:
        model, processor = load(name)
        clouds = process_split(split, processor, processor.num_points)
        labels = np.array(clouds["labels"])
        points = torch.tensor(np.array(clouds["points"]), dtype=torch.float32)
        in_order = np.arange(len(labels))
        orders = [np.random.default_rng(seed).permutation(len(labels)) for seed in SEEDS]
        shuffled = [accuracy(model, points, labels, order, options.batch_size) for order in orders]
        print(
            f"{name} (released_compatibility={model.config.released_compatibility}): file order "
            f"{accuracy(model, points, labels, in_order, options.batch_size):.4f}, shuffled "
            f"{np.mean(shuffled):.4f} ({min(shuffled):.4f} to {max(shuffled):.4f}), alone "
            f"{accuracy(model, points, labels, in_order, 1):.4f}, {len(labels)} clouds"
        )


if __name__ == "__main__":
    main()
