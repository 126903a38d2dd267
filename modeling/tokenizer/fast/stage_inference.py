"""A tokenizer stage at inference: batch norms folded into the products, neighbourhoods in blocks (method.md 1)."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...numerics.precision import compute_dtype, without_autocast
from ..residual_bottleneck import ResidualBottleneck, fold_batch_norm
from .neighbor_rows import NeighborRows
from .sine_table import GeometryEncoder


def infer_stage(rows: NeighborRows, bottlenecks: Iterable[ResidualBottleneck]) -> Tensor:
    """The maximum over each neighbourhood of the bottlenecks' output, without gradients.

    Args:
        rows: of G centres, 2C channels.
        bottlenecks: `ResidualBottleneck`s in evaluation mode.

    Returns:
        [G, 2C].
    """
    dtype = compute_dtype(rows.features)
    with without_autocast(rows.features.device):
        layers = []
        for bottleneck in bottlenecks:
            down, up = (bottleneck.down, bottleneck.down_norm), (bottleneck.up, bottleneck.up_norm)
            layers += [part.to(dtype) for pair in (down, up) for part in fold_batch_norm(*pair)]
    return _infer_stage(rows.features.to(dtype), rows.neighbors, rows.offsets, rows.centers.to(dtype), layers)


@torch.library.custom_op("any2point::infer_stage", mutates_args=())
def _infer_stage(
    features: Tensor, neighbors: Tensor, offsets: Tensor, centers: Tensor, layers: Sequence[Tensor]
) -> Tensor:
    """`infer_stage` of the parts of its rows and the folded layers; one step to a compiler, which is slower at it."""
    rows = NeighborRows(features, neighbors, offsets, centers)
    with without_autocast(features.device):
        encoder = rows.encoder()
        first = rows.through(layers[0], encoder) if encoder.is_tabulated else None
        return torch.cat([_infer_block(rows, block, encoder, first, layers) for block in rows.blocks()])


@_infer_stage.register_fake
def _(features: Tensor, neighbors: Tensor, offsets: Tensor, centers: Tensor, layers: Sequence[Tensor]) -> Tensor:
    return features.new_empty(centers.shape[0], 2 * features.shape[1])


def _infer_block(
    rows: NeighborRows,
    block: slice,
    encoder: GeometryEncoder,
    first: Callable[[slice], Tensor] | None,
    layers: Sequence[Tensor],
) -> Tensor:
    hidden = rows.of(block, encoder.encode(block))
    for start in range(0, len(layers), 4):
        down, down_bias, up, up_bias = layers[start : start + 4]
        if start == 0 and first is not None:
            products = first(block).add_(down_bias)
        else:
            products = torch.addmm(down_bias, hidden, down.t())
        hidden.addmm_(products.relu_(), up.t())
        if start + 4 < len(layers):
            hidden.add_(up_bias).relu_()
    largest = hidden.view(-1, rows.neighbors.shape[1], rows.channels).amax(dim=1)
    return F.relu_(largest.add_(up_bias))  # both keep the order, so they can wait for the maximum
