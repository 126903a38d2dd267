"""The rows a tokenizer stage works on: a neighbour's features, its centre's and their geometry (method.md 1).

Unusual here: except for autograd and compilers, the [B·G·K, 2C] rows are never one tensor. They are computed a block of
neighbourhoods at a time, small enough to stay in the processor's cache, and computed again rather than kept: that costs
less than writing them to memory and reading them back.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .block_size import values_in_block
from .sine_table import GeometryEncoder


class NeighborRows(NamedTuple):
    """The parts of a stage's rows; row g·K + k belongs to neighbour k of centre g, counted over all clouds.

    Args:
        features: [P, C] of all clouds' points.
        neighbors: [G, K] int64, rows of `features`; G centres of all clouds together.
        offsets: [G, K, 3] normalised relative coordinates, float32 or wider.
        centers: [G, C] features of the centres.
    """

    features: Tensor
    neighbors: Tensor
    offsets: Tensor
    centers: Tensor

    @property
    def channels(self) -> int:
        """Channels of a row, 2C."""
        return 2 * self.features.shape[-1]

    @property
    def block_size(self) -> int:
        """How many centres a block has: those whose rows together fill it."""
        return max(1, values_in_block(self.features.device) // (self.neighbors.shape[1] * self.channels))

    def blocks(self) -> Iterator[slice]:
        """Yields the blocks as slices of the centres."""
        num_centers, size = len(self.neighbors), self.block_size
        return (slice(start, min(start + size, num_centers)) for start in range(0, num_centers, size))

    def in_blocks(self, values: Tensor) -> tuple[Tensor, ...]:
        """Splits values [G·K, X] of all rows into those of each block."""
        return values.split(self.block_size * self.neighbors.shape[1])

    def encoder(self) -> GeometryEncoder:
        """Returns the encoder of the rows' offsets."""
        dtype = self.features.dtype
        return GeometryEncoder(self.offsets, self.channels, dtype if dtype.itemsize < 4 else torch.float32)

    def of(self, block: slice, geometry: Tensor) -> Tensor:
        """Returns a block's rows, (neighbour ⊕ centre) + geometry: [g·K, 2C]. For use without gradients.

        Args:
            block: the centres.
            geometry: encoding of the block's offsets, [g, K, 2C]; written over where it has the features' dtype.
        """
        neighbors, half = self.neighbors[block], self.features.shape[-1]
        rows = geometry.to(self.features.dtype)
        rows[..., :half] += self.features.index_select(0, neighbors.flatten()).view(*neighbors.shape, half)
        rows[..., half:] += self.centers[block].unsqueeze(1)
        return rows.flatten(0, 1)

    def through(self, weight: Tensor, encoder: GeometryEncoder) -> Callable[[slice], Tensor]:
        """Returns a function from a block of centres to its rows times weightᵀ, [g·K, w]. For use without gradients.

        The rows are not computed. The product is linear in neighbour, centre and geometry, so each point and each
        centre is multiplied by the weight once, not K times.

        Args:
            weight: [w, 2C] in the features' dtype.
            encoder: of the offsets; it must be tabulated.
        """
        half, multiply = self.features.shape[-1], encoder.through(weight)
        features, centers = self.features @ weight[:, :half].t(), self.centers @ weight[:, half:].t()

        def of_block(block: slice) -> Tensor:
            neighbors, products = self.neighbors[block], multiply(block)
            products += features.index_select(0, neighbors.flatten())
            products.view(*neighbors.shape, -1).add_(centers[block].unsqueeze(1))
            return products

        return of_block

    def all(self) -> Tensor:
        """All rows at once, [G·K, 2C], for autograd and compilers."""
        geometry = self.encoder().encode(slice(None))  # the same sines as in blocks
        gathered = self.features.index_select(0, self.neighbors.flatten()).view(*self.neighbors.shape, -1)
        rows = torch.cat([gathered, self.centers.unsqueeze(1).expand_as(gathered)], dim=-1)
        return (rows + geometry.to(rows.dtype)).flatten(0, 1)
