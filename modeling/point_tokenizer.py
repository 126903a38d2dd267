"""Point tokenizer: a light Point-PN that turns a cloud into G = N/8 tokens and their centres (method.md 1).

Unusual here: tensors are channels last, so that every 1×1 convolution is a plain matrix product; points are put in
farthest-point order once, and each stage's centres are a prefix of the stage before; at inference batch norms are
folded into the products and neighbourhoods are worked through in blocks that stay in the processor's cache.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch_norm import BatchNorm1d
from .point_ops import farthest_point_sampling, gather_points, nearest_neighbors

NUM_STAGES = 3
BOTTLENECKS_PER_STAGE = (2, 1, 1)
LAST_STAGE_WIDTH = 32
WAVELENGTH_BASE = 1000.0  # α of method.md 1
ANGLE_SCALE = 100.0  # β of method.md 1

# Rows × channels of one inference block on a CPU: 1 M float32 values are 4 MiB and stay in the last-level cache.
_BLOCK_VALUES = 1 << 20


def geometry_encoding(offsets: Tensor, channels: int) -> Tensor:
    """Sines and cosines of coordinates (method.md 1), axis-major: of each axis F = channels / 6 sines, then F cosines.

    Args:
        offsets: [..., 3] relative coordinates.
        channels: a multiple of 6.

    Returns:
        [..., channels], same dtype.
    """
    num_frequencies = channels // 6
    exponents = torch.arange(num_frequencies, device=offsets.device, dtype=offsets.dtype) / num_frequencies
    angles = ANGLE_SCALE * offsets.unsqueeze(-1) / WAVELENGTH_BASE**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def extent_normalization(offsets: Tensor) -> Tensor:
    """Divides each axis of each neighbourhood by its largest magnitude; a flat axis stays 0. [B, G, K, 3] -> same."""
    extent = offsets.abs().amax(dim=2, keepdim=True)
    return offsets / torch.where(extent > 0, extent, 1.0)


def deviation_normalization(offsets: Tensor) -> Tensor:
    """Divides by the unbiased deviation of all offsets of the cloud and stage, + 1e-5. [B, G, K, 3] -> same."""
    return offsets / (offsets.flatten(1).std(dim=1) + 1e-5).view(-1, 1, 1, 1)


NORMALIZATIONS = {"extent": extent_normalization, "deviation": deviation_normalization}


class ResidualBottleneck(nn.Module):
    """h ← ReLU(h + BN(W2 ReLU(BN(W1 h)))) on rows of channels (method.md 1).

    Shapes: input [..., C], output [..., C].
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.down_norm = BatchNorm1d(width)
        self.up = nn.Linear(width, channels)
        self.up_norm = BatchNorm1d(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Maps rows [R, C] to rows [R, C]; in training batch statistics are taken over the R rows."""
        if self.training:
            inner = F.relu_(self.down_norm(self.down(hidden)))
            return F.relu_(self.up_norm(self.up(inner)).add_(hidden))
        inner = F.relu_(F.linear(hidden, *fold_batch_norm(self.down, self.down_norm)))
        return F.relu_(F.linear(inner, *fold_batch_norm(self.up, self.up_norm)).add_(hidden))


def fold_batch_norm(linear: nn.Linear, norm: BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer equal to `norm(linear(x))` with the norm's running statistics."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    if linear.bias is not None:
        bias = bias + linear.bias * scale
    return linear.weight * scale.unsqueeze(-1), bias


class TokenizerStage(nn.Module):
    """Gathers each centre's neighbourhood, encodes its geometry, mixes channels and takes the maximum (method.md 1).

    Shapes:
        points [B, N, 3], features [B, N, C], centers [B, G, 3], center_features [B, G, C] -> [B, G, 2C].
    """

    def __init__(self, channels: int, num_bottlenecks: int, width: int, num_neighbors: int, normalization: str) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.normalize = NORMALIZATIONS[normalization]
        self.bottlenecks = nn.ModuleList(ResidualBottleneck(2 * channels, width) for _ in range(num_bottlenecks))

    def forward(self, points: Tensor, features: Tensor, centers: Tensor, center_features: Tensor) -> Tensor:
        """Returns the centres' new features [B, G, 2C]."""
        batch_size, num_centers, _ = centers.shape
        neighbors = nearest_neighbors(points, centers, min(self.num_neighbors, points.shape[1]))
        offsets = self.normalize(gather_points(points, neighbors) - centers.unsqueeze(2))  # [B, G, K, 3]
        arguments = (
            _flat_indices(neighbors, points.shape[1]),  # [B·G, K]
            offsets.flatten(0, 1),
            center_features.flatten(0, 1),
        )
        flat_features = features.flatten(0, 1)
        if self.training or points.device.type != "cpu" or torch.compiler.is_compiling():
            pooled = self._aggregate(flat_features, *arguments)
        else:
            groups = max(1, _BLOCK_VALUES // (neighbors.shape[-1] * 2 * features.shape[-1]))
            blocks = zip(*(argument.split(groups) for argument in arguments), strict=True)
            pooled = torch.cat([self._aggregate(flat_features, *block) for block in blocks])
        return pooled.view(batch_size, num_centers, -1)

    def _aggregate(self, features: Tensor, neighbors: Tensor, offsets: Tensor, center_features: Tensor) -> Tensor:
        """[B·N, C], [g, K], [g, K, 3], [g, C] -> [g, 2C]."""
        num_groups, num_neighbors = neighbors.shape
        gathered = features.index_select(0, neighbors.flatten()).view(num_groups, num_neighbors, -1)
        hidden = torch.cat([gathered, center_features.unsqueeze(1).expand_as(gathered)], dim=-1)
        hidden += geometry_encoding(offsets, hidden.shape[-1]).to(hidden.dtype)
        hidden = hidden.flatten(0, 1)
        for bottleneck in self.bottlenecks:
            hidden = bottleneck(hidden)
        return hidden.view(num_groups, num_neighbors, -1).amax(dim=1)


def _flat_indices(indices: Tensor, num_points: int) -> Tensor:
    """[B, G, K] indices within a cloud -> [B·G, K] row numbers of the flattened features."""
    offsets = torch.arange(indices.shape[0], device=indices.device).mul_(num_points).view(-1, 1, 1)
    return (indices + offsets).flatten(0, 1)


class PointTokenizer(nn.Module):
    """The point tokenizer of section 3.1 and 4.1 (method.md 1).

    Shapes:
        points [B, N, 3] float -> tokens [B, G, D], centers [B, G, 3], G = N // 8, in farthest-point order.
    """

    def __init__(self, hidden_size: int, num_neighbors: int, normalization: str) -> None:
        super().__init__()
        channels = max(3, 3 * round(hidden_size / 24))  # the multiple of 3 nearest D / 8
        self.stem = nn.Linear(3, channels, bias=False)
        self.stem_norm = BatchNorm1d(channels)
        self.stages = nn.ModuleList()
        for stage, num_bottlenecks in enumerate(BOTTLENECKS_PER_STAGE):
            width = LAST_STAGE_WIDTH if stage == NUM_STAGES - 1 else channels
            self.stages.append(TokenizerStage(channels, num_bottlenecks, width, num_neighbors, normalization))
            channels *= 2
        self.projection = nn.Linear(channels, hidden_size) if channels != hidden_size else nn.Identity()

    def excluded_from_sampling(self, points: Tensor) -> Tensor | None:
        """Points that sampling never picks, [B, N] bool; none in the method itself."""
        return None

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens [B, G, D] and centres [B, G, 3]."""
        num_centers = points.shape[1] // 2
        order = farthest_point_sampling(points, num_centers, self.excluded_from_sampling(points))
        features = self._embed(points)
        centers, center_features = gather_points(points, order), gather_points(features, order)
        for stage in self.stages:
            features = stage(points, features, centers, center_features)
            points = centers
            num_centers //= 2
            centers, center_features = points[:, :num_centers], features[:, :num_centers]
        return self.projection(features), points

    def _embed(self, points: Tensor) -> Tensor:
        """Stem: [B, N, 3] -> [B, N, C0]."""
        points = points.to(self.stem.weight.dtype)
        if not self.training:
            return F.relu_(F.linear(points, *fold_batch_norm(self.stem, self.stem_norm)))
        return F.relu_(self.stem_norm(self.stem(points).flatten(0, 1))).view(*points.shape[:2], -1)
