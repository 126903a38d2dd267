"""Which tokens share a cell, and pooling over cells (the segments, patches and voxels of section 3.3; method.md 3).

Unusual here: cells are numbered within their view, so that a view's pooled rows are [C, D] with C far below G. Means
and weighted sums run in sorted order on a CPU (cell_sums.py) and are matrix products elsewhere and in compiled code:
without atomic additions, whose order could vary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fast.cell_sums import SortedTokens


class TokenCells(NamedTuple):
    """The cells of M views, numbered 0…C − 1 within a view in the order of their first tokens.

    Args:
        numbers: [B, M, G] int64, the cell of each token.
        rows: [B, M, G] int64, each token's row among the M·C pooled rows of its cloud.
        occupied: [B, M, C] bool, whether a cell has this number.
        members: the tokens sorted by cell; or shares, [B, M, C, G] floating point, 1 / (tokens in the cell) where the
            token lies in the cell, else 0.
    """

    numbers: Tensor
    rows: Tensor
    occupied: Tensor
    members: SortedTokens | Tensor

    @classmethod
    def of(cls, cells: Tensor, most_cells: int, dtype: torch.dtype) -> "TokenCells":
        """Numbers the cells.

        Args:
            cells: [B, M, G] int64 of any size; equal values of a view share a cell.
            most_cells: an upper bound of the different values in a view. C is the largest number of them there is on a
                CPU, and this bound (or G) on other devices, where to look would make the host wait.
            dtype: of the features to be pooled.
        """
        numbers = number_cells(cells)
        is_sorted = cells.device.type == "cpu" and not torch.compiler.is_compiling()
        num_cells = int(numbers.max()) + 1 if is_sorted else min(most_cells, cells.shape[-1])
        views = torch.arange(cells.shape[1], device=cells.device).view(-1, 1)
        rows = numbers + views * num_cells
        if is_sorted:
            members = SortedTokens.of(numbers, num_cells)
            occupied = (members.counts > 0).view(*cells.shape[:2], num_cells)
            return cls(numbers, rows, occupied, members)
        is_member = numbers.unsqueeze(-2) == torch.arange(num_cells, device=cells.device).unsqueeze(-1)
        counts = is_member.sum(dim=-1)
        return cls(numbers, rows, counts > 0, is_member.to(dtype) / counts.clamp(min=1).to(dtype).unsqueeze(-1))

    def mean(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B, G, D], which all views share, or [B, M, G, D] -> [B, M, C, D]."""
        if isinstance(self.members, Tensor):
            if features.dim() == 4:
                return self.members @ features
            return (self.members.flatten(1, 2) @ features).unflatten(1, self.occupied.shape[1:])
        if features.dim() == 4:
            pooled = self.members.mean_of_slots(features.transpose(1, 2).flatten(0, 2))
        else:
            pooled = self.members.mean_of_tokens(features.flatten(0, 1))
        return pooled.view(*self.occupied.shape, -1)

    def weighted_sum(self, features: Tensor, weights: Tensor) -> Tensor:
        """Each token's sum over views of a weight, [B, M, G], times its cell's features, [B, M, C, D]: [B, G, D]."""
        features, weights = features.flatten(1, 2), weights.transpose(1, 2)
        if not isinstance(self.members, Tensor):
            total = self.members.weighted_sum(features, weights.flatten(0, 1))
            return total.view(*weights.shape[:2], -1)
        by_cell = weights.new_zeros(*weights.shape[:2], features.shape[1])  # a row of weights a token, a column a cell
        return by_cell.scatter(-1, self.rows.transpose(1, 2), weights) @ features

    def products(self, features: Tensor, reference: Tensor, voxels: "TokenCells") -> Tensor:
        """Of each token the products of its cells' features [B, M, C, D] with its voxel's [B, 1, V, D]: [B, M, G]."""
        features, reference = features.flatten(1, 2), reference.squeeze(1)
        if not isinstance(self.members, Tensor):
            of_voxels: Any = voxels.members  # sorted like these
            products = self.members.products(features, reference, of_voxels)
            return products.view(len(features), -1, self.numbers.shape[1]).transpose(1, 2)
        products = features @ reference.transpose(1, 2)  # of every cell with every voxel, [B, M·C, V]
        pairs = self.rows * reference.shape[1] + voxels.numbers
        return products.flatten(1).gather(1, pairs.flatten(1)).view_as(self.numbers)

    def maximum(self, features: Tensor) -> Tensor:
        """Maximum over each cell of features [B, M, G, D] -> [B, M, C, D]; 0 where there is no cell."""
        batch_size, num_views, num_cells = self.occupied.shape
        views = torch.arange(batch_size * num_views, device=features.device).view(batch_size, num_views, 1)
        cells = (self.numbers + views * num_cells).flatten()
        pool = _maximum if torch.compiler.is_compiling() else _CellMaximum.apply
        return pool(features.flatten(0, 2), cells, self.occupied.flatten()).view(*self.occupied.shape, -1)


def _maximum(features: Tensor, cells: Tensor, occupied: Tensor) -> Tensor:
    """Maximum over the features [R, D] of each cell, whose number [R] is given: [B·M·C, D], 0 where there is none."""
    lowest = features.new_full((occupied.shape[0], features.shape[-1]), -torch.inf)
    largest = lowest.scatter_reduce_(0, cells.unsqueeze(-1).expand_as(features), features, "amax")
    return largest.masked_fill(~occupied.unsqueeze(-1), 0.0)


class _CellMaximum(torch.autograd.Function):
    """`_maximum` with a gradient of a third of autograd's passes; features that are equal share it."""

    @staticmethod
    def forward(features: Tensor, cells: Tensor, occupied: Tensor) -> Tensor:
        return _maximum(features, cells, occupied)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        features, cells, _ = inputs
        ctx.save_for_backward(features, cells, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, cells, largest = ctx.saved_tensors
        is_largest = (features == largest.index_select(0, cells)).to(features.dtype)
        winners = torch.zeros_like(largest).scatter_add_(0, cells.unsqueeze(-1).expand_as(features), is_largest)
        return (gradient / winners.clamp_(min=1)).index_select(0, cells).mul_(is_largest), None, None


def number_cells(cells: Tensor) -> Tensor:
    """Numbers the different values of the last axis 0, 1, … in the order they first occur: [..., G] -> same, int64."""
    same = cells.unsqueeze(-1) == cells.unsqueeze(-2)
    first = same.to(torch.uint8).argmax(dim=-1)  # the first token of each token's cell
    is_first = first == torch.arange(cells.shape[-1], device=cells.device)
    return (is_first.long().cumsum(dim=-1) - 1).gather(-1, first)
