"""Carries features from a few centres to all points, as PointNet++ does (method.md 8; arXiv 1706.02413, eq. 2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..tokenizer.point_ops import gather_points, nearest_neighbors

NUM_NEIGHBORS = 3


def interpolate_to_points(points: Tensor, centers: Tensor, features: Tensor) -> Tensor:
    """Returns Σ_k w_k f_k / Σ_k w_k over the 3 nearest centres of each point, where w_k = 1 / (squared distance).

    Features that are the same at all centres stay the same, and a point on a centre gets that centre's own.

    Args:
        points: [B, N, 3] floating point.
        centers: [B, G, 3], same dtype; where G < 3, all of them are neighbours.
        features: [B, G, C] of the centres.

    Returns:
        [B, N, C] in the features' dtype.
    """
    num_clouds, num_centers, channels = features.shape
    neighbors = nearest_neighbors(centers, points, min(NUM_NEIGHBORS, num_centers))  # [B, N, K]
    squared = (gather_points(centers, neighbors) - points.unsqueeze(2)).square().sum(dim=-1)
    weights = inverse_distance_weights(squared).to(features.dtype)
    clouds = torch.arange(num_clouds, device=points.device).mul_(num_centers).view(-1, 1, 1)
    rows = (neighbors + clouds).flatten(0, 1)
    # one weighted sum of rows, without a tensor [B, N, K, C]
    carried = F.embedding_bag(rows, features.flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum")
    return carried.view(num_clouds, -1, channels)


def inverse_distance_weights(squared: Tensor) -> Tensor:
    """Weights 1 / d² divided by their sum, for squared distances [..., K].

    They are taken relative to the nearest, smallest d² / d², which stays finite next to a centre; at a distance of 0
    that is 1. Squares that overflow themselves, from distances of 1e20 on, give NaN.
    """
    nearest = squared.amin(dim=-1, keepdim=True)
    is_apart = squared > 0
    weights = torch.where(is_apart, nearest / squared.where(is_apart, 1.0), 1.0)
    return weights / weights.sum(dim=-1, keepdim=True)
