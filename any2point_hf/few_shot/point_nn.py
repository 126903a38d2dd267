"""Point-NN: classification without parameters or training (Zhang et al. 2023, arXiv 2303.08134).

A non-parametric encoder (section 3.1) turns a cloud into one feature: a trigonometric embedding of the points, then
four stages of farthest point sampling, neighbours, local geometry aggregation and pooling. A point-memory bank (section
3.2) compares it with the features of the training clouds.

Unusual here: spreads are taken over one cloud, where the authors' code takes them over a batch of 16, so that a cloud's
feature does not depend on its batch. One sampling serves all stages, because a prefix of sampled points is itself
sampled. γ is chosen by leaving training clouds out, where the authors' code chooses it on the test split.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.tokenizer.point_ops import farthest_point_sampling, gather_points, nearest_neighbors

NUM_STAGES = 4
EMBED_DIM = 72  # doubled by each stage
NUM_NEIGHBORS = 90  # of 1024 points
ALPHA, BETA = 1000.0, 100.0  # longest wave length over the shortest; scale of the coordinates
GAMMAS = tuple(2.0**power for power in range(17))  # cosines are close to 1; the authors search 0…9998

_PUBLISHED_POINTS = 1024
_SMALLEST_SPREAD = 1e-5
_NORM_EPS = 1e-5  # the authors pool through a batch norm in its start state, which divides by √(1 + eps)
_BLOCK = 1 << 20  # embedded numbers at once: 4 MiB stay in a CPU's cache


def trigonometric_embedding(points: Tensor, dim: int) -> Tensor:
    """Sines and cosines of each coordinate at dim / 6 wave lengths (eq. 4 and 5).

    Args:
        points: [..., 3] floating point.
        dim: of the embedding, a multiple of 6.

    Returns:
        [..., dim]: of x, then y, then z, the sine and cosine of each wave length in turn.
    """
    num_waves = dim // 6
    waves = ALPHA ** (torch.arange(num_waves, dtype=points.dtype, device=points.device) / num_waves)
    angles = BETA * points.unsqueeze(-1) / waves
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def aggregate(centers: Tensor, features: Tensor, neighbors: Tensor, neighbor_features: Tensor) -> Tensor:
    """Local geometry aggregation and pooling of a stage (eq. 6 to 9).

    Args:
        centers: [B, G, 3].
        features: [B, G, C] of the centres.
        neighbors: [B, G, K, 3] points.
        neighbor_features: [B, G, K, C].

    Returns:
        [B, G, 2C].
    """
    offsets = _standardized(neighbors - centers.unsqueeze(2))
    differences = _standardized(neighbor_features - features.unsqueeze(2))
    dim = 2 * features.shape[-1]
    groups = max(1, _BLOCK // (offsets.shape[0] * offsets.shape[2] * dim))
    pooled = []
    parts = [part.split(groups, dim=1) for part in (features, offsets, differences)]
    for own, offset, difference in zip(*parts, strict=True):
        # A neighbour's feature is [its difference; the centre's own], here in halves to spare the copies.
        first, second = trigonometric_embedding(offset, dim).chunk(2, dim=-1)
        halves = [(difference + first) * first, (own.unsqueeze(2) + second) * second]
        pooled.append(torch.cat([half.amax(dim=2) + half.mean(dim=2) for half in halves], dim=-1))
    return F.gelu(torch.cat(pooled, dim=1) / math.sqrt(1 + _NORM_EPS))


def _standardized(differences: Tensor) -> Tensor:
    """Differences [B, ...] divided by their spread in each cloud."""
    rows = differences.flatten(1)
    deviations = rows - rows.mean(dim=1, keepdim=True)
    spread = torch.linalg.vector_norm(deviations, dim=1) / math.sqrt(rows.shape[1] - 1)  # faster than torch.std
    return differences / (spread.view(-1, *[1] * (differences.dim() - 1)) + _SMALLEST_SPREAD)


def num_neighbors(num_points: int) -> int:
    """K for clouds of this size: the published 90 of 1024 points, and the same share of fewer."""
    return max(1, min(NUM_NEIGHBORS, NUM_NEIGHBORS * num_points // _PUBLISHED_POINTS))


def encode(points: Tensor) -> Tensor:
    """Features of clouds by the non-parametric encoder (section 3.1).

    Args:
        points: [B, N, 3] float32 in the unit sphere, N ≥ 16.

    Returns:
        [B, 1152], in the points' dtype.

    Raises:
        ValueError: N is below 16.
    """
    num_points = points.shape[1]
    if num_points < 2**NUM_STAGES:
        raise ValueError(f"points must have at least {2**NUM_STAGES} in a cloud, got {num_points}.")
    features, neighbors = trigonometric_embedding(points, EMBED_DIM), num_neighbors(num_points)
    for stage in range(NUM_STAGES):
        if stage == 0:
            order = farthest_point_sampling(points, num_points // 2)
            centers, center_features = gather_points(points, order), gather_points(features, order)
        else:  # the points are in the order of their sampling
            centers, center_features = points[:, : points.shape[1] // 2], features[:, : points.shape[1] // 2]
        nearest = nearest_neighbors(points, centers, neighbors)
        near, near_features = gather_points(points, nearest), gather_points(features, nearest)
        points, features = centers, aggregate(centers, center_features, near, near_features)
    return features.amax(dim=1) + features.mean(dim=1)


def encode_all(points: Tensor, batch_size: int = 4) -> Tensor:
    """Unit features of any number of clouds.

    Args:
        points: [n, N, 3] float32.
        batch_size: clouds at once; the result does not depend on it.

    Returns:
        [n, 1152] float64.
    """
    features = torch.cat([encode(batch) for batch in points.split(batch_size)])
    return F.normalize(features.double(), dim=-1)


def class_scores(similarities: Tensor, labels: Tensor, num_classes: int, gamma: float) -> Tensor:
    """How much a memory bank speaks for each class: softmax over the bank of −γ(1 − cos), summed by class (eq. 11, 12).

    Args:
        similarities: [m, n] cosines of m clouds to the n of the bank.
        labels: [n] int64 of the bank.
        num_classes: C.
        gamma: sharpness; if it is large, the nearest cloud alone decides; 0 counts the clouds of each class.

    Returns:
        [m, C], rows that sum to 1.
    """
    weights = (gamma * (similarities - 1)).softmax(dim=-1)  # a sum of 1 does not change the order of the classes
    return weights @ F.one_hot(labels, num_classes).to(weights.dtype)


def choose_gamma(features: Tensor, labels: Tensor, num_classes: int) -> float:
    """The sharpness at which the most training clouds are classified right by all the others; the smallest of equals.

    Args:
        features: [n, 1152] unit features of the bank.
        labels: [n] int64.
        num_classes: C.
    """
    similarities = (features @ features.T).fill_diagonal_(-torch.inf)
    correct = [int((class_scores(similarities, labels, num_classes, g).argmax(-1) == labels).sum()) for g in GAMMAS]
    return GAMMAS[correct.index(max(correct))]


def point_nn_accuracy(
    train_points: Tensor, train_labels: Tensor, test_points: Tensor, test_labels: Tensor, num_classes: int
) -> float:
    """Share of test clouds that Point-NN classifies right, with the training clouds as its memory bank.

    Args:
        train_points: [n, N, 3] float32 in the unit sphere.
        train_labels: [n] int64.
        test_points: [m, N, 3] float32.
        test_labels: [m] int64.
        num_classes: C.
    """
    bank, queries = encode_all(train_points), encode_all(test_points)
    gamma = choose_gamma(bank, train_labels, num_classes)
    predictions = class_scores(queries @ bank.T, train_labels, num_classes, gamma).argmax(dim=-1)
    return float((predictions == test_labels).double().mean())
