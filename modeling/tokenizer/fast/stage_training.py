"""A tokenizer stage in training, with a backward pass of its own (method.md 1; docs/performance.md derives it).

Plain autograd would keep a dozen tensors [B·G·K, C] in each stage. Here each bottleneck keeps one of half that width,
the product before its first batch norm. All else is computed again, a block at a time, except the input of a second
bottleneck in batches of ordinary size. Where neighbours tie for the maximum, one of them gets the gradient. Four facts
save arithmetic:

- A bias right before a batch norm changes nothing, so biases are left out; their gradients are zero.
- y = W x has the mean W·mean(x) and the variance diag(W Cov(x) Wᵀ): the second norm's statistics need no product y.
- The maximum's gradient has one entry per centre and channel that is not zero: products with it are sums of few rows.
- The gradient of the gathered features is summed by point before it is multiplied by the first weight, not after.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...numerics.precision import compute_dtype, without_autocast
from ..residual_bottleneck import ResidualBottleneck
from .bottleneck_training import TrainedBottleneck, parameters_of
from .neighbor_rows import NeighborRows
from .row_gradients import DenseGradient, WinnersGradient, sum_by_point

# The last bottleneck's input is kept up to so many values, 512 MiB in float32: computing it again took 8 % of a step.
_MOST_KEPT_VALUES = 1 << 27


def train_stage(rows: NeighborRows, bottlenecks: Sequence[ResidualBottleneck]) -> Tensor:
    """The maximum over each neighbourhood of the bottlenecks' output, with batch statistics and gradients.

    Args:
        rows: of G centres, 2C channels; gradients go to features and centres, not to the offsets.
        bottlenecks: `ResidualBottleneck`s in training mode; their running statistics are updated.

    Returns:
        [G, 2C].
    """
    parameters = [parameter for bottleneck in bottlenecks for parameter in parameters_of(bottleneck)]
    dtype = compute_dtype(rows.features)
    return _TrainedStage.apply(
        rows.features.to(dtype), rows.centers.to(dtype), rows.neighbors, rows.offsets, bottlenecks, *parameters
    )


class _TrainedStage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        offsets: Tensor,
        bottlenecks: Sequence[ResidualBottleneck],
        *parameters: Tensor,
    ) -> Tensor:
        rows = NeighborRows(features, neighbors, offsets, centers)
        with without_autocast(features.device):
            trained = [
                TrainedBottleneck(module, own, rows)
                for module, own in zip(bottlenecks, _split(parameters, bottlenecks), strict=True)
            ]
            pooled, winners, last_inputs = _forward(rows, trained)
        kept = [tensor for bottleneck in trained for tensor in bottleneck.kept()]
        ctx.save_for_backward(*rows, pooled, winners, *parameters, *kept, *last_inputs)
        ctx.bottlenecks = bottlenecks
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, neighbors, offsets, centers, pooled, winners, *others = ctx.saved_tensors
        rows, bottlenecks = NeighborRows(features, neighbors, offsets, centers), ctx.bottlenecks
        num_parameters = len(bottlenecks) * len(parameters_of(bottlenecks[0]))
        parameters, others = others[:num_parameters], others[num_parameters:]
        num_kept = len(bottlenecks) * TrainedBottleneck.NUM_KEPT
        kept, last_inputs = others[:num_kept], others[num_kept:]
        parts = zip(bottlenecks, _split(parameters, bottlenecks), _split(kept, bottlenecks), strict=True)
        with without_autocast(features.device):
            trained = [TrainedBottleneck(module, own, rows, own_kept) for module, own, own_kept in parts]
            of_largest = WinnersGradient(rows, winners, gradient.masked_fill(pooled <= 0, 0.0))
            of_features, of_centers, of_parameters = _backward(rows, trained, last_inputs, of_largest)
        return of_features, of_centers, None, None, None, *of_parameters


def _forward(rows: NeighborRows, bottlenecks: list[TrainedBottleneck]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Returns the maximum [G, 2C], the neighbour that has it [G, 2C] and the last bottleneck's input [r, 2C] by block.

    There are no inputs where they are not kept. Each bottleneck stores what it keeps for the backward pass.
    """
    encoder, blocks, num_neighbors = rows.encoder(), list(rows.blocks()), rows.neighbors.shape[1]
    first, last = bottlenecks[0], bottlenecks[-1]
    first.start()
    through = rows.through(first.down, encoder) if encoder.is_tabulated else None
    held: dict[
        int, Tensor
    ] = {}  # a bottleneck's input [r, 2C] by block; where it is from a table, only after the first

    def input_of(number: int) -> Tensor:
        return held.pop(number) if number in held else rows.of(blocks[number], encoder.encode(blocks[number]))

    for number, block in enumerate(blocks):
        if through is None:
            held[number] = input_of(number)
            first.project(held[number], number)
        else:
            first.receive(through(block), number)
    first.finish_statistics()
    for bottleneck, following in itertools.pairwise(bottlenecks):
        following.start()
        for number in range(len(blocks)):
            held[number] = bottleneck.output(input_of(number), number)
            following.project(held[number], number)
        following.finish_statistics()
    is_input_kept = first is not last and rows.neighbors.numel() * rows.channels <= _MOST_KEPT_VALUES
    largest, inputs = [], list[Tensor]()
    for number in range(len(blocks)):
        hidden = input_of(number)
        if is_input_kept:
            inputs.append(hidden)
            hidden = hidden.clone()
        largest.append(_maximum(last.expand(hidden, number).view(-1, num_neighbors, rows.channels)))
    pooled, winners = (torch.cat(parts) for parts in zip(*largest, strict=True))
    # Adding a constant and relu keep the order, so they wait for the maximum, which leaves one row per centre.
    pooled = (pooled + last.shift).relu_().to(pooled.dtype)
    return pooled, winners, inputs


def _backward(
    rows: NeighborRows,
    bottlenecks: list[TrainedBottleneck],
    last_inputs: Sequence[Tensor],
    gradient: WinnersGradient | DenseGradient,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Returns the gradients of features, centres and parameters, given that of the last bottleneck's h + norm(z)."""
    encoder, blocks = rows.encoder(), list(rows.blocks())
    of_parameters: list[Tensor] = []
    for position, bottleneck in reversed(list(enumerate(bottlenecks))):
        earlier = bottlenecks[:position]
        of_products = bottleneck.start_backward()
        of_blocks = rows.in_blocks(of_products)
        for number in range(len(blocks)):
            bottleneck.meet_outer_norm(gradient, number)
        bottleneck.finish_outer_norm()
        for number, of_block in enumerate(of_blocks):
            bottleneck.meet_inner_norm(gradient, of_block, number)
        bottleneck.finish_inner_norm()
        before = None
        if earlier:
            before = DenseGradient(rows, rows.features.new_empty(len(of_products), rows.channels))
        for number, (block, of_block) in enumerate(zip(blocks, of_blocks, strict=True)):
            if not earlier:
                hidden = encoder.encode(block).flatten(0, 1).to(rows.features.dtype)
            elif last_inputs and bottleneck is bottlenecks[-1]:
                hidden = last_inputs[number]
            else:
                hidden = rows.of(block, encoder.encode(block))
                for one in earlier:
                    hidden = one.output(hidden, number)
            bottleneck.through_inner_norm(hidden, of_block, number)
            if before is not None:
                of_hidden = gradient.dense(number).addmm_(of_block, bottleneck.down)
                own = before.blocks[number]
                torch.ops.aten.threshold_backward.grad_input(of_hidden, hidden, 0, grad_input=own)
        if not earlier:
            of_features, of_centers = _through_first_product(rows, bottleneck, of_products)
        of_parameters = [*bottleneck.gradients(), *of_parameters]
        gradient = gradient if before is None else before
        del of_products, of_blocks, of_block  # before the next bottleneck allocates as much
    return of_features + gradient.by_point(), of_centers + gradient.by_center(), of_parameters


def _through_first_product(rows: NeighborRows, first: TrainedBottleneck, of_products: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what the first product W1 h adds to the gradients of features [P, C] and centres [G, C].

    The product is linear in both, so its gradient `of_products` [R, w] is summed by point, and by centre, before it is
    multiplied by the weight. The gradient of the weight holds only the geometry's part so far; here the parts of
    features and centres are added.
    """
    half = rows.features.shape[-1]
    by_point = sum_by_point(of_products, rows)
    by_center = of_products.view(*rows.neighbors.shape, -1).sum(dim=1)
    first.add_to_weight(by_point.t() @ rows.features, by_center.t() @ rows.centers)
    return by_point @ first.down[:, :half], by_center @ first.down[:, half:]


def _maximum(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the maximum over neighbours, [g, K, 2C] -> [g, 2C], and the number of the (first) neighbour that has it.

    torch's max pooling is far faster than `max` with indices.
    """
    images = outputs.unsqueeze(2).permute(0, 3, 1, 2)  # [g, 2C, K, 1], channels last
    pooled, winners = F.max_pool2d(images, (outputs.shape[1], 1), return_indices=True)
    return pooled.flatten(1), winners.flatten(1)


def _split(tensors: Sequence[Any], bottlenecks: Sequence[nn.Module]) -> list[Sequence[Any]]:
    """Splits tensors into equal parts, one for each bottleneck."""
    size = len(tensors) // len(bottlenecks)
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]
