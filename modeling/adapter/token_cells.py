"""Which tokens share a cell, and pooling over cells (the segments, patches and voxels of section 3.3; method.md 3).

Unusual here: cells are numbered within their view, so that a view's pooled rows are [C, D] with C far below G. Means
and weighted sums are products with matrices that are nearly all zero, because atomic additions could vary in order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.host_reads import host_may_read
from ..numerics.precision import product_dtype, without_autocast


class TokenCells(NamedTuple):
    """The cells of M views, numbered 0…C − 1 within a view in the order of their first tokens.

    Args:
        numbers: [B, M, G] int64, the cell of each token.
        rows: [B, M, G] int64, each token's row among the M·C pooled rows of its cloud.
        occupied: [B, M, C] bool, whether a cell has this number.
        shares: [B, M, C, G] floating point, 1 / (tokens in the cell) where the token lies in the cell, else 0.
    """

    numbers: Tensor
    rows: Tensor
    occupied: Tensor
    shares: Tensor

    @classmethod
    def of(cls, cells: Tensor, most_cells: int, dtype: torch.dtype) -> "TokenCells":
        """Numbers the cells.

        Args:
            cells: [B, M, G] int64 of any size; equal values of a view share a cell.
            most_cells: an upper bound on the number of different values in a view. On a CPU, outside compilers, C is
                the largest number found; elsewhere it is this bound, or G if less, because to look would make the host
                wait.
            dtype: of the features to be pooled.
        """
        numbers = number_cells(cells)
        num_cells = min(most_cells, cells.shape[-1])
        if host_may_read(numbers):  # fewer rows save a tenth of DINOv2's training step
            num_cells = int(numbers.max()) + 1
        views = torch.arange(cells.shape[1], device=cells.device).view(-1, 1)
        is_member = numbers.unsqueeze(-2) == torch.arange(num_cells, device=cells.device).unsqueeze(-1)
        counts = is_member.sum(dim=-1)
        shares = is_member.to(dtype) / counts.clamp(min=1).to(dtype).unsqueeze(-1)
        return cls(numbers, numbers + views * num_cells, counts > 0, shares)

    def mean(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B, G, D], which all views share, or [B, M, G, D] -> [B, M, C, D]."""
        if features.dim() == 4:
            return _product(self.shares, features).to(features.dtype)
        return _product(self.shares.flatten(1, 2), features).to(features.dtype).unflatten(1, self.occupied.shape[1:])

    def weighted_sum(self, features: Tensor, weights: Tensor) -> Tensor:
        """Returns Σ_m w_m F_m of each token, [B, G, D], for weights [B, M, G] and the cells' features [B, M, C, D]."""
        features, weights = features.flatten(1, 2), weights.transpose(1, 2).to(features.dtype)
        by_cell = weights.new_zeros(*weights.shape[:2], features.shape[1])  # one row per token, one column per cell
        return _product(by_cell.scatter(-1, self.rows.transpose(1, 2), weights), features).to(features.dtype)

    def products(self, features: Tensor, reference: Tensor) -> Tensor:
        """Dot products of all cells' features [B, M, C, D] and all voxels' [B, 1, V, D]: [B, M·C, V]."""
        return _product(features.flatten(1, 2), reference.squeeze(1).transpose(1, 2))

    def of_pairs(self, values: Tensor, voxels: "TokenCells") -> Tensor:
        """Values [B, M·C, V] of all pairs of a cell and a voxel, of those in which each token lies: [B, M, G]."""
        pairs = self.rows * values.shape[-1] + voxels.numbers
        return values.flatten(1).gather(1, pairs.flatten(1)).view_as(self.numbers)

    def maximum(self, features: Tensor) -> Tensor:
        """Maximum over each cell of features [B, M, G, D] -> [B, M, C, D]; 0 where there is no cell."""
        cells = self.numbers.unsqueeze(-1).expand_as(features)
        lowest = features.new_full((*self.occupied.shape, features.shape[-1]), -torch.inf)
        largest = lowest.scatter_reduce(2, cells, features, "amax")
        return largest.masked_fill(~self.occupied.unsqueeze(-1), 0.0)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Returns left @ right in their `product_dtype`."""
    dtype = product_dtype(right)
    with without_autocast(right.device):
        return left.to(dtype) @ right.to(dtype)


def number_cells(cells: Tensor) -> Tensor:
    """Numbers the different values of the last axis 0, 1, … in the order they first occur: [..., G] -> same, int64."""
    same = cells.unsqueeze(-1) == cells.unsqueeze(-2)
    first = same.to(torch.uint8).argmax(dim=-1)  # the first token of each token's cell
    is_first = first == torch.arange(cells.shape[-1], device=cells.device)
    return (is_first.long().cumsum(dim=-1) - 1).gather(-1, first)


def same_cell_mask(cells: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask to add to attention scores so that tokens attend only to tokens of their cell, for cells [B, M, G].

    Returns:
        [B·M, 1, G, G] in the given dtype: 0 for tokens that share a cell, −inf for others.
    """
    apart = (cells.unsqueeze(-1) != cells.unsqueeze(-2)).flatten(0, 1).unsqueeze(1)
    return torch.zeros(apart.shape, dtype=dtype, device=apart.device).masked_fill_(apart, -torch.inf)
