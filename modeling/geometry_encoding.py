"""Sines and cosines of coordinates (method.md 1), by the formula and, on a CPU, from a table.

Unusual here: a sine costs twenty products, and a stage takes millions at places of [−1, 1]. The table holds the sines
at 2049 places and three of their derivatives; the sum of four of its rows is as near as float32 comes to a sine.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import widest_dtype

WAVELENGTH_BASE = 1000.0  # α of method.md 1
ANGLE_SCALE = 100.0  # β of method.md 1

_STEPS = 1024  # of the table in a unit of length; the largest error is (100 / 2048)⁴ / 4! = 2.4e-7
_TERMS = 4  # of Taylor's series about the nearest place


def geometry_encoding(offsets: Tensor, channels: int) -> Tensor:
    """The encoding by its formula, axis-major: of each axis F = channels / 6 sines, then F cosines.

    Args:
        offsets: [..., 3] relative coordinates.
        channels: a multiple of 6.

    Returns:
        [..., channels], same dtype.
    """
    angles = offsets.unsqueeze(-1) * _frequencies(channels // 6, offsets.device).to(offsets.dtype)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def geometry_encoder(offsets: Tensor, channels: int) -> Callable[[slice], Tensor]:
    """`geometry_encoding` of slices of the offsets [G, K, 3], without gradients: [g, K, channels].

    From the table where it reaches. What is read there differs from the formula by less than float32 rounds an angle.
    """
    if offsets.device.type != "cpu" or offsets.dtype != torch.float32 or not _lie_in_table(offsets):
        return lambda block: geometry_encoding(offsets[block], channels)
    places = offsets.flatten() * _STEPS  # a power of two: exact, as is all before the sum
    nearest = places.round()
    powers = offsets.new_ones(len(places), _TERMS)  # of what is left: 1, u, u², u³
    powers[:, 1] = places.sub_(nearest)
    for power in range(2, _TERMS):
        torch.mul(powers[:, power - 1], places, out=powers[:, power])
    rows = _rows().index_select(0, nearest.add_(_STEPS).int())
    table, num_neighbors = _table(channels // 6), offsets.shape[1]

    def encode(block: slice) -> Tensor:
        own = slice(block.start * num_neighbors * 3, block.stop * num_neighbors * 3)
        encoded = F.embedding_bag(rows[own], table, per_sample_weights=powers[own], mode="sum")
        return encoded.view(-1, num_neighbors, channels)

    return encode


def _frequencies(num_frequencies: int, device: torch.device) -> Tensor:
    """Rounded once, when they meet a coordinate: angles of up to 100 are where float32 loses most. [F]."""
    exponents = torch.arange(num_frequencies, device=device, dtype=widest_dtype(device)) / num_frequencies
    return ANGLE_SCALE / WAVELENGTH_BASE**exponents


def _lie_in_table(offsets: Tensor) -> bool:
    """Whether all are in [−1, 1], as extent normalisation makes them; NaN is not."""
    least, largest = torch.aminmax(offsets)
    return bool(least >= -1) and bool(largest <= 1)


@functools.cache
def _rows() -> Tensor:
    """The table's rows of each place: [2·_STEPS + 1, _TERMS] int32."""
    return torch.arange((2 * _STEPS + 1) * _TERMS, dtype=torch.int32).view(-1, _TERMS)


@functools.lru_cache(maxsize=16)
def _table(num_frequencies: int) -> Tensor:
    """Taylor's terms of the F sines and F cosines at each place, one after the other: [places · _TERMS, 2F] float32."""
    frequencies = _frequencies(num_frequencies, torch.device("cpu"))
    angles = torch.arange(-_STEPS, _STEPS + 1, dtype=torch.float64).unsqueeze(-1) / _STEPS * frequencies
    terms = []
    for order in range(_TERMS):
        turned = angles + order * math.pi / 2  # the derivative of a sine, and of a cosine, is a quarter turn ahead
        size = (frequencies / _STEPS) ** order / math.factorial(order)
        terms.append(torch.cat([size * turned.sin(), size * turned.cos()], dim=-1))
    return torch.stack(terms, dim=1).flatten(0, 1).float()
