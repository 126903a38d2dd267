"""Gradients of a tokenizer stage's rows, [R, 2C]: dense ones, and that of a maximum, which is nearly all zeros."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...numerics.precision import at_least_float32
from .neighbor_rows import NeighborRows


class DenseGradient:
    """A gradient with a value for every row and channel.

    Args:
        rows: of the stage.
        values: [R, 2C].
    """

    def __init__(self, rows: NeighborRows, values: Tensor) -> None:
        self.rows, self.values = rows, values
        self.blocks = rows.in_blocks(values)

    def dense(self, number: int) -> Tensor:
        """A copy of a block's rows: [r, 2C]."""
        return self.blocks[number].clone()

    def sum(self, number: int) -> Tensor:
        """Returns the sum over a block's rows, [2C]."""
        return self.blocks[number].sum(dim=0, dtype=at_least_float32(self.values.dtype))

    def add_times(self, weight: Tensor, total: Tensor, number: int) -> None:
        """Adds a block's rows [r, 2C], multiplied by a matrix [2C, w], to the total [r, w]."""
        total.addmm_(self.blocks[number], weight)

    def transposed_times(self, inner: Tensor, number: int) -> Tensor:
        """Returns a block's rows [r, 2C], transposed, times inner [r, w]: [2C, w]."""
        return self.blocks[number].t() @ inner

    def by_point(self) -> Tensor:
        """Returns the gradient of the points' features, [P, C]: the sum over the rows that gathered each point."""
        total = sum_by_point(self.values, self.rows)  # of all channels, because taking half of them first would copy
        return total[:, : self.rows.features.shape[-1]]

    def by_center(self) -> Tensor:
        """Returns the gradient of the centres' features, [G, C]: the sum over each neighbourhood."""
        of_neighborhoods = self.values.view(*self.rows.neighbors.shape, -1)
        return of_neighborhoods[..., self.rows.features.shape[-1] :].sum(dim=1)


class WinnersGradient:
    """The gradient of a maximum over neighbours.

    For each centre and channel it is zero but at one neighbour, the winner, which has the maximum.

    Args:
        rows: of the stage.
        winners: [G, 2C] int64, numbers of the winners among the K neighbours.
        values: [G, 2C], the gradient at the winners.
    """

    def __init__(self, rows: NeighborRows, winners: Tensor, values: Tensor) -> None:
        self.rows, self.winners, self.values = rows, winners, values
        self.num_neighbors = rows.neighbors.shape[1]
        self.blocks = list(zip(winners.split(rows.block_size), values.split(rows.block_size), strict=True))

    def dense(self, number: int) -> Tensor:
        """Returns a block's rows with their zeros, [r, 2C]."""
        winners, values = self.blocks[number]
        zeros = values.new_zeros(len(values), self.num_neighbors, values.shape[-1])
        return zeros.scatter_(1, winners.unsqueeze(1), values.unsqueeze(1)).flatten(0, 1)

    def sum(self, number: int) -> Tensor:
        """Returns the sum over a block's rows, [2C]."""
        return self.blocks[number][1].sum(dim=0, dtype=at_least_float32(self.values.dtype))

    def add_times(self, weight: Tensor, total: Tensor, number: int) -> None:
        """Adds a block's rows [r, 2C], multiplied by a matrix [2C, w], to the total [r, w].

        Each row sums only the matrix rows of the channels in which it is the winner.
        """
        winners, values = self.blocks[number]
        ordered, channels = winners.sort(dim=1)
        starts = torch.searchsorted(self._rows(ordered).flatten(), torch.arange(len(total), device=total.device))
        values = values.gather(1, channels).flatten()
        total += F.embedding_bag(channels.flatten(), weight, starts, per_sample_weights=values, mode="sum")

    def transposed_times(self, inner: Tensor, number: int) -> Tensor:
        """Returns a block's rows [r, 2C], transposed, times inner [r, w]: [2C, w].

        Each channel sums only the inner rows of its winners.
        """
        winners, values = self.blocks[number]
        rows, values = self._rows(winners).t().contiguous(), values.t().contiguous()
        return F.embedding_bag(rows, inner, per_sample_weights=values, mode="sum")

    def by_point(self) -> Tensor:
        """Returns the gradient of the points' features, [P, C]: the sum over the rows that gathered each point."""
        neighbors, half = self.rows.neighbors, self.rows.features.shape[-1]
        points = neighbors.gather(1, self.winners[:, :half])
        entries = points * half + torch.arange(half, device=neighbors.device)
        total = torch.zeros_like(self.rows.features)
        total.view(-1).scatter_add_(0, entries.flatten(), self.values[:, :half].flatten())
        return total

    def by_center(self) -> Tensor:
        """Returns the gradient of the centres' features, [G, C]: the one value of each centre and channel."""
        return self.values[:, self.rows.features.shape[-1] :]

    def _rows(self, winners: Tensor) -> Tensor:
        """Converts winners [g, 2C], numbers within their neighbourhoods, to row numbers within their block."""
        return winners + torch.arange(len(winners), device=winners.device).mul_(self.num_neighbors).unsqueeze(-1)


def sum_by_point(values: Tensor, rows: NeighborRows) -> Tensor:
    """Sums values [R, X] over the rows that gathered each point: [P, X].

    Rows are sorted by point first, so that they are always added in the same order.
    """
    points, order = rows.neighbors.flatten().sort(stable=True)
    starts = torch.searchsorted(points, torch.arange(len(rows.features), device=points.device))
    return F.embedding_bag(order, values, starts, mode="sum")
