"""Point operations: farthest point sampling, nearest neighbours, gathering. Any device.

Unusual here: coordinates are worked on as separate x, y, z planes, which on a CPU makes farthest point sampling as
fast as a compiled kernel; distances are sums of squared differences (never the expanded |a|² + |b|² − 2ab), so that a
cloud's neighbours do not depend on what else is in its batch, to the last bit.
"""

import importlib.util

import torch
from torch import Tensor

from ..numerics.host_reads import host_may_read, is_exporting
from ..numerics.precision import widest_dtype
from .fast.block_size import values_in_block
from .fast.leaf_search import search_leaves

_HAS_TRITON = importlib.util.find_spec("triton") is not None
LARGEST_KERNEL_CLOUD = 16384  # the most points whose distances fit into the registers of one program on a GPU

SAMPLING_STARTS = ("first", "farthest")
"""Where farthest point sampling starts: at a cloud's first point, or as `farthest_first` says."""

LARGE_CLOUD = 1024  # from this many points on, a CPU searches a tree (leaf_search.py) instead of every point


def farthest_first(points: Tensor, features: Tensor | None = None) -> Tensor:
    """Orders points by themselves, so that what is computed of them does not depend on the order in which they came.

    The point farthest from the centroid comes first, then the others by x, y, z and features. Of points equally far
    (in their own dtype) the first one by x, y, z and features is taken, so points that share a place and differ in
    features have one order too. Nearest neighbours at equal distance, which go by index, then go by coordinates.

    Args:
        points: [B, N, 3] floating point.
        features: [B, N, F] of these points, or None.

    Returns:
        [B, N] int64, the indices of the points in this order.
    """
    order = order_of_coordinates(points, features)
    # Sums in float64 of numbers in one order are the same on every device, once they are rounded to float32.
    wide = widest_dtype(points.device)
    distance: Tensor | float = 0.0
    for plane in points.detach().unbind(-1):
        plane = plane.gather(1, order)
        distance = distance + (plane - plane.to(wide).mean(dim=1, keepdim=True).to(plane.dtype)).to(wide).square()
    assert isinstance(distance, Tensor)
    start = distance.to(points.dtype).argmax(dim=1, keepdim=True)
    place = torch.arange(points.shape[1], device=points.device).expand_as(order)
    return order.gather(1, torch.where(place == 0, start, place - (place <= start).long()))


def order_of_coordinates(points: Tensor, features: Tensor | None = None) -> Tensor:
    """Orders points by x, then by y, z and features; equal ones by index.

    Args:
        points: [B, N, 3] floating point.
        features: [B, N, F] of these points, or None.

    Returns:
        [B, N] int64, the indices of the points in this order.
    """
    columns = [*points.detach().unbind(-1), *(() if features is None else features.detach().unbind(-1))]
    order = _stable_argsort(columns[-1])
    for column in reversed(columns[:-1]):
        order = order.gather(1, _stable_argsort(column.gather(1, order)))
    return order


def _stable_argsort(values: Tensor) -> Tensor:
    """Indices that sort values [B, N] along N; of equal values the lowest index comes first."""
    if not is_exporting() or values.dtype != torch.float32:
        return values.argsort(dim=1, stable=True)
    # ONNX knows no stable sort, so the index is mixed into float64, as in _without_ties
    index, wide = torch.arange(values.shape[1], device=values.device).double(), values.double()
    return (wide + wide.abs() * (index * 2.0**-48) + index * 1e-80).argsort(dim=1)


def farthest_point_sampling(points: Tensor, num_samples: int, excluded: Tensor | None = None) -> Tensor:
    """Orders points greedily by distance to those already chosen, starting at the first point (method.md 1).

    A prefix of the result is itself the farthest point sampling of the prefix' length. Ties go to the lowest index.

    Args:
        points: [B, N, 3] floating point.
        num_samples: how many indices to return, 1 ≤ num_samples ≤ N.
        excluded: [B, N] bool, points that are never picked after the first; None for no such points.

    Returns:
        [B, num_samples] int64 indices into N.

    Raises:
        ValueError: num_samples is not in 1…N.
    """
    num_points = points.shape[1]
    if not 1 <= num_samples <= num_points:
        raise ValueError(f"num_samples must lie in 1…{num_points} (the points there are), got {num_samples}.")
    x, y, z = (plane.contiguous() for plane in points.detach().unbind(-1))
    distance = torch.full_like(x, torch.inf)
    if excluded is not None:
        distance = distance.masked_fill(excluded, -1.0)  # below every squared distance, and min() keeps it there
    sample = _scan_farthest_points if is_exporting() else _farthest_points
    return sample(x, y, z, distance, num_samples)


@torch.library.custom_op("any2point::farthest_points", mutates_args=())
def _farthest_points(x: Tensor, y: Tensor, z: Tensor, distance: Tensor, num_samples: int) -> Tensor:
    """`farthest_point_sampling` by planes [B, N]: one step to a compiler, which would copy the loop num_samples times.

    `distance` is the squared one to start from: infinite, or −1 for points never to be picked.
    """
    if _kernel_takes(x):
        from .fast.sampling_kernel import farthest_points  # needs Triton

        return farthest_points(x, y, z, distance, num_samples)
    indices = torch.zeros(len(x), num_samples, dtype=torch.long, device=x.device)
    chosen = indices[:, :1]
    for sample in range(1, num_samples):
        step = (x - x.gather(1, chosen)).square_()
        step += (y - y.gather(1, chosen)).square_()
        step += (z - z.gather(1, chosen)).square_()
        distance = torch.minimum(distance, step)
        chosen = distance.argmax(dim=1, keepdim=True)
        indices[:, sample : sample + 1] = chosen
    return indices


@_farthest_points.register_fake
def _(x: Tensor, y: Tensor, z: Tensor, distance: Tensor, num_samples: int) -> Tensor:
    return x.new_empty(x.shape[0], num_samples, dtype=torch.long)


def _kernel_takes(x: Tensor) -> bool:
    """Whether sampling_kernel.py can sample clouds with these x coordinates [B, N].

    They must be float32, on a GPU where the kernel works, and N ≤ 16384.
    """
    if x.device.type != "cuda" or x.dtype != torch.float32 or x.shape[1] > LARGEST_KERNEL_CLOUD or not _HAS_TRITON:
        return False
    from .fast.sampling_kernel import works_on

    return works_on(x.device)


def _scan_farthest_points(x: Tensor, y: Tensor, z: Tensor, distance: Tensor, num_samples: int) -> Tensor:
    """Runs the same loop as a `scan`, for exporters: one step in the graph, not num_samples copies."""
    from torch._higher_order_ops import scan

    def step(carried: tuple[Tensor, Tensor], _: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        distance, chosen = carried
        by_x, by_y, by_z = x - x.gather(1, chosen), y - y.gather(1, chosen), z - z.gather(1, chosen)
        distance = torch.minimum(distance, by_x * by_x + by_y * by_y + by_z * by_z)
        return (distance, distance.argmax(dim=1, keepdim=True)), chosen.squeeze(1).clone()

    first = torch.zeros_like(x[:, :1], dtype=torch.long)
    _, indices = scan(step, (distance, first), x.new_zeros(num_samples))
    return indices.transpose(0, 1)


def nearest_neighbors(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    """Indices of the points nearest to each centre (squared Euclidean), in no particular order (method.md 1).

    Of points equally far (in float32) those of the lowest indices are taken, so that every device, compiler and runtime
    finds the same ones; only MPS, which has no wider numbers to order ties by, may take others.

    Args:
        points: [B, N, 3] floating point.
        centers: [B, G, 3], same dtype.
        num_neighbors: K, 1 ≤ K ≤ N.

    Returns:
        [B, G, K] int64 indices into N; a centre that is one of the points finds itself.

    Raises:
        ValueError: num_neighbors is not in 1…N.
    """
    num_points = points.shape[1]
    if not 1 <= num_neighbors <= num_points:
        raise ValueError(f"num_neighbors must lie in 1…{num_points} (the points there are), got {num_neighbors}.")
    find = _nearest if is_exporting() else _nearest_in_blocks  # an exporter cannot have blocks of its batch
    return find(points.detach(), centers.detach(), num_neighbors)


@torch.library.custom_op("any2point::nearest_neighbors", mutates_args=())
def _nearest_in_blocks(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    """`nearest_neighbors`, one step to a compiler: how it is done depends on the points."""
    num_points, num_centers = points.shape[1], centers.shape[1]
    if num_points >= LARGE_CLOUD and points.dtype == torch.float32 and host_may_read(points):
        pairs = zip(points, centers, strict=True)
        return torch.stack([search_leaves(own_points, own, num_neighbors) for own_points, own in pairs])
    block = values_in_block(points.device)
    clouds = max(1, block // (num_points * num_centers))
    centers_at_once = max(1, block // (num_points * clouds))
    found = [
        torch.cat([_nearest(own_points, part, num_neighbors) for part in own.split(centers_at_once, dim=1)], dim=1)
        for own, own_points in zip(centers.split(clouds), points.split(clouds), strict=True)
    ]
    return torch.cat(found)


@_nearest_in_blocks.register_fake
def _(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    return points.new_empty(*centers.shape[:2], num_neighbors, dtype=torch.long)


def _nearest(points: Tensor, centers: Tensor, num_neighbors: int) -> Tensor:
    distances = _without_ties(_squared_distances(centers, points))
    return distances.topk(num_neighbors, largest=False, sorted=False).indices


def _without_ties(distances: Tensor) -> Tensor:
    """Converts float32 distances [b, G, N] to int64 or float64 in the same order, with ties ordered by index in N.

    Distances of other dtypes, and those on MPS, are returned as they are, because nothing is wider.
    """
    if distances.dtype != torch.float32 or widest_dtype(distances.device) != torch.float64:
        return distances
    index = torch.arange(distances.shape[-1], device=distances.device)
    if not is_exporting():  # bits of floats ≥ 0 are in the order of the floats
        return (distances.view(torch.int32).long() << 32).bitwise_or_(index)
    # ONNX cannot read bits, so the index is mixed into float64: neighbouring float32 differ by a factor of at least
    # 1 + 2⁻²⁴, which index · 2⁻⁴⁸ stays below; index · 1e-80 orders the zeros.
    index = index.double()
    return distances.double() * (1 + index * 2.0**-48) + index * 1e-80


def _squared_distances(centers: Tensor, points: Tensor) -> Tensor:
    """Squared distances of centres [b, G, 3] to points [b, N, 3]: [b, G, N]."""
    x, y, z = points.unsqueeze(1).unbind(-1)
    center_x, center_y, center_z = centers.unsqueeze(2).unbind(-1)
    distances = (center_x - x).square_()
    distances += (center_y - y).square_()
    distances += (center_z - z).square_()
    return distances


def gather_points(features: Tensor, indices: Tensor) -> Tensor:
    """Rows of each cloud's features: [B, N, C] at [B, …] int64 indices -> [B, …, C]."""
    batch_size, num_points, channels = features.shape
    offsets = torch.arange(batch_size, device=indices.device).mul_(num_points)
    rows = indices + offsets.view(-1, *[1] * (indices.dim() - 1))
    return features.reshape(-1, channels).index_select(0, rows.reshape(-1)).view(*indices.shape, channels)


def split_features(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Takes rows [..., 3 + F] of points with features apart: points [..., 3] and features [..., F], None for F = 0."""
    return rows[..., :3], rows[..., 3:] if rows.shape[-1] > 3 else None
