"""The built-in shapes: ten classes of parametric objects, made on the fly from a seed; nothing is downloaded.

Each cloud has random proportions, sensor noise, a partial view, a turn about the vertical axis and a global
scale. Cloud `index` of a split depends on (seed, split, index) and num_points alone, not on how many clouds
are asked for. Train and test never share a shape: their random streams differ, and every proportion's
interval is cut in `NUM_BINS` bins, of which test takes every fourth and train the others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from any2point_hf.data.surfaces import Surface, boxes, four_legs, revolve, ring, sample_surfaces
from any2point_hf.modeling.errors import DatasetError

if TYPE_CHECKING:
    from datasets import DatasetDict

NUM_BINS = 32
"""How many bins the interval of a proportion is cut in."""

SPLITS = ("train", "test")
"""The splits, in the order of their random streams."""

_TEST_EVERY = 4


def make_shapes(num_train: int = 2000, num_test: int = 500, num_points: int = 1024, seed: int = 0) -> "DatasetDict":
    """Makes the shapes data set; labels run 0, 1, …, 9, 0, 1, …, so a multiple of ten is balanced.

    Args:
        num_train: clouds to train on, at least 1.
        num_test: clouds to test on, at least 1.
        num_points: points of every cloud, at least 1.
        seed: not negative; the same seed gives the same clouds, on one machine bit for bit.

    Returns:
        Splits `train` and `test` with columns `points` (float32 [num_points, 3], z up, arbitrary unit, the
        largest side of the whole shape is 0.5 to 2) and `label` (ClassLabel over `SHAPE_NAMES`).

    Raises:
        DatasetError: a count below 1 or a negative seed.
    """
    from any2point_hf.data.loading import build_dataset_dict  # here, because loading.py imports this module

    check_counts(num_train, num_test, num_points, seed)
    splits = {}
    for split, count in zip(SPLITS, (num_train, num_test), strict=True):
        labels = [index % len(SHAPE_NAMES) for index in range(count)]
        splits[split] = ([make_cloud(split, index, num_points, seed) for index in range(count)], labels)
    return build_dataset_dict(splits, SHAPE_NAMES)


def check_counts(num_train: int, num_test: int, num_points: int, seed: int) -> None:
    """Raises a DatasetError for a count below 1 or a negative seed."""
    for name, count in (("num_train", num_train), ("num_test", num_test), ("num_points", num_points)):
        if count < 1:
            raise DatasetError(f"{name} must be at least 1, got {count}.")
    if seed < 0:
        raise DatasetError(f"seed must not be negative, got {seed}; use 0, 1, 2, …")


def make_cloud(split: str, index: int, num_points: int, seed: int) -> np.ndarray:
    """Makes one cloud, of class `index % 10`.

    Args:
        split: "train" or "test".
        index: the cloud's place in its split.
        num_points: points of the cloud.
        seed: the data set's seed.

    Returns:
        float32 [num_points, 3] in random order.
    """
    return make_cloud_with_parts(split, index, num_points, seed)[0]


def make_cloud_with_parts(split: str, index: int, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the same cloud as `make_cloud`, and the name of each point's part, such as "leg", [num_points]."""
    generator = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    surfaces = draw_shape(SHAPE_NAMES[index % len(SHAPE_NAMES)], split, generator)
    dropped, noise, heading, elevation, turn, scale = generator.uniform(
        (0.0, 0.01, 0.0, -0.3, 0.0, 0.5), (0.35, 0.02, 2 * np.pi, 0.3, 2 * np.pi, 2.0)
    )
    # As many more points as the partial view will drop, so that all that remain are distinct.
    points, parts = sample_surfaces(surfaces, int(np.ceil(num_points / (1.0 - dropped))), generator)
    low, high = points.min(axis=0), points.max(axis=0)
    size = max((high - low).max(), 1e-6)  # a single point has no size
    points = (points - (low + high) / 2) / size
    toward_viewer = np.array([np.cos(heading), np.sin(heading), np.tan(elevation)])
    order = np.argsort(-(points @ toward_viewer))[:num_points]
    kept = generator.permutation(order)
    points = points[kept]
    points += generator.normal(scale=noise, size=points.shape)
    cosine, sine = np.cos(turn), np.sin(turn)
    points = points @ np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return (scale * points).astype(np.float32), parts[kept]


def draw_shape(name: str, split: str, generator: np.random.Generator) -> list[Surface]:
    """The surfaces of a shape of random proportions; "train" and "test" share none."""
    build, intervals = _SHAPES[name]
    lows, highs = np.transpose(intervals)
    return build(*(lows + (highs - lows) * draw_proportions(generator, split, len(intervals))))


def draw_proportions(generator: np.random.Generator, split: str, count: int) -> np.ndarray:
    """Draws proportions, float64 [count], each in [0, 1); "train" and "test" use disjoint bins of it."""
    if split == "test":
        bins = generator.integers(NUM_BINS // _TEST_EVERY, size=count) * _TEST_EVERY
    else:
        choice = generator.integers(NUM_BINS - NUM_BINS // _TEST_EVERY, size=count)
        bins = choice + choice // (_TEST_EVERY - 1) + 1  # 1 2 3, 5 6 7, …: steps over the bins of test
    return (bins + generator.random(count)) / NUM_BINS


# Every shape stands upright, z up; its arguments are proportions, whose intervals are in `_SHAPES`. Those that are of
# one part alone call it by their own names.


def _bottle(radius: float, body_top: float, shoulder: float, neck: float) -> list[Surface]:
    shoulder_top, neck_radius = body_top + shoulder, radius * neck
    outline = (0, 0), (radius, 0), (radius, body_top), (neck_radius, shoulder_top), (neck_radius, 1), (0, 1)
    return [revolve(("body", "body", "body", "neck", "neck"), *outline)]


def _box(depth: float, height: float) -> list[Surface]:
    return [boxes("box", (0, 0, 0, 1, depth, height))]


def _chair(width: float, depth: float, seat: float, back: float, thickness: float, leg: float) -> list[Surface]:
    seat_board = (0, 0, seat, width, depth, thickness)
    back_board = (0, (thickness - depth) / 2, seat + back / 2, width, thickness, back)
    legs = four_legs((width - leg) / 2, (depth - leg) / 2, seat, leg)
    return [boxes(("seat", "back", *["leg"] * 4), seat_board, back_board, *legs)]


def _cone(radius: float) -> list[Surface]:
    return [revolve("cone", (0, 0), (radius, 0), (0, 1))]


def _cylinder(radius: float) -> list[Surface]:
    return [revolve("cylinder", (0, 0), (radius, 0), (radius, 1), (0, 1))]


def _ellipsoid(height: float) -> list[Surface]:
    angles = np.linspace(0.0, np.pi, 25)
    return [revolve("ellipsoid", *zip(np.sin(angles), -height * np.cos(angles), strict=True))]


def _lamp(foot: float, pole: float, shade_bottom: float, wide: float, narrow: float) -> list[Surface]:
    outline = (0, 0), (foot, 0), (foot, 0.03), (pole, 0.03), (pole, 0.9)
    return [revolve(("base", "base", "base", "pole"), *outline), revolve("shade", (wide, shade_bottom), (narrow, 1))]


def _mug(radius: float, wall: float, handle: float, tube: float) -> list[Surface]:
    half_ring = ring("handle", handle, tube, sweep=np.pi)

    def sample_handle(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        points, pieces = half_ring.sample(count, generator)
        return points[:, [0, 2, 1]] + (radius, 0, 0.5), pieces  # the half ring upright, on the wall

    inner = radius - wall
    cup = revolve("body", (0, 0), (radius, 0), (radius, 1), (inner, 1), (inner, wall), (0, wall))
    return [cup, half_ring._replace(sample=sample_handle)]


def _table(depth: float, height: float, thickness: float, leg: float, kind: float) -> list[Surface]:
    if kind < 0.4:  # a round top, its legs within the circle
        top = revolve("top", (0, height), (0.5, height), (0.5, height + thickness), (0, height + thickness))
        return [top, boxes("leg", *four_legs(0.3, 0.3, height, leg))]
    board = (0, 0, height + thickness / 2, 1, depth, thickness)
    return [boxes(("top", *["leg"] * 4), board, *four_legs((1 - leg) / 2, (depth - leg) / 2, height, leg))]


def _torus(tube: float) -> list[Surface]:
    return [ring("torus", 1.0, tube)]


# For every class, its surface and the interval of each proportion.
_SHAPES: dict[str, tuple[Callable[..., list[Surface]], list[tuple[float, float]]]] = {
    "bottle": (_bottle, [(0.14, 0.24), (0.45, 0.6), (0.08, 0.18), (0.3, 0.45)]),
    "box": (_box, [(0.5, 1.0), (0.35, 1.2)]),
    "chair": (_chair, [(0.4, 0.55), (0.4, 0.55), (0.38, 0.5), (0.4, 0.6), (0.03, 0.06), (0.03, 0.06)]),
    "cone": (_cone, [(0.3, 0.6)]),
    "cylinder": (_cylinder, [(0.2, 0.5)]),
    "ellipsoid": (_ellipsoid, [(0.7, 1.4)]),
    "lamp": (_lamp, [(0.14, 0.22), (0.015, 0.03), (0.6, 0.75), (0.2, 0.32), (0.08, 0.15)]),
    "mug": (_mug, [(0.35, 0.5), (0.04, 0.08), (0.24, 0.34), (0.05, 0.08)]),
    "table": (_table, [(0.6, 1.0), (0.45, 0.75), (0.03, 0.07), (0.04, 0.08), (0.0, 1.0)]),
    "torus": (_torus, [(0.2, 0.42)]),
}
SHAPE_NAMES = tuple(_SHAPES)
"""The classes, in alphabetical order: a label is an index into it."""
