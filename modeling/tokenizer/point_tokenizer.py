"""Point tokenizer: a light Point-PN that turns a cloud into G = N/8 tokens and their centres (method.md 1).

Unusual here: tensors are channels last, so that every 1×1 convolution is a plain matrix product. Points are put in
farthest-point order once, and each stage's centres are a prefix of those of the stage before. At inference batch norms
are folded into the products, and neighbourhoods are computed in blocks that stay in the processor's cache.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.batch_norm import BatchNorm1d
from ..numerics.host_reads import is_exporting
from ..numerics.initialization import StartValues
from ..numerics.precision import layer_dtype, widest_dtype
from ..numerics.untouched import is_untouched
from .fast.neighbor_rows import NeighborRows
from .fast.stage_inference import infer_stage
from .fast.stage_training import train_stage
from .point_ops import farthest_first, farthest_point_sampling, gather_points, nearest_neighbors
from .residual_bottleneck import LAYERS, ResidualBottleneck, fold_batch_norm

if TYPE_CHECKING:
    from ..configuration_any2point import Any2PointConfig

NUM_STAGES = 3
BOTTLENECKS_PER_STAGE = (2, 1, 1)
LAST_STAGE_WIDTH = 32
_BYTES_OF_NEIGHBOR = 8 + 3 * 4  # an int64 index and a float32 offset


def extent_normalization(offsets: Tensor) -> Tensor:
    """Divides each axis of each neighbourhood by its largest magnitude; a flat axis stays 0. [B, G, K, 3] -> same."""
    extent = offsets.abs().amax(dim=2, keepdim=True)
    return offsets / torch.where(extent > 0, extent, 1.0)


def deviation_normalization(offsets: Tensor) -> Tensor:
    """Divides by the unbiased deviation of all offsets of the cloud and stage, + 1e-5. [B, G, K, 3] -> same."""
    return offsets / (offsets.flatten(1).std(dim=1) + 1e-5).view(-1, 1, 1, 1)


class PointLevel(NamedTuple):
    """Points of one density and the tokenizer's features of them.

    Args:
        points: [B, n, 3].
        features: [B, n, C].
    """

    points: Tensor
    features: Tensor


NORMALIZATIONS = {"extent": extent_normalization, "deviation": deviation_normalization}


class TokenizerStage(nn.Module):
    """Gathers each centre's neighbourhood, adds its geometry encoding, mixes channels and pools by max (method.md 1).

    Shapes:
        points [B, N, 3], features [B, N, C], centers [B, G, 3], center_features [B, G, C] -> [B, G, 2C].
    """

    def __init__(self, channels: int, num_bottlenecks: int, width: int, num_neighbors: int, normalization: str) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.normalize = NORMALIZATIONS[normalization]
        self.inner_channels = num_bottlenecks * width
        self.bottlenecks = nn.ModuleList(ResidualBottleneck(2 * channels, width) for _ in range(num_bottlenecks))

    def forward(self, points: Tensor, features: Tensor, centers: Tensor, center_features: Tensor) -> Tensor:
        """Returns the centres' new features [B, G, 2C]."""
        batch_size, num_centers, _ = centers.shape
        neighbors = nearest_neighbors(points, centers, min(self.num_neighbors, points.shape[1]))
        offsets = self.normalize(gather_points(points, neighbors) - centers.unsqueeze(2))  # [B, G, K, 3]
        rows = NeighborRows(
            features.flatten(0, 1),
            _flat_indices(neighbors, points.shape[1]),
            offsets.flatten(0, 1),
            center_features.flatten(0, 1),
        )
        return self._choose_way(rows)(rows, self.bottlenecks).view(batch_size, num_centers, -1)

    def _choose_way(self, rows: NeighborRows) -> Callable[[NeighborRows, Any], Tensor]:
        """Chooses among three functions that return the same numbers: `plain_stage`, `train_stage`, `infer_stage`.

        Exporters and gradients of the points need `plain_stage`, and so do layers that were hooked or replaced. It is
        also what compilers fuse on a GPU; on a CPU `infer_stage` is one operator to them, and training is not compiled.
        """
        has_no_float64 = widest_dtype(rows.features.device) != torch.float64  # in which the fast ways add up
        is_fused = torch.compiler.is_compiling() and (self.training or rows.features.device.type != "cpu")
        if is_exporting() or is_fused or rows.offsets.requires_grad or has_no_float64:
            return plain_stage
        if not is_untouched(self.bottlenecks, nn.ModuleList, ResidualBottleneck, *LAYERS):
            return plain_stage  # the only one that calls the layers
        if self.training:
            return train_stage if self._takes_batch_statistics() else plain_stage
        return plain_stage if torch.is_grad_enabled() and self._has_gradients(rows) else infer_stage

    def _takes_batch_statistics(self) -> bool:
        """Whether every batch norm is in training mode and has a momentum: a user may freeze one or set it to None."""
        norms = [module for module in self.modules() if isinstance(module, BatchNorm1d)]
        return all(norm.training and norm.momentum is not None for norm in norms)

    def _has_gradients(self, rows: NeighborRows) -> bool:
        tensors = (rows.features, rows.centers, *self.parameters())
        return any(tensor.requires_grad for tensor in tensors)


def plain_stage(rows: NeighborRows, bottlenecks: Iterable[nn.Module]) -> Tensor:
    """Returns the maximum over each neighbourhood of the bottlenecks' output, [G, 2C], by plain torch operations."""
    hidden = rows.all()
    for bottleneck in bottlenecks:
        hidden = bottleneck(hidden)
    return hidden.view(*rows.neighbors.shape, -1).amax(dim=1)


def _flat_indices(indices: Tensor, num_points: int) -> Tensor:
    """Converts indices [B, G, K] within a cloud to row numbers [B·G, K] of the flattened features."""
    offsets = torch.arange(indices.shape[0], device=indices.device).mul_(num_points).view(-1, 1, 1)
    return (indices + offsets).flatten(0, 1)


def _put_back(features: Tensor, order: Tensor | None) -> Tensor:
    """Puts features [B, N, C], taken in this order [B, N], back to where they came from; None where they still are."""
    if order is None:
        return features
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return gather_points(features, torch.empty_like(order).scatter_(1, order, places))


class PointTokenizer(nn.Module):
    """The point tokenizer of section 3.1 and 4.1 (method.md 1).

    Features of points, such as colours, enter the stem beside the coordinates, and nothing else: neighbourhoods and
    positions are of the coordinates alone. With the sampling start "farthest" the points are put into an order of their
    own first, so that tokens do not depend on the order in which they come; with "first" they do.

    Shapes:
        points [B, N, 3], point_features [B, N, F] or None, float -> tokens [B, G, D], centers [B, G, 3], G = N // 8, in
        farthest-point order.
    """

    def __init__(
        self,
        hidden_size: int,
        num_neighbors: int,
        normalization: str,
        num_point_features: int = 0,
        sampling_start: str = "first",
    ) -> None:
        super().__init__()
        self.sampling_start = sampling_start
        channels = max(3, 3 * round(hidden_size / 24))  # the multiple of 3 nearest D / 8
        self.stem_width = channels
        self.stem = nn.Linear(3 + num_point_features, channels, bias=False)
        self.stem_norm = BatchNorm1d(channels)
        self.stages = nn.ModuleList()
        for stage, num_bottlenecks in enumerate(BOTTLENECKS_PER_STAGE):
            width = LAST_STAGE_WIDTH if stage == NUM_STAGES - 1 else channels
            self.stages.append(TokenizerStage(channels, num_bottlenecks, width, num_neighbors, normalization))
            channels *= 2
        self.projection = nn.Linear(channels, hidden_size) if channels != hidden_size else nn.Identity()

    @classmethod
    def of(cls, config: "Any2PointConfig", hidden_size: int) -> "PointTokenizer":
        """Makes the tokenizer that a config asks for."""
        settings: Any = (config.neighborhood_norm, config.num_point_features, config.sampling_start)
        return cls(hidden_size, config.num_neighbors, *settings)

    def draw_parameters(self, start: StartValues) -> None:
        """Draws the start values of method.md 5.

        The last projection, which the paper does not need, starts as the adapters' linear layers do.
        """
        start.linear_of_head(self.stem, "stem")
        if isinstance(self.projection, nn.Linear):
            start.linear(self.projection, "projection")

    def bytes_of_cloud(self, num_points: int, value: int, keeps: bool) -> int:
        """Returns a lower bound on the bytes that a forward holds for a cloud of N points.

        Args:
            num_points: N.
            value: bytes of one feature value.
            keeps: whether all stages are kept for a backward pass; if not, one stage is held at a time.
        """
        places, kept = [], []
        stage: Any
        for number, stage in enumerate(self.stages, start=1):
            rows = (num_points >> number) * min(stage.num_neighbors, num_points >> (number - 1))
            places.append(rows * _BYTES_OF_NEIGHBOR)
            kept.append(rows * value * stage.inner_channels)
        embedded = num_points * self.stem_width * value
        return embedded + (sum(places) + sum(kept) if keeps else max(places))

    def excluded_from_sampling(self, points: Tensor) -> Tensor | None:
        """Returns which points sampling never picks, [B, N] bool; None, as in the method itself, for no such points."""
        return None

    @property
    def level_widths(self) -> list[int]:
        """Channels of the levels: of the stem, then of each stage."""
        return [self.stem_width << level for level in range(NUM_STAGES + 1)]

    def forward(
        self, points: Tensor, point_features: Tensor | None = None, output_levels: bool = False
    ) -> tuple[Any, ...]:
        """Returns tokens [B, G, D] and centres [B, G, 3], and if asked for also the four levels they are made of.

        The first `PointLevel` holds all points in the order given and the stem's features of them, the others each
        stage's centres and features.
        """
        if self.training and torch.compiler.is_compiling() and not is_exporting() and points.device.type == "cpu":
            return self._forward_uncompiled(points, point_features, output_levels)
        num_centers = points.shape[1] // 2
        given, own_order = points, None
        if self.sampling_start == "farthest":
            own_order = farthest_first(points, point_features)
            points = gather_points(points, own_order)
            point_features = None if point_features is None else gather_points(point_features, own_order)
        order = farthest_point_sampling(points, num_centers, self.excluded_from_sampling(points))
        features = self._embed(points if point_features is None else torch.cat([points, point_features], dim=-1))
        centers, center_features = gather_points(points, order), gather_points(features, order)
        levels = [PointLevel(given, _put_back(features, own_order))] if output_levels else []
        for stage in self.stages:
            features = stage(points, features, centers, center_features)
            points = centers
            num_centers //= 2
            centers, center_features = points[:, :num_centers], features[:, :num_centers]
            if output_levels:
                levels.append(PointLevel(points, features))
        return self.projection(features), points, *levels

    @torch.compiler.disable  # a compiler makes nothing as fast, or as small, of `plain_stage` as `train_stage` is
    def _forward_uncompiled(
        self, points: Tensor, point_features: Tensor | None, output_levels: bool
    ) -> tuple[Any, ...]:
        return self.forward(points, point_features, output_levels)

    def _embed(self, points: Tensor) -> Tensor:
        """Applies the stem: linear, batch norm, ReLU. [B, N, 3 + F] -> [B, N, C0]."""
        points = points.to(layer_dtype(self.stem))
        layers = (self.stem, self.stem_norm)
        if not self.training and all(is_untouched(layer, *LAYERS) for layer in layers):
            return F.relu_(F.linear(points, *fold_batch_norm(self.stem, self.stem_norm)))
        return F.relu_(self.stem_norm(self.stem(points).flatten(0, 1))).view(*points.shape[:2], -1)
