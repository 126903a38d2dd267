"""The rows a tokenizer stage works on: a neighbour's features, its centre's and their geometry (method.md 1).

Unusual here: the [B·G·K, C] rows are never one tensor; they are made a block of neighbourhoods at a time, small enough
to stay in the processor's cache, and made anew rather than kept: that costs less than the way to memory and back.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry_encoding import geometry_encoder, geometry_encoding

# Values of one block. On a CPU 512 K float32 values are 2 MiB: a block and what is made of it stay in the cache.
_CPU_BLOCK = 1 << 19
_DEVICE_BLOCK = 1 << 26


class NeighborRows(NamedTuple):
    """What the rows of a stage are made of; row g·K + k belongs to neighbour k of centre g, over all clouds.

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
        """2C, of a row."""
        return 2 * self.features.shape[-1]

    @property
    def block_size(self) -> int:
        """Centres whose rows together fill one block."""
        values = _CPU_BLOCK if self.features.device.type == "cpu" else _DEVICE_BLOCK
        return max(1, values // (self.neighbors.shape[1] * self.channels))

    def blocks(self) -> Iterator[slice]:
        """Slices of the centres."""
        num_centers, size = len(self.neighbors), self.block_size
        return (slice(start, min(start + size, num_centers)) for start in range(0, num_centers, size))

    def in_blocks(self, values: Tensor) -> tuple[Tensor, ...]:
        """What is known of each row, [G·K, X], block by block."""
        return values.split(self.block_size * self.neighbors.shape[1])

    def encoder(self) -> Callable[[slice], Tensor]:
        """Of the geometry of blocks of centres, in the features' dtype: [g, K, 2C]."""
        encode, dtype = geometry_encoder(self.offsets, self.channels), self.features.dtype
        return lambda block: encode(block).to(dtype)

    def of(self, block: slice, geometry: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows of a block of centres, neighbour ⊕ centre + geometry: [g·K, 2C]. For use without gradients.

        Args:
            block: the centres.
            geometry: of the block, by `encoder`; the rows are written over it when `out` is None.
            out: [g·K, 2C].
        """
        neighbors, half = self.neighbors[block], self.features.shape[-1]
        rows = geometry if out is None else out.view_as(geometry)
        gathered = self.features.index_select(0, neighbors.flatten()).view(*neighbors.shape, half)
        torch.add(geometry[..., :half], gathered, out=rows[..., :half])
        torch.add(geometry[..., half:], self.centers[block].unsqueeze(1), out=rows[..., half:])
        return rows.flatten(0, 1)

    def all(self) -> Tensor:
        """All rows at once, [G·K, 2C], for autograd and compilers."""
        gathered = self.features.index_select(0, self.neighbors.flatten()).view(*self.neighbors.shape, -1)
        rows = torch.cat([gathered, self.centers.unsqueeze(1).expand_as(gathered)], dim=-1)
        return (rows + geometry_encoding(self.offsets, self.channels).to(rows.dtype)).flatten(0, 1)
