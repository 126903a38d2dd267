"""The built-in shapes that have parts, with a part for each point: seat, back and leg of a chair, and so on."""

import numpy as np
from datasets import DatasetDict

from any2point_hf.data.parts.dataset import LabelledCloud, build_part_dataset_dict
from any2point_hf.data.shapes import SHAPE_NAMES, SPLITS, check_counts, make_cloud_with_parts

PARTS_OF_SHAPES: dict[str, tuple[str, ...]] = {
    "bottle": ("body", "neck"),
    "chair": ("seat", "back", "leg"),
    "lamp": ("shade", "pole", "base"),
    "mug": ("body", "handle"),
    "table": ("top", "leg"),
}
"""The classes that have parts. A box, cone, cylinder, ellipsoid or torus is of one piece, and is left out."""

PART_NAMES = tuple(f"{shape}/{part}" for shape, parts in PARTS_OF_SHAPES.items() for part in parts)
"""The parts of all classes, such as chair/leg: a label of a point is an index into it."""


def make_part_shapes(num_train: int = 1000, num_test: int = 250, num_points: int = 1024, seed: int = 0) -> DatasetDict:
    """Makes the data set `shapes-parts`: the clouds of the `shapes` of five classes, with parts.

    Categories run 0, 1, …, 4, 0, 1, …. The clouds are those that `make_shapes` makes of these classes with the same
    seed and number of points, to the last bit, so that a model of one may be tested on the other.

    Args:
        num_train: clouds to train on, at least 1.
        num_test: clouds to test on, at least 1.
        num_points: points of every cloud, at least 1.
        seed: not negative.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [num_points, 3]), `part` (a ClassLabel over
        `PART_NAMES` for each point) and `category` (ClassLabel over `PARTS_OF_SHAPES`).

    Raises:
        DatasetError: a count below 1 or a negative seed.
    """
    check_counts(num_train, num_test, num_points, seed)
    splits = {}
    for split, count in zip(SPLITS, (num_train, num_test), strict=True):
        clouds = [_make_cloud(split, index, num_points, seed) for index in range(count)]
        splits[split] = (clouds, [index % len(PARTS_OF_SHAPES) for index in range(count)])
    return build_part_dataset_dict(splits, PART_NAMES, list(PARTS_OF_SHAPES))


def _make_cloud(split: str, index: int, num_points: int, seed: int) -> LabelledCloud:
    """The cloud of an index: of the class `index % 5`, and as many clouds on in `shapes` as here."""
    turn, category = divmod(index, len(PARTS_OF_SHAPES))
    shape = list(PARTS_OF_SHAPES)[category]
    of_shapes = turn * len(SHAPE_NAMES) + SHAPE_NAMES.index(shape)
    points, parts = make_cloud_with_parts(split, of_shapes, num_points, seed)
    names, which = np.unique(parts, return_inverse=True)
    return LabelledCloud(points, np.array([PART_NAMES.index(f"{shape}/{name}") for name in names])[which])
