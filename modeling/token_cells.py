"""Which tokens share a cell, and pooling over cells (the segments, patches and voxels of section 3.3; method.md 3).

Unusual here: cells are numbered within their view, so that a view's pooled rows are [C, D] with C far below G, and
averaging is a matrix product, without atomic additions whose order could vary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class TokenCells(NamedTuple):
    """The cells of M views, numbered 0…C − 1 within a view in the order of their first tokens.

    Args:
        numbers: [B, M, G] int64, the cell of each token.
        shares: [B, M, C, G] floating point, 1 / (tokens in the cell) where the token lies in the cell, else 0.
        occupied: [B, M, C] bool, whether a cell has this number.
    """

    numbers: Tensor
    shares: Tensor
    occupied: Tensor

    @classmethod
    def of(cls, cells: Tensor, most_cells: int, dtype: torch.dtype) -> "TokenCells":
        """Numbers the cells.

        Args:
            cells: [B, M, G] int64 of any size; equal values of a view share a cell.
            most_cells: an upper bound of the different values in a view. C is the largest number there is on a CPU, and
                this bound (or G) on other devices, where to look would make the host wait.
            dtype: of the features to be pooled.
        """
        numbers = number_cells(cells)
        if cells.device.type == "cpu" and not torch.compiler.is_compiling():
            num_cells = int(numbers.max()) + 1
        else:
            num_cells = min(most_cells, cells.shape[-1])
        members = numbers.unsqueeze(-2) == torch.arange(num_cells, device=cells.device).unsqueeze(-1)
        counts = members.sum(dim=-1, keepdim=True)
        return cls(numbers, members.to(dtype) / counts.clamp(min=1).to(dtype), counts.squeeze(-1) > 0)

    def mean(self, features: Tensor) -> Tensor:
        """Mean over each cell of features [B, G, D], which all views share, or [B, M, G, D] -> [B, M, C, D]."""
        if features.dim() == 4:
            return self.shares @ features
        return (self.shares.flatten(1, 2) @ features).unflatten(1, self.occupied.shape[1:])

    def maximum(self, features: Tensor) -> Tensor:
        """Maximum over each cell of features [B, M, G, D] -> [B, M, C, D]; 0 where there is no cell."""
        batch_size, num_views, num_cells = self.occupied.shape
        views = torch.arange(batch_size * num_views, device=features.device).view(batch_size, num_views, 1)
        cells = (self.numbers + views * num_cells).flatten()
        pool = _maximum if torch.compiler.is_compiling() else _CellMaximum.apply
        return pool(features.flatten(0, 2), cells, self.occupied.flatten()).view(*self.occupied.shape, -1)

    def rows(self) -> Tensor:
        """Each token's row among the M·C pooled rows of its cloud: [B, M, G] int64."""
        _, num_views, num_cells = self.occupied.shape
        views = torch.arange(num_views, device=self.numbers.device).view(-1, 1)
        return self.numbers + views * num_cells


def _maximum(features: Tensor, cells: Tensor, occupied: Tensor) -> Tensor:
    """Maximum over the features [R, D] of each cell, whose number [R] is given: [B·M·C, D], 0 where there is none."""
    lowest = features.new_full((len(occupied), features.shape[-1]), -torch.inf)
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
