"""Labels for clouds of any size: passes over random subsets, until each point has an answer (method.md 8).

Unusual here: the cloud is put in an order of its own before subsets are drawn, so that the answer depends neither on
the order of the points nor on how often it is asked for. Each point is asked for once, and what is held of the cloud
besides its coordinates and answers is one batch of subsets.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configuration_any2point import SMALLEST_CLOUD
from ..errors import PointCloudError, require
from ..numerics.precision import at_least_float32
from ..tokenizer.point_ops import farthest_first

SUBSETS_AT_ONCE = 16


class PointAnswers(NamedTuple):
    """What a model says of the points of one cloud.

    Attributes:
        parts: [N] int64.
        probabilities: [N] float32 (float64 of such a model), of each point's part among those of the category.
    """

    parts: Tensor
    probabilities: Tensor


def label_large_cloud(
    model: Any,
    points: Tensor,
    point_features: Tensor | None = None,
    category: int | None = None,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> Tensor:
    """Labels every point of one cloud, however many there are.

    The points are dealt into random subsets of `num_points`, each of which is spread over the whole cloud and goes
    through the model alone. The last subset is filled up with points of the others, as context: a point's label is the
    one of the subset that it was dealt to. A cloud of no more than `num_points` goes through the model as it is.

    Args:
        model: an `Any2PointForPointCloudSegmentation`. It runs in eval mode, and is left in the mode it was in.
        points: [N, 3] float, in the unit that the model takes (`Any2PointProcessor`), N ≥ 64.
        point_features: [N, F] float, or None.
        category: of the cloud, where the model has categories.
        num_points: of a subset; by default the config's.
        batch_size: how many subsets go through the model at once.
        seed: of the dealing.

    Returns:
        [N] int64 parts, in the order of the points, on their device.

    Raises:
        PointCloudError: points or features of another shape or kind than the model takes, or not finite.
        DatasetError: the category is out of range, missing, or given where there are none.
    """
    return answer_large_cloud(model, points, point_features, category, num_points, batch_size, seed).parts


def answer_large_cloud(
    model: Any,
    points: Tensor,
    point_features: Tensor | None = None,
    category: int | None = None,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> PointAnswers:
    """As `label_large_cloud`, and says how sure the model is: parts and their probabilities, both [N]."""
    num_points = model.config.num_points if num_points is None else num_points
    require(batch_size > 0, "batch_size must be positive", batch_size)
    _check_cloud(points, point_features)
    order = _random_order(points, point_features, seed)
    num_points = min(num_points, len(points))
    num_missing = -len(points) % num_points
    subsets = torch.cat([order, order[:num_missing]]).view(-1, num_points)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            batches = subsets.split(batch_size)
            answers = [_answer(model, points, point_features, category, batch) for batch in batches]
    finally:
        model.train(was_training)
    return PointAnswers(*(_in_given_order(torch.cat(found), order) for found in zip(*answers, strict=True)))


def _in_given_order(found: Tensor, order: Tensor) -> Tensor:
    """What was found for the points of subsets [S, n], those that fill the last one left out, as [N]."""
    given = torch.empty(len(order), dtype=found.dtype, device=found.device)
    given[order] = found.flatten()[: len(order)]
    return given


def _answer(
    model: Any, points: Tensor, point_features: Tensor | None, category: int | None, subsets: Tensor
) -> PointAnswers:
    """Labels subsets, rows [S, n] of a cloud: both [S, n]."""
    features = None if point_features is None else point_features[subsets]
    categories = None if category is None else torch.full((len(subsets),), category, device=points.device)
    logits = model(points[subsets], features, category=categories).logits
    possible = model.possible_logits(logits, categories)
    probabilities = possible.to(at_least_float32(logits.dtype)).softmax(dim=-1).amax(dim=-1)
    return PointAnswers(possible.argmax(dim=-1), probabilities)


def _random_order(points: Tensor, point_features: Tensor | None, seed: int) -> Tensor:
    """A random order of the points [N], the same whatever order they come in."""
    features = None if point_features is None else point_features.unsqueeze(0)
    own_order = farthest_first(points.unsqueeze(0), features).squeeze(0)
    drawn = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    return own_order[drawn.to(points.device)]


def _check_cloud(points: Tensor, point_features: Tensor | None) -> None:
    """Checks what the model would find only when it meets the last subset."""
    if not isinstance(points, Tensor) or points.dim() != 2 or points.shape[-1] != 3:
        received = list(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise PointCloudError(f"points of one cloud must be a tensor [N, 3], got {received}.")
    if len(points) < SMALLEST_CLOUD:
        raise PointCloudError(f"a cloud must have at least {SMALLEST_CLOUD} points, got {len(points)}.")
    if point_features is not None and (point_features.dim() != 2 or len(point_features) != len(points)):
        raise PointCloudError(
            f"point_features must be [{len(points)}, F], one row for each point, got {list(point_features.shape)}."
        )
    for name, values in (("points", points), ("point_features", point_features)):
        if values is not None and not bool(values.isfinite().all()):
            rows = (~values.isfinite().all(dim=-1)).nonzero().flatten()[:8].tolist()
            raise PointCloudError(f"{name} must be finite, got NaN or infinity in rows {rows}.")
