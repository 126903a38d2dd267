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
        """Over a block's rows: [2C]."""
        return self.blocks[number].sum(dim=0, dtype=at_least_float32(self.values.dtype))

    def add_times(self, weight: Tensor, total: Tensor, number: int) -> None:
        """Adds a block's rows through a matrix [2C, w] to the total [r, w]."""
        total.addmm_(self.blocks[number], weight)

    def transposed_times(self, inner: Tensor, number: int) -> Tensor:
        """Sum over a block's rows of the products with inner [r, w]: [2C, w]."""
        return self.blocks[number].t() @ inner

    def by_point(self) -> Tensor:
        """What comes back to the gathered features: [P, C]."""
        total = sum_by_point(self.values, self.rows)  # of all channels: to take half of the values would copy them
        return total[:, : self.rows.features.shape[-1]]

    def by_center(self) -> Tensor:
        """What comes back to the centres' features: [G, C]."""
        of_neighborhoods = self.values.view(*self.rows.neighbors.shape, -1)
        return of_neighborhoods[..., self.rows.features.shape[-1] :].sum(dim=1)


class WinnersGradient:
    """The gradient of a maximum over neighbours: one value a centre and channel, at the neighbour that has it.

    Args:
        rows: of the stage.
        winners: [G, 2C] int64, which of the K neighbours.
        values: [G, 2C].
    """

    def __init__(self, rows: NeighborRows, winners: Tensor, values: Tensor) -> None:
        self.rows, self.winners, self.values = rows, winners, values
        self.num_neighbors = rows.neighbors.shape[1]
        self.blocks = list(zip(winners.split(rows.block_size), values.split(rows.block_size), strict=True))

    def dense(self, number: int) -> Tensor:
        """A block's rows, [r, 2C]."""
        winners, values = self.blocks[number]
        zeros = values.new_zeros(len(values), self.num_neighbors, values.shape[-1])
        return zeros.scatter_(1, winners.unsqueeze(1), values.unsqueeze(1)).flatten(0, 1)

    def sum(self, number: int) -> Tensor:
        """Over a block's rows: [2C]."""
        return self.blocks[number][1].sum(dim=0, dtype=at_least_float32(self.values.dtype))

    def add_times(self, weight: Tensor, total: Tensor, number: int) -> None:
        """Adds a block's rows through a matrix [2C, w] to the total [r, w]. A row sums the channels that it has won."""
        winners, values = self.blocks[number]
        ordered, channels = winners.sort(dim=1)
        starts = torch.searchsorted(self._rows(ordered).flatten(), torch.arange(len(total), device=total.device))
        values = values.gather(1, channels).flatten()
        total += F.embedding_bag(channels.flatten(), weight, starts, per_sample_weights=values, mode="sum")

    def transposed_times(self, inner: Tensor, number: int) -> Tensor:
        """Sum over a block's rows of the products with inner [r, w]: [2C, w]. A channel sums the rows that it won."""
        winners, values = self.blocks[number]
        rows, values = self._rows(winners).t().contiguous(), values.t().contiguous()
        return F.embedding_bag(rows, inner, per_sample_weights=values, mode="sum")

    def by_point(self) -> Tensor:
        """What comes back to the gathered features: [P, C]."""
        neighbors, half = self.rows.neighbors, self.rows.features.shape[-1]
        points = neighbors.gather(1, self.winners[:, :half])
        entries = points * half + torch.arange(half, device=neighbors.device)
        total = torch.zeros_like(self.rows.features)
        total.view(-1).scatter_add_(0, entries.flatten(), self.values[:, :half].flatten())
        return total

    def by_center(self) -> Tensor:
        """What comes back to the centres' features: [G, C]."""
        return self.values[:, self.rows.features.shape[-1] :]

    def _rows(self, winners: Tensor) -> Tensor:
        """Rows of their block, from the numbers [g, 2C] of neighbours."""
        return winners + torch.arange(len(winners), device=winners.device).mul_(self.num_neighbors).unsqueeze(-1)


def sum_by_point(values: Tensor, rows: NeighborRows) -> Tensor:
    """Sums values of the rows [R, X] over each point's rows, [P, X]; sorted first, so always in the same order."""
    points, order = rows.neighbors.flatten().sort(stable=True)
    starts = torch.searchsorted(points, torch.arange(len(rows.features), device=points.device))
    return F.embedding_bag(order, values, starts, mode="sum")
