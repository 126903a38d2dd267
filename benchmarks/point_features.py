"""What features of points are worth: trainings with and without them, paired by their seeds.

    python benchmarks/point_features.py BACKBONE                                 # coloured shapes
    python benchmarks/point_features.py BACKBONE --normals shared/data/modelnet40_mini_2048n.npz

Half of the classes of the coloured shapes differ in nothing but their paint. The .npz has `normals` beside its points;
its classes of fewer than four training clouds are left out, and each seed draws another test split.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features
from transformers import set_seed

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor, make_trainer
from any2point_hf.data.shapes import SHAPE_NAMES, make_cloud
from any2point_hf.paper.paired import paired_difference
from any2point_hf.point_clouds.features import feature_names
from any2point_hf.training.recipe import read_recipe

SHAPES = ("bottle", "chair", "lamp", "mug", "table")
PAINTS = {"warm": (0.0, 0.15), "cold": (0.5, 0.65)}  # ranges of hue
FEWEST_CLOUDS = 4  # of a class in the training split
ARRAY = Array2D((None, 3), "float32")


def colored_shapes(num_train: int, num_test: int, num_points: int = 512, seed: int = 0) -> DatasetDict:
    """Shapes of five classes in two paints: ten classes with columns `points`, `rgb` and `label`.

    The hue of a cloud lies within its paint's range; brightness and saturation say nothing of it, and differ by point.
    """
    classes = list(itertools.product(SHAPES, PAINTS))
    features = Features(points=ARRAY, rgb=ARRAY, label=ClassLabel(names=[f"{p} {s}" for s, p in classes]))

    def rows(split: str, count: int):
        for index in range(count):
            shape, paint = classes[index % len(classes)]
            generator = np.random.default_rng([seed, split == "test", index])
            number = SHAPE_NAMES.index(shape) + len(SHAPE_NAMES) * index
            hue = generator.uniform(*PAINTS[paint]) + generator.normal(scale=0.02, size=num_points)
            saturation = generator.uniform(0.3, 1.0) * generator.uniform(0.6, 1.0, size=num_points)
            brightness = generator.uniform(0.3, 1.0) * generator.uniform(0.6, 1.0, size=num_points)
            rgb = hsv_to_rgb(hue, saturation, brightness)
            yield {"points": make_cloud(split, number, num_points, seed), "rgb": rgb, "label": index % len(classes)}

    columns = {"train": list(rows("train", num_train)), "test": list(rows("test", num_test))}
    return DatasetDict({split: Dataset.from_list(listed, features=features) for split, listed in columns.items()})


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Colours [N, 3] between 0 and 1; a hue of 0 and one of 1 are red."""
    turns = 6 * (hue[:, None] % 1.0) + np.array([0.0, 4.0, 2.0])
    pure = np.clip(np.abs(turns % 6 - 3) - 1, 0, 1)
    return (brightness[:, None] * (1 - saturation[:, None] * (1 - pure))).astype(np.float32)


def with_normals(path: Path, seed: int) -> DatasetDict:
    """The clouds of the file's larger classes with their normals; a fifth of each class to test on."""
    arrays = np.load(path)
    labels = arrays["labels"].astype(np.int64).ravel()
    kept = [label for label in np.unique(labels) if (labels == label).sum() > FEWEST_CLOUDS]
    names = [str(arrays["class_names"][label]) for label in kept]
    features = Features(points=ARRAY, normal=ARRAY, label=ClassLabel(names=names))
    rows = [
        {
            "points": arrays["points"][i].astype(np.float32),
            "normal": arrays["normals"][i].astype(np.float32),
            "label": c,
        }
        for c, label in enumerate(kept)
        for i in np.flatnonzero(labels == label)
    ]
    dataset = Dataset.from_list(rows, features=features)
    return dataset.train_test_split(0.2, stratify_by_column="label", seed=seed)


def accuracy(dataset: DatasetDict, backbone: str, groups: list[str], seed: int, steps: int) -> float:
    """Of the test split after a training by the recipe `small-data`."""
    recipe = read_recipe("small-data")
    names, classes = feature_names(groups), dataset["train"].features["label"].names
    set_seed(seed)
    config = Any2PointConfig(
        backbone=backbone, id2label=dict(enumerate(classes)), point_feature_names=names, **recipe.config
    )
    model = Any2PointForPointCloudClassification(config)
    processor = Any2PointProcessor(config.num_points, recipe.scale_to_unit_sphere, seed, point_feature_names=names)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, processor, dataset, folder, recipe, seed=seed, steps=steps)
        trainer.args.save_strategy = trainer.args.eval_strategy = "no"
        trainer.train()
        return trainer.evaluate()["eval_accuracy"]


def main() -> None:
    """Trains the rows of each seed, and prints accuracies and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="folder or Hub id")
    parser.add_argument("--normals", type=Path, metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    group = "normal" if options.normals else "rgb"
    found: dict[str, dict[int, float]] = {"coordinates": {}, f"coordinates, {group}": {}}
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    for seed in range(options.seeds):
        dataset = with_normals(options.normals, seed) if options.normals else colored_shapes(1000, 400, seed=seed)
        for row, groups in zip(found, ([], [group]), strict=True):
            start = time.perf_counter()
            found[row][seed] = accuracy(dataset, options.backbone, groups, seed, options.steps)
            sizes = f"{len(dataset['train'])} / {len(dataset['test'])} clouds"
            print(
                f"seed {seed}, {row}: {found[row][seed]:.4f} ({sizes}, {time.perf_counter() - start:.0f} s)", flush=True
            )
    for row, values in found.items():
        print(f"{row}: {100 * np.mean(list(values.values())):.1f} %")
    mean, half_width, count = paired_difference(found[f"coordinates, {group}"], found["coordinates"])
    print(f"with {group} less without: {100 * mean:+.1f} ± {100 * half_width:.1f} points ({count} paired seeds)")


if __name__ == "__main__":
    main()
