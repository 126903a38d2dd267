"""A tokenizer stage at inference: batch norms folded into the products, neighbourhoods in blocks (method.md 1)."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...numerics.batch_norm import BatchNorm1d
from ...numerics.precision import compute_dtype, without_autocast
from .neighbor_rows import NeighborRows
from .sine_table import GeometryEncoder

if TYPE_CHECKING:
    from ..point_tokenizer import ResidualBottleneck


def fold_batch_norm(linear: nn.Linear, norm: BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one linear layer equal to `norm(linear(x))` with the norm's running statistics."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    if linear.bias is not None:
        bias = bias + linear.bias * scale
    return linear.weight * scale.unsqueeze(-1), bias


def infer_stage(rows: NeighborRows, bottlenecks: Iterable["ResidualBottleneck"]) -> Tensor:
    """The maximum over each neighbourhood of the bottlenecks' output, without gradients.

    Args:
        rows: of G centres, 2C channels.
        bottlenecks: `ResidualBottleneck`s in evaluation mode.

    Returns:
        [G, 2C].
    """
    dtype = compute_dtype(rows.features)
    with without_autocast(rows.features.device):
        rows = rows._replace(features=rows.features.to(dtype), centers=rows.centers.to(dtype))
        layers = []
        for bottleneck in bottlenecks:
            down, up = (bottleneck.down, bottleneck.down_norm), (bottleneck.up, bottleneck.up_norm)
            layers.append([part.to(dtype) for pair in (down, up) for part in fold_batch_norm(*pair)])
        encoder = rows.encoder()
        first = rows.through(layers[0][0], encoder) if encoder.is_tabulated else None
        return torch.cat([_infer_block(rows, block, encoder, first, layers) for block in rows.blocks()])


def _infer_block(
    rows: NeighborRows,
    block: slice,
    encoder: GeometryEncoder,
    first: Callable[[slice], Tensor] | None,
    layers: list[list[Tensor]],
) -> Tensor:
    hidden = rows.of(block, encoder.encode(block))
    for number, (down, down_bias, up, up_bias) in enumerate(layers, start=1):
        if number == 1 and first is not None:
            products = first(block).add_(down_bias)
        else:
            products = torch.addmm(down_bias, hidden, down.t())
        hidden.addmm_(products.relu_(), up.t())
        if number < len(layers):
            hidden.add_(up_bias).relu_()
    largest = hidden.view(-1, rows.neighbors.shape[1], rows.channels).amax(dim=1)
    return F.relu_(largest.add_(up_bias))  # both keep the order, so they can wait for the maximum
