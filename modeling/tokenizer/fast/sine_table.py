"""The geometry encoding read from a table of sines, on a CPU.

Unusual here: a sine costs twenty products, and a stage takes millions at places of [−1, 1]. The table holds the sines
at 513 places and five of their derivatives; a weighted sum of six of its rows is nearer than float32 comes by rounding
an angle of up to 100.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...numerics.host_reads import host_may_read
from ..geometry_encoding import frequencies_of, geometry_encoding

_STEPS = 256  # of the table in a unit of length; the largest error is (100 / 512)⁶ / 6! = 7.7e-8
_TERMS = 6  # of Taylor's series about the nearest place; fewer of them at more places would fill the cache


class GeometryEncoder:
    """`geometry_encoding` of blocks of offsets.

    From the table where it reaches; what is read there differs from the formula by less than float32 rounds an angle.

    Args:
        offsets: [G, K, 3].
        channels: a multiple of 6.

    Attributes:
        is_tabulated: whether the table reaches all offsets.
    """

    def __init__(self, offsets: Tensor, channels: int) -> None:
        self.offsets, self.channels = offsets, channels
        can_be = host_may_read(offsets) and offsets.dtype == torch.float32 and not offsets.requires_grad
        self.is_tabulated = can_be and _lie_in_table(offsets)
        if not self.is_tabulated:
            return
        places = offsets * _STEPS  # a power of two: exact, as is all before the sum
        nearest = places.round()
        self._left = places.sub_(nearest)
        self._nearest = nearest.add_(_STEPS).int()

    def encode(self, block: slice) -> Tensor:
        """The encoding of a slice of the offsets: [g, K, channels]."""
        if not self.is_tabulated:
            return geometry_encoding(self.offsets[block], self.channels)
        rows, powers = self._rows(block), self._powers(block)
        encoded = F.embedding_bag(rows, _table(self.channels // 6), per_sample_weights=powers, mode="sum")
        return encoded.view(-1, self.offsets.shape[1], self.channels)

    def through(self, weight: Tensor) -> Callable[[slice], Tensor]:
        """The encoding times weightᵀ, of a slice: [g·K, w]. What is linear in the table goes through its rows once.

        Args:
            weight: [w, channels].

        Raises:
            ValueError: the table does not reach; there nothing would be saved.
        """
        if not self.is_tabulated:
            raise ValueError("only what is read from the table can go through a weight before it is read")
        table, by_axis = _table(self.channels // 6), weight.float().chunk(3, dim=1)
        tables = torch.cat([table @ part.t() for part in by_axis])  # [3 · places · _TERMS, w]
        starts = torch.arange(3, dtype=torch.int32, device="cpu").mul_(len(table)).view(3, 1)

        def multiply(block: slice) -> Tensor:
            rows = self._rows(block).view(-1, 3, _TERMS).add_(starts).view(-1, 3 * _TERMS)
            powers = self._powers(block).view(-1, 3 * _TERMS)
            return F.embedding_bag(rows, tables, per_sample_weights=powers, mode="sum").to(weight.dtype)

        return multiply

    def _rows(self, block: slice) -> Tensor:
        """The table's rows of each coordinate: [g·K·3, _TERMS] int32."""
        return _rows_of_places().index_select(0, self._nearest[block].flatten())

    def _powers(self, block: slice) -> Tensor:
        """1, u, u², … of what is left to the nearest place: [g·K·3, _TERMS]."""
        left = self._left[block].flatten()
        powers = left.new_ones(len(left), _TERMS)
        powers[:, 1] = left
        for power in range(2, _TERMS):
            torch.mul(powers[:, power - 1], left, out=powers[:, power])
        return powers


def _lie_in_table(offsets: Tensor) -> bool:
    """Whether all are in [−1, 1], as extent normalisation makes them; NaN is not."""
    least, largest = torch.aminmax(offsets)
    return bool(least >= -1) and bool(largest <= 1)


@functools.cache
def _rows_of_places() -> Tensor:
    """The table's rows of each place: [2·_STEPS + 1, _TERMS] int32."""
    return torch.arange((2 * _STEPS + 1) * _TERMS, dtype=torch.int32, device="cpu").view(-1, _TERMS)


@functools.lru_cache(maxsize=16)
def _table(num_frequencies: int) -> Tensor:
    """Taylor's terms of the F sines and F cosines at each place, one after the other: [places · _TERMS, 2F] float32."""
    frequencies = frequencies_of(num_frequencies, torch.device("cpu"))
    angles = torch.arange(-_STEPS, _STEPS + 1, dtype=torch.float64, device="cpu").unsqueeze(-1) / _STEPS * frequencies
    terms = []
    for order in range(_TERMS):
        turned = angles + order * math.pi / 2  # the derivative of a sine, and of a cosine, is a quarter turn ahead
        size = (frequencies / _STEPS) ** order / math.factorial(order)
        terms.append(torch.cat([size * turned.sin(), size * turned.cos()], dim=-1))
    return torch.stack(terms, dim=1).flatten(0, 1).float()
