"""Evaluation time of the segmentation model against the classification model's, over one backbone of random weights.

python benchmarks/segmentation.py [--setting clip-text-scan] [--clouds 4] [--num-points 1024] [--rounds 15] [--parts 50]

Both take turns on the same clouds with one thread, in CPU seconds, so that other work on the machine hardly matters.
Prints what each trains, and fails where the median of the rounds' ratios is beyond 1.15.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from suite.clouds import random_clouds
from suite.models import make_config
from torch import nn

from any2point_hf.modeling import Any2PointForPointCloudClassification, Any2PointForPointCloudSegmentation
from any2point_hf.modeling.backbones.loading import build_backbone

LARGEST_RATIO = 1.15
CATEGORIES = 16  # as ShapeNetPart has


def make_models(setting: str, num_parts: int) -> tuple[nn.Module, nn.Module]:
    """A classification and a segmentation model of a published setting, over one backbone, in eval mode."""
    categories = {str(category): [category % num_parts] for category in range(CATEGORIES)}
    backbone = build_backbone(make_config(setting).backbone_config)
    classifier = Any2PointForPointCloudClassification(make_config(setting), backbone=backbone)
    config = make_config(setting, num_labels=num_parts, category_parts=categories)
    return classifier.eval(), Any2PointForPointCloudSegmentation(config, backbone=backbone).eval()


def trained_parameters(model: nn.Module, prefix: str = "") -> int:
    """How many parameters of this prefix are trained."""
    parameters = model.named_parameters()
    return sum(value.numel() for name, value in parameters if value.requires_grad and name.startswith(prefix))


def cpu_seconds(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each in every round, A B A B …, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, function in contestants.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in times.items()}


def main() -> None:
    """Measures and prints; exit code 1 beyond the largest ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", default="clip-text-scan", help="a preset's name, or tiny")
    parser.add_argument("--clouds", type=int, default=4)
    parser.add_argument("--num-points", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--parts", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    classifier, segmenter = make_models(options.setting, options.parts)
    for name, model, head in (("classification", classifier, "classifier"), ("segmentation", segmenter, "segmenter")):
        total, of_head = trained_parameters(model), trained_parameters(model, head)
        print(f"{name}: {total:,} trained parameters, {of_head:,} of them in the head")
    points = random_clouds(options.clouds, options.num_points)
    category = torch.arange(options.clouds) % CATEGORIES
    with torch.inference_mode():
        contestants = {
            "classification": lambda: classifier(points),
            "segmentation": lambda: segmenter(points, category=category),
        }
        times = cpu_seconds(contestants, options.rounds)
    ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
    medians = ", ".join(f"{name} {statistics.median(values):.3f} CPU s" for name, values in times.items())
    print(f"{options.clouds} clouds of {options.num_points} points: {medians}; ratio {ratio:.3f} (≤ {LARGEST_RATIO})")
    if ratio > LARGEST_RATIO:
        sys.exit(1)


if __name__ == "__main__":
    main()
