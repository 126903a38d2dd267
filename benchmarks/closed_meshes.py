"""Volume, surface area and extents of closed real meshes, learned from their points (docs/head_tasks.md).

    python benchmarks/closed_meshes.py ../shared/data/samples --backbone FOLDER --output FOLDER

Few meshes of the usual data sets are closed, but many of their parts are: each closed part, stretched along its axes at
random, is a solid whose measures trimesh computes exactly. Two sets are tested on: the training's parts stretched anew,
and the parts of meshes that no training cloud came from.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import trimesh
from datasets import DatasetDict

from any2point_hf.data.loading import build_dataset_dict
from any2point_hf.data.shape_measures import MEASURES
from any2point_hf.trained_adapter import evaluate
from any2point_hf.training.run import train

HELD_OUT = ("m1600.obj", "chair_0002.off")  # the two meshes that are closed as a whole
NUM_POINTS = 1024
STRETCHES, SIZES = (0.7, 1.3), (0.5, 1.5)  # of each axis, and then of the largest side


def closed_parts(file: Path) -> list[trimesh.Trimesh]:
    """The different closed parts of a mesh: no sheets, needles or copies of another."""
    found = {}
    for part in trimesh.load(file, force="mesh").split(only_watertight=True):
        share = abs(part.volume) / np.prod(part.extents)
        is_thin = share < 0.02 or part.extents.min() < 0.03 * part.extents.max()
        if part.is_volume and len(part.faces) >= 8 and not is_thin:
            shape = (len(part.faces), *np.round(part.extents / part.extents.max(), 2), round(share, 2))
            found.setdefault(shape, part)
    return list(found.values())


def measured_clouds(parts: list[trimesh.Trimesh], count: int, seed: int) -> tuple[list[np.ndarray], list[dict]]:
    """Clouds [1024, 3] on stretched parts, which take turns, and the measures of each."""
    generator = np.random.default_rng(seed)
    clouds, measures = [], []
    for index in range(count):
        mesh = parts[index % len(parts)].copy()
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        mesh.apply_transform(np.diag([*generator.uniform(*STRETCHES, 3), 1]))
        mesh.apply_scale(generator.uniform(*SIZES) / mesh.extents.max())
        points, _ = trimesh.sample.sample_surface(mesh, NUM_POINTS, seed=int(generator.integers(2**31)))
        clouds.append(np.asarray(points, dtype=np.float32))
        values = (abs(mesh.volume), mesh.area, *mesh.extents)
        measures.append(dict(zip(MEASURES, map(float, values), strict=True)))
    return clouds, measures


def make_data(folder: Path, num_train: int, num_test: int) -> DatasetDict:
    """Splits `train`, `test` (held-out meshes) and `stretched` (the training's parts, stretched anew)."""
    parts = {file.name: closed_parts(file) for file in sorted([*folder.rglob("*.off"), *folder.rglob("*.obj")])}
    held_out = [part for name in HELD_OUT for part in parts.pop(name)]
    known = [part for found in parts.values() for part in found]
    print(f"{len(known)} closed parts to train on, {len(held_out)} of other meshes")
    splits = {
        "train": measured_clouds(known, num_train, seed=0),
        "test": measured_clouds(held_out, num_test, seed=2),
        "stretched": measured_clouds(known, num_test, seed=1),
    }
    return build_dataset_dict(splits, MEASURES, "regression")


def main() -> None:
    """Trains with the recipe `regression`, and prints R² of each target."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clouds", type=int, default=1200)
    options = parser.parse_args()
    dataset = make_data(options.samples, options.clouds, 200)
    start = time.process_time()
    train(dataset, options.backbone, options.output)
    print(f"trained in {time.process_time() - start:.0f} s of CPU")
    for split in ("stretched", "test"):
        result = evaluate(str(options.output), dataset, split=split)
        values = ", ".join(f"{name} {values['r2']:.3f}" for name, values in result["per_target"].items())
        print(f"{split}: R² {values}; mean {result['r2']:.3f}")


if __name__ == "__main__":
    main()
