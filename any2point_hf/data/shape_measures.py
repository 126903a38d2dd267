"""The data set `shapes-measures`: the solid ones of the built-in shapes with volume, surface area and extents, exactly.

Eight of the ten shapes are solids. Left out are the lamp, whose shade is an open sheet without a volume, and the mug,
whose handle runs into its wall, so that what both share has no closed form.

Unusual here: a cloud is the whole surface, upright, without noise, and of the shape's own size, because volume and area
are in its units. Train on it without scaling clouds to the unit sphere, as the recipe `regression` does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from any2point_hf.data.shapes import SHAPE_NAMES, SPLITS, check_counts, draw_shape
from any2point_hf.data.surfaces import Surface, sample_surfaces

if TYPE_CHECKING:
    from datasets import DatasetDict

MEASURED = tuple(name for name in SHAPE_NAMES if name not in ("lamp", "mug"))
"""The shapes that are solids."""

MEASURES = ("volume", "surface_area", "extent_x", "extent_y", "extent_z")
"""The targets, in the unit of the points, its square and its cube."""

_SIZES = (0.5, 1.5)  # of the largest side


def make_measured_shapes(
    num_train: int = 2000, num_test: int = 500, num_points: int = 1024, seed: int = 0
) -> "DatasetDict":
    """Makes the data set `shapes-measures`; the shapes take turns, and train and test share none (`make_shapes`).

    Args:
        num_train: clouds to train on, at least 1.
        num_test: clouds to test on, at least 1.
        num_points: points of every cloud, at least 1.
        seed: not negative; the same seed gives the same clouds, on one machine bit for bit.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [num_points, 3], z up, the largest side 0.5 to 1.5) and
        `label`, a dict of the five `MEASURES`.

    Raises:
        DatasetError: a count below 1 or a negative seed.
    """
    from any2point_hf.data.loading import build_dataset_dict  # here, because loading.py imports this module

    check_counts(num_train, num_test, num_points, seed)
    splits = {}
    for split, count in zip(SPLITS, (num_train, num_test), strict=True):
        made = [make_measured_cloud(split, index, num_points, seed) for index in range(count)]
        splits[split] = ([points for points, _ in made], [measures for _, measures in made])
    return build_dataset_dict(splits, MEASURES, "regression")


def make_measured_cloud(split: str, index: int, num_points: int, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Makes one cloud, of the shape `MEASURED[index % 8]`.

    Args:
        split: "train" or "test".
        index: the cloud's place in its split.
        num_points: points of the cloud.
        seed: the data set's seed.

    Returns:
        float32 [num_points, 3] in random order, and the `MEASURES` of the solid.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, 1]))
    surfaces = draw_shape(MEASURED[index % len(MEASURED)], split, generator)
    volume, area, low, high = measure(surfaces)
    size = generator.uniform(*_SIZES) / (high - low).max()
    points, _ = sample_surfaces(surfaces, num_points, generator)
    points = size * (generator.permutation(points) - (low + high) / 2)
    measures = (size**3 * volume, size**2 * area, *(size * (high - low)))
    return points.astype(np.float32), dict(zip(MEASURES, map(float, measures), strict=True))


def measure(surfaces: Sequence[Surface]) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Volume, surface area, lowest and highest corner [3] of the solid that closed surfaces enclose together.

    Boxes may overlap each other; of a box and a solid of revolution, a box's top may touch the other's flat bottom.

    Args:
        surfaces: whole turns of profiles that begin and end on the axis or where they began, and boxes.
    """
    volumes, areas, corners = [], [], []
    turned = [surface.profile for surface in surfaces if surface.profile is not None]
    boxes = np.concatenate([np.empty((0, 6)), *(surface.boxes for surface in surfaces if surface.boxes is not None)])
    for profile in turned:
        (inner, low), (outer, high) = profile[:-1].T, profile[1:].T
        volumes.append(np.pi / 3 * ((high - low) * (inner**2 + inner * outer + outer**2)).sum())  # frusta, signed
        areas.append(np.pi * ((inner + outer) * np.hypot(outer - inner, high - low)).sum())
        radius = profile[:, 0].max()
        corners += [(-radius, -radius, profile[:, 1].min()), (radius, radius, profile[:, 1].max())]
    if len(boxes):
        volume, area = _union(boxes)
        touching = [box[3] * box[4] for box in boxes for other in turned if box[2] + box[5] / 2 == other[0, 1]]
        volumes.append(volume)
        areas.append(area - 2 * sum(touching))
        corners += [*(boxes[:, :3] - boxes[:, 3:] / 2), *(boxes[:, :3] + boxes[:, 3:] / 2)]
    return sum(volumes), sum(areas), np.min(corners, axis=0), np.max(corners, axis=0)


def _union(boxes: np.ndarray) -> tuple[float, float]:
    """Volume and surface area of the union of boxes [n, 6], on the grid of all their sides."""
    low, high = boxes[:, :3] - boxes[:, 3:] / 2, boxes[:, :3] + boxes[:, 3:] / 2
    edges = [np.unique(np.concatenate([low[:, axis], high[:, axis]]).round(12)) for axis in range(3)]
    middles = np.stack(np.meshgrid(*((edge[1:] + edge[:-1]) / 2 for edge in edges), indexing="ij"), axis=-1)
    inside = ((middles[..., None, :] > low) & (middles[..., None, :] < high)).all(axis=-1).any(axis=-1)
    lengths = [np.diff(edge) for edge in edges]
    volume = np.einsum("xyz,x,y,z->", inside, *lengths)
    area = 0.0
    for axis in range(3):
        changes = np.diff(np.pad(inside, [(1, 1) if other == axis else (0, 0) for other in range(3)]), axis=axis)
        across = np.moveaxis(changes, axis, 0).sum(axis=0)  # how often a line along this axis enters or leaves
        first, second = (lengths[other] for other in range(3) if other != axis)
        area += first @ across @ second
    return float(volume), float(area)
