"""Nearest neighbours in large clouds on a CPU: a tree of one level, whose leaves are searched nearest first.

Unusual here: all centres search at once. Points are sorted into equal leaves, slab by slab along x, y and z; each
centre searches the few leaves whose boxes are nearest, and centres for which that was not enough search twice as many.
The result equals that of comparing every point, to the last bit: a box's distance is rounded as its points' are.
"""

import torch
from torch import Tensor

LEAF_SIZE = 32  # approximate number of points in a leaf
MOST_CUTS = 8  # slabs along each axis; more leaves do not pay, because a box costs as much to look at as a point
_FIRST_LEAVES = 4  # leaves searched at first, in addition to twice the number that K points fill
_BLOCK = 1 << 19  # candidates compared at once: 2 MiB, which stay in the cache


def search_leaves(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    """Finds the K points of one cloud nearest to each centre; of points equally far, those of the lowest indices.

    Args:
        points: [N, 3] float32.
        centers: [G, 3] float32.
        num_neighbors: K ≤ N.

    Returns:
        [G, K] int64, in no particular order.
    """
    planes, original = _sort_into_leaves(points)  # [3, L, S] and [L, S]
    num_leaves, leaf_size = original.shape
    lowest = planes.amin(dim=2)
    highest = planes.masked_fill(planes == torch.inf, -torch.inf).amax(dim=2)  # without the filling
    found = torch.empty(len(centers), num_neighbors, dtype=torch.long, device=points.device)
    waiting = torch.arange(len(centers), device=points.device)
    num_looked_into = _FIRST_LEAVES + 2 * -(-num_neighbors // leaf_size)
    while len(waiting):
        num_looked_into = min(num_looked_into, num_leaves)
        unfinished = []
        for rows in waiting.split(max(1, _BLOCK // (num_looked_into * leaf_size))):
            nearest = _squared_distance_to_boxes(centers[rows], lowest, highest).topk(
                min(num_looked_into + 1, num_leaves), largest=False, sorted=True
            )
            leaves = nearest.indices[:, :num_looked_into]
            keys = (
                _keys(planes, original, leaves, centers[rows]).topk(num_neighbors, largest=False, sorted=False).values
            )
            found[rows] = keys & 0xFFFFFFFF
            if num_looked_into < num_leaves:
                farthest = (keys.amax(dim=1) >> 32).int().view(torch.float32)
                unfinished.append(rows[nearest.values[:, -1] <= farthest])
        waiting = torch.cat(unfinished) if unfinished else waiting[:0]
        num_looked_into *= 2
    return found


def _sort_into_leaves(points: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts points [N, 3] into L leaves of S: coordinates [3, L, S], infinite in the filling, and indices [L, S]."""
    num_points = len(points)
    cuts = min(max(1, round((num_points / LEAF_SIZE) ** (1 / 3))), MOST_CUTS)  # slabs along each axis
    leaf_size = -(-num_points // cuts**3)
    planes = points.new_full((3, cuts**3 * leaf_size), torch.inf)
    planes[:, :num_points] = points.t()
    order = torch.arange(planes.shape[1], device=points.device)
    for axis in range(3):
        slabs = order.view(cuts**axis, -1)
        order = slabs.gather(1, planes[axis][slabs].argsort(dim=1)).flatten()
    return planes[:, order].view(3, -1, leaf_size), order.view(-1, leaf_size)


def _squared_distance_to_boxes(centers: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Squared distances [g, L] of centres [g, 3] to boxes [3, L], added in the same order as those to points."""
    total: Tensor | None = None
    for axis in range(3):
        center = centers[:, axis : axis + 1]
        outside = torch.maximum(lowest[axis] - center, center - highest[axis]).clamp_(min=0).square_()
        total = outside if total is None else total.add_(outside)
    assert total is not None
    return total


def _keys(planes: Tensor, original: Tensor, leaves: Tensor, centers: Tensor) -> Tensor:
    """Sort keys of the points in leaves [g, T]: squared distance in the upper 32 bits, index below: [g, T·S] int64."""
    total: Tensor | None = None
    for axis in range(3):
        apart = planes[axis].index_select(0, leaves.flatten()).view(len(leaves), -1)
        apart = apart.sub_(centers[:, axis : axis + 1]).square_()
        total = apart if total is None else total.add_(apart)
    assert total is not None
    indices = original.index_select(0, leaves.flatten()).view_as(total)
    return (total.view(torch.int32).long() << 32).bitwise_or_(indices)  # bits of floats ≥ 0 are in the floats' order
