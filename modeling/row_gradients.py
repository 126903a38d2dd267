"""Gradients of a tokenizer stage's rows, [R, 2C]: dense ones, and that of a maximum, which is nearly all zeros."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .neighbor_rows import NeighborRows
from .precision import at_least_float32


class DenseGradient(NamedTuple):
    """A gradient with a value for every row and channel. Args: rows [R, 2C]."""

    rows: Tensor

    def dense(self, _: slice, span: slice) -> Tensor:
        """A copy of a block's rows."""
        return self.rows[span].clone()

    def sum(self, _: slice, span: slice) -> Tensor:
        """Over a block's rows: [2C]."""
        return self.rows[span].sum(dim=0, dtype=at_least_float32(self.rows.dtype))

    def add_times(self, weight: Tensor, total: Tensor, _: slice, span: slice) -> None:
        """Adds a block's rows through a matrix [2C, w] to the total [r, w]."""
        total.addmm_(self.rows[span], weight)

    def transposed_times(self, inner: Tensor, _: slice, span: slice) -> Tensor:
        """Sum over a block's rows of the products with inner [r, w]: [2C, w]."""
        return self.rows[span].t() @ inner

    def by_point(self, rows: NeighborRows) -> Tensor:
        """What comes back to the gathered features: [P, C]."""
        return sum_by_point(self.rows, rows)[:, : rows.features.shape[-1]]  # half of the rows would first be copied

    def by_center(self, rows: NeighborRows) -> Tensor:
        """What comes back to the centres' features: [G, C]."""
        of_neighborhoods = self.rows.view(*rows.neighbors.shape, -1)
        return of_neighborhoods[..., rows.features.shape[-1] :].sum(dim=1)


class WinnersGradient(NamedTuple):
    """The gradient of a maximum over neighbours: one value a centre and channel, at the neighbour that has it.

    Args:
        winners: [G, 2C] int64, which of the K neighbours.
        values: [G, 2C].
        num_neighbors: K.
    """

    winners: Tensor
    values: Tensor
    num_neighbors: int

    def _rows(self, winners: Tensor) -> Tensor:
        """Rows of their block, from the numbers [g, 2C] of neighbours."""
        return winners + torch.arange(len(winners), device=winners.device).mul_(self.num_neighbors).unsqueeze(-1)

    def dense(self, block: slice, span: slice) -> Tensor:
        """A block's rows, [r, 2C]."""
        values = self.values[block].unsqueeze(1)
        zeros = values.new_zeros(len(values), self.num_neighbors, values.shape[-1])
        return zeros.scatter_(1, self.winners[block].unsqueeze(1), values).flatten(0, 1)

    def sum(self, block: slice, _: slice) -> Tensor:
        """Over a block's rows: [2C]."""
        return self.values[block].sum(dim=0, dtype=at_least_float32(self.values.dtype))

    def add_times(self, weight: Tensor, total: Tensor, block: slice, span: slice) -> None:
        """Adds a block's rows through a matrix [2C, w] to the total [r, w]. A row sums the channels that it has won."""
        ordered, channels = self.winners[block].sort(dim=1)
        starts = torch.searchsorted(
            self._rows(ordered).flatten(), torch.arange(span.stop - span.start, device=channels.device)
        )
        values = self.values[block].gather(1, channels).flatten()
        total += F.embedding_bag(channels.flatten(), weight, starts, per_sample_weights=values, mode="sum")

    def transposed_times(self, inner: Tensor, block: slice, _: slice) -> Tensor:
        """Sum over a block's rows of the products with inner [r, w]: [2C, w]. A channel sums the rows that won it."""
        rows, values = self._rows(self.winners[block]).t().contiguous(), self.values[block].t().contiguous()
        return F.embedding_bag(rows, inner, per_sample_weights=values, mode="sum")

    def by_point(self, rows: NeighborRows) -> Tensor:
        """What comes back to the gathered features: [P, C]."""
        half = rows.features.shape[-1]
        entries = rows.neighbors.gather(1, self.winners[:, :half]) * half + torch.arange(
            half, device=rows.neighbors.device
        )
        total = torch.zeros_like(rows.features)
        total.view(-1).scatter_add_(0, entries.flatten(), self.values[:, :half].flatten())
        return total

    def by_center(self, rows: NeighborRows) -> Tensor:
        """What comes back to the centres' features: [G, C]."""
        return self.values[:, rows.features.shape[-1] :]


def sum_by_point(values: Tensor, rows: NeighborRows) -> Tensor:
    """Sums values of the rows [R, X] over each point's rows, [P, X]; sorted first, so always in the same order."""
    points, order = rows.neighbors.flatten().sort(stable=True)
    starts = torch.searchsorted(points, torch.arange(len(rows.features), device=points.device))
    return F.embedding_bag(order, values, starts, mode="sum")
