"""Sums over the tokens of each cell and over the cells of each token, on a CPU (pooling and eq. 3 of section 3.3).

Unusual here: all of them are weighted sums of few rows of a table, which torch's `embedding_bag` makes in one pass and
always in the same order. As products with matrices that are nearly all zero they take 3 to 8 times as long.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .precision import without_autocast


class SortedTokens(NamedTuple):
    """The tokens of all views sorted by cell; slot (b·G + g)·M + m is token g of cloud b in view m.

    Args:
        cells: [B·G, M] int64, each slot's row among the B·M·C cells.
        slots: [B·G·M] int64, in the order of their cells.
        starts: [B·M·C] int64, where each cell's slots begin.
        shares: [B·G, M] floating point, 1 / (tokens in the slot's cell).
    """

    cells: Tensor
    slots: Tensor
    starts: Tensor
    shares: Tensor

    @classmethod
    def of(cls, numbers: Tensor, counts: Tensor, dtype: torch.dtype) -> "SortedTokens":
        """From the cell of each token, numbers [B, M, G], and the number of tokens of each, counts [B, M, C]."""
        batch_size, num_views, num_cells = counts.shape
        first = torch.arange(0, counts.numel(), num_cells, device=numbers.device).view(batch_size, num_views, 1)
        cells = (numbers + first).transpose(1, 2).flatten(0, 1)
        counts = counts.flatten()
        shares = counts[cells].to(dtype).reciprocal()
        return cls(cells, cells.flatten().argsort(stable=True), counts.cumsum(dim=0) - counts, shares)

    @property
    def tokens(self) -> Tensor:
        """[B·G·M] int64, the slots' tokens b·G + g, in the order of their cells."""
        return self.slots // self.cells.shape[1]

    def mean_of_tokens(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B·G, D] that all views share: [B·M·C, D]; 0 where there is none."""
        return _MeanOfTokens.apply(features, self)

    def mean_of_slots(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B·G·M, X], of each slot: [B·M·C, X]; 0 where there is none."""
        return _MeanOfSlots.apply(features, self)

    def weighted_sum(self, features: Tensor, weights: Tensor) -> Tensor:
        """Each token's sum of its cells' features [B, M·C, D], times weights [B·G, M]: [B·G, D]."""
        return _WeightedSum.apply(features, weights, self)

    def products(self, features: Tensor, reference: Tensor, voxels: "SortedTokens") -> Tensor:
        """Of each slot the product of its cell's features [B, M·C, D] with its voxel's [B, V, D]: [B·G, M]."""
        return _Products.apply(features, reference, self, voxels)


def _over_cells(order: SortedTokens, table: Tensor, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """Each cell's sum of table[rows] · weights, both in the order of the cells; without weights the mean."""
    mode = "mean" if weights is None else "sum"
    return F.embedding_bag(rows, table.detach(), order.starts, per_sample_weights=weights, mode=mode)


def _over_views(order: SortedTokens, table: Tensor, weights: Tensor) -> Tensor:
    """Each token's sum of its cells' rows of a table [B·M·C, D], times weights [B·G, M]: [B·G, D]."""
    weights = weights.detach().to(table.dtype)
    return F.embedding_bag(order.cells, table.detach(), per_sample_weights=weights, mode="sum")


class _MeanOfTokens(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, order: SortedTokens) -> Tensor:
        return _over_cells(order, features, order.tokens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SortedTokens], output: Tensor) -> None:
        ctx.order = inputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _over_views(ctx.order, gradient, ctx.order.shares), None


class _MeanOfSlots(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, order: SortedTokens) -> Tensor:
        return _over_cells(order, features, order.slots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SortedTokens], output: Tensor) -> None:
        ctx.order = inputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        cells, shares = ctx.order.cells.flatten(), ctx.order.shares.flatten()
        return gradient.index_select(0, cells) * shares.unsqueeze(-1).to(gradient.dtype), None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, weights: Tensor, order: SortedTokens) -> Tensor:
        return _over_views(order, features.flatten(0, 1), weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SortedTokens], output: Tensor) -> None:
        *tensors, ctx.order = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (features, weights), order = ctx.saved_tensors, ctx.order
        by_slot = weights.to(gradient.dtype).flatten().index_select(0, order.slots)
        of_features = _over_cells(order, gradient, order.tokens, by_slot)
        of_weights = None
        if ctx.needs_input_grad[1]:
            with without_autocast(features.device):
                products = gradient.view(len(features), -1, features.shape[-1]) @ features.transpose(1, 2)
            of_weights = products.flatten(0, 1).gather(1, order.cells % features.shape[1]).to(weights.dtype)
        return of_features.view_as(features), of_weights, None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, reference: Tensor, order: SortedTokens, voxels: SortedTokens) -> Tensor:
        with without_autocast(features.device):  # of all pairs: to gather D values for each takes longer
            products = features @ reference.transpose(1, 2)
        # Row b·M·C + c and column b·V + v lie at (b·M·C + c)·V + v.
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
        of_features = _over_cells(order, reference.flatten(0, 1), voxel_of_slot, by_slot)
        by_token = _over_views(order, features.flatten(0, 1), gradient)
        of_reference = _over_cells(voxels, by_token, voxels.slots, torch.ones_like(by_slot[: len(by_token)]))
        return of_features.view_as(features), of_reference.view_as(reference), None, None
