"""The geometry encoding read from a table of sines, on a CPU.

Unusual here: a sine costs as much as twenty multiplications, and a stage needs millions, of coordinates in [−1, 1]. The
table holds the sines and cosines at 513 places, and their first five derivatives. A weighted sum of six of its rows
(Taylor's series) has a smaller error than float32 makes by rounding an angle of up to 100.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...numerics.host_reads import host_may_read
from ..geometry_encoding import frequencies_of, geometry_encoding, geometry_encoding_in

_STEPS = 256  # places of the table per unit of length; the largest error is (100 / 512)⁶ / 6! = 7.7e-8
_TERMS = 6  # terms of Taylor's series about the nearest place; fewer would need more places, which fill the cache


class GeometryEncoder:
    """Computes `geometry_encoding` of offsets, a block at a time.

    On a CPU, outside compilers, float32 offsets that all lie in [−1, 1] and need no gradient are read from the table;
    the result differs from the formula's by less than float32 rounds an angle. All others go through the formula.

    Args:
        offsets: [G, K, 3].
        channels: a multiple of 6.
        dtype: of the table: a half precision to read half as much where the result will be rounded to it, or float32.

    Attributes:
        is_tabulated: whether the encoding is read from the table.
    """

    def __init__(self, offsets: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> None:
        self.offsets, self.channels, self.dtype = offsets, channels, dtype
        can_be = host_may_read(offsets) and offsets.dtype == torch.float32 and not offsets.requires_grad
        self.is_tabulated = can_be and _lie_in_table(offsets)
        if not self.is_tabulated:
            return
        places = offsets * _STEPS  # exact, because _STEPS is a power of two; so is what is left to the nearest place
        nearest = places.round()
        self._left = places.sub_(nearest).to(dtype)
        self._nearest = nearest.add_(_STEPS).int()

    def encode(self, block: slice) -> Tensor:
        """Returns the encoding of a slice of the offsets: [g, K, channels]."""
        if not self.is_tabulated:
            offsets = self.offsets[block]
            if self.dtype.itemsize == 4 or offsets.requires_grad or torch.compiler.is_compiling():
                return geometry_encoding(offsets, self.channels)
            return geometry_encoding_in(self.dtype, offsets, self.channels)
        rows, powers = self._rows(block), self._powers(block)
        encoded = F.embedding_bag(
            rows, _table(self.channels // 6).to(self.dtype), per_sample_weights=powers, mode="sum"
        )
        return encoded.view(-1, self.offsets.shape[1], self.channels)

    def through(self, weight: Tensor) -> Callable[[slice], Tensor]:
        """Returns a function from a slice of the offsets to their encoding times weightᵀ, [g·K, w].

        The encoding is a weighted sum of the table's rows, so it is enough to multiply the table by the weight, once.

        Args:
            weight: [w, channels].

        Raises:
            ValueError: the encoding is not read from the table; without it nothing would be saved.
        """
        if not self.is_tabulated:
            raise ValueError("only what is read from the table can go through a weight before it is read")
        table, by_axis = _table(self.channels // 6), weight.float().chunk(3, dim=1)
        tables = torch.cat([table @ part.t() for part in by_axis]).to(self.dtype)  # [3 · places · _TERMS, w]
        starts = torch.arange(3, dtype=torch.int32, device="cpu").mul_(len(table)).view(3, 1)

        def multiply(block: slice) -> Tensor:
            rows = self._rows(block).view(-1, 3, _TERMS).add_(starts).view(-1, 3 * _TERMS)
            powers = self._powers(block).view(-1, 3 * _TERMS)
            return F.embedding_bag(rows, tables, per_sample_weights=powers, mode="sum").to(weight.dtype)

        return multiply

    def _rows(self, block: slice) -> Tensor:
        """Which rows of the table each coordinate reads: [g·K·3, _TERMS] int32."""
        return _rows_of_places().index_select(0, self._nearest[block].flatten())

    def _powers(self, block: slice) -> Tensor:
        """Powers 1, u, u², … of each coordinate's difference u from its nearest place, in steps: [g·K·3, _TERMS]."""
        left = self._left[block].flatten()
        powers = left.new_ones(len(left), _TERMS)
        powers[:, 1] = left
        for power in range(2, _TERMS):
            torch.mul(powers[:, power - 1], left, out=powers[:, power])
        return powers


def _lie_in_table(offsets: Tensor) -> bool:
    """Whether all offsets are in [−1, 1], as extent normalisation makes them; False if one is NaN."""
    least, largest = torch.aminmax(offsets)
    return bool(least >= -1) and bool(largest <= 1)


@functools.cache
def _rows_of_places() -> Tensor:
    """Row numbers in the table of each place's terms: [2·_STEPS + 1, _TERMS] int32."""
    return torch.arange((2 * _STEPS + 1) * _TERMS, dtype=torch.int32, device="cpu").view(-1, _TERMS)


@functools.lru_cache(maxsize=16)
def _table(num_frequencies: int) -> Tensor:
    """The table: Taylor's terms of F sines and F cosines, all of one place, then of the next: [places · _TERMS, 2F].

    It is computed in float64 and stored as float32.
    """
    frequencies = frequencies_of(num_frequencies, torch.device("cpu"))
    angles = torch.arange(-_STEPS, _STEPS + 1, dtype=torch.float64, device="cpu").unsqueeze(-1) / _STEPS * frequencies
    terms = []
    for order in range(_TERMS):
        turned = angles + order * math.pi / 2  # each derivative of a sine or cosine adds a quarter turn
        size = (frequencies / _STEPS) ** order / math.factorial(order)
        terms.append(torch.cat([size * turned.sin(), size * turned.cos()], dim=-1))
    return torch.stack(terms, dim=1).flatten(0, 1).float()
