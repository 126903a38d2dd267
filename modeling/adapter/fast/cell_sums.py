"""Sums over the tokens of each cell and over the cells of each token, on a CPU (pooling and eq. 3 of section 3.3).

Unusual here: they are weighted sums of few rows of a table, which torch's `embedding_bag` makes in one pass and always
in the same order. As products with matrices that are nearly all zero they take 3 to 8 times as long. Products of pairs
of rows alone are dense: to gather both rows of each takes longer.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...numerics.precision import at_least_float32, without_autocast


class SortedTokens(NamedTuple):
    """The tokens of all views sorted by cell; slot (b·G + g)·M + m is token g of cloud b in view m.

    Args:
        cells: [B·G, M] int64, each slot's row among the B·M·C cells.
        slots: [B·G·M] int64, in the order of their cells.
        tokens: [B·G·M] int64, the slots' tokens b·G + g in that order.
        starts: [B·M·C] int64, where each cell's slots begin.
        counts: [B·M·C] int64, each cell's number of slots.
    """

    cells: Tensor
    slots: Tensor
    tokens: Tensor
    starts: Tensor
    counts: Tensor

    @classmethod
    def of(cls, numbers: Tensor, num_cells: int) -> "SortedTokens":
        """From the cell of each token within its view, numbers [B, M, G] below C, the number of cells."""
        batch_size, num_views, _ = numbers.shape
        views = torch.arange(batch_size * num_views, device=numbers.device).view(batch_size, num_views, 1)
        cells = (numbers + views * num_cells).transpose(1, 2).flatten(0, 1).contiguous()  # a view of a single cloud
        slots = cells.flatten().argsort(stable=True)
        counts = torch.bincount(cells.flatten(), minlength=batch_size * num_views * num_cells)
        return cls(cells, slots, slots // num_views, counts.cumsum(dim=0) - counts, counts)

    def shares(self, dtype: torch.dtype) -> Tensor:
        """1 / (slots in the slot's cell), [B·G, M]."""
        return self.counts[self.cells].to(at_least_float32(dtype)).reciprocal()

    def mean_of_tokens(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B·G, D] that all views share: [B·M·C, D]; 0 where there is none."""
        return _Mean.apply(features, self.tokens, self)

    def mean_of_slots(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B·G·M, X], of each slot: [B·M·C, X]; 0 where there is none."""
        return _Mean.apply(features, self.slots, self)

    def weighted_sum(self, features: Tensor, weights: Tensor) -> Tensor:
        """Each token's sum over views of a weight, [B·G, M], times its cell's features, [B, M·C, D]: [B·G, D]."""
        return _WeightedSum.apply(features, weights, self)

    def products(self, features: Tensor, reference: Tensor, voxels: "SortedTokens") -> Tensor:
        """Of each slot the product of its cell's features [B, M·C, D] with its voxel's [B, V, D]: [B·G, M]."""
        return _Products.apply(features, reference, self, voxels)


def _over_cells(order: SortedTokens, table: Tensor, rows: Tensor, weights: Tensor | None, mode: str) -> Tensor:
    """Each cell's sum or mean of table[rows], times weights; rows and weights are in the order of the cells."""
    wide = _widened(table)
    weights = None if weights is None else weights.to(wide.dtype)
    return F.embedding_bag(rows, wide, order.starts, per_sample_weights=weights, mode=mode).to(table.dtype)


def _over_views(cells: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Sums of the rows of a table [B·M·C, D] that `cells` numbers, times weights, both [R, k]: [R, D]."""
    wide = _widened(table)
    weights = weights.detach().to(wide.dtype)
    return F.embedding_bag(cells, wide, per_sample_weights=weights, mode="sum").to(table.dtype)


def _widened(table: Tensor) -> Tensor:
    """In float32 or wider, because a sum of many may overflow half; detached: no state for a gradient is to be made."""
    return table.detach().to(at_least_float32(table.dtype))


class _Mean(torch.autograd.Function):
    """Of features of each token, or of each slot: `rows` numbers them in the order of the cells."""

    @staticmethod
    def forward(features: Tensor, rows: Tensor, order: SortedTokens) -> Tensor:
        return _over_cells(order, features, rows, None, "mean")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SortedTokens], output: Tensor) -> None:
        ctx.num_rows, ctx.order = inputs[0].shape[0], inputs[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shares = ctx.order.shares(gradient.dtype).view(ctx.num_rows, -1)
        return _over_views(ctx.order.cells.view_as(shares), gradient, shares), None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, weights: Tensor, order: SortedTokens) -> Tensor:
        return _over_views(order.cells, features.flatten(0, 1), weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SortedTokens], output: Tensor) -> None:
        *tensors, ctx.order = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (features, weights), order = ctx.saved_tensors, ctx.order
        by_slot = weights.flatten().index_select(0, order.slots)
        of_features = _over_cells(order, gradient, order.tokens, by_slot, "sum")
        of_weights = None
        if ctx.needs_input_grad[1]:
            with without_autocast(features.device):
                products = gradient.view(len(features), -1, features.shape[-1]) @ features.transpose(1, 2)
            of_weights = products.flatten(0, 1).gather(1, order.cells % features.shape[1]).to(weights.dtype)
        return of_features.view_as(features), of_weights, None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, reference: Tensor, order: SortedTokens, voxels: SortedTokens) -> Tensor:
        with without_autocast(features.device):
            products = features @ reference.transpose(1, 2)
        # Row b·M·C + c and column v lie at (b·M·C + c)·V + v.
        return products.flatten()[order.cells * reference.shape[1] + voxels.cells % reference.shape[1]]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SortedTokens, SortedTokens], output: Tensor) -> None:
        features, reference, *ctx.orders = inputs
        ctx.save_for_backward(features, reference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (features, reference), (order, voxels) = ctx.saved_tensors, ctx.orders
        voxel_of_slot = voxels.cells.flatten().index_select(0, order.tokens)
        by_slot = gradient.flatten().index_select(0, order.slots)
        of_features = _over_cells(order, reference.flatten(0, 1), voxel_of_slot, by_slot, "sum")
        by_token = _over_views(order.cells, _widened(features.flatten(0, 1)), gradient)  # rounded when summed
        of_reference = _over_cells(voxels, by_token, voxels.slots, None, "sum").to(reference.dtype)
        return of_features.view_as(features), of_reference.view_as(reference), None, None
