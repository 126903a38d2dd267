"""Labels for scenes, such as rooms and streets: overlapping blocks of the ground plane, each a cloud (method.md 8).

Unusual here: blocks overlap in their context alone. Their inner parts tile the plane, so each point is asked for once
and there is nothing to merge.
"""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import require
from .subsets import (
    SUBSETS_AT_ONCE,
    PointAnswers,
    Subset,
    check_cloud,
    deal,
    label_subsets,
    own_order,
    share_answers_of_equal_points,
)

_MOST_BLOCKS = 2**24  # along x or y, so that places within a block are still exact to 1e-9 of it


class Block(NamedTuple):
    """A part of a scene.

    Attributes:
        places: [M] int64, its points and those of its context.
        is_inner: [M] bool, which of them are its own.
    """

    places: Tensor
    is_inner: Tensor


def label_scene(
    model: Any,
    points: Tensor,
    block: float,
    context: float | None = None,
    point_features: Tensor | None = None,
    category: int | None = None,
    scale_to_unit_sphere: bool = True,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> Tensor:
    """Labels every point of a scene, however large it is.

    Squares of the ground plane (x, y), `block` wide, tile the scene from its smallest x and y. Each is taken with all
    points at most `context` beyond its edges, or with more of the nearest ones until there are `num_points`; these are
    centred and scaled as `Any2PointProcessor` does with a cloud, and dealt into random subsets of `num_points` that go
    through the model alone. A point's label is the one of the subset of its own square that it was dealt to; points of
    the same coordinates and features share one label.

    Args:
        model: an `Any2PointForPointCloudSegmentation`, trained on clouds of about the size of a block with its context.
            It runs in eval mode, and is left in the mode it was in.
        points: [N, 3] float32 or float64 in the scene's own unit, z up, N ≥ 64. Map coordinates need float64.
        block: width of a square, in the unit of the points. Most squares should hold `num_points` points or more: each
            takes a pass of its own, however few it has.
        context: width of the margin around it; by default a quarter of `block`.
        point_features: [N, F] float, or None.
        category: of the scene, where the model has categories.
        scale_to_unit_sphere: as the model's processor has it.
        num_points: of a subset, 64…65536; by default the config's.
        batch_size: how many subsets go through the model at once.
        seed: of the dealing.

    Returns:
        [N] int64 parts, in the order of the points, on their device.

    Raises:
        PointCloudError: points or features of another shape or kind than the model takes, or not finite.
        DatasetError: the category is out of range, missing, or given where there are none.
        ConfigurationError: block, context, num_points or batch_size is out of range.
    """
    return answer_scene(
        model, points, block, context, point_features, category, scale_to_unit_sphere, num_points, batch_size, seed
    ).parts


def answer_scene(
    model: Any,
    points: Tensor,
    block: float,
    context: float | None = None,
    point_features: Tensor | None = None,
    category: int | None = None,
    scale_to_unit_sphere: bool = True,
    num_points: int | None = None,
    batch_size: int = SUBSETS_AT_ONCE,
    seed: int = 0,
) -> PointAnswers:
    """As `label_scene`, and says how sure the model is: parts and their probabilities, both [N]."""
    require(isinstance(block, Real) and 0 < block < math.inf, "block must be a positive width", block)
    context = block / 4 if context is None else context
    is_width = isinstance(context, Real) and 0 <= context < math.inf
    require(is_width, "context must be a width of at least 0", context)
    num_points = model.config.num_points if num_points is None else num_points
    check_cloud(points, point_features, num_points, batch_size)
    widest = float((points.amax(dim=0) - points.amin(dim=0))[:2].max())
    require(widest / block <= _MOST_BLOCKS, f"block must be at least a {_MOST_BLOCKS}th of the scene ({widest})", block)
    num_points = min(num_points, len(points))
    device, points = points.device, points.detach().cpu()
    features = None if point_features is None else point_features.detach().cpu()
    order = own_order(points, features)

    def subsets() -> Iterator[Subset]:
        for places, is_inner in blocks_of(points[order, :2], block, context, num_points):
            rows = order[places]
            cloud = normalized(points[rows], scale_to_unit_sphere)
            for dealt, is_asked in deal(len(rows), num_points, seed):
                chosen, is_asked = rows[dealt], is_asked & is_inner[dealt]
                if is_asked.any():
                    yield Subset(chosen, is_asked, cloud[dealt], None if features is None else features[chosen])

    answers = label_subsets(model, subsets(), category, batch_size, len(points))
    shared = share_answers_of_equal_points(answers, order, points, features)
    return PointAnswers(*(found.to(device) for found in shared))


def blocks_of(ground: Tensor, block: float, context: float, num_points: int) -> Iterator[Block]:
    """Divides a scene into squares of the ground plane, each with its context.

    Args:
        ground: [N, 2] floating point, x and y of points that are sorted by x.
        block: width of a square.
        context: width of the margin around it.
        num_points: how many points a square has at least, with its context; at most N.

    Yields:
        The squares that have points, by x and y. A point on an edge belongs to the square of greater x or y, but at the
        end of the scene to the last one. Places are in ascending order.
    """
    first, end = ground.amin(dim=0).double(), ground.amax(dim=0).double()
    last = (((end - first) / block).ceil() - 1).clamp(min=0).tolist()
    x, y = ((plane.double() - start).div_(block) for plane, start in zip(ground.unbind(-1), first, strict=True))
    columns, sizes = x.floor().clamp_(max=last[0]).unique_consecutive(return_counts=True)
    begin = 0
    for column, size in zip(columns.tolist(), sizes.tolist(), strict=True):
        own_rows = y[begin : begin + size].floor().clamp_(max=last[1])
        for row in own_rows.unique().tolist():
            places = _surroundings(x, y, (column + 0.5, row + 0.5), 0.5 + context / block, num_points)
            is_inner = torch.zeros(len(places), dtype=torch.bool)
            own = begin + (own_rows == row).nonzero().flatten()
            is_inner[torch.searchsorted(places, own)] = True
            yield Block(places, is_inner)
        begin += size


def _surroundings(x: Tensor, y: Tensor, center: tuple[float, float], radius: float, num_points: int) -> Tensor:
    """Places of the points within the square of this radius around its centre, or else of the `num_points` nearest.

    Nearest by the larger of the distances along x and y. x is sorted, so that only a strip of the scene is looked at.
    """
    (cx, cy), least = center, radius
    while True:
        begin = int(torch.searchsorted(x, cx - radius))
        end = int(torch.searchsorted(x, cx + radius, right=True))
        strip = y[begin:end]
        places = begin + ((strip >= cy - radius) & (strip <= cy + radius)).nonzero().flatten()
        if len(places) >= num_points:
            break
        radius *= 2
    if radius == least:
        return places
    distance = torch.maximum((x[places] - cx).abs(), (y[places] - cy).abs())
    return places[distance.argsort(stable=True)[:num_points].sort().values]


def normalized(points: Tensor, scale_to_unit_sphere: bool) -> Tensor:
    """Centres points [M, 3] at their mean and, if wished, scales them into the unit sphere; [M, 3] float32."""
    exact = points.double()
    exact = exact - exact.mean(dim=0)
    farthest = exact.norm(dim=1).max()
    return (exact / farthest if scale_to_unit_sphere and farthest > 0 else exact).float()
