"""Accuracy of an adapter under each corruption of PointCloud-C.

Clouds go the way of a user's own: corrupted first, then brought to the model's number of points by its processor. (The
benchmark gives models the corrupted clouds as they are, of other sizes than they were trained with.)
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..data.corruptions import CORRUPTIONS, NUM_LEVELS, NUM_POINTS, corrupt
from ..modeling.errors import ConfigurationError
from ..modeling.input_checks import SMALLEST_CLOUD
from ..processing_any2point import Any2PointProcessor
from ..trained_adapter import SplitOfAdapter, logits_of
from .corruption_errors import Robustness

Report = Callable[[str, list[float]], None]


def evaluate_corruptions(
    opened: SplitOfAdapter, batch_size: int = 32, seed: int = 0, report: Report = lambda name, accuracies: None
) -> Robustness:
    """Accuracies of an adapter on a split, clean and under the seven corruptions at five levels.

    Args:
        opened: the adapter and the split. Clouds of more than 1024 points are reduced to these first, as the
            published ones are.
        batch_size: clouds at a time; the result does not depend on it.
        seed: of the corruptions.
        report: called with each corruption and its accuracies, the weakest level first, as soon as they are known.

    Raises:
        ConfigurationError: the model takes features, which an added point does not have.
        PointCloudError: a cloud of the split cannot be used.
    """
    if features := opened.processor.point_feature_names:
        raise ConfigurationError(
            "corruptions add points of coordinates alone, so the model must not take features, got "
            f"{', '.join(features)}. Evaluate an adapter trained without --features."
        )
    labels = opened.labels
    clouds = [_in_unit_sphere(points, opened.processor) for points in opened.clouds.with_format("numpy")["points"]]
    levels: dict[str, list[float]] = {}
    clean = _accuracy(opened, clouds, labels, batch_size)
    report("clean", [clean])
    for name in CORRUPTIONS:
        levels[name] = []
        for level in range(1, NUM_LEVELS + 1):
            corrupted = [corrupt(cloud, name, level, index, seed) for index, cloud in enumerate(clouds)]
            levels[name].append(_accuracy(opened, corrupted, labels, batch_size))
        report(name, levels[name])
    return Robustness(clean, levels)


def _in_unit_sphere(points: np.ndarray, processor: Any2PointProcessor) -> np.ndarray:
    """A cloud as the published ones are: at most 1024 points, centred, in the unit sphere."""
    num_points = min(max(len(points), SMALLEST_CLOUD), NUM_POINTS)
    sampler = Any2PointProcessor(num_points, drop_invalid=processor.drop_invalid)
    return sampler(points, return_tensors="np")["points"][0]


def _accuracy(opened: SplitOfAdapter, clouds: list[np.ndarray], labels: np.ndarray, batch_size: int) -> float:
    correct = 0
    for start in range(0, len(clouds), batch_size):
        chosen = slice(start, start + batch_size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*fewer than num_points")  # that is what losing points means
            rows = opened.processor.rows(clouds[chosen])
        predictions: Any = logits_of(opened.model, rows).argmax(dim=-1).numpy()
        correct += int((predictions == labels[chosen]).sum())
    return correct / len(clouds)
