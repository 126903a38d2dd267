"""Answers of the same clouds with their points in another order: sampling from the first point, or from the farthest.

    python benchmarks/reliability/order_of_points.py BACKBONE                        # built-in shapes
    python benchmarks/reliability/order_of_points.py BACKBONE --data modelnet10.npz --clouds 500
    python benchmarks/reliability/order_of_points.py --times                         # what the order costs

Each seed trains an adapter from each start by the recipe `small-data`, and classifies the test clouds and as many
copies whose points are in a random order. The differences of accuracy are paired by seed.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from datasets import DatasetDict
from transformers import set_seed

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor, make_trainer
from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.data.shapes import SHAPE_NAMES, make_cloud
from any2point_hf.modeling.tokenizer.point_ops import SAMPLING_STARTS, farthest_first
from any2point_hf.modeling.tokenizer.point_tokenizer import PointTokenizer
from any2point_hf.paper.paired import paired_difference
from any2point_hf.training.recipe import read_recipe

LARGEST_DIFFERENCE = 1e-4  # of a logit
BATCH = 50
REPEATS = 5  # of every timing


def train(start: str, dataset: DatasetDict, backbone: str, seed: int, steps: int):
    """A model and its processor after a training by the recipe `small-data`."""
    recipe = read_recipe("small-data")
    names = dataset["train"].features["label"].names
    set_seed(seed)
    config = Any2PointConfig(backbone=backbone, id2label=dict(enumerate(names)), sampling_start=start, **recipe.config)
    model = Any2PointForPointCloudClassification(config)
    processor = Any2PointProcessor(config.num_points, recipe.scale_to_unit_sphere, seed, sampling_start=start)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, processor, dataset, folder, recipe, seed=seed)
        trainer.args.max_steps = steps
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"
        trainer.train()
    return model.eval(), processor


def logits(model, processor: Any2PointProcessor, clouds: list[np.ndarray]) -> torch.Tensor:
    """[n, classes] of clouds [N, 3]."""
    batches = [clouds[first : first + BATCH] for first in range(0, len(clouds), BATCH)]
    with torch.no_grad():
        return torch.cat([model(**processor(batch)).logits for batch in batches])


def test_clouds(dataset: DatasetDict, count: int, is_shapes: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """Clouds that were not trained on, and their labels."""
    if is_shapes:
        return [make_cloud("test", n, 1024, seed=0) for n in range(count)], np.arange(count) % len(SHAPE_NAMES)
    rows = dataset["test"].shuffle(seed=0).select(range(min(count, len(dataset["test"])))).with_format("numpy")
    return list(rows["points"]), np.asarray(rows["label"])


def count_flips(model, processor: Any2PointProcessor, clouds: list[np.ndarray], labels: np.ndarray, seed: int) -> dict:
    """Accuracy, and what a random order of each cloud's points changes."""
    generator = np.random.default_rng(seed)
    before = logits(model, processor, clouds)
    after = logits(model, processor, [generator.permutation(cloud) for cloud in clouds])
    difference = (before - after).abs().amax(dim=1)
    return {
        "accuracy": float((before.argmax(-1).numpy() == labels).mean()),
        "answers": int((before.argmax(-1) != after.argmax(-1)).sum()),
        "logits": int((difference > LARGEST_DIFFERENCE).sum()),
        "largest": float(difference.max()),
    }


def milliseconds(functions: Sequence[Callable], argument: object) -> list[float]:
    """Of the processor's time, the fewest of several calls of each function, in turns."""
    least = [math.inf] * len(functions)
    for _ in range(REPEATS):
        for index, function in enumerate(functions):
            start = time.process_time()
            function(argument)
            least[index] = min(least[index], 1000 * (time.process_time() - start))
    return least


def print_times() -> None:
    """Milliseconds of the processor and of the tokenizer from each start."""
    generator = np.random.default_rng(0)
    print("milliseconds of a CPU from the first point, from the farthest")
    processors = [Any2PointProcessor(1024, sampling_start=start) for start in SAMPLING_STARTS]
    for size in (1024, 4096, 16384, 100_000):
        cloud = generator.normal(size=(size, 3)).astype(np.float32)
        times = milliseconds(processors, cloud)
        print(f"processor, {size} points to 1024: {times[0]:.1f}, {times[1]:.1f}", flush=True)
    for batch, size, neighbors in ((16, 256, 8), (32, 1024, 64)):
        points = torch.randn(batch, size, 3, generator=torch.Generator().manual_seed(0))
        tokenizers = [PointTokenizer(384, neighbors, "deviation", 0, start).eval() for start in SAMPLING_STARTS]
        with torch.no_grad():
            times = milliseconds([*tokenizers, farthest_first], points)
        print(
            f"tokenizer, {batch} clouds of {size} points, K = {neighbors}: {times[0]:.1f}, {times[1]:.1f}, "
            f"of which the order {times[2]:.2f}",
            flush=True,
        )


def main() -> None:
    """Trains from each start with each seed, and prints accuracies and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", nargs="?", help="folder or Hub id")
    parser.add_argument("--data", default="shapes", help="what load_point_cloud_dataset takes")
    parser.add_argument("--clouds", type=int, default=500, help="to classify")
    parser.add_argument("--train", type=int, default=1000, help="clouds to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    if options.times:
        print_times()
        return
    dataset = load_point_cloud_dataset(options.data)
    clouds, labels = test_clouds(dataset, options.clouds, options.data == "shapes")
    dataset["train"] = dataset["train"].shuffle(seed=0).select(range(min(options.train, len(dataset["train"]))))
    dataset["test"] = dataset["test"].select([0])  # the Trainer prepares it and never asks for it
    found: dict[str, dict[int, float]] = {start: {} for start in SAMPLING_STARTS}
    for seed in range(options.seeds):
        for start, accuracies in found.items():
            begun = time.perf_counter()
            model, processor = train(start, dataset, options.backbone, seed, options.steps)
            result = count_flips(model, processor, clouds, labels, seed)
            accuracies[seed] = result["accuracy"]
            print(
                f"seed {seed}, from the {start}: accuracy {result['accuracy']:.4f}; of {len(clouds)} clouds in another "
                f"order {result['answers']} have another answer, {result['logits']} logits more than "
                f"{LARGEST_DIFFERENCE:g} apart, the most {result['largest']:.2g} "
                f"({time.perf_counter() - begun:.0f} s)",
                flush=True,
            )
    mean, half_width, count = paired_difference(found["farthest"], found["first"])
    print(f"farthest less first: {100 * mean:+.2f} ± {100 * half_width:.2f} points ({count} paired seeds)")


if __name__ == "__main__":
    main()
