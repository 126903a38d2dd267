"""Trains a small PointNet for parts from nothing, what adapters on frozen transformers have to be compared with.

python benchmarks/part_baseline.py --data DATA [--num-points 768] [--epochs 20] [--seeds 0,1,2] [--minutes M]
                                   [--scale LOW HIGH] [--mirror AXIS] [--balanced]
python benchmarks/part_baseline.py --data DATA --majority

PointNet's segmentation net (Qi et al. 2017) without its T-nets, 0.4 million parameters: each point's features of all
levels, the maximum over points and the category go through a network of each point. Clouds are centred, scaled and
augmented as for `any2point train`, by the same options, each epoch draws its points from all that a cloud has, and all
points are tested on. `--balanced` is its `--set class_weight=balanced`.
Prints the mean loss and the CPU seconds so far of each epoch, and instance and class mIoU of the last one on the test
split. `--majority` trains nothing: it answers the most frequent part of the category for every point.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from any2point_hf import Any2PointProcessor, load_point_cloud_dataset
from any2point_hf.data.augmentation import Augmentation, random_subset
from any2point_hf.data.counter_random import mix
from any2point_hf.data.parts.dataset import category_parts_of, part_names_of
from any2point_hf.modeling.segmentation.categories import parts_mask
from any2point_hf.point_clouds.labels import IGNORED
from any2point_hf.segmentation.part_metrics import ONLY_CATEGORY, part_metrics
from any2point_hf.training.head_tasks import balanced_weights
from any2point_hf.training.trainer import process_split

BATCH_SIZE = 16
LEARNING_RATE = 2e-3
AUGMENTATION = Augmentation(scale=(0.9, 1.1), shift=0.1)


class PointNetParts(nn.Module):
    """PointNet with a part for each point. Shapes: points [B, N, 3], category [B] -> logits [B, N, parts]."""

    def __init__(self, num_parts: int, num_categories: int = 1) -> None:
        super().__init__()
        self.num_categories = num_categories
        self.low, self.middle, self.high = _layer(3, 64), _layer(64, 128), _layer(128, 768)
        self.head = nn.Sequential(_layer(64 + 128 + 768 + num_categories, 256), nn.Dropout(0.3), _layer(256, 128))
        self.logits = nn.Linear(128, num_parts)

    def forward(self, points: Tensor, category: Tensor) -> Tensor:
        """Logits of all points."""
        num_clouds, num_points, _ = points.shape
        low = self.low(points.flatten(0, 1))
        middle = self.middle(low)
        whole = self.high(middle).view(num_clouds, num_points, -1).amax(dim=1)
        whole = torch.cat([whole, F.one_hot(category, self.num_categories).to(whole.dtype)], dim=-1)
        whole = whole.unsqueeze(1).expand(-1, num_points, -1).flatten(0, 1)
        return self.logits(self.head(torch.cat([low, middle, whole], dim=-1))).view(num_clouds, num_points, -1)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


class Shapes(NamedTuple):
    """A split: points [n, S, 3] float32, labels [n, S] int64 and categories [n] int64."""

    points: Tensor
    labels: Tensor
    category: Tensor


class Parts(NamedTuple):
    """A data set of parts with the names of its parts, and the parts of its categories."""

    train: Shapes
    test: Shapes
    part_names: list[str]
    category_parts: dict[str, list[int]]
    balanced_weights: list[float]


def load(data: str, num_points: int) -> Parts:
    """The splits of `load_point_cloud_dataset`, each with as many points a cloud as its smallest one has."""
    dataset = load_point_cloud_dataset(data, task="segmentation")
    splits = []
    for split in (dataset["train"], dataset["test"]):
        size = max(num_points, min(map(len, split.with_format("numpy")["points"])))
        rows = process_split(split, Any2PointProcessor(num_points), size)[:]
        category = rows.get("category", torch.zeros(len(split), dtype=torch.int64))
        splits.append(Shapes(rows["points"].float(), rows["labels"], category))
    names = part_names_of(dataset)
    category_parts = category_parts_of(dataset) or {ONLY_CATEGORY: list(range(len(names)))}
    return Parts(*splits, names, category_parts, balanced_weights(dataset["train"]))


def train(
    model: nn.Module,
    shapes: Shapes,
    num_points: int,
    seed: int = 0,
    epochs: int = 20,
    minutes: float | None = None,
    augment: Augmentation = AUGMENTATION,
    class_weight: Sequence[float] | None = None,
) -> int:
    """Trains a model by AdamW, at a rate that falls as a cosine.

    Args:
        model: of points [B, num_points, 3] and category [B] to logits [B, num_points, parts].
        shapes: to train on; of their S points others are drawn in every epoch.
        num_points: how many of them go into the model.
        seed: of the order, of the draws and of dropout.
        epochs: how many, if not as long as `minutes`.
        minutes: how long instead.
        augment: of the batches.
        class_weight: of each part in the loss.

    Returns:
        How many steps it took.
    """
    weight = None if class_weight is None else torch.tensor(class_weight)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    num_steps = epochs * math.ceil(len(shapes.points) / BATCH_SIZE)
    rows = torch.cat([shapes.points, shapes.labels.unsqueeze(-1).float()], dim=-1)  # labels go with their points
    start, cpu_start, step, epoch = time.perf_counter(), time.process_time(), 0, 0
    while True:
        losses = []
        for clouds in torch.randperm(len(rows), generator=generator).split(BATCH_SIZE):
            done = step / num_steps if minutes is None else (time.perf_counter() - start) / (60 * minutes)
            if done >= 1:
                return step
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done)) / 2
            keys = mix(mix(torch.full_like(clouds, seed), epoch), clouds)
            batch = augment(random_subset(rows[clouds], num_points, keys), keys)
            logits = model(batch[..., :3], shapes.category[clouds])
            labels = batch[..., 3].long().flatten()
            loss = F.cross_entropy(logits.flatten(0, 1), labels, weight, ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epoch += 1
        seconds = time.process_time() - cpu_start
        print(f"epoch {epoch}: loss {statistics.mean(losses):.4f}, {seconds:.0f} CPU s", flush=True)


@torch.no_grad()
def evaluate(predict: Callable[[Shapes], Tensor], parts: Parts) -> dict[str, Any]:
    """The metrics of the test split; `predict` gives the parts [B, S] of some of its shapes."""
    batches = [Shapes(*tensors) for tensors in zip(*(tensor.split(BATCH_SIZE) for tensor in parts.test), strict=True)]
    predicted = np.concatenate([predict(batch).numpy() for batch in batches])
    truth, category = parts.test.labels.numpy(), parts.test.category.tolist()
    return part_metrics(list(predicted), list(truth), parts.part_names, category, parts.category_parts)


def by_model(model: nn.Module, parts: Parts) -> Callable[[Shapes], Tensor]:
    """Predicts by a trained model."""
    model.eval()
    possible = parts_mask(parts.category_parts, len(parts.part_names), torch.device("cpu"))

    def predict(shapes: Shapes) -> Tensor:
        logits = model(shapes.points, shapes.category)
        return logits.masked_fill(~possible[shapes.category].unsqueeze(1), -torch.inf).argmax(dim=-1)

    return predict


def by_majority(parts: Parts) -> Callable[[Shapes], Tensor]:
    """Predicts the part that most training points of the category have."""
    counts = torch.zeros(len(parts.category_parts), len(parts.part_names), dtype=torch.int64)
    category = parts.train.category.unsqueeze(1).expand_as(parts.train.labels)
    is_labelled = parts.train.labels != IGNORED
    places = (category[is_labelled], parts.train.labels[is_labelled])
    counts.index_put_(places, torch.ones_like(places[0]), accumulate=True)
    most = counts.argmax(dim=1)
    return lambda shapes: most[shapes.category].unsqueeze(1).expand_as(shapes.labels)


def main() -> None:
    """Trains once for each seed and prints a line for each, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz, a folder, or 'shapes-parts' for the built-in ones")
    parser.add_argument("--num-points", type=int, default=768)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="how long to train, instead of --epochs")
    parser.add_argument("--majority", action="store_true", help="the most frequent part of each category everywhere")
    parser.add_argument("--scale", type=float, nargs=2, default=AUGMENTATION.scale, metavar=("LOW", "HIGH"))
    parser.add_argument("--mirror", choices="xyz", help="mirror half of the clouds along this axis")
    parser.add_argument("--balanced", action="store_true", help="every part weighs the same in the loss")
    options = parser.parse_args()
    augment = replace(AUGMENTATION, scale=tuple(options.scale), mirror_axis=options.mirror)
    parts = load(options.data, options.num_points)
    print(f"{len(parts.train.points)} clouds to train on, {len(parts.test.points)} to test on", flush=True)
    if options.majority:
        print(f"most frequent part of the category: {shown(evaluate(by_majority(parts), parts))}")
        return
    found = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = PointNetParts(len(parts.part_names), len(parts.category_parts))
        start, cpu_start = time.perf_counter(), time.process_time()
        weights = parts.balanced_weights if options.balanced else None
        steps = train(model, parts.train, options.num_points, seed, options.epochs, options.minutes, augment, weights)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        found.append(evaluate(by_model(model, parts), parts))
        print(f"seed {seed}: {shown(found[-1])}, {steps} steps, {seconds:.0f} s, {cpu_seconds:.0f} CPU s", flush=True)
    size = sum(parameter.numel() for parameter in model.parameters())
    for name in ("instance_miou", "class_miou"):
        values = [result[name] for result in found]
        deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name} {statistics.mean(values):.4f}{deviation} (last epoch, {size} parameters, {len(values)} seeds)")


def shown(result: dict[str, Any]) -> str:
    """The numbers of a line."""
    return ", ".join(f"{name} {result[name]:.4f}" for name in ("instance_miou", "class_miou", "accuracy"))


if __name__ == "__main__":
    main()
