"""Subsets of a cloud that go through the model alone, and the labels that come back from them (method.md 8).

Unusual here: a cloud is put in an order of its own before subsets are drawn, and of equal points the first one's label
is that of all, so that labels depend neither on the order of the points nor on how often they are asked for.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..configuration_any2point import LARGEST_CLOUD, SMALLEST_CLOUD
from ..errors import DatasetError, PointCloudError, require
from ..numerics.precision import at_least_float32
from ..tokenizer.point_ops import order_of_coordinates

SUBSETS_AT_ONCE = 16


class Subset(NamedTuple):
    """Points of a cloud that go through the model together.

    Attributes:
        rows: [n] int64, which points of the cloud they are.
        is_asked: [n] bool, which of them get their label from here; the others are context.
        points: [n, 3], as the model takes them.
        point_features: [n, F], or None.
    """

    rows: Tensor
    is_asked: Tensor
    points: Tensor
    point_features: Tensor | None


class PointAnswers(NamedTuple):
    """What a model says of the points of one cloud.

    Attributes:
        parts: [N] int64.
        probabilities: [N] float32 (float64 of such a model), of each point's part among those of the category.
    """

    parts: Tensor
    probabilities: Tensor


def own_order(points: Tensor, point_features: Tensor | None) -> Tensor:
    """The rows [N] of a cloud [N, 3] in the order of its coordinates, then of its features [N, F]."""
    features = None if point_features is None else point_features.unsqueeze(0)
    return order_of_coordinates(points.unsqueeze(0), features).squeeze(0)


def deal(total: int, num_points: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Deals 0…total−1 into random subsets of `num_points`; the last is filled up with numbers of the first.

    Args:
        total: at least num_points.
        num_points: n, of a subset.
        seed: of the permutation.

    Yields:
        [n] int64, and [n] bool: True but for what the last one is filled up with.
    """
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    for start in range(0, total, num_points):
        numbers = drawn[start : start + num_points]
        filling = drawn[: num_points - len(numbers)]
        yield torch.cat([numbers, filling]), torch.arange(num_points) < len(numbers)


def label_subsets(
    model: Any, subsets: Iterable[Subset], category: int | None, batch_size: int, num_rows: int
) -> PointAnswers:
    """Labels every row of a cloud by the one subset that asks for it, in eval mode; [num_rows], on the CPU.

    Only `batch_size` subsets are held at a time; all have the same number of points.
    """
    if category is not None and (isinstance(category, bool) or not isinstance(category, Integral)):
        raise DatasetError(
            f"category of a cloud must be its number among the model's category_parts, got {category!r}."
        )
    probabilities = torch.empty(num_rows, dtype=at_least_float32(model.dtype))
    answers = PointAnswers(torch.empty(num_rows, dtype=torch.int64), probabilities)
    remaining, was_training = iter(subsets), model.training
    model.eval()
    try:
        with torch.no_grad():
            while batch := list(islice(remaining, batch_size)):
                for of_all, of_batch in zip(answers, _answer(model, batch, category), strict=True):
                    for subset, found in zip(batch, of_batch, strict=True):
                        of_all[subset.rows[subset.is_asked]] = found[subset.is_asked].to(of_all.dtype)
    finally:
        model.train(was_training)
    return answers


def _answer(model: Any, batch: list[Subset], category: int | None) -> PointAnswers:
    """Labels the points of S subsets: both [S, n], on the CPU."""
    points = torch.stack([subset.points for subset in batch]).to(model.device)
    given = [subset.point_features for subset in batch if subset.point_features is not None]
    features = torch.stack(given).to(model.device) if given else None
    categories = None if category is None else torch.full((len(batch),), category, device=model.device)
    logits = model(points, features, category=categories).logits
    possible = model.possible_logits(logits, categories)
    probabilities = possible.to(at_least_float32(logits.dtype)).softmax(dim=-1).amax(dim=-1)
    return PointAnswers(possible.argmax(dim=-1).cpu(), probabilities.cpu())


def share_answers_of_equal_points(
    answers: PointAnswers, order: Tensor, points: Tensor, point_features: Tensor | None
) -> PointAnswers:
    """Gives points of the same coordinates and features the answer of the first of them.

    Args:
        answers: of N points, changed in place.
        order: [N] of `own_order`, in which equal points follow each other.
        points: [N, 3].
        point_features: [N, F], or None.
    """
    is_repeat = torch.ones(len(order), dtype=torch.bool)
    is_repeat[0] = False
    for column in (*points.unbind(-1), *(() if point_features is None else point_features.unbind(-1))):
        column = column[order]
        is_repeat[1:] &= column[1:] == column[:-1]
    if is_repeat.any():
        first = torch.arange(len(order)).masked_fill(is_repeat, 0).cummax(dim=0).values
        for found in answers:
            found[order] = found[order[first]]
    return answers


def check_cloud(points: Tensor, point_features: Tensor | None, num_points: int, batch_size: int) -> None:
    """Checks what the model would find only when it meets the last subset.

    Raises:
        PointCloudError: points or features of another shape or kind than a model takes, or not finite.
        ConfigurationError: num_points or batch_size is out of range.
    """
    require(batch_size > 0, "batch_size must be positive", batch_size)
    require(
        SMALLEST_CLOUD <= num_points <= LARGEST_CLOUD,
        f"num_points must lie in {SMALLEST_CLOUD}…{LARGEST_CLOUD}",
        num_points,
    )
    if not isinstance(points, Tensor) or points.dim() != 2 or points.shape[-1] != 3:
        raise PointCloudError(f"points of one cloud must be a tensor [N, 3], got {_received(points)}.")
    if not points.is_floating_point():
        raise PointCloudError(f"points must be floating point, got {points.dtype}. Call points.float().")
    if len(points) < SMALLEST_CLOUD:
        raise PointCloudError(f"a cloud must have at least {SMALLEST_CLOUD} points, got {len(points)}.")
    is_tensor = isinstance(point_features, Tensor) and point_features.dim() == 2
    if point_features is not None and (not is_tensor or len(point_features) != len(points)):
        raise PointCloudError(
            f"point_features must be a tensor [{len(points)}, F], one row for each point, got "
            f"{_received(point_features)}."
        )
    for name, values in (("points", points), ("point_features", point_features)):
        if values is not None and not bool(values.isfinite().all()):
            rows = (~values.isfinite().all(dim=-1)).nonzero().flatten()[:8].tolist()
            raise PointCloudError(f"{name} must be finite, got NaN or infinity in rows {rows}.")


def _received(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
