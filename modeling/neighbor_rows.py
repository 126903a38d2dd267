"""The rows a tokenizer stage works on: a neighbour's features, its centre's and their geometry (method.md 1).

Unusual here: the [B·G·K, C] rows are never one tensor; they are made a block of neighbourhoods at a time, small enough
to stay in the processor's cache, and made anew rather than kept: sines cost less than the way to memory and back.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

WAVELENGTH_BASE = 1000.0  # α of method.md 1
ANGLE_SCALE = 100.0  # β of method.md 1

# Values of one block. On a CPU 512 K float32 values are 2 MiB: a block and what is made of it stay in the cache.
_CPU_BLOCK = 1 << 19
_DEVICE_BLOCK = 1 << 26


def geometry_encoding(offsets: Tensor, channels: int) -> Tensor:
    """Sines and cosines of coordinates (method.md 1), axis-major: of each axis F = channels / 6 sines, then F cosines.

    Args:
        offsets: [..., 3] relative coordinates.
        channels: a multiple of 6.

    Returns:
        [..., channels], same dtype.
    """
    num_frequencies = channels // 6
    exponents = torch.arange(num_frequencies, device=offsets.device, dtype=offsets.dtype) / num_frequencies
    angles = ANGLE_SCALE * offsets.unsqueeze(-1) / WAVELENGTH_BASE**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


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

    def blocks(self) -> Iterator[slice]:
        """Slices of the centres, whose rows together fill one block; a block's span is its slice of the rows."""
        num_centers, num_neighbors = self.neighbors.shape
        values = _CPU_BLOCK if self.features.device.type == "cpu" else _DEVICE_BLOCK
        size = max(1, values // (num_neighbors * self.channels))
        return (slice(start, min(start + size, num_centers)) for start in range(0, num_centers, size))

    def of(self, block: slice, out: Tensor | None = None) -> Tensor:
        """The rows of a block of centres, neighbour ⊕ centre + geometry: [g·K, 2C]. For use without gradients."""
        neighbors, half = self.neighbors[block], self.features.shape[-1]
        rows = geometry_encoding(self.offsets[block], self.channels).to(self.features.dtype)  # [g, K, 2C]
        rows[..., :half] += self.features.index_select(0, neighbors.flatten()).view(*neighbors.shape, half)
        rows[..., half:] += self.centers[block].unsqueeze(1)
        return rows.flatten(0, 1) if out is None else out.copy_(rows.flatten(0, 1))

    def all(self) -> Tensor:
        """All rows at once, [G·K, 2C], for autograd and compilers."""
        gathered = self.features.index_select(0, self.neighbors.flatten()).view(*self.neighbors.shape, -1)
        rows = torch.cat([gathered, self.centers.unsqueeze(1).expand_as(gathered)], dim=-1)
        return (rows + geometry_encoding(self.offsets, self.channels).to(rows.dtype)).flatten(0, 1)
