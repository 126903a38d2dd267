"""Trains a small PointNet from nothing, what adapters on frozen transformers have to be compared with.

python benchmarks/pointnet.py --data DATA [--num-points 256] [--epochs 10] [--seeds 0,1,2] [--clouds-per-class N]
                              [--minutes M]

PointNet (Qi et al. 2017) without its T-nets, about 77 thousand parameters. Clouds are centred, scaled and augmented as
for `any2point train`, but each epoch draws its points from all that a cloud has. Prints the accuracy of the last epoch
on the test split. `--minutes` trains for that long instead of `--epochs`, at a learning rate that falls over that time.
"""

import argparse
import importlib
import importlib.util
import itertools
import math
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
DATA_MODULES = Path(__file__).parents[1] / "any2point_hf" / "data"


class PointNet(nn.Module):
    """A network of each point, the maximum over points, and a head. Shapes: [B, N, 3] -> [B, classes]."""

    def __init__(self, num_classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        widths = (3, 64, 128, 256)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.head = nn.Sequential(
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, num_classes)
        )

    def forward(self, points: Tensor) -> Tensor:
        """Logits of clouds."""
        hidden = points.flatten(0, 1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = F.relu(norm(layer(hidden)))
        return self.head(hidden.view(*points.shape[:2], -1).amax(dim=1))


def data_module(name: str) -> ModuleType:
    """A module of any2point_hf.data, also on a machine without `datasets`, which only the others of them need."""
    package = "any2point_hf.data"
    if importlib.util.find_spec("datasets") is None and package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(DATA_MODULES)]
    return importlib.import_module(f"{package}.{name}")


def train(
    model: nn.Module,
    points: Tensor,
    labels: Tensor,
    num_points: int,
    seed: int = 0,
    epochs: int = 10,
    minutes: float | None = None,
) -> int:
    """Trains a model by AdamW, at a rate that falls as a cosine.

    Args:
        model: of points [B, num_points, 3] to logits, on the device to train on.
        points: [n, S, 3] float32, on that device; of S points others are drawn in every epoch.
        labels: [n] int64, there too.
        num_points: how many of them go into the model.
        seed: of the order, of the draws and of dropout.
        epochs: how many, if not as long as `minutes`.
        minutes: how long instead.

    Returns:
        How many steps it took.
    """
    augmentation, counter_random = data_module("augmentation"), data_module("counter_random")
    augment = augmentation.Augmentation(scale=(0.9, 1.1), shift=0.1)
    torch.manual_seed(seed)
    order_generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    num_steps = epochs * math.ceil(len(points) / BATCH_SIZE)
    start, step, epoch = time.perf_counter(), 0, 0
    while True:
        for clouds in torch.randperm(len(points), generator=order_generator).to(points.device).split(BATCH_SIZE):
            elapsed = time.perf_counter() - start
            done = step / num_steps if minutes is None else elapsed / (60 * minutes)
            if done >= 1:
                return step
            step += 1
            if len(clouds) == 1:  # has no batch statistics
                continue
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done)) / 2
            keys = counter_random.mix(counter_random.mix(torch.full_like(clouds, seed), epoch), clouds)
            batch = augment(augmentation.random_subset(points[clouds], num_points, keys), keys)
            loss = F.cross_entropy(model(batch), labels[clouds])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch += 1


@torch.no_grad()
def accuracy(model: nn.Module, points: Tensor, labels: Tensor) -> float:
    """Share of clouds [n, N, 3] whose largest logit is that of their label [n]."""
    model.eval()
    predicted = torch.cat([model(part).argmax(dim=1) for part in points.split(256)])
    return (predicted == labels).float().mean().item()


def load(data: str, num_points: int, clouds_per_class: int | None) -> tuple[tuple[Tensor, Tensor], ...]:
    """Points [n, S, 3] and labels [n] of the splits train and test.

    Args:
        data: of `load_point_cloud_dataset`.
        num_points: S of the test split; the train split has as many as its smallest cloud, if that has more.
        clouds_per_class: of the train split; None for all.
    """
    from any2point_hf import Any2PointProcessor, load_point_cloud_dataset
    from any2point_hf.paper.reproduce import balanced_choice
    from any2point_hf.training.trainer import process_split

    dataset = load_point_cloud_dataset(data)
    train_split, test_split = dataset["train"], dataset["test"]
    if clouds_per_class is not None:
        count = clouds_per_class * train_split.features["label"].num_classes
        train_split = train_split.select(balanced_choice(train_split["label"], count, seed=0))
    available = max(num_points, min(len(cloud) for cloud in train_split["points"]))
    splits = ((train_split, available), (test_split, num_points))
    rows = [process_split(split, Any2PointProcessor(num_points), size)[:] for split, size in splits]
    return tuple((part["points"].float(), part["labels"]) for part in rows)


def main() -> None:
    """Trains once for each seed and prints a line for each, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz, a folder, or 'shapes' for the built-in ones")
    parser.add_argument("--num-points", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--clouds-per-class", type=int, help="of the train split; all by default")
    parser.add_argument("--minutes", type=float, help="how long to train, instead of --epochs")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (points, labels), (test_points, test_labels) = (
        tuple(tensor.to(device) for tensor in part)
        for part in load(options.data, options.num_points, options.clouds_per_class)
    )
    num_classes = int(torch.cat([labels, test_labels]).max()) + 1
    num_parameters = sum(parameter.numel() for parameter in PointNet(num_classes).parameters())
    print(f"{len(points)} clouds to train on, {len(test_points)} to test on; {num_parameters} parameters; {device}")
    found = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = PointNet(num_classes).to(device)
        start = time.perf_counter()
        steps = train(model, points, labels, options.num_points, seed, options.epochs, options.minutes)
        found.append(accuracy(model, test_points, test_labels))
        print(f"seed {seed}: accuracy {found[-1]:.4f}, {steps} steps, {time.perf_counter() - start:.1f} s", flush=True)
    deviation = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    print(f"accuracy {statistics.mean(found):.4f}{deviation} (last epoch, test split, seeds: {len(found)})")


if __name__ == "__main__":
    main()
