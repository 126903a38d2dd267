"""Sines and cosines of coordinates (method.md 1), by the formula; on a CPU fast/sine_table.py has them in a table."""

import torch
from torch import Tensor

from ..numerics.precision import widest_dtype

WAVELENGTH_BASE = 1000.0  # α of method.md 1
ANGLE_SCALE = 100.0  # β of method.md 1


def geometry_encoding(offsets: Tensor, channels: int) -> Tensor:
    """Computes the encoding by its formula, axis by axis: F = channels / 6 sines of an axis, then its F cosines.

    Args:
        offsets: [..., 3] relative coordinates.
        channels: a multiple of 6.

    Returns:
        [..., channels], same dtype.
    """
    angles = angles_of(offsets, channels)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def geometry_encoding_in(dtype: torch.dtype, offsets: Tensor, channels: int) -> Tensor:
    """Computes `geometry_encoding` in fewer passes over memory, rounded to a dtype. For use without gradients."""
    angles = angles_of(offsets, channels)
    encoding = angles.new_empty(*angles.shape[:-1], channels // 3, dtype=dtype)
    sines, cosines = encoding.chunk(2, dim=-1)
    torch.sin(angles, out=sines)
    torch.cos(angles, out=cosines)
    return encoding.flatten(-2)


def angles_of(offsets: Tensor, channels: int) -> Tensor:
    """Coordinates [..., 3] times each of the F frequencies: [..., 3, F]."""
    return offsets.unsqueeze(-1) * frequencies_of(channels // 6, offsets.device).to(offsets.dtype)


def frequencies_of(num_frequencies: int, device: torch.device) -> Tensor:
    """Returns the F frequencies β / α^(f/F), f = 0…F − 1, in the widest dtype of the device: [F].

    They are rounded once, to the dtype of the coordinates: float32 loses most at angles of up to 100.
    """
    exponents = torch.arange(num_frequencies, device=device, dtype=widest_dtype(device)) / num_frequencies
    return ANGLE_SCALE / WAVELENGTH_BASE**exponents
